"""The facts of a run in words: what the detector is, what it saw, how it was trained and tested."""

import json
from collections.abc import Sequence

from resproto_fd.training.board.table import Row, Section
from resproto_fd.training.results import RunResult

NOT_STORED = "not stored"
_HASHED = {"measured": "Weights", "submitted": "Submitted scores", "callable": "The function's file"}
"""What a result's SHA-256 is of, by its source."""
_RECIPE = ("epochs", "batch_size", "augment", "samples", "sampling", "ema", "accumulate")
"""Settings of the recipe that are told, beside the optimiser and the schedule."""


def row_facts(section: Section, row: Row) -> dict[str, str]:
    """Every fact of a row by its name; empty if there is nothing to tell."""
    run = row.first
    _, deviations = fidelity(run)
    size = input_size(run)
    return {
        "Detector": f"{run.detector}{f' (class {run.detector_class})' if run.detector_class else ''}",
        "Paper": run.paper,
        "Fidelity to the paper": fidelity_words(run),
        "Deviations": "; ".join(deviations),
        "Changed from the preset": ", ".join(row.changes),
        "Scored by": row.by_clips,
        "Short videos": "; ".join(short_videos(row, section.test_sets)),
        "Checkpoint": row.selection,
        "Chosen at": "; ".join(filter(None, (_chosen(run) for run in row.runs))),
        "Backbone": backbone(run),
        "Parameters": NOT_STORED
        if run.parameters is None
        else f"{run.parameters:,}"
        + ("" if run.trainable_parameters is None else f", {run.trainable_parameters:,} of them trained"),
        f"FLOPs of one {'clip' if row.by_clips else 'frame'}": NOT_STORED
        if run.compute.gflops is None
        else f"{run.compute.gflops:.3g} billion (a multiply-add counts as two)",
        "Input": f"{f'{run.clip_frames} x ' * bool(row.by_clips)}{size} x {size} pixels" if size else NOT_STORED,
        "Training sets": _training_sets(run, section.train),
        "Training images seen": NOT_STORED if run.train_images is None else f"{run.train_images:,}",
        "Recipe": recipe(run),
        "Timing": "; ".join(_timing(run) for run in row.runs if run.timing),
        "Commit": ", ".join(dict.fromkeys(_commit(run) for run in row.runs)),
        "Versions": ", ".join(f"{name} {version}" for name, version in sorted(run.versions.items())),
        "Fingerprint of the protocol": run.fingerprint,
        "Score tables": _score_tables(row),
        f"{_HASHED[run.source]} (SHA-256)": "; ".join(
            f"seed {run.seed}: {run.checkpoint_sha256}" for run in row.runs if run.checkpoint_sha256
        ),
        "Scores made from (SHA-256)": "; ".join(_made_from(run) for run in row.runs),
        "Note": "; ".join(dict.fromkeys(run.note for run in row.runs if run.note)),
    }


def search_text(row: Row) -> str:
    """The text that the search box looks through."""
    run = row.first
    words = f"{run.title} {row.name} {run.detector_class} {run.paper} {row.selection} {run.source} {row.by_clips}"
    return words.strip().lower()


def tags(row: Row) -> list[str]:
    """What makes a row different from a measured detector's of frames: oracle, control, submitted, callable, clips."""
    found = ["oracle" * row.oracle, "control" * row.control, row.first.source * (row.first.source != "measured")]
    return [text for text in [*found, row.by_clips] if text]


_SHORT = {"repeat": "their frames repeat", "mirror": "their frames are mirrored", "leave_out": "they are left out"}


def short_videos(row: Row, test_sets: Sequence[str]) -> list[str]:
    """How many videos of each test set have fewer frames than a clip takes, and what became of them; none if none has.

    Of several seeds, the largest number.
    """
    rule = _part(row.first, "detector", "input", "short")  # of a stranger's file: any value
    how = _SHORT.get(rule, "see the configuration") if isinstance(rule, str) else "see the configuration"
    found = []
    for name in test_sets:
        count = max((run.tests[name].short_videos or 0 for run in row.runs if name in run.tests), default=0)
        if count:
            found.append(f"{name}: {count} of its videos shorter than a clip ({how})")
    return found


def backbone(run: RunResult) -> str:
    """Name of the backbone; "own" if the configuration describes it instead of naming it."""
    found = run.compute.backbone or _part(run, "detector", "model", "backbone")
    return "own" if isinstance(found, dict) else str(found) if found else NOT_STORED


def input_size(run: RunResult) -> int | None:
    """Side of the image that the detector sees, in pixels."""
    found = run.compute.input_size or _part(run, "detector", "input", "size")
    return found if isinstance(found, int) else None


def fidelity(run: RunResult) -> tuple[str, list[str]]:
    """How close the implementation is to its paper, and its deviations; ("", []) if the preset does not state them."""
    found, listed = _part(run, "detector", "fidelity"), _part(run, "detector", "deviations")
    return str(found or ""), [str(text) for text in listed] if isinstance(listed, list) else []


def fidelity_words(run: RunResult) -> str:
    """The same in a word or two, also for a row that has no paper: a control, or a small copy for the demo."""
    stated, _ = fidelity(run)
    if stated or run.paper or run.source == "submitted":
        return stated or "not stated"
    return "no paper"


def recipe(run: RunResult) -> str:
    """The training recipe in words."""
    train = _part(run, "detector", "train")
    if not isinstance(train, dict):
        return ""
    parts = []
    for key, value in sorted(train.items()):
        if key in ("optimizer", "schedule") and isinstance(value, dict):
            rest = ", ".join(f"{k} {_plain(v)}" for k, v in sorted(value.items()) if k != "name" and v is not None)
            parts.append(f"{key} {value.get('name')} ({rest})")
        elif key in _RECIPE and value is not None:
            parts.append(f"{key.replace('_', ' ')} {_plain(value)}")
    return "; ".join(parts)


def _plain(value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _part(run: RunResult, *keys: str):
    """A value of the resolved configuration; None if the file does not hold it."""
    found = run.config
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _score_tables(row: Row) -> str:
    """Whether the numbers were computed again from score tables, or are taken from the result file."""
    wanted = [(run, name) for run in row.runs for name in run.tests]
    lacking = [f"{name}, seed {run.seed}" for run, name in wanted if not row.reader.has(run, name)]
    if not lacking:
        return "all at hand: every metric was computed again"
    if len(lacking) == len(wanted):
        return "none at hand: the numbers are those of the result file"
    return f"at hand, but for {'; '.join(lacking)}"


def _made_from(run: RunResult) -> str:
    """The start of each test set's hash of all that its scores were made from."""
    known = {name: test.made_from[:12] if test.made_from else "not known" for name, test in run.tests.items()}
    return f"seed {run.seed}: {', '.join(f'{name} {text}' for name, text in known.items())}"


def _training_sets(run: RunResult, of_protocol: Sequence[str]) -> str:
    """The training sets of given weights if they are known; for other weights the protocol's."""
    if run.trained_on is not None:
        return ", ".join(run.trained_on)
    return NOT_STORED if run.selected_on.rule == "given" else ", ".join(of_protocol)


def _chosen(run: RunResult) -> str:
    epoch, value = run.selected_on.epoch, run.selected_on.value
    words = [f"epoch {epoch}" if epoch is not None else "", f"{value:.3f}" if value is not None else ""]
    words = " with ".join(filter(None, words))
    return words and f"seed {run.seed}: {words}"


def _timing(run: RunResult) -> str:
    return f"seed {run.seed}: " + ", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in sorted(run.timing.items()))


def _commit(run: RunResult) -> str:
    return (run.commit or "not run from a git checkout")[:40] + (" with uncommitted changes" if run.dirty else "")
