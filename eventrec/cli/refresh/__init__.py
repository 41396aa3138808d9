"""The command that keeps rollups up to date."""
