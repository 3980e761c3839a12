"""A configuration and images to a trained network."""
