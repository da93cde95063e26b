"""The stage contract and everything around it. It decides when and where a stage runs, not what comes out, and lies outside every key."""
