"""Pieces of Markdown that made pages share."""

from collections.abc import Iterable, Mapping, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence], right: Sequence[str] = ()) -> str:
    """A table; the columns in `right` hold numbers.

    >>> print(table(["name", "size"], [["a|b", 3]], right=["size"]))
    | name | size |
    |---|---:|
    | a\\|b | 3 |
    """
    rule = "|" + "|".join("---:" if column in right else "---" for column in head) + "|"
    return "\n".join([_line(head), rule, *map(_line, rows)])


def facts(values: Mapping[str, object]) -> str:
    """A table of two columns without a head; what is empty is left out."""
    return table(["", ""], [[key, value] for key, value in values.items() if value])


def code_list(words: Iterable[str]) -> str:
    """Words as code, with commas between."""
    return ", ".join(f"`{word}`" for word in words)


def block(language: str, text: str) -> str:
    """A fenced block."""
    return f"```{language}\n{text.strip()}\n```"


def file_name(dataset: str) -> str:
    """A data set's name as a file's: links would have to escape the signs of `FaceForensics++`.

    >>> file_name("FaceForensics++_c40")
    'FaceForensicspp_c40'
    """
    return dataset.replace("+", "p")


def _line(cells: Iterable) -> str:
    return "| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |"
