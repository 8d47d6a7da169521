"""Predictions, scores and figures of a run, and of several seeds."""
