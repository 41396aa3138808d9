"""What a recorded person's program says of itself, and how it says less: sessions, build, hashes, URLs."""

from eventrec.usage.analytics import Analytics, usage_options
from eventrec.usage.commands import run_analytics_command
from eventrec.usage.disclosure import Disclosure, print_disclosure

__all__ = ["Analytics", "Disclosure", "print_disclosure", "run_analytics_command", "usage_options"]
