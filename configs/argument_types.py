"""Types of arguments that several commands take: numbers within bounds, so that a wrong one is refused before work."""

import argparse
from collections.abc import Callable

from resproto_fd.configs.errors import cut
from resproto_fd.configs.readers.text import LARGEST_NUMBER, whole_number

MOST_AT_ONCE = 4096
"""Most threads or processes that a command starts."""


def whole(least: int, most: int = LARGEST_NUMBER) -> Callable[[str], int]:
    """The type of an argument that is a whole number within bounds.

    Args:
        least, most: The bounds; both are allowed.

    >>> whole(0)("5")
    5
    """
    bounds = f"{least} or more" if most == LARGEST_NUMBER else f"{least} to {most}"

    def number(word: str) -> int:
        try:
            value = whole_number(word)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number, {bounds}, got {cut(word)}")
        return value

    return number


def seed_type(most: int = LARGEST_NUMBER) -> Callable[[str], int]:
    """The type of every `--seed`.

    Args:
        most: The largest seed that a library behind the command takes.
    """
    return whole(0, most)


at_once = whole(1, MOST_AT_ONCE)
"""The type of a number of threads or processes, of which there is at least one."""
