"""Names of detectors: classes registered by name, presets in `configs/detectors/*.yaml`.

A built-in class is found by its file: `detectors/NAME.py` registers NAME.

Importing this imports no PyTorch; a class is imported when it is asked for.
"""

import importlib
import typing
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, create_model

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.loading import load, names, validated
from resproto_fd.configs.suggestions import nearest

if TYPE_CHECKING:
    from resproto_fd.configs.schema import DetectorConfig
    from resproto_fd.detectors.base import Detector

GROUP = "resproto_fd.detectors"
"""Entry point group of other packages: detector name = module that registers it, or module:Class."""


_classes: dict[str, type] = {}


def register(name: str) -> Callable[[type], type]:
    """Class decorator that makes a detector known by name.

    Raises:
        ValueError: The name is taken by another class; both are named.
    """

    def decorate(cls: type) -> type:
        here, there = f"{cls.__module__}.{cls.__qualname__}", _owner(name)
        if there not in (None, here, cls.__module__):
            raise ValueError(f"detector name '{name}' is taken by {there}; {here} needs another name")
        _classes[name] = cls
        return cls

    return decorate


def class_names() -> list[str]:
    """Names of all detector classes: built in, registered, and of installed packages; sorted."""
    return sorted({*_own_modules(), *_classes, *_entry_points()})


def detector_class(name: str) -> type["Detector"]:
    """The class registered under a name.

    Raises:
        UserError: No such class (what there is, and the nearest), or its package cannot be imported.
    """
    if name not in _classes:
        if name in _own_modules():
            importlib.import_module(_own_modules()[name])
        elif name in _entry_points():
            _import_entry_point(_entry_points()[name])
        else:
            known = class_names()
            raise UserError(f"no detector class is called '{name}'{nearest(name, known)}; known: {', '.join(known)}")
    return _classes[name]


def keywords_of(name: str) -> list[str]:
    """Names of the keywords of a class's constructor.

    Raises:
        UserError: As `detector_class`.
    """
    return list(signature(detector_class(name).__init__).parameters)[1:]


def defaults_of(name: str) -> dict[str, Any]:
    """Keywords of a class's constructor that have a default, with it.

    Raises:
        UserError: As `detector_class`.
    """
    found = list(signature(detector_class(name).__init__).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in found if parameter.default is not Parameter.empty}


def build_detector(config: "DetectorConfig") -> "Detector":
    """The detector of a resolved configuration, without further defaults.

    Raises:
        UserError: Unknown class; a keyword its constructor does not know, or of the wrong type.
    """
    where = f"detector '{config.name or config.detector}', model"
    return _construct(config.detector, config.model, where)


def create_detector(name: str, /, **config: Any) -> "Detector":
    """A detector by name.

    Args:
        name: A preset (`configs/detectors/NAME.yaml`), a YAML file of the same form, or a registered class.
        config: Keywords of the class's constructor, over those of the preset.

    Raises:
        UserError: Unknown name (what there is, and the nearest); a keyword the constructor does not know, or of the
            wrong type; whatever the class raises.
    """
    if name in names("detectors") or name.endswith((".yaml", ".yml")):
        preset = load("detectors", name)
        return _construct(preset.detector, {**preset.model, **config}, f"detector '{name}', model")
    known = sorted({*names("detectors"), *class_names()})
    if name not in known:
        raise UserError(f"no detector is called '{name}'{nearest(name, known)}; known: {', '.join(known)}")
    return _construct(name, config, f"detector '{name}', model")


def check_model(config: "DetectorConfig") -> None:
    """Check a configuration's `model:` against the constructor's signature, without building.

    Raises:
        UserError: As `build_detector` for these.
    """
    cls = detector_class(config.detector)
    validated(_schema(cls), config.model, f"detector '{config.name or config.detector}'", "model.")


def describe_detectors() -> list[dict[str, str]]:
    """What `resproto list detectors` shows, from the YAML files alone.

    A row for each preset, then for each class that has none of its name (`timm` takes any backbone). Keys: name, title,
    class, level, backbone, parameters (millions), pretrained, needs, fidelity, DeepfakeBench (whether its checkpoints
    load), paper.
    """
    rows = []
    for name in names("detectors"):
        config = load("detectors", name)
        rows.append(
            {
                "name": name,
                "title": config.title or name,
                "class": config.detector,
                "level": "frame",
                "backbone": config.backbone or backbone_title(config.model.get("backbone")),
                "parameters": "" if config.parameters is None else f"{config.parameters / 1e6:.2f} M",
                "pretrained": _pretrained_title(config.model.get("pretrained")),
                "needs": " ".join([*config.needs, *([] if config.train.samples == "frames" else ["landmarks"])]),
                "fidelity": config.fidelity or "",
                "DeepfakeBench": "yes" if config.deepfakebench else "no",
                "paper": config.paper,
            }
        )
    bare = [name for name in class_names() if name not in names("detectors")]
    return rows + [dict.fromkeys(rows[0], "") | {"name": name, "class": name} for name in bare]


def _owner(name: str) -> str | None:
    """What holds a class name already: a class, the module of a built-in one, or a preset of another class."""
    if name in _classes:
        return f"{_classes[name].__module__}.{_classes[name].__qualname__}"
    if name in names("detectors") and load("detectors", name).detector != name:
        return f"the preset {name}.yaml of class '{load('detectors', name).detector}'"
    return _own_modules().get(name)


def _construct(class_name: str, keywords: dict[str, Any], where: str) -> "Detector":
    cls = detector_class(class_name)
    values = validated(_schema(cls), keywords, where)
    return cls(**{name: getattr(values, name) for name in values.model_fields_set})


@cache
def _schema(cls: type) -> type[BaseModel]:
    """A pydantic model of the constructor's keywords: strict, so that "3" is no number, but 3 is a float."""
    hints = typing.get_type_hints(cls.__init__, include_extras=True)
    parameters = [
        p for p in list(signature(cls.__init__).parameters.values())[1:] if p.kind != Parameter.VAR_POSITIONAL
    ]
    fields = {
        p.name: (hints.get(p.name, Any), ... if p.default is Parameter.empty else p.default)
        for p in parameters
        if p.kind != Parameter.VAR_KEYWORD
    }
    extra = "allow" if any(p.kind == Parameter.VAR_KEYWORD for p in parameters) else "forbid"
    config = ConfigDict(extra=extra, strict=True, arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(cls.__name__, __config__=config, **fields)


@cache
def _own_modules() -> dict[str, str]:
    """Name -> module of each detector of this folder: a file NAME.py that registers NAME."""
    found = {}
    for file in files("resproto_fd.detectors").iterdir():
        name = file.name.removesuffix(".py")
        if file.name.endswith(".py") and f'@register("{name}")' in file.read_text(encoding="utf-8"):
            found[name] = f"resproto_fd.detectors.{name}"
    return found


@cache
def _entry_points() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = found.get(point.name)
        if point.name in _own_modules() or (other is not None and other.value != point.value):
            owner = f"{other.value}" if other else _own_modules()[point.name]
            raise UserError(
                f"detector name '{point.name}' is taken by {owner}; {point.value} of the installed package "
                f"'{point.dist.name if point.dist else '?'}' registers it too: uninstall one of them"
            )
        found[point.name] = point
    return found


def _import_entry_point(point: EntryPoint) -> None:
    try:
        loaded = point.load()
    except Exception as error:
        raise UserError(f"detector '{point.name}': {point.value} cannot be imported: {error}") from error
    if isinstance(loaded, type) and point.name not in _classes:
        register(point.name)(loaded)
    if point.name not in _classes:
        raise UserError(f"detector '{point.name}': {point.value} was imported but registers no such name")


def backbone_title(backbone: Any) -> str:
    """A backbone as tables print it: its name, or a short form of its layout; "" if a preset has none."""
    if not isinstance(backbone, dict):
        return backbone or ""
    vision = backbone.get("vision_cfg", {})
    kind = "ResNet" if isinstance(vision.get("layers"), list) else "ViT"
    return f"own CLIP ({vision.get('timm_model_name') or kind}, {backbone.get('embed_dim')})"


def _pretrained_title(pretrained: Any) -> str:
    return {None: "no", False: "no", True: "yes"}.get(pretrained, str(pretrained))
