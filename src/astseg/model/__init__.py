"""The method, one file for each box of the paper's figure."""
