"""Clips, annotations and transcripts -> samples in shards. Knows nothing of models."""
