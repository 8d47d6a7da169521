"""A run: its start, its steps, its losses, its end."""
