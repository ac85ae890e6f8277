"""Names of detectors: classes registered by name, presets in `configs/detectors/*.yaml`.

A built-in class is found by its file: `detectors/NAME.py` registers NAME.

Importing this imports no PyTorch; a class is imported when it is asked for.
"""

import importlib
import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
            _import_entry_point(name)
        else:
            known = class_names()
            raise UserError(f"no detector class is called '{name}'{nearest(name, known)}; known: {', '.join(known)}")
    return _classes[name]


def name_of(cls: type) -> str | None:
    """The name under which a class is registered; None if it is not."""
    return next((name for name, other in _classes.items() if other is cls), None)


def keywords_of(name: str) -> list[str]:
    """Names of the keywords of a class's constructor.

    Raises:
        UserError: As `detector_class`.
    """
    return list(_keywords_of(name)[0])


def defaults_of(name: str) -> dict[str, Any]:
    """Keywords of a class's constructor that have a default, with it.

    Raises:
        UserError: As `detector_class`.
    """
    known, _ = _keywords_of(name)
    return {key: default for key, (_, default) in known.items() if default is not ...}


def build_detector(config: "DetectorConfig") -> "Detector":
    """The detector of a resolved configuration, without further defaults.

    Raises:
        UserError: Unknown class; a keyword its constructor does not know, or of the wrong type; clips for a class that
            takes single frames, or the other way round.
    """
    _refuse_foreign_code(config)
    _check_frames(config)
    where = f"detector '{config.name or config.detector}', model"
    return _construct(config.detector, config.model, where)


def create_detector(name: str, /, **config: Any) -> "Detector":
    """A detector by name.

    Args:
        name: A preset (`configs/detectors/NAME.yaml`), a YAML file of the same form, or a registered class.
        config: Keywords of the class's constructor, over those of the preset.

    Raises:
        UserError: Unknown name (what there is, and the nearest); a keyword the constructor does not know, or of the
            wrong type; code to import that a YAML of others names and `config` does not; whatever the class raises.
    """
    if name in names("detectors") or name.endswith((".yaml", ".yml")):
        preset = load("detectors", name)
        if name not in names("detectors"):
            from_file = {key: value for key, value in preset.model.items() if key not in config}
            _refuse_foreign_code(preset.model_copy(update={"model": from_file}))
        return _construct(preset.detector, {**preset.model, **config}, f"detector '{name}', model")
    known = sorted({*names("detectors"), *class_names()})
    if name not in known:
        raise UserError(f"no detector is called '{name}'{nearest(name, known)}; known: {', '.join(known)}")
    return _construct(name, config, f"detector '{name}', model")


def check_model(config: "DetectorConfig") -> None:
    """Check a configuration's `model:` against the constructor's signature, and its `input.frames`, without building.

    Raises:
        UserError: As `build_detector` for these.
    """
    _refuse_foreign_code(config)
    _check_frames(config)
    validated(_schema(config.detector), config.model, f"detector '{config.name or config.detector}'", "model.")


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
                "level": "frame" if config.input.frames == 1 else "clip",
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


def _refuse_foreign_code(config: "DetectorConfig") -> None:
    """Refuses a configuration whose keywords name code to import, unless the user typed them or trusts their file."""
    naming = getattr(detector_class(config.detector), "names_code", ())
    if named := [key for key in naming if key in config.model and not config.trusts(key)]:
        given = {key: value if isinstance(value := config.model[key], str) else "..." for key in named}
        words = " ".join(f"model.{key}={value[:100]}" for key, value in given.items())
        raise UserError(
            f"detector '{config.name or config.detector}': a file names code to import, {words}, which would run here; "
            f"if you want that, type {words} on the command line, or set --trust-code for all that your files name"
        )


def _check_frames(config: "DetectorConfig") -> None:
    """Checks that clips go to a class that takes clips, and single frames to one that takes frames."""
    takes_clips, frames = getattr(detector_class(config.detector), "clips", False), config.input.frames
    name = config.name or config.detector
    if takes_clips and frames == 1:
        raise UserError(f"detector '{name}' takes clips: expected input.frames of 2 or more, got 1; set input.frames")
    if not takes_clips and frames > 1:
        raise UserError(
            f"detector '{name}' takes single frames: expected input.frames=1, got {frames}; set input.frames=1, or "
            "take a detector of clips (`resproto list detectors` shows the level)"
        )


def _construct(class_name: str, keywords: dict[str, Any], where: str) -> "Detector":
    cls = detector_class(class_name)
    values = validated(_schema(class_name), keywords, where)
    given = {name: getattr(values, name) for name in values.model_fields_set}
    with _faults_named(class_name, "its constructor failed"):
        return cls(**given)


@contextmanager
def _faults_named(name: str, what: str) -> Iterator[None]:
    """Turns whatever another package's class raises, SystemExit too, into a UserError that names it."""
    point = next(iter(_entry_points().get(name, ())), None)
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if point is None:
            raise
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UserError(
            f"detector '{name}' of the installed package '{_package_of(point)}': {what} ({point.value}): {reason}; "
            "mend or uninstall that package"
        ) from error


def _schema(name: str) -> type[BaseModel]:
    """A pydantic model of a class's constructor's keywords: strict, so that "3" and nan are no floats, but 3 is one."""
    with _faults_named(name, "its constructor's signature cannot be read"):
        return _schema_of(detector_class(name))


@cache
def _schema_of(cls: type) -> type[BaseModel]:
    fields, takes_others = _keywords(cls)
    extra = "allow" if takes_others else "forbid"
    config = ConfigDict(
        extra=extra, strict=True, arbitrary_types_allowed=True, protected_namespaces=(), allow_inf_nan=False
    )
    return create_model(cls.__name__, __config__=config, **fields)


def _keywords_of(name: str) -> tuple[dict[str, tuple[Any, Any]], bool]:
    with _faults_named(name, "its constructor's signature cannot be read"):
        return _keywords(detector_class(name))


@cache
def _keywords(cls: type) -> tuple[dict[str, tuple[Any, Any]], bool]:
    """Keywords of a constructor as name -> (type, default or ...), and whether it takes any others.

    `**name` stands for the keywords with a default of the constructor that it extends: a subclass need not repeat them.
    A keyword without a default is not passed on, since the subclass gives its value.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for owner in (base for base in cls.__mro__ if "__init__" in vars(base)):
        hints = typing.get_type_hints(owner.__init__, include_extras=True)
        passes_on = False
        for parameter in list(signature(owner.__init__).parameters.values())[1:]:
            default = ... if parameter.default is Parameter.empty else parameter.default
            if parameter.kind == Parameter.VAR_KEYWORD:
                passes_on = True
            elif parameter.kind != Parameter.VAR_POSITIONAL and (owner.__init__ is cls.__init__ or default is not ...):
                found.setdefault(parameter.name, (hints.get(parameter.name, Any), default))
        if not passes_on:
            return found, False
    return found, True


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
def _entry_points() -> dict[str, list[EntryPoint]]:
    """Name -> entry points of each detector of other packages; more than one if packages claim the same name.

    A built-in name is not given away: a note tells of the package that wants it.
    """
    found: dict[str, list[EntryPoint]] = {}
    try:
        points = list(entry_points(group=GROUP))
    except Exception as error:  # one package with damaged metadata must not stop commands that need no other package
        print(f"note: detectors of other packages are left out: their entry points: {error!r}", file=sys.stderr)
        return found
    for point in points:
        if point.name in _own_modules():
            print(
                f"note: detector name '{point.name}' is taken by {_own_modules()[point.name]}; {point.value} of the "
                f"installed package '{_package_of(point)}' wants it too and is left out",
                file=sys.stderr,
            )
        elif all(point.value != other.value for other in found.get(point.name, ())):
            found.setdefault(point.name, []).append(point)
    return found


def _package_of(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "?"


def _import_entry_point(name: str) -> None:
    from resproto_fd.detectors.base import Detector

    point, *others = _entry_points()[name]
    if others:
        claims = ", ".join(f"{each.value} of '{_package_of(each)}'" for each in (point, *others))
        raise UserError(f"detector name '{name}' is claimed by several installed packages: {claims}; uninstall one")
    with _faults_named(point.name, "cannot be imported"):
        loaded = point.load()
        if isinstance(loaded, type) and point.name not in _classes:
            register(point.name)(loaded)
    if point.name not in _classes:
        raise UserError(f"detector '{point.name}': {point.value} was imported but registers no such name")
    if not issubclass(cls := _classes[point.name], Detector):
        del _classes[point.name]
        raise UserError(
            f"detector '{point.name}' of the installed package '{_package_of(point)}': expected a subclass of "
            f"resproto_fd.detectors.base.Detector, got {cls.__module__}.{cls.__qualname__}"
        )


def backbone_title(backbone: Any) -> str:
    """A backbone as tables print it: its name, or a short form of its layout; "" if a preset has none."""
    if not isinstance(backbone, dict):
        return backbone or ""
    vision = backbone.get("vision_cfg", {})
    kind = "ResNet" if isinstance(vision.get("layers"), list) else "ViT"
    return f"own CLIP ({vision.get('timm_model_name') or kind}, {backbone.get('embed_dim')})"


def _pretrained_title(pretrained: Any) -> str:
    return {None: "no", False: "no", True: "yes"}.get(pretrained, str(pretrained))
