"""Draws splits by people, so that every class keeps the shares."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from resproto_fd.preprocessing.video import SPLITS

PEOPLE = "people"
"""Counts those who are in no video of their own, so that they are shared out too."""


def allocate(
    weights: Mapping[str, Counter], shares: Sequence[float], seed: int, fixed: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Gives each person a split.

    Each class has a whole number of videos for each split: its share of them, rounded, and at least one where the class
    has enough videos. People with many videos come first. Each goes to the split that lacks most of what the person
    has. If every person has one video, the numbers are met exactly.

    Args:
        weights: Number of videos of each class, by person.
        shares: Shares of train, val and test.
        seed: Seed of the order of people with equal numbers. Their order depends on it and on their names.
        fixed: Splits of people who have one already.

    >>> people = {f"real {i}": Counter({0: 1}) for i in range(4)} | {f"fake {i}": Counter({1: 1}) for i in range(10)}
    >>> splits = allocate(people, (0.5, 0.2, 0.3), seed=0)
    >>> sorted(Counter((who[:4], split) for who, split in splits.items()).items())  # doctest: +NORMALIZE_WHITESPACE
    [(('fake', 'test'), 3), (('fake', 'train'), 5), (('fake', 'val'), 2),
     (('real', 'test'), 1), (('real', 'train'), 2), (('real', 'val'), 1)]
    """
    weights = {who: counts or Counter({PEOPLE: 1}) for who, counts in weights.items()}
    totals = sum(weights.values(), Counter())
    wanted = {kind: _whole_numbers(total, shares) for kind, total in totals.items()}
    given: dict[str, Counter] = {split: Counter() for split in SPLITS}
    done: Counter = Counter()
    result = {who: split for who, split in (fixed or {}).items() if who in weights}
    for who, split in result.items():
        given[split] += weights[who]
        done += weights[who]

    def cost(split: str, counts: Counter) -> tuple[float, float]:
        over = lacking = 0.0
        for kind, count in counts.items():
            goal = wanted[kind][split]
            over += max(0, given[split][kind] + count - goal) / totals[kind]
            lacking += (goal * (done[kind] + count) / totals[kind] - given[split][kind]) / totals[kind]
        return over, -lacking

    open_splits = [split for split, share in zip(SPLITS, shares, strict=True) if share]
    for who in sorted(weights.keys() - result.keys(), key=lambda who: (-weights[who].total(), _drawn(who, seed))):
        split = min(open_splits, key=lambda split: cost(split, weights[who]))
        result[who] = split
        given[split] += weights[who]
        done += weights[who]
    return result


def _whole_numbers(total: int, shares: Sequence[float]) -> dict[str, int]:
    """Shares of a total as whole numbers, by the largest remainders; none is 0 where the total allows."""
    exact = {split: total * share / sum(shares) for split, share in zip(SPLITS, shares, strict=True)}
    whole = {split: int(number + 1e-9) for split, number in exact.items()}
    by_remainder = sorted(SPLITS, key=lambda split: whole[split] - exact[split])
    for split in by_remainder[: total - sum(whole.values())]:
        whole[split] += 1
    if total >= sum(share > 0 for share in shares):
        for split, share in zip(SPLITS, shares, strict=True):
            if share and not whole[split]:
                whole[max(SPLITS, key=whole.__getitem__)] -= 1
                whole[split] = 1
    return whole


def _drawn(who: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{who}".encode()).digest()
