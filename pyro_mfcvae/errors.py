"""The one error that a user's mistake raises."""


class InputError(ValueError):
    """Something the user gave does not fit: the message says what was expected, what came, and what to do.

    The command line prints the message in one line and exits with code 2; every other exception is a bug of ours.
    """
