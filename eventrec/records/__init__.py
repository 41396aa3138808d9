"""An event as it stands in the log: its values, its bytes, its rows. Start reading at entry.py."""
