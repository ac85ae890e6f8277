"""The one exception type for faults that a user can mend."""


class UserError(Exception):
    """A fault the user can mend: the command line prints its message without a traceback and exits with 2.

    The message says what was found, what was wanted, where (file, key, shape), and what to do.
    """
