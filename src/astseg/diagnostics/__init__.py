"""Does a run work? Figures without labels, in plain words, on a page."""
