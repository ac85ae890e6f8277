"""The two ways in which a command ends early on purpose."""


class UserError(Exception):
    """A fault the user can mend: the command line prints its message without a traceback and exits with 2.

    The message says what was found, what was wanted, where (file, key, shape), and what to do.
    """


class Interrupted(Exception):
    """A run was asked to stop (SIGTERM, SIGUSR1), has saved its state and can be taken up again."""
