"""Samplers: they deal frames out to batches, in training and in scoring.

The order of samples is a function of seed and epoch alone. It does not depend on workers, on ranks, or on the step at
which a run was resumed.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from resproto_fd.configs.errors import UserError


class TrainBatches:
    """This rank's share of every global batch, in a new random order each epoch.

    A global batch is a stretch of the epoch's order. Each rank takes a stretch of that and cuts it into micro-batches.
    Gathered in rank order, the shares are the batch that one process would see. The last, incomplete batch is dropped.

    Args:
        count: Number of frames, N.
        batch_size: Frames of a batch, of all ranks together.
        accumulate: Micro-batches of a batch.
        rank, world: Number of this process, and of all processes.
        seed: Fixes the order.
        groups: Group of each frame, [N]. The groups take turns at the places of the batches, and each group's frames
            are shuffled and repeated by themselves. None shuffles all frames together.
        pairs: Whether frames 2k and 2k + 1 come together, one after the other.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        accumulate: int,
        rank: int,
        world: int,
        seed: int,
        groups: np.ndarray | None = None,
        pairs: bool = False,
    ):
        self.unit = 2 if pairs else 1
        if batch_size % (world * accumulate * self.unit):
            raise UserError(
                f"train.batch_size={batch_size} (of all processes together) is not a multiple of "
                f"{world} processes x {accumulate} parts (train.accumulate x run.split_batch)"
                f"{' x 2 pictures of a pair' if pairs else ''}; set another train.batch_size"
            )
        if count < batch_size:
            raise UserError(
                f"train.batch_size={batch_size} is more than the {count} training frames (or clips); set a smaller one"
            )
        self.count, self.batch_size, self.accumulate = count, batch_size, accumulate
        self.rank, self.world, self.seed, self.groups = rank, world, seed, groups
        self.epoch = self.first_step = 0

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.accumulate

    @property
    def steps(self) -> int:
        """Optimiser steps in an epoch."""
        return self.count // self.batch_size

    def start(self, epoch: int, first_step: int = 0) -> None:
        """Sets the epoch and the step at which the next pass begins."""
        self.epoch, self.first_step = epoch, first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self._order()
        share = self.batch_size // self.world
        micro = share // self.accumulate
        for step in range(self.first_step, self.steps):
            begin = step * self.batch_size + self.rank * share
            for part in range(self.accumulate):
                chosen = order[begin + part * micro : begin + (part + 1) * micro]
                yield [(self.epoch, int(index)) for index in chosen]

    def _order(self) -> np.ndarray:
        """Draws the order of the epoch's frames, at least as many as its batches take."""
        order = self._order_of_units(self.count // self.unit, self.steps * self.batch_size // self.unit)
        return order if self.unit == 1 else (2 * order[:, None] + [0, 1]).ravel()

    def _order_of_units(self, count: int, wanted: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.groups is None:
            return rng.permutation(count)
        groups = self.groups[:: self.unit]
        return _in_turn(rng, [np.flatnonzero(groups == group) for group in np.unique(groups)], wanted)


class PairedBatches(TrainBatches):
    """Batches in which each fake is followed by a real frame.

    The fakes are shuffled, and repeated if there are fewer than half of the epoch's frames.

    Args:
        labels: 0 real, 1 fake, of each frame, [N]; not all real.
        reals: Position of each fake's real frame, [N]; -1 where it is drawn.
        draw: Draws the real frame of a fake, from the fake's position and a seed.
        batches: The arguments of `TrainBatches`; the groups of the fakes take turns.
    """

    def __init__(self, labels: np.ndarray, reals: np.ndarray, draw: Callable[[int, int], int], *batches):
        super().__init__(len(labels), *batches, pairs=True)
        self.fakes, self.reals, self.draw = np.flatnonzero(labels), reals, draw

    def _order(self) -> np.ndarray:
        rng, wanted = np.random.default_rng((self.seed, self.epoch)), self.steps * self.batch_size // 2
        groups = (np.zeros(self.count, np.int64) if self.groups is None else self.groups)[self.fakes]
        fakes = _in_turn(rng, [self.fakes[groups == group] for group in np.unique(groups)], wanted)
        seeds, reals = rng.integers(2**63, size=wanted), self.reals[fakes]
        for place in np.flatnonzero(reals < 0):
            reals[place] = self.draw(int(fakes[place]), int(seeds[place]))
        return np.stack([fakes, reals], axis=1).ravel()


def _in_turn(rng: np.random.Generator, members: Sequence[np.ndarray], wanted: int) -> np.ndarray:
    """Draws an order in which groups take turns; each group's members are shuffled, again when all have come."""
    order = np.empty(wanted, dtype=np.int64)
    for position, group in enumerate(members):
        places = order[position :: len(members)]
        rounds = -(-len(places) // len(group))
        places[:] = np.concatenate([rng.permutation(group) for _ in range(rounds)])[: len(places)]
    return order


class EvaluationBatches:
    """This rank's share of the frames, in order. Ranks take whole batches in turn; no frame is repeated or dropped.

    A batch holds the same frames whatever the number of ranks, so that scores are the same to the last bit.

    Args:
        count: Number of frames.
        batch_size: Frames of a batch.
        rank, world: Number of this process, and of all processes.
        chosen: Positions of the frames in the frame list; the first `count` if not given.
    """

    def __init__(self, count: int, batch_size: int, rank: int, world: int, chosen: Sequence[int] | None = None):
        self.count, self.batch_size, self.rank, self.world = count, batch_size, rank, world
        self.chosen = range(count) if chosen is None else chosen

    def _starts(self) -> range:
        return range(self.rank * self.batch_size, self.count, self.world * self.batch_size)

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in self._starts():
            yield [(0, int(index)) for index in self.chosen[start : min(start + self.batch_size, self.count)]]
