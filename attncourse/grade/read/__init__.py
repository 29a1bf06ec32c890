"""What was handed in: every file, whose it is, and what a notebook holds."""
