"""Logs that other processes write, delivered while they write them. Start reading at following.py."""
