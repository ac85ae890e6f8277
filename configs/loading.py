"""Reads the YAML files and resolves a run's configuration: default < YAML < `key=value`."""

import os
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import DatasetConfig, DetectorConfig, ProtocolConfig, RunConfig
from resproto_fd.configs.suggestions import nearest

Model = TypeVar("Model", bound=BaseModel)

KINDS: dict[str, type[BaseModel]] = {
    "detectors": DetectorConfig,
    "datasets": DatasetConfig,
    "protocols": ProtocolConfig,
}


OF_DETECTOR = ("model", "input", "train")
"""Parts of a detector's configuration that a command line names without `detector.`."""


class _Lenient(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Safe loader that reads `5e-7` as a number (YAML 1.2)."""


_Lenient.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9_]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


class _Loader(_Lenient):
    """Refuses a key written twice."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str, lenient: bool = False) -> Any:
    """The value of a YAML text.

    Args:
        text: The text.
        where: It stands, for messages.
        lenient: Of a key that stands twice the last value counts, as for most readers.

    Raises:
        UserError: The text is not YAML, or a key stands twice in one mapping.
    """
    try:
        return yaml.load(text, Loader=_Lenient if lenient else _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not readable as YAML: {error}") from error


def load_yaml(path: str | os.PathLike, lenient: bool = False) -> dict[str, Any]:
    """The mapping in a YAML file; `lenient` as for `parse_yaml`.

    Raises:
        UserError: The file is missing, is not YAML or holds no mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    value = parse_yaml(text, str(path), lenient)
    if not isinstance(value, dict):
        raise UserError(f"{path}: wants a mapping of keys to values, holds {type(value).__name__}")
    return value


def validated(schema: type[Model], values: dict[str, Any], where: str, prefix: str = "") -> Model:
    """`values` as the schema's object.

    Args:
        schema: The schema.
        values: What a file or a command line gives.
        where: It stands, for messages.
        prefix: Put before each key in messages ("model."), so that a key reads as it was typed.

    Raises:
        UserError: An unknown or missing key, a wrong type or value: file, key and choices are named.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(_describe(schema, issue, where, prefix) for issue in error.errors())) from error


def _describe(schema: type[BaseModel], issue: dict, where: str, prefix: str) -> str:
    key = prefix + ".".join(map(str, _as_typed(schema, issue["loc"]))) if issue["loc"] else "(whole file)"
    if issue["type"] == "extra_forbidden":
        known = _fields_at(schema, issue["loc"][:-1])
        choices = f"; known here: {', '.join(sorted(known))}" if known else ""
        return f"{where}: unknown key '{key}'{nearest(str(issue['loc'][-1]), known)}{choices}"
    if issue["type"] == "missing":
        return f"{where}: key '{key}' is missing"
    message = issue["msg"].removeprefix("Value error, ")
    given = "" if issue["type"] == "value_error" else f", got {issue['input']!r}"
    return f"{where}: key '{key}': {message}{given}"


def _as_typed(schema: type[BaseModel], location: tuple) -> tuple:
    """A key's place as a command line has it: `train.epochs` of a run's configuration lies within `detector`."""
    inside = schema is RunConfig and location[0] == "detector" and location[1:2] and location[1] in OF_DETECTOR
    return location[1:] if inside else location


def _fields_at(schema: type[BaseModel], location: tuple) -> list[str]:
    for part in location:
        field = schema.model_fields.get(part) if isinstance(part, str) else None
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        schema = inner
    return [field.alias or name for name, field in schema.model_fields.items()]


@cache
def names(kind: str) -> tuple[str, ...]:
    """Names of the YAML files of a kind ('detectors', 'datasets', 'protocols'), sorted."""
    folder = files("resproto_fd.configs") / kind
    return tuple(sorted(entry.name[: -len(".yaml")] for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def find(kind: str, name: str) -> Path:
    """The YAML file that a name, or a path to a file of the user's own, stands for.

    Raises:
        UserError: Neither a known name nor a file.
    """
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        path = Path(name)
        if path.is_file():
            return path
        hint = f"; '{path.stem}' is a known name: say that instead" if path.stem in names(kind) else ""
        raise UserError(f"{name}: no such file{hint}")
    if name not in names(kind):
        raise UserError(
            f"no {kind[:-1]} is called '{name}'{nearest(name, names(kind))}; known: {', '.join(names(kind))}"
        )
    return Path(str(files("resproto_fd.configs") / kind / f"{name}.yaml"))


def load(kind: str, name: str) -> Any:
    """The validated configuration of a kind, by name or path, its `name` filled in.

    Raises:
        UserError: Unknown name, unreadable file, or contents that do not fit the schema.
    """
    path = find(kind, name)
    values = load_yaml(path)
    values.setdefault("name", path.stem)
    return validated(KINDS[kind], values, str(path))


class _Whole(dict):
    """A mapping written out as one value: it takes the place of what it changes, nothing of that is kept."""


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """Nested mapping of `key.sub=value` words; values are read as YAML.

    Raises:
        UserError: A word without '=', or two words that contradict each other.

    >>> parse_overrides(["train.epochs=3", "train.optimizer.lr=5e-7"])
    {'train': {'epochs': 3, 'optimizer': {'lr': 5e-07}}}
    """
    tree: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UserError(f"'{pair}' is not of the form key=value (for example train.epochs=3)")
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UserError(f"'{pair}': '{parent}' already has a value on this command line")
        value = parse_yaml(text, f"value of {key}")
        node[last] = _Whole(value) if isinstance(value, dict) else value
    return tree


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`base` with `change` laid over it, mapping by mapping; neither is altered.

    A mapping that a command line writes out, `model.backbone={...}`, replaces; `model.backbone.embed_dim=8` changes
    one value.
    """
    result = dict(base)
    for key, value in change.items():
        inside = isinstance(value, dict) and not isinstance(value, _Whole) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if inside else dict(value) if isinstance(value, _Whole) else value
    return result


def resolve(detector: str | DetectorConfig, protocol: str, changes: dict[str, Any] | None = None) -> RunConfig:
    """The configuration of one run.

    Args:
        detector: Name, YAML path, or what one of these would load.
        protocol: Name or YAML path.
        changes: As `parse_overrides` gives them; `model.*`, `input.*` and `train.*` belong to the detector,
            `protocol.*`, `data.*`, `run.*` and `seed` to the run.

    Raises:
        UserError: As `load`, and for changes the schema does not know.
    """
    detector = load("detectors", detector) if isinstance(detector, str) else detector
    values = {
        "detector": detector.model_dump(by_alias=True, exclude_unset=True),
        "protocol": load("protocols", protocol).model_dump(by_alias=True, exclude_unset=True),
    }
    return validated(RunConfig, merged(values, of_run(changes or {})), "command line")


def of_run(changes: dict[str, Any]) -> dict[str, Any]:
    """Changes as a run's configuration has them: `model.*`, `input.*` and `train.*` lie within `detector`.

    Raises:
        UserError: One of these three is given a value as a whole.
    """
    changes = dict(changes)
    of_detector = {key: changes.pop(key) for key in OF_DETECTOR if key in changes}
    for key, change in of_detector.items():
        if not isinstance(change, dict):
            raise UserError(f"command line: '{key}' has parts, say which: {key}.PART=value")
    return merged({"detector": of_detector} if of_detector else {}, changes)


def dump(config: BaseModel) -> str:
    """A configuration as YAML text that `load_yaml` reads back to the same values."""
    return yaml.safe_dump(config.model_dump(by_alias=True), sort_keys=False, allow_unicode=True)


def data_folders(data) -> dict[str, Path | None]:
    """The folders `json`, `lmdb` and `rgb` of a DataConfig; RESPROTO_DATA is the root when none is given.

    Raises:
        UserError: A folder that was named does not exist, or none was named.
    """
    root = data.root or os.environ.get("RESPROTO_DATA")
    defaults = {"json": "dataset_json", "lmdb": "lmdb", "rgb": "rgb"}
    folders: dict[str, Path | None] = {}
    for kind, folder in defaults.items():
        given = getattr(data, f"{kind}_dir")
        path = Path(given) if given else Path(root) / folder if root else None
        if given and not path.is_dir():
            raise UserError(f"data.{kind}_dir: no folder {path}")
        folders[kind] = path if path and path.is_dir() else None
    if root and not Path(root).is_dir():
        raise UserError(f"data.root: no folder {root}")
    if folders["json"] is None:
        where = f"{root} holds no dataset_json/" if root else "neither data.root nor data.json_dir is given"
        raise UserError(
            f"{where}: say data.root=FOLDER (with dataset_json/, lmdb/ or rgb/ in it), set RESPROTO_DATA, "
            "or name data.json_dir=, data.lmdb_dir= and data.rgb_dir= one by one"
        )
    return folders
