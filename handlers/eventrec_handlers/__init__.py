"""The handlers that come with eventrec: one module for each destination, each imported by its own name."""
