"""An extension of griffe, which reads docstrings for mkdocstrings: examples become blocks of code."""

import re

from griffe import Extension

EXAMPLE = re.compile(r"^ *>>>.*(?:\n(?! *$).+)*", re.M)


class Doctests(Extension):
    """Puts each `>>>` example of a docstring, with what it prints, into a fenced block."""

    def on_object(self, *, obj, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(_fenced, obj.docstring.value)


def _fenced(example: re.Match) -> str:
    return f"```pycon\n{example[0]}\n```"
