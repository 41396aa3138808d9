"""A browser for the built site."""

from eventrec.testing.browser import chromium

__all__ = ["chromium"]
