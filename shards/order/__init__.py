"""Which samples come when: pure functions of seed and epoch."""
