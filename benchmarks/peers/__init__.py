"""Our loader and those of others on the same samples: `python -m benchmarks.peers`, read in docs/benchmarks.md."""
