"""What a recorded person's program says of itself, and how it says less: sessions, build, hashes, URLs."""
