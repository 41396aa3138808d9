"""One subscription's loop, and what it decides by. Start reading at worker.py."""
