"""The error that a user's mistake raises."""


class InputError(ValueError):
    """Raised if an input of the user does not fit. The message says what was expected, what was given, and what to do.

    The command line prints the message in one line and exits with code 2; every other exception is a bug in this
    package.
    """
