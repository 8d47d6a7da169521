"""The rows of any data set: its annotations, its label sets, and where its clips are."""
