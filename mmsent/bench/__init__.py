"""What this machine reads, decodes and trains in a second, and what bounds it."""
