"""From a recogniser's output to text."""
