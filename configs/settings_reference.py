"""Reference of all `key=value` settings, read from the schema: name, default, values, meaning."""

import inspect
import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from resproto_fd.configs.schema import (
    DataConfig,
    InputConfig,
    ProtocolConfig,
    RunConfig,
    RunSettings,
    TrainConfig,
)

SECTIONS: dict[str, type[BaseModel]] = {
    "input": InputConfig,
    "train": TrainConfig,
    "protocol": ProtocolConfig,
    "data": DataConfig,
    "run": RunSettings,
}
"""First word of a setting -> the schema behind it. `seed` stands alone; `model.*` is the detector's own."""
WORDS = {"name", "title", "source", "note"}
"""Keys of a protocol that are texts, not settings."""


def describe_settings() -> list[dict[str, str]]:
    """A row for each setting of a command line: `name`, `default`, `values` and `meaning`."""
    rows = [
        {
            "name": "model.KEYWORD",
            "default": "the detector's",
            "values": "see resproto list detectors NAME",
            "meaning": "A keyword of the detector's constructor.",
        }
    ]
    for section, schema in SECTIONS.items():
        rows += _rows(schema, f"{section}.")
    return [*rows, *(row for row in _rows(RunConfig, "") if row["name"] == "seed")]


def meanings(schema: type[BaseModel]) -> dict[str, str]:
    """What a schema's docstring says of each field under `Attributes:`."""
    text = inspect.cleandoc(schema.__doc__ or "").partition("Attributes:\n")[2]
    found = {}
    for entry in re.split(r"\n(?=    \w)", text):
        names, colon, meaning = entry.strip().partition(":")
        for name in names.split(",") if colon else ():
            found[name.strip()] = " ".join(meaning.split())
    return found


def _rows(schema: type[BaseModel], prefix: str) -> list[dict[str, str]]:
    rows, known = [], meanings(schema)
    for name, field in schema.model_fields.items():
        inner = field.annotation
        if schema is ProtocolConfig and name in WORDS:
            continue
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            rows += _rows(inner, f"{prefix}{name}.") if schema is not RunConfig else []
            continue
        default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        row = {"name": f"{prefix}{name}", "default": default, "values": values(inner), "meaning": known.get(name, "")}
        rows.append(row)
    return rows


def values(annotation: Any) -> str:
    """The values that a field takes, in words.

    >>> values(Literal["a", "b"] | None), values(list[float])
    ('a | b | null', 'list of numbers')
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin is Annotated:
        return values(arguments[0])
    if origin in (Union, types.UnionType):
        return " | ".join(values(each) for each in arguments)
    if origin is list:
        plural = {"number": "numbers", "whole number": "whole numbers", "text": "names"}
        return f"list of {plural.get(values(arguments[0]), values(arguments[0]))}"
    if origin is dict:
        return f"mapping of {values(arguments[0])} to {values(arguments[1])}"
    named = {int: "whole number", float: "number", str: "text", bool: "true | false", type(None): "null", Any: "value"}
    return named.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
