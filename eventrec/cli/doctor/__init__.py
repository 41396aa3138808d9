"""`eventrec doctor`: what may be in the way."""
