"""The one exception that means "the input is wrong, here is the way out"."""


class BirqError(Exception):
    """A mistake in what birq was given: the message names the file, the value and the way out.

    The command line prints the message without a traceback and exits with status 2.
    """
