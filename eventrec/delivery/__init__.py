"""From the log to a handler: one worker per subscription, and what it decides by."""
