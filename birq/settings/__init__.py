"""Params, presets, methods and variants: outside every key, since a key holds the values themselves."""
