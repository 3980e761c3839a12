"""The same numbers, quicker."""
