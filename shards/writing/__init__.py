"""Shards written, finished, checked and made again."""
