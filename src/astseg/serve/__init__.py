"""A model on a web page and over HTTP: pictures to objects, scenes to pictures, runs that train. Extra ``serve``."""
