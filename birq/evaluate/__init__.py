"""Evaluation: hypotheses, error rates with intervals, what labels know of phones."""
