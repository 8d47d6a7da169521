"""The trainer on a GPU: limits, throughput, correctness, in one command."""
