"""Corpora: recorded or synthesised speech becomes lhotse cuts, split by speaker."""
