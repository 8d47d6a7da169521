"""A small data set to try the program with."""
