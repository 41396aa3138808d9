"""`eventrec migrate`: a database is brought to what a catalogue declares."""
