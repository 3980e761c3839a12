"""Synthetic scenes with their masks."""
