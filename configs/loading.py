"""Reads the YAML files and resolves a run's configuration: defaults < YAML < `key=value`."""

import json
import os
from collections.abc import Callable, Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from resproto_fd.configs.errors import UserError, shown
from resproto_fd.configs.readers.yaml_reader import load_yaml, parse_yaml
from resproto_fd.configs.schema import DataConfig, DatasetConfig, DetectorConfig, ProtocolConfig, RunConfig
from resproto_fd.configs.suggestions import nearest
from resproto_fd.configs.sweep_schema import SweepConfig

Model = TypeVar("Model", bound=BaseModel)

KINDS: dict[str, type[BaseModel]] = {
    "detectors": DetectorConfig,
    "datasets": DatasetConfig,
    "protocols": ProtocolConfig,
    "sweeps": SweepConfig,
}


OF_DETECTOR = ("model", "input", "train")
"""Parts of a detector's configuration that a command line names without `detector.`."""


def validated(schema: type[Model], values: dict[str, Any], where: str, prefix: str = "") -> Model:
    """`values` as the schema's object.

    Args:
        schema: The schema.
        values: What a file or a command line gives.
        where: The file or command line, for messages.
        prefix: Put before each key in messages ("model."), so that a key reads as it was typed.

    Raises:
        UserError: An unknown or missing key, a wrong type or value: file, key and choices are named.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise _faults(schema, error, lambda _: where, lambda location: prefix + ".".join(map(str, location))) from error


def with_changes(
    values: dict[str, Any], changes: dict[str, Any], typed: dict[str, Any] | None = None, file: str = ""
) -> RunConfig:
    """The configuration of one run, changes of a command line laid over its values.

    Args:
        values: As a run's configuration has them.
        changes: As `parse_overrides` gives them; `model.*`, `input.*` and `train.*` belong to the detector.
        typed: Those of the changes that were typed, if others are from a file.
        file: That file, for messages.

    Raises:
        UserError: An unknown key, a wrong type or value; keys are named as they were typed.
    """

    def as_typed(location: tuple) -> str:
        inside = location[0] == "detector" and len(location) > 1 and location[1] in changes
        return ".".join(map(str, location[1:] if inside else location))

    def said_by(location: tuple) -> str:
        return "command line" if typed is None or _holds(of_run(typed), location) else file

    try:
        return RunConfig.model_validate(merged(values, of_run(changes)))
    except ValidationError as error:
        raise _faults(RunConfig, error, said_by, as_typed) from error


def _holds(mapping: Any, location: tuple) -> bool:
    """Whether nested mappings have a value at a place, above it or below it."""
    for part in location:
        if not isinstance(mapping, dict):
            return True
        if part not in mapping:
            return False
        mapping = mapping[part]
    return True


def _faults(
    schema: type[BaseModel], error: ValidationError, said_by: Callable[[tuple], str], name_of: Callable[[tuple], str]
) -> UserError:
    return UserError("\n".join(_describe(schema, issue, said_by(issue["loc"]), name_of) for issue in error.errors()))


def _describe(schema: type[BaseModel], issue: dict, where: str, name_of: Callable[[tuple], str]) -> str:
    key = name_of(issue["loc"]) if issue["loc"] else "(whole file)"
    if issue["type"] == "extra_forbidden":
        known = _fields_at(schema, issue["loc"][:-1])
        if schema is RunConfig and len(issue["loc"]) == 1:
            known = [*OF_DETECTOR, *known]
        choices = f"; known here: {', '.join(sorted(known))}" if known else ""
        last = str(issue["loc"][-1])
        elsewhere = _places(schema, last)[:3]
        hint = f"; set {' or '.join(elsewhere)}" if elsewhere else nearest(last, known)
        return f"{where}: unknown key '{key}'{hint}{choices}"
    if issue["type"] == "missing":
        return f"{where}: key '{key}' is missing"
    message = issue["msg"].removeprefix("Value error, ")
    given = "" if issue["type"] == "value_error" else f", got {shown(issue['input'])}"
    return f"{where}: key '{key}': {message}{given}"


def _places(schema: type[BaseModel], name: str) -> list[str]:
    """The keys of a schema whose last part is a name, as they are typed: "train.optimizer.lr" for "lr"."""
    found = []
    for key, field in schema.model_fields.items():
        typed = field.alias or key
        found += [typed] if typed == name else []
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                places = _places(inner, name)
                own = [schema is RunConfig and place.partition(".")[0] in OF_DETECTOR for place in places]
                found += [place if bare else f"{typed}.{place}" for place, bare in zip(places, own)]
    return found


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
    """Names of the YAML files of a kind ('detectors', 'datasets', 'protocols', 'sweeps'), sorted."""
    folder = files("resproto_fd.configs") / kind
    return tuple(sorted(entry.name[: -len(".yaml")] for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def find(kind: str, name: str) -> Path:
    """The YAML file that a name, or a path to a file of the user's own, stands for.

    Raises:
        UserError: Neither a known name nor a file.
    """
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        path = Path(name)
        if os.path.isfile(path):  # a name that is too long for the system names no file
            return path
        hint = f"; '{path.stem}' is a known name: use it without a path and .yaml" if path.stem in names(kind) else ""
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
    """A mapping written out as one value: it replaces the mapping that it changes."""


def parse_overrides(*layers: Iterable[str]) -> dict[str, Any]:
    """Nested mapping of `key.sub=value` words; values are read as YAML.

    Args:
        layers: The words, as they were typed or stand in a file together. A word goes before those of earlier layers.

    Raises:
        UserError: A word without '=', or two words of a layer that contradict each other.

    >>> parse_overrides(["train.epochs=3", "train.optimizer.lr=5e-7"])
    {'train': {'epochs': 3, 'optimizer': {'lr': 5e-07}}}
    """
    tree: dict[str, Any] = {}
    bare: set[str] = set()
    for words in layers:
        said: list[_Said] = []
        for word in words:
            new = _said(word)
            for other in said:
                if new.takes_from(other):
                    raise UserError(f"{shown(other.word)} and {shown(word)} contradict each other; give one of them")
            said.append(new)
            bare.add(word.partition("=")[0].partition(".")[0])
            *parents, last = new.place
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
                if not isinstance(node, dict):
                    raise UserError(f"'{word}': '{parent}' already has a value on this command line")
            node[last] = _Whole(new.value) if isinstance(new.value, dict) else new.value
    detector = tree.get("detector")
    if isinstance(detector, dict) and not isinstance(detector, _Whole):
        tree |= {key: detector.pop(key) for key in OF_DETECTOR if key in bare and key in detector}
        if not detector:
            del tree["detector"]
    return tree


def in_one_line(words: Iterable[str]) -> list[str]:
    """Words of several layers as those of one command line, where none may contradict another; flags are kept.

    >>> in_one_line(["train.epochs=3", "run.workers=2", "train.epochs=1"])
    ['run.workers=2', 'train.epochs=1']
    """
    kept: list[_Said | str] = []
    for word in words:
        if word.startswith("-") or "=" not in word:
            kept.append(word)
            continue
        new = _said(word)
        kept = [other for other in kept if isinstance(other, str) or other.place[: len(new.place)] != new.place]
        around = [i for i, other in enumerate(kept) if not isinstance(other, str) and new.takes_from(other)]
        for i in around:  # a mapping that has another value there
            inside: Any = new.value
            for part in reversed(new.place[len(kept[i].place) :]):
                inside = {part: inside}
            kept[i] = _said(as_word(kept[i].word.partition("=")[0], merged(kept[i].value, inside)))
        kept += [] if around else [new]
    return [word if isinstance(word, str) else word.word for word in kept]


class _Said(NamedTuple):
    """A `key=value` word, its place in a run's configuration, and its value."""

    word: str
    place: tuple[str, ...]
    value: Any

    def takes_from(self, other: "_Said") -> bool:
        """Whether the word takes away what an earlier one says; to change nothing of it, or to add to it, is fine."""
        size = len(self.place)
        if other.place[:size] == self.place:
            return _at(self.value, other.place[size:]) != other.value
        if self.place[: len(other.place)] == other.place:
            return _at(other.value, self.place[len(other.place) :]) not in (..., self.value)
        return False


def _said(word: str) -> _Said:
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise UserError(f"'{word}' is not of the form key=value (for example train.epochs=3)")
    place = tuple(key.split("."))
    place = ("detector", *place) if place[0] in OF_DETECTOR else place
    return _Said(word, place, parse_yaml(text, f"value of {key}"))


def _at(value: Any, place: Iterable[str]) -> Any:
    """What nested mappings have at a place; `...` if there is none."""
    for part in place:
        if not isinstance(value, dict) or part not in value:
            return ...
        value = value[part]
    return value


def as_word(key: str, value: Any) -> str:
    """A `key=value` word that `parse_overrides` reads back to this value.

    Raises:
        UserError: There is none, as for a value that is not of YAML.

    >>> as_word("train.epochs", 3), as_word("data.root", "a: b"), as_word("model.loss", "ce")
    ('train.epochs=3', 'data.root="a: b"', 'model.loss=ce')
    """
    for text in ([value] if isinstance(value, str) else []) + [json.dumps(value)]:
        try:
            if parse_yaml(text, key) == value:
                return f"{key}={text}"
        except UserError:
            continue
    raise UserError(f"{key}: expected a value that a word can hold, got {shown(value)}")


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


def resolve(
    detector: str | DetectorConfig,
    protocol: str | ProtocolConfig,
    changes: dict[str, Any] | None = None,
    typed: dict[str, Any] | None = None,
    file: str = "",
) -> RunConfig:
    """The configuration of one run.

    Args:
        detector: Name, YAML path, or what one of these would load.
        protocol: The same.
        changes: As `parse_overrides` gives them; `model.*`, `input.*` and `train.*` belong to the detector,
            `protocol.*`, `data.*`, `run.*` and `seed` to the run.
        typed, file: See `with_changes`.

    Raises:
        UserError: As `load`, and for changes the schema does not know.
    """
    detector = load("detectors", detector) if isinstance(detector, str) else detector
    protocol = load("protocols", protocol) if isinstance(protocol, str) else protocol
    values = {
        "detector": detector.model_dump(by_alias=True, exclude_unset=True),
        "protocol": protocol.model_dump(by_alias=True, exclude_unset=True),
    }
    return with_changes(values, changes or {}, typed, file)


def of_run(changes: dict[str, Any]) -> dict[str, Any]:
    """Changes as a run's configuration has them: `model.*`, `input.*` and `train.*` lie within `detector`.

    Raises:
        UserError: One of these three is given a value as a whole.
    """
    changes = dict(changes)
    of_detector = {key: changes.pop(key) for key in OF_DETECTOR if key in changes}
    for key, change in of_detector.items():
        if not isinstance(change, dict):
            raise UserError(f"command line: '{key}' takes no value of its own; set one of its parts: {key}.PART=value")
    return merged({"detector": of_detector} if of_detector else {}, changes)


def data_settings(words: list[str], command: str) -> DataConfig:
    """The `data.*` settings of a command that takes no others.

    Raises:
        UserError: Another setting, an unknown key, a wrong type.
    """
    changes = parse_overrides(words)
    if others := sorted(set(changes) - {"data"}):
        raise UserError(f"command line: {command} takes data.* settings alone, not {', '.join(others)}")
    return validated(DataConfig, changes.get("data", {}), "command line", "data.")


def dump(config: BaseModel) -> str:
    """A configuration as YAML text that `load_yaml` reads back to the same values."""
    return yaml.safe_dump(config.model_dump(by_alias=True), sort_keys=False, allow_unicode=True)


def data_folders(data: DataConfig) -> dict[str, Path | None]:
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
            f"{where}; set data.root=FOLDER (or RESPROTO_DATA) to a folder with dataset_json/ and lmdb/ or rgb/ in it, "
            "or set data.json_dir=, data.lmdb_dir= and data.rgb_dir= one by one"
        )
    return folders
