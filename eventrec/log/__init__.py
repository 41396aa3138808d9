"""The crash-safe log: numbered records as bytes, in commits, in segments. Start reading at log.py."""

from eventrec.log.log import Log
from eventrec.log.reader import LogReader
from eventrec.log.storage import Storage

__all__ = ["Log", "LogReader", "Storage"]
