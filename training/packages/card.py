"""The model card of a package: what the model is for, what it learnt from, what it scored, and where it ends."""

from resproto_fd.configs import loading
from resproto_fd.configs.schema import RunConfig
from resproto_fd.training.results import RunResult

METRICS = {"frame_auc": "frame AUC", "video_auc": "video AUC", "frame_eer": "frame EER", "frame_acc": "frame accuracy"}


def model_card(config: RunConfig, result: RunResult, files: list[str]) -> str:
    """The card as Markdown.

    Args:
        config: Of the run.
        result: Of the run.
        files: Names of the package's files.
    """
    detector, given = config.detector, config.detector.input
    clips = f"clips of {given.frames} frames, " * (given.frames > 1)
    parts = [
        "---\nlibrary_name: resproto-fd\npipeline_tag: image-classification\ntags: [deepfake-detection]\n---\n",
        f"# {_text(detector.title or detector.name)}, trained under {_text(config.protocol.name)}\n",
        f"{_text(detector.paper)}\n" if detector.paper else "",
        f"A model that says how likely a face was forged. Detector `{_code(detector.name)}` of ResProto-FD, seed "
        f"{config.seed}, {result.parameters or 0:,} parameters, input {clips}{given.size} x {given.size}.\n",
        _use(config),
        _limits(config, result),
        _data(config, result),
        _results(result),
        _files(files, given.frames),
    ]
    return "\n".join(part for part in parts if part)


def _text(words: str) -> str:
    """Words of a configuration as one line of plain text: no mark of them is taken for Markdown or HTML."""
    plain = " ".join(words.split())
    return "".join(f"\\{letter}" if letter in r"\`*_[]<>#|~" else letter for letter in plain)


def _code(words: str) -> str:
    """Words of a configuration as one line within a span or block of code, where a backslash escapes nothing."""
    return " ".join(words.split()).replace("`", "'")


def _use(config: RunConfig) -> str:
    length = config.detector.input.frames
    looked_at, taken, argument = "single pictures", "an aligned face crop, as `resproto faces` cuts it", "pictures"
    form = "a list of RGB uint8 [H, W, 3]"
    if length > 1:
        looked_at, argument, form = "videos", "clips", f"a list of lists of {length} RGB uint8 [H, W, 3]"
        taken = f"a clip of {length} aligned face crops, as `resproto faces --clips` cuts them"
    return f"""## Intended use

Research on face-forgery detection: to compare detectors, and to look at {looked_at} together with other evidence.
The input is {taken}: RGB, uint8.

```python
from resproto_fd.training.packages import load

model = load("FOLDER or OWNER/NAME")
scores = model.predict({argument})  # {form} -> P(fake) of each
```

`resproto test --package FOLDER --protocol {_code(config.protocol.name)}` gives the numbers below again.
"""


def _limits(config: RunConfig, result: RunResult) -> str:
    made = [name for name in [*config.protocol.train, *result.tests] if _is_made(name)]
    listed = [
        "A score is no proof. Never decide about a person by it alone.",
        "A score is not a share of certainty unless it was calibrated, and a calibration holds for the share of fakes "
        "and the kind of pictures that it was fitted on.",
        "Detectors fail on forgeries, cameras and compressions that they did not learn from. The test sets that are "
        "not in-domain show how much.",
        "Other crops than those of the training data give other scores.",
        "We did not measure how errors differ between groups of people.",
    ]
    if made:
        names = ", ".join(map(_text, dict.fromkeys(made)))
        listed.insert(0, f"**{names}: drawn by code. The numbers say nothing about real forgeries.**")
    if result.selected_on.oracle:
        listed.insert(0, "**The checkpoint was chosen on test frames, so its numbers there are too good.**")
    listed += [f"From the preset: {_text(text)}" for text in config.detector.deviations]
    listed += [_text(result.note)] if result.note else []
    return "## Limits\n\n" + "\n".join(f"- {text}" for text in listed) + "\n"


def _data(config: RunConfig, result: RunResult) -> str:
    trained = ", ".join(map(_text, result.trained_on or [])) or "not known"
    return (
        f"## Data\n\nTrained on: {trained}. Checkpoint: {_text(result.selected_on.text())}. Images seen in training: "
        f"{'not known' if result.train_images is None else f'{result.train_images:,}'}. Protocol "
        f"{_text(config.protocol.name)}, fingerprint `{result.fingerprint[:16]}`.\n"
    )


def _results(result: RunResult) -> str:
    head = ["test set", "frames", "videos", *METRICS.values()]
    rows = [head, ["---"] * len(head)]
    for name, test in result.tests.items():
        seen = " (in-domain)" if test.in_domain else ""
        cells = [_number(test, metric) for metric in METRICS]
        rows.append([_text(name) + seen, str(test.frames), str(test.videos), *cells])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"## Results\n\nWith 95 % intervals, in [0, 1].\n\n{table}\n"


def _number(test, metric: str) -> str:
    value, found = getattr(test, metric), test.intervals.get(metric)
    if value is None:
        return test.why_none(metric) if test.clips is not None else "undefined"
    if found is None or found.low is None or found.high is None:
        return f"{value:.4f}"
    return f"{value:.4f} ({found.low:.3f} to {found.high:.3f})"


def _files(files: list[str], length: int) -> str:
    shape = "[N, 3, S, S]" if length == 1 else f"[N, {length}, 3, S, S]"
    told = {
        "model.safetensors": "weights",
        "config.yaml": "detector, input, protocol and seed",
        "result.json": "all numbers of the run",
        "calibration.json": "calibration and thresholds, fitted on the selection split",
        "calibration_reference.npz": "features of the selection split",
        "model.onnx": f"graph from pixels to P(fake): float32 `images` {shape} in 0 to 255 -> `scores` [N]",
        "model.pt2": "the same graph for `torch.export.load`",
        "package.json": "SHA-256 of each file",
    }
    listed = [f"- `{name}`: {told[name]}" for name in told if name in files]
    return "## Files\n\n" + "\n".join(listed) + "\n"


def _is_made(name: str) -> bool:
    return name in loading.names("datasets") and loading.load("datasets", name).made
