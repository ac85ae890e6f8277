"""What a label string means: real or fake, by which method, of which kind of forgery."""

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
    """A method of the taxonomy file: its kind of forgery and the label strings that stand for it."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: ForgeryType
    labels: list[str] = []


class TaxonomyFile(BaseModel):
    """Form of `configs/taxonomy.yaml`."""

    model_config = ConfigDict(extra="forbid", strict=True)
    methods: dict[str, Method]


class NewMethod(BaseModel):
    """A label of a dataset YAML whose method the taxonomy does not know: `{method: ..., type: ...}`."""

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
    """The label strings that are known, and what they mean.

    Args:
        methods: Kind of forgery and label strings of each method.
        where: The file they come from, for messages.

    Raises:
        UserError: One string stands for two methods, or a method not called "real" is real.
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
                        f"{where}: label '{label}' stands under two methods, '{self.meanings[label].method}' and "
                        f"'{name}'; it can mean one of them"
                    )
                self.meanings[label] = Meaning(name, method.type)

    def __getitem__(self, label_name: str) -> Meaning:
        """Meaning of a label string.

        Raises:
            UserError: The string is unknown; the nearest known one and the remedy are named.
        """
        try:
            return self.meanings[label_name]
        except KeyError:
            raise UserError(
                f"label '{label_name}' is not in the taxonomy {self.where}{nearest(label_name, self.meanings)}; say "
                f"what it means in the data set's YAML, for example labels: {{{label_name}: real}} or "
                f"labels: {{{label_name}: {{method: NAME, type: face swap}}}}"
            ) from None

    def extended(self, labels: Mapping[str, str | Mapping[str, str]], where: str = "labels") -> "Taxonomy":
        """This taxonomy with a data set's own `labels:` laid over it.

        Args:
            labels: For each label string a method the taxonomy knows ("SimSwap", "real"), or a new one with its kind:
                {"method": ..., "type": ...}.
            where: The file they stand in, for messages.

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
    """The taxonomy of a file; of the installed `configs/taxonomy.yaml` when none is named.

    Raises:
        UserError: The file is missing or does not have the form; file and key are named.
    """
    return _load(str(path if path is not None else files("resproto_fd.configs") / "taxonomy.yaml"))


@cache
def _load(path: str) -> Taxonomy:
    return Taxonomy(validated(TaxonomyFile, load_yaml(path), path).methods, path)


def _check_real(method: str, forgery_type: str, where: str) -> None:
    """Scores and tables tell real videos by their one method, "real"."""
    if (method == "real") != (forgery_type == "real"):
        raise UserError(f"{where}: method '{method}' with type '{forgery_type}'; real videos have the method 'real'")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
