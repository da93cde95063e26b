"""birq: from a speech corpus to a word error rate, with BiRQ pre-training in between."""

__version__ = "0.1.0"
