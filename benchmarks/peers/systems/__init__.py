"""One loader a file, each with a `PEER` (see `benchmarks.peers.peer`); adding a file adds a row."""
