"""The bytes of a split: members of a sample, frames as a JPEG, the index, the samples table."""
