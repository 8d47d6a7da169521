"""The sample format on disk, and how its bytes become batches. Knows nothing of clips or models."""
