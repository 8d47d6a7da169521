"""From clips, annotations and transcripts to samples in shards. Knows nothing of models."""
