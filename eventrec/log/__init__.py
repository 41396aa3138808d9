"""The crash-safe log: numbered records as bytes, in commits, in segments. Start reading at log.py."""
