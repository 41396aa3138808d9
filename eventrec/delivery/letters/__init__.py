"""Dead letters: one, a file of them, their content, their log."""
