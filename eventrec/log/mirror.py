"""Mirroring one log: what its files hold, as a stream of bytes, written into the files of another directory.

    stream  = (header commit+)*                the bytes of the segments, one after the other, always uncompressed

The stream begins with commits alone where it goes on inside a segment. What it carries, and what may follow what, is
decided by the offsets in it; how its bytes were cut on the way does not matter. To go on, a mirror says which commit
its last one is (`StreamWriter.last`), and the source compares that with its own (`StreamReader.resume`).

A mirror and its source are identical, file by file, indexes too, once what a source has beyond them is taken away: a
torn tail, reserved space, bytes that the next segment supersedes, a last segment without a commit, and compression.
Otherwise they differ where the source holds a commit twice in a row, which is sent once; where it is damaged, which is
not sent; and in the last entries of the index of a segment whose source was killed, or whose disk failed.

Where a source could not sync what it wrote, it writes the same commits again, into a segment that begins further on.
They may have been sent before. Then the stream has that segment from its header on, and the mirror, which compares
each with what it holds, begins that segment there too, with what it has.
"""

from __future__ import annotations

from eventrec.log.stream_reader import StreamReader
from eventrec.log.stream_writer import LastCommit, OnTrailing, StreamWriter

__all__ = ["LastCommit", "OnTrailing", "StreamReader", "StreamWriter"]
