"""Where a worker reads: the log on the disk, or the one in memory. Start reading at source.py."""
