"""`eventrec demo`: a stream of events, a kill half-way, the account afterwards."""
