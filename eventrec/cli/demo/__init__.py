"""`eventrec demo`: a stream of events, a kill halfway, the account afterwards."""
