"""Facts outside the picture that separate real from fake."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from resproto_fd.preprocessing.audit.case import Case, Finding
from resproto_fd.preprocessing.video import Video

FEWEST = 8
"""Fewest videos of each class for a finding."""
LEAST, BLATANT = 0.3, 0.9
"""Strength, of 0 to 1, from which an attribute is a warning and an error."""
SURE = 1e-3
"""Highest P of chance for a finding."""


def goes_with_label(case: Case) -> Iterable[Finding]:
    """Finds facts outside the picture that separate real from fake: a detector could learn them.

    The measure is Cramer's V for named values and the AUC for numbers, per video and within a split. Facts of the file
    or of the source video that predict almost every label are errors, and so is padding. Bytes a pixel and the
    background may differ by the forgery itself.
    """
    for listed in case.sets:
        for split, videos in listed.videos.items():
            for name, hard, values in _attributes(case, videos):
                known = [(value, video.label) for value, video in zip(values, videos) if value is not None]
                labels = np.array([label for _, label in known], int)
                if np.bincount(labels, minlength=2).min() < FEWEST:
                    continue
                found = _association([value for value, _ in known], labels)
                if found is None:
                    continue
                strength, p, text = found
                if strength < LEAST or p > SURE:
                    continue
                severity = "error" if hard and strength >= BLATANT else "warning"
                where = f"{listed.name}, {split}"
                yield Finding("goes with the label", severity, where, f"{name} goes with the label: {text}", len(known))


def cramers_v(values: Sequence[str], labels: np.ndarray) -> tuple[float, float]:
    """(Cramer's V, corrected for bias as by Bergsma, in [0, 1]; P of chance by chi square) of values and labels.

    Values of fewer than five videos count as one.

    >>> cramers_v(["h264"] * 20 + ["vp9"] * 20, np.repeat([0, 1], 20))[0] > 0.9
    True
    """
    from scipy.stats import chi2

    counts = Counter(values)
    names = sorted({value if counts[value] >= 5 else "others" for value in values})
    table = np.zeros((len(names), 2))
    for value, label in zip(values, labels):
        table[names.index(value if counts[value] >= 5 else "others"), label] += 1
    if len(names) < 2:
        return 0.0, 1.0
    n, rows = table.sum(), len(names)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / n
    square = float(((table - expected) ** 2 / expected).sum())
    phi = max(0.0, square / n - (rows - 1) / (n - 1))
    smaller = min(rows - (rows - 1) ** 2 / (n - 1), 2 - 1 / (n - 1)) - 1
    return min(1.0, (phi / smaller) ** 0.5) if smaller > 0 else 0.0, float(chi2.sf(square, rows - 1))


def ranked_auc(values: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """(AUC of the values for fake, P of chance by the normal approximation of Mann and Whitney with ties).

    >>> ranked_auc(np.arange(20.0), np.repeat([0, 1], 10))[0]
    1.0
    """
    from scipy.stats import norm, rankdata

    ranks = rankdata(values)
    fakes, reals = int((labels == 1).sum()), int((labels == 0).sum())
    u = float(ranks[labels == 1].sum()) - fakes * (fakes + 1) / 2
    n = fakes + reals
    ties = np.unique(values, return_counts=True)[1].astype(float)
    variance = fakes * reals / 12 * (n + 1 - float((ties**3 - ties).sum()) / (n * (n - 1)))
    p = 2 * float(norm.sf(abs(u - fakes * reals / 2) / variance**0.5)) if variance > 0 else 1.0
    return u / (fakes * reals), p


def _attributes(case: Case, videos: Sequence[Video]) -> Iterable[tuple[str, bool, list]]:
    """Yields (name, whether it is a fact of the file or the source, its value or None for each video)."""
    rows = [case.rows(video) for video in videos]
    facts = case.facts

    def of_frames(value: Callable[[int], object], join: Callable[[list], object]) -> list:
        return [join([value(i) for i in each]) if each else None for each in rows]

    if facts:
        yield "frame size", True, of_frames(lambda i: "{} x {}".format(*facts.size[i]), _commonest)
        yield "file format", True, of_frames(lambda i: facts.form[i], _commonest)
        yield "JPEG quality", True, of_frames(lambda i: facts.quality[i], lambda found: _number(np.mean(found)))
        area = facts.size.prod(1)
        yield (
            "bytes a pixel",
            False,
            of_frames(lambda i: facts.length[i] / area[i], lambda found: _number(np.mean(found))),
        )
        mean = lambda found: _number(np.mean(found))  # noqa: E731
        yield "share of black pixels (padding)", True, of_frames(lambda i: facts.black[i], mean)
        yield "brightness of the border (background)", False, of_frames(lambda i: facts.border[i, 0], mean)
        yield "contrast of the border (background)", False, of_frames(lambda i: facts.border[i, 1], mean)
    yield "number of frames", True, [float(len(video.frames)) for video in videos]
    media = [case.media.get(video.id) for video in videos]
    for name, value in (
        ("codec of the source video", lambda m: m.get("codec")),
        ("frame rate of the source video", lambda m: f"{m['fps']:.2f} fps" if m.get("fps") else None),
        ("size of the source video", lambda m: f"{m['width']} x {m['height']}" if m.get("width") else None),
    ):
        yield name, True, [value(m) if m else None for m in media]


def _association(values: list, labels: np.ndarray) -> tuple[float, float, str] | None:
    """Measures (strength in [0, 1], P of chance, text); None if there is only one value."""
    if len(set(values)) < 2:
        return None
    if isinstance(values[0], str):
        strength, p = cramers_v(values, labels)
        parts = []
        for label, name in ((0, "real"), (1, "fake")):
            counts = Counter(value for value, of in zip(values, labels) if of == label)
            parts.append(f"{name} {', '.join(f'{value} {n}' for value, n in counts.most_common(3))}")
        return strength, p, f"Cramer's V {strength:.2f} ({'; '.join(parts)})"
    numbers = np.array(values, float)
    area, p = ranked_auc(numbers, labels)
    middle = [float(np.median(numbers[labels == label])) for label in (0, 1)]
    return abs(2 * area - 1), p, f"AUC {area:.2f} (median real {middle[0]:.3g}, fake {middle[1]:.3g})"


def _commonest(values: list) -> object:
    return Counter(values).most_common(1)[0][0]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
