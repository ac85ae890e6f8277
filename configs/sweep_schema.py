"""The typed form of `configs/sweeps/NAME.yaml`: which runs make a table, and what each of them needs."""

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from resproto_fd.configs.errors import shown
from resproto_fd.configs.schema import LARGEST_SEED, MOST, FileName, Place, Strict

MOST_CARDS = 4096
MOST_HOURS = 1e6
Name = Annotated[Place, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Seeds = Annotated[list[Seed], Field(min_length=1)]
Rate = Annotated[float, Field(gt=0, le=1e9)]
Words = list[list[str]]


class Needs(Strict, frozen=True):
    """What one run takes of a machine.

    Attributes:
        cards: Graphics cards: 1, or more for a run of several processes; a share of one, such as 0.5, which is used
            only once the run's peak of memory was measured; 0 for a run on the CPU.
        memory_gib: Memory of a card that the run takes at most, in GiB; null means that it is measured. A run that has
            cards for itself waits for cards that hold it, if there are such, and gets any otherwise.
        cpus: CPUs; null means one for each process that trains and one for each of its data workers.
    """

    cards: Annotated[float, Field(ge=0, le=MOST_CARDS)] = 1
    memory_gib: Annotated[float, Field(gt=0, le=MOST)] | None = None
    cpus: Annotated[int, Field(gt=0, le=MOST)] | None = None

    @field_validator("cards")
    @classmethod
    def _whole_above_one(cls, cards):
        if cards > 1 and cards != int(cards):
            raise ValueError(f"expected a whole number of cards, or a share of one in (0, 1), got {cards:g}")
        return cards


class Budget(Strict):
    """Where a sweep stops. Runs that are at work then are finished; no other is begun.

    Attributes:
        hours: Hours since this command began.
        runs: Runs begun by this command.
    """

    hours: Annotated[float, Field(gt=0, le=MOST_HOURS)] | None = None
    runs: Annotated[int, Field(gt=0, le=MOST)] | None = None


class CellGroup(Strict):
    """Runs of every detector, on every protocol, with every seed, under every set of overrides.

    Attributes:
        detectors: Names of detectors, or paths of their YAMLs, from the sweep's folder.
        protocols: Names of protocols, or paths of their YAMLs, from the sweep's folder.
        seeds: Seeds; null means those of the sweep.
        overrides: What differs from the detector's YAML and the protocol: a list of lists of `key=value` words, a set
            of runs for each list; or a mapping of keys to lists of values, all of which are combined.
        settings: `key=value` words of every run, as `run.workers=0`.
        needs: What a run takes; null means the sweep's.
    """

    detectors: Annotated[list[Name], Field(min_length=1)]
    protocols: Annotated[list[Name], Field(min_length=1)]
    seeds: Seeds | None = None
    overrides: Words | dict[str, list[Any]] = [[]]
    settings: list[str] = []
    needs: Needs | None = None

    @field_validator("overrides")
    @classmethod
    def _has_values(cls, overrides):
        if not overrides:
            raise ValueError("expected a list of lists of key=value words, or a mapping; leave it out for no overrides")
        for key, values in overrides.items() if isinstance(overrides, dict) else ():
            if not values:
                raise ValueError(f"{shown(key)}: expected a list of values, got an empty one")
        return overrides


class SweepConfig(Strict):
    """`configs/sweeps/NAME.yaml`: the runs of a table.

    Attributes:
        title, note, source: What the table is, and where its runs are described.
        cells: Groups of runs. Runs that several groups name are done once.
        seeds: Seeds of groups that give none.
        needs: What a run of a group that gives none takes.
        settings: `key=value` words of every run.
        budget: Where the sweep stops.
        images_per_second: Training images a second of one card, stated for the cost on paper; by detector, or under
            "default".
    """

    name: FileName = ""
    title: str = ""
    source: str = ""
    note: str = ""
    cells: Annotated[list[CellGroup], Field(min_length=1)]
    seeds: Seeds = [0]
    needs: Needs = Needs()
    settings: list[str] = []
    budget: Budget = Budget()
    images_per_second: dict[str, Rate] = {}

    @model_validator(mode="after")
    def _has_a_rate_for_all(self):
        if self.images_per_second and "default" not in self.images_per_second:
            raise ValueError("images_per_second: expected a rate under 'default' too")
        return self
