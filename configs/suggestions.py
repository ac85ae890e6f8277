"""Suggestions in error messages: the known name that is nearest to an unknown one."""

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str]) -> str:
    """Text for the end of an error message, "; the nearest is 'NAME'"; empty if no name is near.

    >>> nearest("celeb", ["Celeb-DF-v2", "celeba"]), nearest("celeb", ["UADFV"])
    ("; the nearest is 'celeba'", '')
    """
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; the nearest is '{close[0]}'" if close else ""
