"""The same samples without a cache: every clip is decoded on every access."""
