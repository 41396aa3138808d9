"""`relay` and `bus`: from a bus to destinations, and what is on a bus."""
