"""The ways in which a command ends early on purpose, and how values are shown in messages."""

import reprlib


class UserError(Exception):
    """A fault the user can mend: the command line prints its message without a traceback and exits with 2.

    The message tells what was expected, what was found and where (file, key, shape), and what to do.
    """


class UnreadableFile(UserError):
    """A file is not what it should be: of another form, damaged, too large, or in another encoding."""


class MissingFile(UnreadableFile):
    """There is no such file."""


class WrongInput(UserError):
    """Pictures or clips have another size or number of frames than the detector was built for."""


class Interrupted(Exception):
    """A run was asked to stop (SIGTERM, SIGUSR1, SIGHUP); it has saved its state and can be resumed."""


LONGEST_SHOWN = 160
"""Characters of a value that a message prints."""


class _Short(reprlib.Repr):
    """A `repr` of bounded length and effort, whatever the value: an alias bomb of YAML has few objects, but a `repr`
    of gigabytes."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict, self.maxset = 3, 4, 4, 4, 4
        self.maxstring = self.maxother = 100

    def repr_int(self, x, level):
        # Python refuses to print integers of more than 4300 digits.
        return repr(x) if x.bit_length() < 200 else f"an integer of {x.bit_length()} bits"


_SHORT = _Short()


def shown(value: object) -> str:
    """A value as a message prints it: its `repr`, cut to a bounded length.

    >>> shown("a"), shown([1, 2]), len(shown("a" * 1000)) < 200
    ("'a'", '[1, 2]', True)
    """
    text = _SHORT.repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def cut(text: str) -> str:
    """A text as a message prints it, without quotes: of bounded length and without control characters.

    >>> cut("abc")
    'abc'
    """
    text = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
    return text if text.isprintable() else repr(text)[1:-1]
