"""From other libraries into a recorder: what they say becomes events, and what they start and stop, it does too."""
