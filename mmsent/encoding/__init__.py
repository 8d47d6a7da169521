"""Outputs of frozen encoders as shards."""
