"""Makers of labels for masked prediction, one file a kind; the stage `labels` calls a method's by name."""
