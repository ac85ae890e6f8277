"""The reader of YAML: no key twice, no number in doubtful form; bounds on size, depth and what aliases expand to."""

import binascii
import math
import os
import re
from typing import Any

import yaml
from yaml.composer import Composer, ComposerError
from yaml.constructor import ConstructorError

from resproto_fd.configs.errors import UnreadableFile, shown
from resproto_fd.configs.readers.text import LARGEST_NUMBER, MIB, decoded, in_units, read_bytes

LARGEST = 4 * MIB
"""Bytes of a YAML."""
DEEPEST = 32
"""Levels of mappings and lists."""
MOST_VALUES = 200_000
"""Keys, values, lists and mappings of a YAML, those of an alias counted each time that it stands."""
REMEDY = "correct it there"


class _Bounded(Composer):
    """Composes nodes within the bounds; a fault while a value is made names its place."""

    def __init__(self):
        super().__init__()
        self.depth, self.values = 0, 0
        self.sizes: dict[int, int] = {}  # values of each finished node, its own included
        self.open_nodes: set[str] = set()  # anchors whose node is not finished

    def compose_node(self, parent, index):
        event = self.peek_event()
        anchor, before = event.anchor, self.values
        is_alias = isinstance(event, yaml.AliasEvent)
        if is_alias and anchor in self.open_nodes:
            raise ComposerError(None, None, f"alias {shown(anchor)} stands within itself", event.start_mark)
        if anchor is not None and not is_alias:
            self.open_nodes.add(anchor)
        self.depth += 1
        if self.depth > DEEPEST:
            raise ComposerError(None, None, f"expected at most {DEEPEST} levels, got more", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if is_alias:
            self.values += self.sizes.get(id(node), 1)
        else:
            self.values += 1
            self.open_nodes.discard(anchor)
            self.sizes[id(node)] = self.values - before
        if self.values > MOST_VALUES:
            raise ComposerError(
                None, None, f"expected at most {MOST_VALUES} values, aliases written out, got more", event.start_mark
            )
        return node

    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, binascii.Error) as error:
            kind = node.tag.rpartition(":")[2]
            raise ConstructorError(
                None, None, f"{_written(node)} is no {kind} ({shown(str(error))})", node.start_mark
            ) from error


_BASE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Lenient(_Bounded, _BASE):
    """Safe loader that reads `5e-7` as a number (YAML 1.2) and refuses numbers of doubtful form."""

    def __init__(self, text: str):
        _BASE.__init__(self, text)
        _Bounded.__init__(self)

    def construct_yaml_int(self, node):
        text = self.construct_scalar(node)
        if _DOUBTFUL.fullmatch(text) or len(text) > _LONGEST_INTEGER:
            raise ValueError("expected an integer of 64 bits in decimal digits; put a text in quotes")
        value = super().construct_yaml_int(node)
        if not -LARGEST_NUMBER <= value <= LARGEST_NUMBER:
            raise ValueError("expected an integer of 64 bits")
        return value

    def construct_yaml_float(self, node):
        if ":" in self.construct_scalar(node):
            raise ValueError("expected a decimal number; put a text in quotes")
        value = super().construct_yaml_float(node)
        if not math.isfinite(value):
            raise ValueError("expected a finite number that fits 64 bits")
        return value

    def construct_yaml_str(self, node):
        text = super().construct_yaml_str(node)
        if "\0" in text:
            raise ValueError("expected text without NUL")
        return text

    def construct_other(self, node):
        kind = node.tag.rpartition(":")[2]
        remedy = "put a text in quotes" if isinstance(node, yaml.ScalarNode) else f"remove !!{kind}"
        text = f"{_written(node)}: values of kind {kind} have no use here; {remedy}"
        raise ConstructorError(None, None, text, node.start_mark)


_LONGEST_INTEGER = 80
_DOUBTFUL = re.compile(r"[-+]?0[0-9_]+|.*:.*")
"""`017` is octal in YAML 1.1, `1:30` is ninety."""
for _kind in ("int", "float", "str"):
    _Lenient.add_constructor(f"tag:yaml.org,2002:{_kind}", getattr(_Lenient, f"construct_yaml_{_kind}"))
for _kind in ("timestamp", "binary", "set", "omap", "pairs"):
    _Lenient.add_constructor(f"tag:yaml.org,2002:{_kind}", _Lenient.construct_other)
_Lenient.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9_]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


class _Loader(_Lenient):
    """Refuses a key written twice."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = self.construct_object(key_node, deep=True)
            try:
                twice = key in seen
            except TypeError:
                raise ConstructorError(
                    None, None, f"expected a key that is a text or a number, got {shown(key)}", key_node.start_mark
                ) from None
            if twice:
                raise ConstructorError(None, None, f"key {_named(key)} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _written(node: yaml.Node) -> str:
    """A node for messages."""
    return shown(node.value) if isinstance(node, yaml.ScalarNode) else f"this {node.id}"


def _named(key: Any) -> str:
    return shown(key) if isinstance(key, str) else f"'{shown(key)}'"


def parse_yaml(text: str, where: str, lenient: bool = False) -> Any:
    """The value of a YAML text.

    Args:
        text: The text.
        where: The file or word that holds it, for messages.
        lenient: If a key stands twice, its last value counts, as for most readers.

    Raises:
        UnreadableFile: The text is not YAML or has several documents; a key stands twice in one mapping; a value has
            an unknown tag or is not what its tag says; a number is in doubtful form, infinite or too long; the text is
            too large or too deep, or its aliases expand to too much.
    """
    if len(text) > LARGEST:
        raise UnreadableFile(f"{where}: expected at most {in_units(LARGEST)} of YAML, got more; {REMEDY}")
    try:
        loader = (_Lenient if lenient else _Loader)(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise UnreadableFile(f"{where}: not readable as YAML: {_told(error)}") from error
    except (UnicodeError, RecursionError, MemoryError) as error:
        raise UnreadableFile(f"{where}: not readable as YAML: {shown(str(error))}; {REMEDY}") from error


def load_yaml(path: str | os.PathLike, lenient: bool = False) -> dict[str, Any]:
    """The mapping in a YAML file; `lenient` as for `parse_yaml`.

    Raises:
        MissingFile: There is none.
        UnreadableFile: See `parse_yaml`; or the file holds no mapping of texts to values.
    """
    value = parse_yaml(decoded(read_bytes(path, LARGEST, REMEDY), str(path), REMEDY), str(path), lenient)
    if not isinstance(value, dict):
        found = "an empty file" if value is None else f"{type(value).__name__} {shown(value)}"
        raise UnreadableFile(f"{path}: expected a mapping of keys to values, got {found}; {REMEDY}")
    if strange := [key for key in value if not isinstance(key, str)]:
        raise UnreadableFile(f"{path}: expected keys that are texts, got {shown(strange[0])}; put it in quotes")
    return value


def _told(error: yaml.YAMLError) -> str:
    """What is wrong, and the line, each part of bounded length."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return shown(str(error))
    parts = [error.context, error.problem]
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + ", ".join(part if len(part) < 600 else f"{part[:600]}..." for part in map(str, filter(None, parts)))
