"""Uses of a trained model in Python."""
