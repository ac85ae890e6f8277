"""Answers as one HTML page that fetches nothing: the board's style, policy and charts, and pictures within it."""

import base64
from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace

from markupsafe import Markup

from resproto_fd.training.answers.records import FAKE, REAL, VERDICTS, Answers, Clip, FaceAnswer, FileAnswer, Opinion
from resproto_fd.training.answers.verdicts import told_apart
from resproto_fd.training.board import charts
from resproto_fd.training.board.cells import rate_cell, small_table, text_cell
from resproto_fd.training.board.rendering import count, render_page

MOST_DETAILS = 2000
"""Files that are shown one by one; the table and the other outputs have all."""
STAGES = {
    "read": "Reading and decoding",
    "find": "Finding and tracking faces",
    "crop": "Aligning and cropping them",
    "score": "Scoring",
    "copies": "Scoring copies",
}


def render_report(answers: Answers, title: str = "Real or fake?") -> str:
    """The page.

    Args:
        answers: What it shows.
        title: Its heading.
    """
    counts = Counter(file.verdict for file in answers.files)
    detailed = [file for file in answers.files if file.faces][:MOST_DETAILS]
    views = [(file, _file(i, file)) for i, file in enumerate(detailed)]
    anchors = {id(file): view.anchor for file, view in views}
    by_clock = f", in {answers.seconds['all']:.1f} s" if "all" in answers.seconds else ""
    others = f"; {count(answers.others, 'other file')} in folders passed over" if answers.others else ""
    page = render_page(
        "answers.html",
        title,
        "report.html",
        links={},
        heading=title,
        subtitle=f"{count(len(answers.files), 'file')}, judged by {count(len(answers.runs), 'run')}{by_clock}{others}",
        counts={name: counts[name] for name in VERDICTS if counts[name]},
        runs=answers.runs,
        settings=answers.settings,
        table=_table(answers, anchors),
        videos=[view for file, view in views if file.looked > 1],
        pictures=[view for file, view in views if file.looked <= 1],
        cost=_cost(answers),
        left_out=sum(1 for file in answers.files if file.faces) - len(detailed),
    )
    # UTF-8 cannot hold bytes of a name that are no text, or halves of letters that a file's text may have.
    return page.encode(errors="backslashreplace").decode()


def _table(answers: Answers, anchors: Mapping[int, str]):
    """All files; those with details below link to them, by the identity of their answer."""
    lines = []
    for file in answers.files:
        reasons = "; ".join(dict.fromkeys(text for face in file.faces for text in face.reasons.values()))
        known = rate_cell(file.probability) if file.probability is not None else text_cell("")
        cells = [known, text_cell(reasons or file.note)]
        anchor = anchors.get(id(file))
        name = file.name if anchor is None else Markup('<a href="#{}">{}</a>').format(anchor, file.name)
        lines.append(([name, file.kind, file.verdict, str(len(file.faces))], cells))
    heads = ["File", "Kind", "Verdict", "Faces", "P(fake)", "Reasons and notes"]
    return small_table(heads, lines, "All files", texts=3)


def _cost(answers: Answers):
    lines = []
    for stage, title in STAGES.items():
        seconds, frames = answers.seconds.get(stage, 0.0), answers.counts.get(stage, 0)
        rate = f"{frames / seconds:.1f}" if seconds else ""
        lines.append(([title, f"{frames:,}", f"{seconds:.2f}", rate], []))
    return small_table(
        ["Stage", "Frames", "Seconds, all processes", "Frames a second"], lines, "Time by stage", texts=1
    )


def _file(number: int, file: FileAnswer) -> SimpleNamespace:
    parts = [f"{file.width} x {file.height} pixels"]
    if file.looked > 1:
        parts.append(f"{file.looked} of {file.frames} frames looked at, {file.without} without a face")
    if file.unreadable:
        parts.append(f"{file.unreadable} could not be decoded")
    if file.cropped:
        parts.append("taken as an already cropped face")
    return SimpleNamespace(
        anchor=f"file-{number}",
        name=file.name,
        verdict=file.verdict,
        probability=file.probability,
        facts="; ".join(parts) + ".",
        note=file.note,
        faces=[_face(file, face) for face in file.faces],
    )


def _face(file: FileAnswer, face: FaceAnswer) -> SimpleNamespace:
    turn = "" if face.turn is None else f", turned by {face.turn:.2f}"
    frames = f", in {len(face.frames)} frames" if file.looked > 1 else ""
    clips = len({tuple(clip.frames) for opinion in face.opinions for clip in opinion.clips})
    frames += f", scored by {count(clips, 'clip')}" if clips else ""
    return SimpleNamespace(
        number=face.number,
        verdict=face.verdict,
        probability=face.probability,
        facts=f"{face.side:.0f} pixels wide{turn}{frames}" + ("; already cropped" if file.cropped else "") + ".",
        reasons=face.reasons,
        scores=[_words(opinion, len(face.opinions) > 1) for opinion in face.opinions],
        table=_opinions(face),
        clips=_clips(file, face),
        charts=[_timeline(file, face)] if file.looked > 1 else [],
        shown=[_thumbnail(file, face, place, data) for place, data in face.thumbnails if face.opinions],
    )


def _words(opinion: Opinion, several: bool) -> str:
    copies = ", ".join(f"{copy} {told_apart(score, opinion.threshold)[0]}" for copy, score in opinion.copies.items())
    score, threshold = told_apart(opinion.score, opinion.threshold)
    text = f"score {score}, fake from {threshold}" + (f" ({copies})" if copies else "")
    return f"{opinion.run}: {text}" if several else text


def _opinions(face: FaceAnswer):
    copies = list(dict.fromkeys(copy for opinion in face.opinions for copy in opinion.copies))
    lines = []
    for opinion in face.opinions:
        cells = [rate_cell(value) for value in (opinion.score, opinion.threshold, opinion.probability)]
        cells += [rate_cell(opinion.copies.get(copy)) for copy in copies]
        lines.append(([opinion.run, opinion.verdict], [*cells, rate_cell(opinion.distance), rate_cell(opinion.far)]))
    heads = ["Run", "By the threshold", "Score", "Threshold", "P(fake)", *(f"Score, {copy}" for copy in copies)]
    return small_table([*heads, "Distance", "Far from"], lines, f"Opinions on face {face.number}", texts=2)


def _clips(file: FileAnswer, face: FaceAnswer):
    """The clips of a face, one a line; None if its runs score frames."""
    lines = []
    for opinion in face.opinions:
        for clip in opinion.clips:
            texts = [opinion.run, f"{clip.first} to {clip.last}"]
            if file.fps:
                texts.append(f"{clip.first / file.fps:.2f} to {clip.last / file.fps:.2f}")
            lines.append((texts, [rate_cell(clip.score)]))
    heads = ["Run", "Clip, frames", *(["Clip, seconds"] if file.fps else []), "Score"]
    return small_table(heads, lines, f"Clips of face {face.number}", texts=1) if lines else None


def _timeline(file: FileAnswer, face: FaceAnswer):
    times = [_when(file, number) for number in face.frames]
    start, end = 0.0, max(_when(file, max(file.frames - 1, 1)), times[-1])
    series = []
    for opinion in face.opinions:
        points = list(zip(times, opinion.frames))
        words = [f"{_clock(file, number)}: {score:.3f}" for number, score in zip(face.frames, opinion.frames)]
        for clip in opinion.clips:
            points.append((_when(file, (clip.first + clip.last) / 2), clip.score))
            words.append(f"{_of_clip(file, clip)}: {clip.score:.3f}")
        series.append(charts.Series(opinion.run, points, words))
    if len({opinion.threshold for opinion in face.opinions}) == 1:
        cut = face.opinions[0].threshold
        series.append(charts.Series("threshold", [(start, cut), (end, cut)], [f"fake from {cut:.3f}"] * 2))
    ticks = [(end * i / 4, f"{end * i / 4:.1f}" if file.fps else f"{end * i / 4:.0f}") for i in range(5)]
    axis = charts.Axis("seconds" if file.fps else "frame", ticks, start, end)
    return charts.line_chart(f"Face {face.number} over time", series, axis, charts.tenths("score"), dots=True)


def _thumbnail(file: FileAnswer, face: FaceAnswer, place: int, data: bytes) -> SimpleNamespace:
    number = face.frames[place]
    clips = [_clip_from(opinion, number) for opinion in face.opinions]
    known = [
        (opinion.frames[place] if clip is None else clip.score, opinion.threshold)
        for opinion, clip in zip(face.opinions, clips)
        if clip is not None or opinion.frames
    ]
    score = sum(score for score, _ in known) / len(known)
    fakes = [score >= threshold for score, threshold in known]
    verdict = "unsure" if len(set(fakes)) > 1 else FAKE if fakes[0] else REAL
    uri = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    when = next((_of_clip(file, clip) for clip in clips if clip is not None), _clock(file, number))
    return SimpleNamespace(uri=uri, frame=number, when=when, score=score, verdict=verdict)


def _clip_from(opinion: Opinion, number: int) -> Clip | None:
    """The clip that starts at a frame."""
    return next((clip for clip in opinion.clips if clip.frames[0] == number), None)


def _of_clip(file: FileAnswer, clip: Clip) -> str:
    time = f", {_clock(file, clip.first)}" if file.fps else ""
    return f"clip {clip.first} to {clip.last}{time}"


def _when(file: FileAnswer, number: float) -> float:
    return number / file.fps if file.fps else float(number)


def _clock(file: FileAnswer, number: int) -> str:
    return f"{number / file.fps:.1f} s" if file.fps else f"frame {number}"
