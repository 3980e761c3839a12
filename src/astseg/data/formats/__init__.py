"""Formats of single files: pictures, label maps, run lengths."""
