"""A trained network to label maps, objects and files."""
