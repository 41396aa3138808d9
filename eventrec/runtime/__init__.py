"""The system beneath: threads, processes, event loops, logging."""
