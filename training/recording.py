"""The result of one run, put together from its score tables."""

import sys
from pathlib import Path
from typing import Any

import torch

from resproto_fd.configs import loading
from resproto_fd.configs.files import sha256_of, write_text
from resproto_fd.configs.schema import RunConfig
from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.registry import backbone_title
from resproto_fd.detectors.weights import tensors_sha256
from resproto_fd.trainer.detector_faults import faults_of
from resproto_fd.trainer.distributed import barrier
from resproto_fd.training.bench import Bench
from resproto_fd.training.domains import in_domain
from resproto_fd.training.environment import git_state, versions
from resproto_fd.training.lineage import History
from resproto_fd.training.measures import shift
from resproto_fd.training.measures.metrics import table_metrics
from resproto_fd.training.results import Compute, Metrics, RunResult, Transfer, test_result
from resproto_fd.training.samples import one_sample
from resproto_fd.training.scores import ScoreTable
from resproto_fd.training.settings import overrides_of


def test_and_record(bench: Bench, detector: Detector, weights: Path, history: History) -> RunResult | None:
    """Scores every test set and writes `result.json`; only the main rank returns the result."""
    sha = sha256_of(weights) if weights.is_file() else None
    tables = bench.test_tables(detector, sha)
    robustness: dict[str, dict[str, dict[str, Metrics]]] = {}
    for name, corruption, severity, table in bench.corrupted_tables(detector, sha):
        by_severity = robustness.setdefault(name, {}).setdefault(corruption, {})
        by_severity[str(severity)] = Metrics(**table_metrics(table))
    source = bench.selection_table(detector, sha)
    barrier(bench.world)
    if not bench.world.is_main:
        return None
    timing = dict(history.timing)
    if bench.seconds:
        timing |= {"test_seconds": bench.seconds, "test_images_per_second": bench.frames / bench.seconds}
    if bench.encodings and bench.encodings.used:  # rates of kept features are not those of the detector
        timing = {name: value for name, value in timing.items() if not name.endswith("images_per_second")}
    if bench.world.device.type == "cuda":  # what the run takes of a card that it shares with another
        timing["card_peak_gib"] = torch.cuda.max_memory_reserved(bench.world.device) / 2**30
    result = _result(bench, detector, history, tables, sha)
    _add_notes(result, detector, tables)
    result.timing = {name: round(value, 3) for name, value in timing.items()}
    result.robustness = robustness
    result.pooled_auc, result.cross_auc = shift.pooled_auc(tables), shift.cross_aucs(tables)
    result.compute = _compute(bench, detector)
    for rule, threshold in (shift.thresholds(source) if source is not None else {}).items():
        for name, table in tables.items():
            fpr, tpr = shift.transferred(table, threshold)
            acc = shift.transferred_acc(table, threshold)
            result.tests[name].transfer[rule] = Transfer(threshold=threshold, fpr=fpr, tpr=tpr, acc=acc)
    config = bench.folder / "config.yaml"
    if not (config.is_file() and (bench.folder / "best.pt").is_file()):  # a trained run's is not a test's to rewrite
        write_text(config, loading.dump(bench.config))
    result.save(bench.folder / "result.json")
    return result


test_and_record.__test__ = False  # pytest: not a test


def _result(
    bench: Bench, detector: Detector, history: History, tables: dict[str, ScoreTable], sha: str | None
) -> RunResult:
    config = bench.config
    trained = [] if history.selection.rule == "none" else history.trained_on
    seen = in_domain(trained, tables, config.data)
    return RunResult(
        **_who(config),
        overrides=overrides_of(config) + history.trained_under,
        protocol=config.protocol.name,
        fingerprint=bench.resolved.fingerprint,
        seed=config.seed,
        config=config.model_dump(mode="json", by_alias=True),
        **_made_by(bench),
        checkpoint_sha256=sha,
        tensors_sha256=sha and tensors_sha256(detector.state_dict()),
        selected_on=history.selection,
        tests={name: test_result(table, in_domain=seen[name]) for name, table in tables.items()},
        parameters=sum(p.numel() for p in detector.parameters()),
        trainable_parameters=sum(p.numel() for p in detector.parameters() if p.requires_grad),
        train_images=history.train_images,
        trained_on=trained,
        note=history.note,
    )


def _made_by(bench: Bench) -> dict[str, Any]:
    """The code and the libraries that scored: where every table is an earlier test's, those of that test."""
    path = bench.folder / "result.json"
    if not bench.seconds and path.is_file():
        return RunResult.load(path).model_dump(include={"commit", "dirty", "versions"})
    commit, dirty = git_state()
    return {"commit": commit, "dirty": dirty, "versions": versions()}


def _add_notes(result: RunResult, detector: Detector, tables: dict[str, ScoreTable]) -> None:
    """Prints what a reader of the scores must know.

    The result keeps what is true of the weights. What is true of a score table stands on the board, which finds it
    there.
    """
    with faults_of(detector, "giving its notes"):
        notes = list(detector.notes())
    for note in [*notes, *filter(None, map(shift.one_sided, tables.values()))]:
        print(f"note: {result.detector}: {note}", file=sys.stderr)
    result.note = "; ".join(filter(None, [result.note, *(note for note in notes if note not in result.note)]))


def _who(config: RunConfig) -> dict:
    detector = config.detector
    return {
        "detector": detector.name + (f"_{config.run.task}" if config.run.task else ""),
        "title": detector.title or detector.name,
        "paper": detector.paper,
        "detector_class": detector.detector,
        "role": detector.role,
        "sees_faces": detector.sees_faces,
    }


def _compute(bench: Bench, detector: Detector) -> Compute:
    """Backbone, input size and FLOPs of one image, or of one clip."""
    config = bench.config.detector
    image = bench.normalise(torch.full(one_sample(config.input), 128, dtype=torch.uint8))
    backbone = config.backbone or backbone_title(config.model.get("backbone"))
    return Compute(backbone=backbone, input_size=config.input.size, gflops=round(operations(detector, image) / 1e9, 3))


def operations(detector: Detector, image: torch.Tensor) -> int:
    """FLOPs of scoring a normalised image, [1, 3, H, W], or a clip, [1, T, 3, H, W]."""
    from torch.utils.flop_counter import FlopCounterMode

    was_training, trained = detector.training, [p for p in detector.parameters() if p.requires_grad]
    detector.eval()
    # Without gradients, a view of a weight that trains has no gradient function, which the counter asks for.
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with torch.no_grad(), faults_of(detector, "counting its operations"), FlopCounterMode(display=False) as counter:
            detector(image)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        detector.train(was_training)
    return counter.get_total_flops()
