"""Logs that earlier runs left: adopted, delivered, given back or deleted. Start reading at adoption.py."""
