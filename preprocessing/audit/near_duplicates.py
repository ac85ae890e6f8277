"""Finds nearly equal pictures among hundreds of thousands, without comparing all pairs.

There are two steps. Candidates differ in at most `RADIUS` of 128 gradient signs. If the signs are cut into `RADIUS` + 1
bands, two candidates agree in at least one band, so only pictures with an equal band are compared. A candidate is
kept if the thumbnails, with brightness and contrast removed, differ by less than a limit.

The limits come from 1098 face pictures. The same picture after JPEG of quality 20, halving, blur or noise differed in
at most 8 signs and by 0.06 in its thumbnail (99 %). Among aligned crops, two of one person in one studio differed by
0.06 at least, and two people by 0.11 at least.
"""

import numpy as np

RADIUS = 9
LIMIT = 0.08
"""Mean absolute difference of thumbnails of mean 0 and standard deviation 1."""
AT_ONCE = 1 << 21
"""Candidates that are compared at once."""

_ORDER = np.random.default_rng(128).permutation(128)
"""Signs of the bands. They are scattered, because neighbours in the picture tend to be the same."""


def near_pairs(
    left: np.ndarray, right: np.ndarray, radius: int = RADIUS, most: int = 1_000_000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds all pairs of 128-bit codes that differ in at most `radius` bits.

    Args:
        left: [N, 2] uint64.
        right: [M, 2] uint64.
        radius: Bits, 0 to 127.
        most: Number of pairs after which the search ends.

    Returns:
        (rows of left, rows of right, bits that differ), of P pairs each, sorted.
    """
    left_codes, left_of = np.unique(left, axis=0, return_inverse=True)
    right_codes, right_of = np.unique(right, axis=0, return_inverse=True)
    found = _pairs_of_codes(left_codes, right_codes, radius)
    lefts, rights = _groups(left_of.ravel(), len(left_codes)), _groups(right_of.ravel(), len(right_codes))
    rows, total = [], 0
    for i, j in zip(*found):
        b = rights[j][: most - total]
        a = lefts[i][: -(-(most - total) // len(b))]
        rows.append(np.stack([np.repeat(a, len(b)), np.tile(b, len(a))]))
        total += rows[-1].shape[1]
        if total >= most:
            break
    pairs = np.concatenate(rows, 1) if rows else np.zeros((2, 0), np.int64)
    pairs = pairs[:, np.lexsort((pairs[1], pairs[0]))][:, :most]
    return pairs[0], pairs[1], _differing(left[pairs[0]], right[pairs[1]])


def thumb_difference(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Mean absolute difference of thumbnails [P, h, w] of equal brightness and contrast, [P]. 0 same, about 1.1
    unrelated."""
    return np.abs(_normal(left) - _normal(right)).mean(1)


def _normal(thumbs: np.ndarray) -> np.ndarray:
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return flat / (flat.std(1, keepdims=True) + 1e-3)


def _pairs_of_codes(left: np.ndarray, right: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray]:
    found = [np.zeros(0, np.int64)]
    for of_left, of_right in zip(_bands(left, radius + 1), _bands(right, radius + 1)):
        order = np.argsort(of_right, kind="stable")
        first = np.searchsorted(of_right[order], of_left, "left")
        last = np.searchsorted(of_right[order], of_left, "right")
        for i, j in _candidates(first, last, order):
            close = _differing(left[i], right[j]) <= radius
            found.append(i[close] * len(right) + j[close])
    pairs = np.unique(np.concatenate(found))
    return (pairs // len(right), pairs % len(right)) if len(pairs) else (pairs, pairs)


def _candidates(first: np.ndarray, last: np.ndarray, order: np.ndarray):
    """Yields pairs of each left row with the right rows of its bucket, a limited number at a time to save memory."""
    counts = last - first
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + AT_ONCE, "right")))
        here = counts[start:stop]
        i = np.repeat(np.arange(start, stop), here)
        within = np.arange(len(i)) - np.repeat(np.cumsum(here) - here, here)
        yield i, order[np.repeat(first[start:stop], here) + within]
        start = stop


def _bands(codes: np.ndarray, count: int):
    """Cuts the codes' bits into `count` groups and yields each group as one number, [N]."""
    bits = np.unpackbits(codes.astype(">u8").view(np.uint8).reshape(len(codes), 16), axis=1)[:, _ORDER]
    for group in np.array_split(np.arange(128), count):
        weights = 1 << np.arange(min(len(group), 62), dtype=np.int64)
        yield bits[:, group[: len(weights)]].astype(np.int64) @ weights


def _differing(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    different = left ^ right
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.bitwise_count(different).sum(1, dtype=np.int64)
    return _ONES[different.view(np.uint16).reshape(len(left), 8)].sum(1, dtype=np.int64)


def _groups(of: np.ndarray, count: int) -> list[np.ndarray]:
    order = np.argsort(of, kind="stable")
    return np.split(order, np.searchsorted(of[order], np.arange(1, count)))


_ONES = np.unpackbits(np.arange(1 << 16, dtype=">u2").view(np.uint8).reshape(-1, 2), axis=1).sum(1).astype(np.int16)
