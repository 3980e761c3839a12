"""A model and a data set to numbers, as papers give them."""
