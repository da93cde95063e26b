"""When, where and how fast a training runs: outside every key."""
