"""A data set -> shards: planned, made, kept, repaired, reported."""
