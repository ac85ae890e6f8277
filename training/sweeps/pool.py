"""The cards and CPUs that a sweep may use: what is taken, what is free, and where a run fits. Nothing is started here.

A run gets cards of its own unless its needs ask for a share of one and its peak of memory is known. Runs share a card
only as far as their peaks, with a margin, fit its memory together. So memory is never promised twice. A run with cards
of its own and a known peak waits for cards that hold it, if there are such.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil
from typing import Protocol

MARGIN = 1.05
"""A peak is counted with this factor: runs of one kind differ a little, and memory is handed out in blocks."""
PARTS = 10_000
"""A card is shared out in so many parts, as Ray does."""
CONTEXT_GIB = 0.75
"""Memory of a card that a process takes beside its tensors, for its CUDA context and libraries."""


class Needs(Protocol):
    """What a run takes, see `configs.sweep_schema.Needs`."""

    cards: float
    cpus: int | None


@dataclass(frozen=True)
class Node:
    """A machine.

    Attributes:
        name: Unlike all others' names.
        cards: Memory of each card that may be used, in GiB.
        cpus: Its CPUs.
    """

    name: str
    cards: tuple[float, ...] = ()
    cpus: int = 1


@dataclass(frozen=True)
class Placement:
    """Where a run is, and what it takes there.

    Attributes:
        node: Name of the node.
        cards: Positions of its cards among the node's.
        share: What it takes of each of them, in (0, 1]; 0 without cards.
        gib: Memory that it takes of a card that it shares; 0 if it has its cards for itself.
        cpus: CPUs.
    """

    node: str
    cards: tuple[int, ...]
    share: float
    gib: float
    cpus: int


@dataclass
class _Card:
    gib: float
    runs: int = 0
    taken_gib: float = 0.0
    taken_parts: int = 0  # of `PARTS`


@dataclass
class _Room:
    """A node and what is taken of it."""

    node: Node
    free_cpus: int
    cards: list[_Card] = field(default_factory=list)


class Pool:
    """The nodes of a sweep.

    Args:
        nodes: The first nodes; others may come and go.
    """

    def __init__(self, nodes: Iterable[Node] = ()):
        self._rooms: dict[str, _Room] = {}
        for node in nodes:
            self.add(node)

    @property
    def nodes(self) -> list[Node]:
        return [room.node for room in self._rooms.values()]

    def add(self, node: Node) -> None:
        """Adds a node, or takes note that it came back empty."""
        self._rooms[node.name] = _Room(node, node.cpus, [_Card(gib) for gib in node.cards])

    def remove(self, name: str) -> None:
        """Takes a node away, with all that was placed there."""
        self._rooms.pop(name, None)

    def place(
        self, needs: Needs, peak_gib: float | None = None, alone: bool = False, held: frozenset = frozenset()
    ) -> Placement | None:
        """Finds room for a run and takes it; None if there is none now.

        Args:
            needs: What it takes. More CPUs than a node has are all of the node's.
            peak_gib: Its stated or measured peak of memory on a card. It gets a card for itself if that is None, or if
                no card is known to be large enough to be shared: those of unknown memory are not.
            alone: Whether it gets its card for itself in any case.
            held: Cards that it may not have, see `hold`.
        """
        best = None
        if peak_gib is not None and not self._is_held_by(peak_gib, whole_cards(needs)):
            peak_gib = None
        alone = alone or peak_gib is None
        for room in self._rooms.values():
            if found := self._fit(room, needs, peak_gib, alone, held):
                # The fullest card that has room, then the node with the fewest free cards: large gaps stay whole.
                rank = (found[0], sum(not card.runs for card in room.cards), room.free_cpus)
                if best is None or rank < best[0]:
                    best = rank, found[1]
        if best is None:
            return None
        self._take(best[1], 1)
        return best[1]

    def _is_held_by(self, peak_gib: float, count: int) -> bool:
        """Whether some node has so many cards that, empty, are known to hold such a run and its margin."""
        return any(sum(taken_gib(peak_gib) <= gib for gib in node.cards) >= count for node in self.nodes)

    def ever_fits(self, needs: Needs) -> bool:
        """Whether some node could hold a run if it were empty."""
        return any(len(node.cards) >= whole_cards(needs) for node in self.nodes)

    def hold(self, needs: Needs, peak_gib: float | None = None) -> frozenset:
        """The cards, as (node, position), to be kept for a run that waits for them: the free ones first."""
        count = whole_cards(needs)
        if peak_gib is not None and not self._is_held_by(peak_gib, count):
            peak_gib = None
        rooms = [room for room in self._rooms.values() if len(_large_enough(room, peak_gib)) >= count]
        if not rooms or not count:
            return frozenset()

        def order(room: _Room) -> list[int]:
            fit = _large_enough(room, peak_gib)
            return sorted(fit, key=lambda at: (room.cards[at].taken_parts, at))[:count]

        room = min(rooms, key=lambda room: sum(room.cards[at].taken_parts for at in order(room)))
        return frozenset((room.node.name, at) for at in order(room))

    def give_back(self, placement: Placement) -> None:
        """Frees what a run had. A node that is gone had it last."""
        if placement.node in self._rooms:
            self._take(placement, -1)

    def used(self) -> tuple[float, float]:
        """(GiB of cards that runs have taken, GiB of all cards); a run alone on a card takes all of it."""
        cards = [card for room in self._rooms.values() for card in room.cards]
        taken = sum(card.gib if card.runs and not card.taken_gib else card.taken_gib for card in cards)
        return taken, sum(card.gib for card in cards)

    def _fit(self, room, needs, peak_gib, alone, held) -> tuple[float, Placement] | None:
        node, cpus = room.node, min(needs.cpus or 1, room.node.cpus)
        if cpus > room.free_cpus:
            return None
        if not needs.cards:
            return 0.0, Placement(node.name, (), 0.0, 0.0, cpus)
        open_cards = [at for at in range(len(room.cards)) if (node.name, at) not in held]
        if needs.cards < 1 and not alone:
            return self._fit_share(room, needs, peak_gib, open_cards, cpus)
        fit = _large_enough(room, peak_gib)
        free = [at for at in open_cards if at in fit and not room.cards[at].runs]
        count = whole_cards(needs)
        if len(free) < count:
            return None
        free.sort(key=lambda at: (room.cards[at].gib, at))
        return 2.0, Placement(node.name, tuple(sorted(free[:count])), 1.0, 0.0, cpus)

    def _fit_share(self, room, needs, peak_gib, open_cards, cpus) -> tuple[float, Placement] | None:
        gib, best = taken_gib(peak_gib), None
        for at in open_cards:
            card = room.cards[at]
            if card.taken_gib + gib > card.gib:
                continue
            parts = max(ceil(round(needs.cards * PARTS, 6)), ceil(gib / card.gib * PARTS))
            left = PARTS - card.taken_parts - parts
            if left >= 0 and (best is None or left < best[0]):
                best = left, Placement(room.node.name, (at,), parts / PARTS, gib, cpus)
        return best and (best[0] / PARTS, best[1])

    def _take(self, placement: Placement, sign: int) -> None:
        room = self._rooms[placement.node]
        room.free_cpus -= sign * placement.cpus
        for at in placement.cards:
            card = room.cards[at]
            card.runs += sign
            card.taken_gib += sign * placement.gib
            card.taken_parts += sign * round(placement.share * PARTS)
            if not card.runs:  # no rounding is carried on
                card.taken_gib = 0.0


def _large_enough(room: _Room, peak_gib: float | None) -> list[int]:
    """Positions of a node's cards that, empty, hold a run's peak; of all, if the peak is not known."""
    return [at for at, card in enumerate(room.cards) if peak_gib is None or taken_gib(peak_gib) <= card.gib]


def whole_cards(needs: Needs) -> int:
    """The cards that a run gets for itself if it shares none."""
    return int(needs.cards) if needs.cards >= 1 else int(needs.cards > 0)


def taken_gib(peak_gib: float) -> float:
    """Memory that a run with a measured peak of its tensors is counted with."""
    return peak_gib * MARGIN + CONTEXT_GIB
