"""Does a run work? Metrics that need no labels, findings in plain words, a report to open in a browser."""
