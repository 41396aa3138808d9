"""A log directory on another machine: served from where it is written, and mirrored where it is to survive."""
