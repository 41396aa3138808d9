"""The page: what the server does and what is stored, for a browser."""

from eventrec.server.dashboard.page import DASHBOARD

__all__ = ["DASHBOARD"]
