"""Metrics of a pipeline on a data set, side by side with those of other runs and of papers."""
