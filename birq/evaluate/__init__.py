"""Evaluation: hypotheses, error rates with intervals, phone information in labels."""
