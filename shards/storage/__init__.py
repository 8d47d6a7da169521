"""Where shards lie: on this machine, or behind a URL with a cache."""
