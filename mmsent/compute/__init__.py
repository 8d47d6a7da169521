"""Devices, number formats and processes of a run."""
