"""A run's configuration from names and changes, as the command line and sweeps give them.

A protocol that was changed gets a name of its own.
"""

import hashlib
import json
import os
import re
from typing import Any

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import DetectorConfig, ProtocolConfig, RunConfig
from resproto_fd.configs.suggestions import nearest
from resproto_fd.detectors.registry import class_names

_WORDS = {"name", "title", "source", "note"}
_CUSTOM = re.compile(r"-custom(-[0-9a-f]{8})?$")


def configuration(
    detector: str | DetectorConfig,
    protocol: str | ProtocolConfig,
    changes: dict[str, Any],
    typed: dict[str, Any] | None = None,
    file: str = "",
) -> RunConfig:
    """The configuration of one run.

    Args:
        detector: Name, YAML path, or what one of these would load (see `detector_called`).
        protocol: Name, YAML path, or what one of these would load.
        changes: As `loading.parse_overrides` gives them.
        typed, file: See `loading.with_changes`.

    Raises:
        UserError: As `loading.resolve`.
    """
    source = loading.load("protocols", protocol) if isinstance(protocol, str) else protocol
    return own_protocol(loading.resolve(detector, source, changes, typed, file), source)


def detector_called(name: str) -> str | DetectorConfig:
    """The name; or the default recipe, for a registered class without a YAML (another package's).

    Raises:
        UserError: There is neither.
    """
    if name in loading.names("detectors") or name.endswith((".yaml", ".yml")) or os.sep in name:
        return name
    known = class_names()
    if name in known:
        return DetectorConfig(name=name, detector=name)
    known = sorted({*loading.names("detectors"), *known})
    raise UserError(f"no detector is called '{name}'{nearest(name, known)}; known: {', '.join(known)}")


def own_protocol(config: RunConfig, source: ProtocolConfig) -> RunConfig:
    """Gives a changed protocol a name and a title of its own; selects on a training set if these were changed.

    The new name depends on the content, so that two changes of one protocol have a folder each. It begins with the
    training sets if they are others, else with the protocol's name.

    Args:
        config: The configuration with all changes.
        source: The protocol before the changes; used if the package has none of that name.
    """
    protocol = config.protocol
    base = _CUSTOM.sub("", protocol.name)
    if base in loading.names("protocols"):
        source = loading.load("protocols", base)
    elif protocol.name != source.name:  # named on the command line
        return config
    if protocol.model_copy(update={"name": source.name}) == source:
        return config.model_copy(update={"protocol": source})
    selection, elsewhere = protocol.selection, protocol.train != source.train
    as_before = selection == source.selection and selection.rule == "best"
    if elsewhere and as_before and selection.dataset not in protocol.train:
        selection = selection.model_copy(update={"dataset": protocol.train[0]})
        protocol = protocol.model_copy(update={"selection": selection})
    content = json.dumps(protocol.model_dump(exclude=_WORDS, exclude_defaults=True), sort_keys=True)
    first = "+".join(protocol.train)[:60] if elsewhere and protocol.train else base
    named = {
        "name": f"{first}-custom-{hashlib.sha256(content.encode()).hexdigest()[:8]}",
        "title": f"{', '.join(protocol.train) or 'No training'} to {', '.join(protocol.test)}",
        "source": "",
        "note": _change_note(protocol, source, base),
    }
    return config.model_copy(update={"protocol": protocol.model_copy(update=named)})


def _change_note(protocol: ProtocolConfig, source: ProtocolConfig, base: str) -> str:
    """What differs from the protocol that was changed, in a sentence."""
    ours, theirs = protocol.model_dump(exclude=_WORDS), source.model_dump(exclude=_WORDS)
    parts = [
        f"{key}: {now} instead of {before}"
        for key in ours
        for now, before in [_differing(ours[key], theirs[key])]
        if ours[key] != theirs[key]
    ]
    return f"Changed from {base}. {'; '.join(parts)}."


def _differing(now: Any, before: Any) -> tuple[str, str]:
    """Two values in words; of mappings, only what differs."""
    if isinstance(now, dict) and isinstance(before, dict):
        keys = [key for key in {**before, **now} if now.get(key) != before.get(key)]
        return tuple(", ".join(f"{key} {each.get(key)}" for key in keys) for each in (now, before))
    return tuple(", ".join(map(str, each)) if isinstance(each, list) else str(each) for each in (now, before))
