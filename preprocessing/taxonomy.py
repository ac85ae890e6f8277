"""Meaning of label strings: real or fake, the method, and the kind of forgery."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.loading import load_yaml, validated
from resproto_fd.configs.suggestions import nearest

ForgeryType = Literal["real", "face swap", "reenactment", "entire synthesis", "editing", "unknown"]


class Method(BaseModel):
    """Method of the taxonomy file: its kind of forgery and its label strings."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: ForgeryType
    labels: list[str] = []


class TaxonomyFile(BaseModel):
    """Form of `configs/taxonomy.yaml`."""

    model_config = ConfigDict(extra="forbid", strict=True)
    methods: dict[str, Method]


class NewMethod(BaseModel):
    """Label of a dataset YAML with a method that the taxonomy does not have: `{method: ..., type: ...}`."""

    model_config = ConfigDict(extra="forbid", strict=True)
    method: str
    type: ForgeryType


@dataclass(frozen=True, slots=True)
class Meaning:
    """Method and kind of forgery of a label string.

    >>> Meaning("Deepfakes", "face swap").label, Meaning("real", "real").label
    (1, 0)
    """

    method: str
    forgery_type: ForgeryType

    @property
    def label(self) -> int:
        """0 real, 1 fake."""
        return int(self.forgery_type != "real")


class Taxonomy:
    """Known label strings and their meanings.

    Args:
        methods: Kind of forgery and label strings of each method.
        where: The file that has them, for messages.

    Raises:
        UserError: A string belongs to two methods, or a method that is not called "real" is real.
    """

    def __init__(self, methods: Mapping[str, Method], where: str):
        self.where = where
        self.types: dict[str, ForgeryType] = {name: method.type for name, method in methods.items()}
        self.meanings: dict[str, Meaning] = {}
        for name, method in methods.items():
            _check_real(name, method.type, where)
            for label in method.labels:
                if label in self.meanings:
                    raise UserError(
                        f"{where}: label '{label}' is listed under two methods, '{self.meanings[label].method}' and "
                        f"'{name}'; remove it from one"
                    )
                self.meanings[label] = Meaning(name, method.type)

    def __getitem__(self, label_name: str) -> Meaning:
        """Returns the meaning of a label string.

        Raises:
            UserError: The string is unknown. The message has the nearest known one and the remedy.
        """
        try:
            return self.meanings[label_name]
        except KeyError:
            raise UserError(
                f"label '{label_name}' is not in the taxonomy {self.where}{nearest(label_name, self.meanings)}; set "
                f"its meaning in the data set's YAML, for example labels: {{{label_name}: real}} or "
                f"labels: {{{label_name}: {{method: NAME, type: face swap}}}}"
            ) from None

    def extended(self, labels: Mapping[str, str | Mapping[str, str]], where: str = "labels") -> "Taxonomy":
        """Returns this taxonomy, extended or changed by a data set's own `labels:`.

        Args:
            labels: For each label string a known method ("SimSwap", "real"), or a new one with its kind:
                {"method": ..., "type": ...}.
            where: The file that has them, for messages.

        Raises:
            UserError: An unknown method without a kind, an unknown kind, or a known method under another kind.
        """
        result = Taxonomy({}, self.where)
        result.types, result.meanings = dict(self.types), dict(self.meanings)
        for label, given in labels.items():
            if isinstance(given, str):
                if given not in self.types:
                    raise UserError(
                        f"{where}: label '{label}': no method is called '{given}'{nearest(given, self.types)}; for a "
                        f"new one write {{method: {given}, type: ...}} with one of {_listed(ForgeryType.__args__)}"
                    )
                meaning = Meaning(given, self.types[given])
            else:
                new = validated(NewMethod, given, f"{where}: label '{label}'")
                _check_real(new.method, new.type, f"{where}: label '{label}'")
                meaning = Meaning(new.method, new.type)
                known = result.types.setdefault(new.method, new.type)
                if known != new.type:
                    raise UserError(
                        f"{where}: label '{label}': method '{new.method}' is known as {known}, not as {new.type}; "
                        "give it another name"
                    )
            result.meanings[label] = meaning
        return result


def load_taxonomy(path: str | os.PathLike | None = None) -> Taxonomy:
    """Loads the taxonomy of a file; by default the installed `configs/taxonomy.yaml`.

    Raises:
        UserError: The file is missing or has another form. The message names file and key.
    """
    return _load(str(path if path is not None else files("resproto_fd.configs") / "taxonomy.yaml"))


@cache
def _load(path: str) -> Taxonomy:
    return Taxonomy(validated(TaxonomyFile, load_yaml(path), path).methods, path)


def _check_real(method: str, forgery_type: str, where: str) -> None:
    """Checks that "real" is the one method of real videos. Scores and tables recognise them by it."""
    if (method == "real") != (forgery_type == "real"):
        raise UserError(
            f"{where}: method '{method}' with type '{forgery_type}'; expected method 'real' and type 'real', or neither"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
