"""Checks of an audit: each searches a `Case` for one kind of fault."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from resproto_fd.preprocessing.audit.case import Case, Finding, Listed, Severity
from resproto_fd.preprocessing.audit.label_leaks import goes_with_label
from resproto_fd.preprocessing.audit.near_duplicates import LIMIT, RADIUS, near_pairs, thumb_difference

SHOWN = 12
"""Most names and pictures that a finding lists."""
MOST_PAIRS = 200_000
"""Candidates for near duplicates after which the search ends."""
LEAST_MINORITY = 0.1
"""Share of the rarer class below which a split is unbalanced."""


def unreadable_splits(case: Case) -> Iterable[Finding]:
    """Finds splits whose table is broken, videos without frames, and repeated entries."""
    for listed in case.sets:
        for split, why in listed.broken.items():
            yield Finding("manifest", "error", f"{listed.name}, {split}", f"the split cannot be read: {why}")
        for split, names in listed.empty.items():
            yield _named("empty videos", "error", listed, split, "videos without a frame", names)
        for split, names in listed.repeated.items():
            yield _named("manifest", "warning", listed, split, "videos or frames named twice", names)


def missing_frames(case: Case) -> Iterable[Finding]:
    """Finds frames that the store does not have."""
    yield from _by_set(case, set(case.missing), "missing frames", "frames that the store lacks")


def unreadable_frames(case: Case) -> Iterable[Finding]:
    """Finds frames that are not whole pictures."""
    if case.facts:
        faults = {path: why for path, why in case.facts.faults.items() if path not in set(case.missing)}
        yield from _by_set(case, faults, "unreadable frames", "frames that cannot be read", faults)


def blank_frames(case: Case) -> Iterable[Finding]:
    """Finds frames that show nothing."""
    if case.facts:
        blank = {case.facts.paths[i] for i in np.flatnonzero(case.facts.blank())}
        for finding in _by_set(case, blank, "blank frames", "frames that show nothing", severity="warning"):
            yield _with_pictures(finding, finding.names)


def videos_across_splits(case: Case) -> Iterable[Finding]:
    """Finds videos in two splits, of one manifest or of several."""
    places = defaultdict(set)
    for listed, video in case.videos:
        places[video.id].add((listed.name, video.split))
    for splits, severity, what in (
        (("train", "test"), "error", "videos in train and in test (the test measures memory)"),
        (("train", "val"), "error", "videos in train and in val (the checkpoint is chosen by memory)"),
        (("val", "test"), "warning", "videos in val and in test (the checkpoint is chosen on the test set)"),
    ):
        for where, names in _crossing(places, splits).items():
            yield Finding("videos across splits", severity, where, f"{what}: {len(names)}", len(names), _some(names))


def people_across_splits(case: Case) -> Iterable[Finding]:
    """Finds people in train and test, if side files name them."""
    places = defaultdict(set)
    for listed, video in case.videos:
        record = listed.records.get(video.id)
        for person in record.people if record else ():
            places[person].add((listed.name, video.split))
    for where, people in _crossing(places, ("train", "test")).items():
        text = f"people in train and in test (a face learnt may be known again): {len(people)}"
        yield Finding("people across splits", "warning", where, text, len(people), _some(people))


def near_duplicates(case: Case) -> Iterable[Finding]:
    """Finds frames of train (or val) that look like frames of test."""
    if not case.facts:
        return
    owners = defaultdict(set)
    for listed, video in case.videos:
        for i in case.rows(video):
            owners[i].add((listed.name, video.split, video.id))
    blank = case.facts.blank()
    sides = [
        np.array(sorted(i for i, of in owners.items() if not blank[i] and any(place[1] in splits for place in of)), int)
        for splits in (("train", "val"), ("test",))
    ]
    seen, pairs, cut = set(), defaultdict(list), ""
    for look, mirror in ((case.facts.look, False), (case.facts.mirrored, True)):
        if not len(sides[0]) or not len(sides[1]):
            return
        left, right, _ = near_pairs(look[sides[0]], case.facts.look[sides[1]], RADIUS, MOST_PAIRS)
        cut = ", or more (the search ended early)" if len(left) == MOST_PAIRS else cut
        left, right = sides[0][left], sides[1][right]
        thumbs = case.facts.thumbs[left][:, :, ::-1] if mirror else case.facts.thumbs[left]
        differences = _in_parts(thumb_difference, thumbs, case.facts.thumbs[right])
        for i, j, difference in zip(left, right, differences):
            of_train = {place for place in owners[i] if place[1] != "test"}
            of_test = {place for place in owners[j] if place[1] == "test"}
            same_video = {place[2] for place in of_train} & {place[2] for place in of_test}
            if difference > LIMIT or i == j or same_video or (i, j) in seen:
                continue
            seen.add((i, j))
            (a, b) = min(of_train), min(of_test)
            pairs[f"{a[0]}, {a[1]}; {b[0]}, {b[1]}"].append((difference, a[2], b[2], i, j, mirror))
    for where, found in pairs.items():
        found.sort(key=lambda pair: pair[0])
        videos = dict.fromkeys(f"{a}  {b}{' (mirrored)' if mirror else ''}" for _, a, b, _, _, mirror in found)
        shown = {}
        for difference, a, b, i, j, mirror in found:  # of two videos, the nearest pair
            shown.setdefault((a, b), (i, j, f"{difference:.3f}{', mirrored' if mirror else ''}"))
        pictures = []
        for i, j, caption in list(shown.values())[: SHOWN // 2]:
            pictures += [(case.facts.paths[i], f"train or val; differ by {caption}"), (case.facts.paths[j], "test")]
        count = f"{len(found)}; of videos: {len(videos)}{cut}"
        text = f"pairs of frames of train or val and test that are nearly the same: {count}"
        yield Finding("near duplicates", "error", where, text, len(found), _some(videos), tuple(pictures))


def both_labels(case: Case) -> Iterable[Finding]:
    """Finds videos, and pictures with equal pixels, that are called real in one place and fake in another."""
    by_id, where = defaultdict(set), {}
    for listed, video in case.videos:
        by_id[video.id].add(video.label)
        where[video.id] = listed.name
    contrary = [video_id for video_id, labels in by_id.items() if len(labels) > 1]
    if contrary:
        text = f"videos called real in one place and fake in another: {len(contrary)}"
        yield Finding("both labels", "error", where[contrary[0]], text, len(contrary), _some(contrary))
    if not case.facts:
        return
    blank = case.facts.blank()
    first: dict[int, dict[int, tuple[str, str]]] = defaultdict(dict)
    for listed, video in case.videos:
        for i in case.rows(video):
            if not blank[i] and video.id not in contrary:
                first[int(case.facts.digest[i])].setdefault(video.label, (case.facts.paths[i], listed.name))
    doubles = [sides for sides in first.values() if len(sides) > 1]
    if doubles:
        pictures = [(sides[label][0], ("real", "fake")[label]) for sides in doubles for label in (0, 1)]
        names = [f"{sides[0][0]} = {sides[1][0]}" for sides in doubles]
        text = f"pictures that are, pixel by pixel, in real and in fake videos: {len(doubles)}"
        sets = ", ".join(dict.fromkeys(name for sides in doubles for _, name in sides.values()))
        yield Finding("both labels", "error", sets, text, len(doubles), _some(names), tuple(pictures[:SHOWN]))


def label_balance(case: Case) -> Iterable[Finding]:
    """Finds splits with only one class, or almost."""
    for listed in case.sets:
        for split, videos in listed.videos.items():
            frames = Counter({0: 0, 1: 0})
            for video in videos:
                frames[video.label] += len(video.frames)
            where = f"{listed.name}, {split}"
            if not videos:
                continue
            least, total = min(frames.values()), sum(frames.values())
            name = ("real", "fake")[min(frames, key=frames.get)]
            if not least:
                yield Finding(
                    "label balance", "error", where, f"no {name} frame: there is no AUC, and nothing to learn"
                )
            elif least / total < LEAST_MINORITY:
                text = f"{name} frames are {least / total:.1%} of {total}; accuracy and AP tell little; weight the loss"
                yield Finding("label balance", "warning", where, text, least)


def frames_a_video(case: Case) -> Iterable[Finding]:
    """Finds videos with far fewer frames than the others."""
    for listed in case.sets:
        for split, videos in listed.videos.items():
            usual = float(np.median([len(video.frames) for video in videos])) if videos else 0
            if usual < 4:
                continue
            short = [f"{video.id} ({len(video.frames)})" for video in videos if len(video.frames) < usual / 4]
            if short:
                text = f"videos with less than a quarter of the usual {usual:.0f} frames: {len(short)}"
                yield Finding("short videos", "warning", f"{listed.name}, {split}", text, len(short), _some(short))


def odd_sizes(case: Case) -> Iterable[Finding]:
    """Finds a few frames whose size differs from all others."""
    for listed in case.sets if case.facts else ():
        rows = sorted({i for videos in listed.videos.values() for video in videos for i in case.rows(video)})
        sizes = Counter(map(tuple, case.facts.size[rows].tolist()))
        if len(sizes) < 2:
            continue
        (usual, most), total = sizes.most_common(1)[0], sum(sizes.values())
        if most / total < 0.9:
            continue  # pictures of many sizes: `goes_with_label` checks those
        odd = [case.facts.paths[i] for i in rows if tuple(case.facts.size[i].tolist()) != usual]
        text = f"frames that are not {usual[0]} x {usual[1]} as the others, but {_sizes(sizes, usual)}: {len(odd)}"
        finding = Finding("odd sizes", "warning", listed.name, text, len(odd), _some(odd))
        yield _with_pictures(finding, odd)


def several_faces(case: Case) -> Iterable[Finding]:
    """Finds frames cut from pictures with several faces: the kept face may not be the altered one."""
    for listed in case.sets:
        for split, videos in listed.videos.items():
            found = []
            for video in videos:
                several = set(case.media.get(video.id, {}).get("several", ()))
                numbers = video.frame_numbers() if several else ()
                found += [frame for frame, number in zip(video.frames, numbers) if number in several]
            if found:
                text = f"frames cut from pictures with several faces (the one kept may be the wrong one): {len(found)}"
                finding = Finding("several faces", "warning", f"{listed.name}, {split}", text, len(found), _some(found))
                yield _with_pictures(finding, [frame for frame in found if frame in case.row])


CHECKS: tuple[Callable[[Case], Iterable[Finding]], ...] = (
    unreadable_splits,
    missing_frames,
    unreadable_frames,
    videos_across_splits,
    people_across_splits,
    near_duplicates,
    both_labels,
    label_balance,
    frames_a_video,
    odd_sizes,
    blank_frames,
    several_faces,
    goes_with_label,
)


def _crossing(places: Mapping[str, set], splits: tuple[str, str]) -> dict[str, list[str]]:
    """Lists the keys of `places` that are in both splits, by manifest and split."""
    found = defaultdict(list)
    for key, at in sorted(places.items()):
        first, second = (sorted(name for name, split in at if split == wanted) for wanted in splits)
        if first and second:
            where = f"{first[0]}" if first[0] in second else f"{first[0]}, {splits[0]}; {second[0]}, {splits[1]}"
            found[where].append(key)
    return found


def _by_set(
    case: Case, frames, check: str, what: str, why: Mapping[str, str] | None = None, severity: Severity = "error"
) -> Iterable[Finding]:
    for listed in case.sets:
        for split, videos in listed.videos.items():
            found = [frame for video in videos for frame in video.frames if frame in frames] if frames else []
            if found:
                names = [(why[frame] if why else frame) for frame in found]
                text = f"{what}: {len(found)} of {sum(len(video.frames) for video in videos)}"
                yield Finding(check, severity, f"{listed.name}, {split}", text, len(found), _some(names))


def _named(check: str, severity: Severity, listed: Listed, split: str, what: str, names: Sequence[str]) -> Finding:
    return Finding(check, severity, f"{listed.name}, {split}", f"{what}: {len(names)}", len(names), _some(names))


def _with_pictures(finding: Finding, frames: Sequence[str]) -> Finding:
    return replace(finding, pictures=tuple((frame, "") for frame in frames[:SHOWN]))


def _in_parts(function: Callable, left: np.ndarray, right: np.ndarray, size: int = 4096) -> np.ndarray:
    parts = [function(left[i : i + size], right[i : i + size]) for i in range(0, len(left), size)]
    return np.concatenate(parts) if parts else np.zeros(0)


def _some(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)[:SHOWN]


def _sizes(sizes: Counter, usual: tuple[int, int]) -> str:
    return ", ".join(f"{w} x {h}" for (w, h), _ in sizes.most_common(4) if (w, h) != usual)
