"""Model, training and evaluation on shards. Knows nothing of clips."""
