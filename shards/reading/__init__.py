"""A split opened, and its samples in batches: from mapped files, or from a stream."""
