"""Commands that look into a log directory, or act on it."""
