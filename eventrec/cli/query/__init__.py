"""`query`: what a rollup tells, in the terminal."""
