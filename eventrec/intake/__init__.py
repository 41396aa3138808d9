"""The queue before the log, its refusals, and the threads that empty it. Start reading at queue.py."""
