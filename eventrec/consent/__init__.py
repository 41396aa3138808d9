"""Whether anything may be recorded: what the environment, the user and the application say about it."""
