"""The stage contract and everything around it. It decides when and where a stage runs, not its result, and lies outside every key."""
