"""Estimates and measurements before a run."""
