"""The server, and its tokens, on the command line."""
