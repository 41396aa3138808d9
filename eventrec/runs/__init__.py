"""The log directory: whose is what in it. Start reading at run.py."""
