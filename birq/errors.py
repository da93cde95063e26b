"""The exceptions that are answered with a sentence, not with a traceback."""


class BirqError(Exception):
    """A mistake in the input of birq. The message names the file, the value and the way out.

    The command line prints the message without a traceback and exits with `status`.
    """

    status = 2
    everywhere = False  # raised by every rank of a training at the same step, so that one says it for all


class Diverged(BirqError):
    """Training went wrong."""

    everywhere = True


class Stopped(BirqError):
    """Training was asked to stop and has left a checkpoint. The same command resumes from it."""

    everywhere = True
    status = 75  # EX_TEMPFAIL of sysexits.h: try again
