"""Measurements anyone can run. None asserts a time: machines are shared, so each compares side by side in one run."""
