"""Formats of single files: images, label maps, run lengths."""
