"""Params and the table of methods."""
