"""The loop: it learns, accumulates exactly, resumes to the same bits, and stops with a clear message."""

import errno
import os
import random
import signal
import threading
import time
import zipfile

import numpy as np
import pytest
import torch
from made import MadeStore, TinyDetector, made_config, made_dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from resproto_fd.configs.errors import Interrupted, UserError
from resproto_fd.configs.schema import OptimizerConfig, ScheduleConfig
from resproto_fd.detectors.weights import load_all, read_state_dict
from resproto_fd.trainer import checkpoint
from resproto_fd.trainer.batches import EvaluationBatches, TrainBatches
from resproto_fd.trainer.data import Normaliser
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.loader import make_loader, watched
from resproto_fd.trainer.optimizers import climbed, lr_factor
from resproto_fd.trainer.run_folder import exclusive
from resproto_fd.trainer.scoring import ScoringOptions, score_frames
from resproto_fd.trainer.trainer import Trainer

CPU = World(0, 1, torch.device("cpu"))


def make_trainer(folder, config=None, detector=None, validate=None, data=None, fingerprint="f"):
    config = config or made_config()
    checkpoint.seed_everything(config.seed)
    data = data or made_dataset(config)
    return Trainer(detector or TinyDetector(), data, config, CPU, folder, validate, fingerprint)


def state_of(trainer):
    return {name: value.clone() for name, value in trainer.detector.state_dict().items()}


def same_bits(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_training_lowers_the_loss_and_separates_the_classes(tmp_path):
    config = made_config(epochs=12)
    trainer = make_trainer(tmp_path, config)
    trainer.fit()
    scored = score_frames(
        trainer.detector, made_dataset(config, split="test"), trainer.normalise, CPU, ScoringOptions(5)
    )
    labels = made_dataset(config, split="test").frames.labels
    assert scored.scores[labels == 1].mean() > scored.scores[labels == 0].mean() + 0.2


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "fp64"])
def test_every_precision_trains_to_a_finite_state(tmp_path, precision):
    trainer = make_trainer(tmp_path, made_config(precision=precision, grad_clip=1.0, ema=0.9))
    before = state_of(trainer)
    trainer.fit()
    after = state_of(trainer)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("coupled", [False, True])
def test_accumulated_micro_batches_equal_the_large_batch(tmp_path, coupled):
    states = []
    for accumulate, split in ((1, 1), (4, 1), (1, 4), (2, 2)):
        config = made_config(precision="fp64", accumulate=accumulate, augment="flip", run={"split_batch": split})
        trainer = make_trainer(tmp_path / f"{accumulate}{split}", config, TinyDetector(coupled))
        trainer.fit()
        states.append(state_of(trainer))
    for state in states[1:]:
        for name in state:
            torch.testing.assert_close(states[0][name], state[name], rtol=0, atol=1e-10, msg=name)
    assert same_bits(states[1], states[2])
    assert same_bits(states[1], states[3])


def test_a_run_whose_batch_was_too_large_for_the_device_goes_on_in_parts(tmp_path):
    config = made_config(precision="fp64", epochs=2, augment="flip", run={"save_every": 1})
    whole = make_trainer(tmp_path / "whole", config, TinyDetector(coupled=True))
    whole.fit()
    first = make_trainer(tmp_path / "cut", config, TinyDetector(coupled=True))
    step = first._step

    def too_large(micro):
        if first.progress.step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(micro)

    first._step = too_large
    with pytest.raises(torch.OutOfMemoryError):
        first.fit()
    config.run.split_batch = 2
    second = make_trainer(tmp_path / "cut", config, TinyDetector(coupled=True))
    second.resume()
    assert second.progress.step == 2
    assert second.fit().step == whole.progress.step
    for name, value in state_of(whole).items():
        torch.testing.assert_close(state_of(second)[name], value, rtol=0, atol=1e-10, msg=name)


def test_accumulation_sees_the_same_dropout_in_both_encodings(tmp_path):
    """The gradient of a whole-batch loss is that of the features it was computed from."""
    config = made_config(precision="fp64", accumulate=2, epochs=1)
    trainer = make_trainer(tmp_path, config, TinyDetector(coupled=True, dropout=0.5))
    seen = []
    encode = trainer.detector.encode
    trainer.detector.encode = lambda images: seen.append(encode(images)) or seen[-1]
    trainer.fit()
    for step in range(0, len(seen), 4):
        assert torch.equal(seen[step], seen[step + 2])
        assert torch.equal(seen[step + 1], seen[step + 3])


class _Stop(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 5, *(pytest.param(step, marks=pytest.mark.slow) for step in (4, 9))])
def test_a_run_cut_off_anywhere_resumes_to_the_same_bits(tmp_path, stop_after):
    config = made_config(
        epochs=3, augment="flip", ema=0.9, schedule={"name": "cosine", "warmup_steps": 2}, run={"save_every": 2}
    )

    def make(folder):
        def validate(_):
            return {"frame_auc": [0.6, 0.9, 0.8][trainer.progress.epoch]}

        trainer = make_trainer(folder, config, TinyDetector(coupled=True, dropout=0.3), validate)
        return trainer

    whole = make(tmp_path / "whole")
    whole.fit()

    cut = make(tmp_path / "cut")
    step = cut._step

    def step_and_stop(micro):
        if cut.progress.step == stop_after:
            raise _Stop
        step(micro)

    cut._step = step_and_stop
    with pytest.raises(_Stop):
        cut.fit()
    resumed = make(tmp_path / "cut")
    if checkpoint.stored(tmp_path / "cut" / "checkpoints"):
        torch.manual_seed(99)  # the checkpoint's random state must win
    resumed.fit()
    assert same_bits(state_of(whole), state_of(resumed))
    assert same_bits(dict(enumerate(whole.average.average)), dict(enumerate(resumed.average.average)))
    for a, b in zip(whole.optimizer.state_dict()["state"].values(), resumed.optimizer.state_dict()["state"].values()):
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert whole.progress.best_epoch == resumed.progress.best_epoch


def test_the_best_weights_say_whether_their_run_has_ended(tmp_path):
    def make(fail=False):
        def validate(_):
            if fail and trainer.progress.epoch == 1:
                raise _Stop
            return {"frame_auc": 0.5}

        trainer = make_trainer(tmp_path, made_config(epochs=2), validate=validate)
        trainer.history = {"x": 1}
        return trainer

    with pytest.raises(_Stop):
        make(fail=True).fit()
    assert checkpoint.record_in(tmp_path / "best.pt")["finished"] is False
    make().fit()
    assert checkpoint.record_in(tmp_path / "best.pt")["finished"] is True
    older = {key: value for key, value in checkpoint.load(tmp_path / "best.pt").items() if key != "finished"}
    checkpoint.save(tmp_path / "best.pt", older)
    before = (tmp_path / "best.pt").read_bytes()
    make().fit()  # has nothing left to do
    assert (tmp_path / "best.pt").read_bytes() == before


def test_a_run_cut_off_while_validating_validates_again_and_logs_each_scalar_once(tmp_path):
    config = made_config(epochs=2, run={"save_every": 2, "log_every": 2})

    def make(folder, fail):
        def validate(_):
            if fail and trainer.progress.epoch == 1:
                raise _Stop
            return {"frame_auc": 0.5 + 0.1 * trainer.progress.epoch}

        trainer = make_trainer(folder, config, validate=validate)
        return trainer

    make(tmp_path / "whole", False).fit()
    with pytest.raises(_Stop):
        make(tmp_path / "cut", True).fit()
    make(tmp_path / "cut", False).fit()
    assert scalars(tmp_path / "whole") == scalars(tmp_path / "cut")


OTHER_SHIFTS = [pytest.param(shifts, marks=pytest.mark.slow) for shifts in [(-60, 0), (0, 0)]]


@pytest.mark.slow
@pytest.mark.parametrize("shifts", [(-7 * 86400,), (-60, -120), *OTHER_SHIFTS])
def test_a_run_that_is_resumed_after_the_clock_was_set_back_keeps_its_scalars(tmp_path, monkeypatch, shifts):
    config, now = made_config(epochs=3, run={"log_every": 1}), time.time
    make_trainer(tmp_path / "whole", config).fit()
    stops = [3, 6, None][-len(shifts) - 1 :]
    for stop, shift in zip(stops, (0, *shifts)):
        monkeypatch.setattr(time, "time", lambda shift=shift: now() + shift)
        trainer = make_trainer(tmp_path / "cut", config)
        step = trainer._step

        def step_then_stop(micro, trainer=trainer, step=step, stop=stop):
            step(micro)
            if trainer.progress.step + 1 == stop:
                signal.raise_signal(signal.SIGTERM)

        trainer._step = step_then_stop
        if stop is None:
            trainer.fit()
        else:
            with pytest.raises(Interrupted):
                trainer.fit()
    assert scalars(tmp_path / "whole") == scalars(tmp_path / "cut")


def scalars(folder):
    """Every scalar logged but the timings: {(run, tag): [(step, value)]}."""
    found = {}
    for run in ("train", "val"):
        events = EventAccumulator(str(folder / "tb" / run), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            if not tag.startswith("speed/"):
                found[run, tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    assert any(tag.startswith("loss/") for _, tag in found)
    return found


def test_the_schedule_really_steps(tmp_path):
    config = made_config(epochs=3, schedule={"name": "step", "step_epochs": 1, "gamma": 0.1})
    trainer = make_trainer(tmp_path, config)
    rates = []
    step = trainer._step
    trainer._step = lambda micro: (rates.append(trainer.optimizer.param_groups[0]["lr"]), step(micro))
    trainer.fit()
    steps = trainer.batches.steps
    assert rates == pytest.approx([1e-2] * steps + [1e-3] * steps + [1e-4] * steps)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_decaying_schedules_warm_up_and_end_at_their_floor(name):
    config = ScheduleConfig(name=name, warmup_steps=4, min_lr=1e-4)
    factors = [lr_factor(config, OptimizerConfig(lr=1e-2).lr, step, 10, 5) for step in range(51)]
    assert factors[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert factors[4] == pytest.approx(1.0)
    assert factors[50] == pytest.approx(1e-2)
    assert factors[4:] == sorted(factors[4:], reverse=True)


def test_a_schedule_that_holds_falls_in_the_last_part_alone():
    config = ScheduleConfig(name="linear", hold=0.75)
    assert [lr_factor(config, 1.0, step, 10, 4) for step in (0, 29, 30, 35, 40)] == pytest.approx([1, 1, 1, 0.5, 0])


def test_sharpness_aware_gradients_are_those_of_the_point_climbed_to():
    curvature = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    start = torch.tensor([0.5, -2.0], dtype=torch.float64)
    parameter = torch.nn.Parameter(start.clone())
    unused = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    scale = 1024.0
    (scale * (parameter @ curvature @ parameter) / 2).backward()
    with climbed([parameter, unused], rho=0.1):
        assert parameter.grad is None
        (scale * (parameter @ curvature @ parameter) / 2).backward()
    slope = curvature @ start
    expected = curvature @ (start + 0.1 * slope / slope.norm())
    torch.testing.assert_close(parameter.grad / scale, expected, rtol=1e-12, atol=0)
    assert torch.equal(parameter, start) and unused.grad is None


@pytest.mark.parametrize(("precision", "coupled"), [("fp64", False), ("fp64", True), ("fp16", False)])
def test_a_step_under_sam_descends_by_the_gradient_climbed_to(tmp_path, precision, coupled):
    optimizer = {"name": "sgd", "lr": 0.1, "momentum": 0.0, "sam_rho": 0.5, "fused": False}
    config = made_config(precision=precision, optimizer=optimizer, accumulate=2)
    trainer = make_trainer(tmp_path, config, TinyDetector(coupled=coupled))
    seen, step = [], trainer._step

    def first_step(micro):
        seen.extend(micro)
        step(micro)
        raise _Stop

    trainer._step = first_step
    with pytest.raises(_Stop):
        trainer.fit()
    by_hand = TinyDetector(coupled=coupled).double()
    images = trainer.normalise(torch.cat([batch["image"] for batch in seen])).double()
    labels = torch.cat([batch["label"] for batch in seen])
    parameters = list(by_hand.parameters())

    def slopes():
        return torch.autograd.grad(by_hand(images, labels).losses["total"], parameters)

    with torch.no_grad():
        start = [p.clone() for p in parameters]
    first = slopes()
    length = torch.sqrt(sum((slope**2).sum() for slope in first))
    with torch.no_grad():
        for parameter, slope in zip(parameters, first, strict=True):
            parameter += 0.5 * slope / length
    tolerance = 1e-12 if precision == "fp64" else 5e-3
    for found, before, slope in zip(trainer.detector.parameters(), start, slopes(), strict=True):
        torch.testing.assert_close(found.double(), before - 0.1 * slope, rtol=tolerance, atol=tolerance)


def test_under_sam_a_detector_remembers_each_batch_once_and_draws_as_without(tmp_path):
    states = []
    for rho in (0.0, 1e-12):
        config = made_config(optimizer={"name": "sgd", "lr": 1e-3, "sam_rho": rho, "fused": False}, precision="fp64")
        trainer = make_trainer(tmp_path / str(rho), config, TinyDetector(coupled=True, dropout=0.3))
        trainer.fit()
        states.append((state_of(trainer), torch.get_rng_state()))
    (plain, after), (sharp, after_sharp) = states
    assert plain["memory.count"].tolist() == sharp["memory.count"].tolist() != [0, 0]
    assert torch.equal(after, after_sharp)
    # So small a climb finds the same gradient, if the dropout is the same.
    torch.testing.assert_close(sharp, plain, rtol=1e-6, atol=1e-9)


def test_a_detector_that_steps_alone_is_not_asked_for_a_second_look(tmp_path):
    detector = TinyDetector()
    detector.steps_alone = True
    with pytest.raises(UserError, match=r"sam_rho=0\.05: TinyDetector takes a step of its own"):
        make_trainer(tmp_path, made_config(optimizer={"sam_rho": 0.05}), detector)


def test_the_best_epoch_is_kept_not_the_last(tmp_path):
    values = iter([0.6, 0.9, 0.7])
    states = []

    def validate(detector):
        states.append({name: value.clone() for name, value in detector.state_dict().items()})
        return {"frame_auc": next(values)}

    trainer = make_trainer(tmp_path, made_config(epochs=3), validate=validate)
    progress = trainer.fit()
    trainer.load_best()
    assert (progress.best_epoch, progress.best_value) == (1, 0.9)
    assert same_bits(state_of(trainer), states[1])


@pytest.mark.slow
def test_what_validation_draws_changes_nothing(tmp_path):
    def draws(detector):
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        return {"frame_auc": 0.5}

    saved = []
    for name, validate in (("plain", lambda detector: {"frame_auc": 0.5}), ("drawing", draws)):
        trainer = make_trainer(tmp_path / name, made_config(epochs=3), TinyDetector(dropout=0.5), validate)
        trainer.fit()
        last = torch.load(checkpoint.stored(tmp_path / name / "checkpoints")[-1], weights_only=True)
        saved.append((state_of(trainer), last["rng"][0]))
    assert same_bits(saved[0][0], saved[1][0])
    for generator in ("python", "numpy"):
        assert str(saved[0][1][generator]) == str(saved[1][1][generator])
    assert torch.equal(saved[0][1]["torch"], saved[1][1]["torch"])


def test_without_checkpoints_the_best_weights_stay_in_memory(tmp_path):
    values = iter([0.9, 0.1])
    config = made_config(run={"save_checkpoints": False})
    trainer = make_trainer(tmp_path, config, validate=lambda _: {"frame_auc": next(values)})
    trainer.fit()
    last = state_of(trainer)
    trainer.load_best()
    assert not same_bits(last, state_of(trainer))
    assert not list(tmp_path.rglob("*.pt"))


def test_only_the_last_checkpoints_are_kept_and_load_as_plain_tensors(tmp_path):
    make_trainer(tmp_path, made_config(epochs=4, run={"keep": 2})).fit()
    kept = checkpoint.stored(tmp_path / "checkpoints")
    assert len(kept) == 2
    assert torch.load(kept[-1], weights_only=True)["progress"]["epoch"] == 4
    assert set(torch.load(tmp_path / "best.pt", weights_only=True)) >= {"model", "epoch", "fingerprint"}


class _PoisonedAt(TinyDetector):
    def __init__(self, step):
        super().__init__()
        self.calls, self.step = 0, step

    def head(self, features, labels=None, **fields):
        output = super().head(features, labels)
        if labels is not None:
            self.calls += 1
            if self.calls > self.step:
                output.losses["total"] = output.losses["total"] * float("nan")
        return output


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_good_checkpoint(tmp_path):
    config = made_config(epochs=5, run={"save_every": 2, "log_every": 100})
    trainer = make_trainer(tmp_path, config, _PoisonedAt(6))
    with pytest.raises(UserError, match=r"step 6: .*not finite .*total nan.*Made/(real|fake)/train.*step_00000006"):
        trainer.fit()
    saved = checkpoint.load(checkpoint.stored(tmp_path / "checkpoints")[-1])
    assert saved["progress"]["step"] == 6
    assert all(torch.isfinite(value).all() for value in saved["model"].values())


def test_steps_that_fp16_scaling_skips_are_counted_and_do_not_move_the_weights(tmp_path):
    trainer = make_trainer(tmp_path, made_config(precision="fp16", epochs=1, run={"log_every": 1}), _PoisonedAt(2))
    trainer.fit()
    assert trainer.progress.skipped_steps == trainer.batches.steps - 2
    assert all(torch.isfinite(value).all() for value in state_of(trainer).values())


def test_steps_looked_at_for_a_checkpoint_are_not_counted_again_for_the_log(tmp_path):
    run = {"save_every": 2, "log_every": 5}
    trainer = make_trainer(tmp_path, made_config(precision="fp16", epochs=1, run=run), _PoisonedAt(1))
    trainer.fit()
    assert trainer.progress.skipped_steps == trainer.progress.skipped_in_a_row == trainer.batches.steps - 1


def test_fp16_that_never_recovers_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("resproto_fd.trainer.progress.PATIENCE_WITH_FP16", 3)
    trainer = make_trainer(tmp_path, made_config(precision="fp16", epochs=4, run={"log_every": 1}), _PoisonedAt(1))
    with pytest.raises(UserError, match="not finite"):
        trainer.fit()


def test_a_full_disk_leaves_the_older_checkpoint_and_says_so(tmp_path, monkeypatch):
    config = made_config(epochs=1, run={"save_every": 2})
    trainer = make_trainer(tmp_path, config)
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left.*free some space"):
        trainer.fit()
    monkeypatch.undo()
    kept = checkpoint.stored(tmp_path / "checkpoints")
    assert [path.name for path in kept] == ["step_00000002.pt"]
    assert checkpoint.load(kept[0])["progress"]["step"] == 2
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000002.pt"]


def test_resuming_under_other_settings_is_refused_with_the_keys(tmp_path):
    make_trainer(tmp_path, made_config(epochs=1)).fit()
    with pytest.raises(UserError, match=r"config\.detector\.train\.batch_size: saved with 8, now 4"):
        make_trainer(tmp_path, made_config(epochs=1, batch_size=4)).fit()
    with pytest.raises(UserError, match="fingerprint: saved with 'f', now 'g'"):
        make_trainer(tmp_path, made_config(epochs=1), fingerprint="g").fit()
    machine_only = made_config(epochs=1, run={"workers": 1, "log_every": 7})
    assert make_trainer(tmp_path, machine_only).fit().step > 0


def test_a_run_goes_on_after_a_text_of_its_preset_or_protocol_was_reworded(tmp_path):
    config = made_config(epochs=1)
    make_trainer(tmp_path, config).fit()
    texts = {"title": "New", "note": "other words"}
    reworded = config.model_copy(
        update={
            "detector": config.detector.model_copy(update={**texts, "deviations": ["One."]}),
            "protocol": config.protocol.model_copy(update=texts),
        }
    )
    assert make_trainer(tmp_path, reworded).fit().step > 0


def test_a_damaged_checkpoint_is_named(tmp_path):
    make_trainer(tmp_path, made_config(epochs=1)).fit()
    path = checkpoint.stored(tmp_path / "checkpoints")[-1]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=path.name):
        make_trainer(tmp_path, made_config(epochs=1)).fit()


def flip(path):
    """Flips a bit of the largest tensor."""
    with zipfile.ZipFile(path) as archive:
        held = archive.read(max(archive.infolist(), key=lambda member: member.file_size))
    content = bytearray(path.read_bytes())
    content[content.index(held) + len(held) // 2] ^= 4
    path.write_bytes(content)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.slow
@pytest.mark.parametrize("harm", [flip, halve, lambda path: path.write_bytes(b"")], ids=["flipped", "cut", "empty"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before_and_the_bits_are_the_same(tmp_path, harm, capsys):
    values = [0.6, 0.9, 0.95]

    def make(folder):
        trainer = make_trainer(
            folder, made_config(epochs=3), validate=lambda _: {"frame_auc": values[trainer.progress.epoch]}
        )
        return trainer

    whole = make(tmp_path)
    whole.fit()
    best = (tmp_path / "best.pt").read_bytes()
    older, newest = checkpoint.stored(tmp_path / "checkpoints")
    harm(newest)
    again = make(tmp_path)
    again.fit()
    assert f"{newest}: cannot be read as a checkpoint" in (said := capsys.readouterr().err)
    assert f"the run goes on from {older.name}" in said
    assert same_bits(state_of(whole), state_of(again))
    assert (tmp_path / "best.pt").read_bytes() == best
    for path in checkpoint.stored(tmp_path / "checkpoints"):
        harm(path)
    with pytest.raises(UserError, match=r"cannot be read as a checkpoint.*no older one that is whole.*run\.out"):
        make(tmp_path).fit()


def test_every_bit_of_a_tensor_in_a_checkpoint_is_looked_at(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {"model": {"w": torch.arange(1000.0)}})
    whole = (tmp_path / "a.pt").read_bytes()
    start = whole.index(torch.arange(1000.0).numpy().tobytes())
    for at in range(start, start + 4000, 97):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        (tmp_path / "b.pt").write_bytes(changed)
        torch.load(tmp_path / "b.pt", weights_only=True)  # PyTorch itself sees nothing
        for read in (checkpoint.load, read_state_dict):
            with pytest.raises(UserError, match=r"b\.pt: cannot be read.*CRC-32"):
                read(tmp_path / "b.pt")


def test_the_best_weights_in_the_place_of_a_step_are_named(tmp_path):
    make_trainer(tmp_path, made_config(epochs=2)).fit()
    newest = checkpoint.stored(tmp_path / "checkpoints")[-1]
    newest.write_bytes((tmp_path / "best.pt").read_bytes())
    with pytest.raises(UserError, match=rf"{newest.name}: expected a checkpoint of a step.*best\.pt is none"):
        make_trainer(tmp_path, made_config(epochs=2)).fit()
    (tmp_path / "best.pt").unlink()
    with pytest.raises(UserError, match=r"best\.pt: no such checkpoint, although the run has come to its end"):
        make_trainer(tmp_path, made_config(epochs=2)).load_best()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["progress"].update(lap=3), "does not fit this run .*lap"),
        (lambda c: c.update(rng=[]), "does not fit this run"),
        (lambda c: c.update(optimizer={}), "does not fit this run"),
        (lambda c: c["model"].popitem(), "does not fit this run"),
        (lambda c: c["model"].update({7: torch.ones(1)}), "expected tensors by name"),
        (lambda c: c.update(model=[1]), "expected tensors by name under 'model', got list"),
        (
            lambda c: c["model"].update(w=torch.eye(3).to_sparse()),
            r"expected dense tensors, got model\.w \(sparse_coo\)",
        ),
        (lambda c: c["model"].update(w=torch.ones(2, device="meta")), r"expected dense tensors, got model\.w \(meta\)"),
        (lambda c: c.update(format={"a": ["b" * 9000]}), "format 1, got"),
    ],
)
def test_a_checkpoint_with_other_contents_is_refused_by_name(tmp_path, change, message):
    make_trainer(tmp_path, made_config(epochs=1)).fit()
    newest = checkpoint.stored(tmp_path / "checkpoints")[-1]
    contents = torch.load(newest, weights_only=True)
    change(contents)
    torch.save(contents, newest)
    with pytest.raises(UserError, match=message) as error:
        make_trainer(tmp_path, made_config(epochs=1)).fit()
    assert newest.name in str(error.value) and len(str(error.value)) < 1500


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({7: torch.ones(1)}, "expected named tensors, got one under the int 7"),
        ({"w": torch.eye(3).to_sparse()}, r"expected dense tensors, got w \(sparse_coo\)"),
        ({"model": {"a": torch.ones(1), "w": torch.ones(2, device="meta")}}, r"expected dense tensors, got w \(meta\)"),
        ({"w": torch.ones(2, dtype=torch.complex64).conj()}, r"expected dense tensors, got w \(complex\)"),
        ({"w": torch.zeros(1).expand(10**11)}, r"got w \(of 400000000000 bytes, for which the file has 4\)"),
    ],
)
def test_weights_that_are_no_plain_named_tensors_are_refused(tmp_path, contents, message):
    torch.save(contents, tmp_path / "w.pth")
    with pytest.raises(UserError, match=message):
        read_state_dict(tmp_path / "w.pth")


def test_whole_numbers_are_no_weights_and_a_long_name_is_cut():
    module = torch.nn.Linear(2, 2)
    state = {**module.state_dict(), "weight": torch.ones(2, 2, dtype=torch.int8), "x" * 9000: torch.ones(1)}
    with pytest.raises(UserError, match=r"weight: expected fractions \(torch.float32\), got whole .*int8") as error:
        load_all(module, state, "w.pth")
    assert len(str(error.value)) < 1000


@pytest.mark.slow
def test_a_packed_checkpoint_may_not_unpack_to_far_more_than_its_size(tmp_path):
    torch.save({"format": 1, "model": {"w": torch.zeros(10_000_000)}}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as plain,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    for read in (checkpoint.load, read_state_dict):
        with pytest.raises(UserError, match=r"b\.pt: .*bytes unpack to 4000\d\d\d\d"):
            read(tmp_path / "b.pt")


def test_a_second_process_on_a_run_folder_is_refused(tmp_path):
    with exclusive(tmp_path, CPU), pytest.raises(UserError, match="another process"), exclusive(tmp_path, CPU):
        pass
    with exclusive(tmp_path, CPU):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_signal_saves_and_the_run_goes_on_later(tmp_path, stop):
    config = made_config(epochs=3)
    whole = make_trainer(tmp_path / "whole", config)
    whole.fit()
    trainer = make_trainer(tmp_path / "cut", config)
    step = trainer._step

    def step_then_signal(micro):
        step(micro)
        if trainer.progress.step == 4:
            signal.raise_signal(stop)

    trainer._step = step_then_signal
    with pytest.raises(Interrupted, match="step 5"):
        trainer.fit()
    assert signal.getsignal(stop) == signal.SIG_DFL
    resumed = make_trainer(tmp_path / "cut", config)
    resumed.fit()
    assert same_bits(state_of(whole), state_of(resumed))


def test_training_runs_outside_the_main_thread_where_signals_cannot_be_caught(tmp_path):
    trainer = make_trainer(tmp_path, made_config(epochs=1))
    thread = threading.Thread(target=trainer.fit)
    thread.start()
    thread.join()
    assert trainer.progress.epoch == 1


def test_an_unreadable_training_frame_stops_the_run_by_name(tmp_path):
    config = made_config()
    path = made_dataset(config).frames.paths[5]
    with pytest.raises(UserError, match=f"{path} is broken.*on_bad_frame=skip"):
        make_trainer(tmp_path, config, data=made_dataset(config, store=MadeStore([path]))).fit()


def test_unreadable_training_frames_can_be_replaced_and_are_counted(tmp_path, capsys):
    config = made_config(epochs=2)
    frames = made_dataset(config).frames
    store = MadeStore([frames.paths[5], frames.paths[6]])
    trainer = make_trainer(tmp_path, config, data=made_dataset(config, store=store, replace_bad=True))
    trainer.fit()
    assert set(trainer.progress.bad_frames) <= {5, 6}
    assert len(trainer.progress.bad_frames) >= 1
    assert "is broken" in capsys.readouterr().out


def test_frames_of_which_none_can_be_read_are_an_error_that_names_one(tmp_path):
    config = made_config()
    frames = made_dataset(config).frames
    data = made_dataset(config, store=MadeStore(frames.paths), replace_bad=True)
    with pytest.raises(UserError, match=r"expected training frames that can be read, got none.* is broken"):
        make_trainer(tmp_path, config, data=data).fit()
    normaliser = Normaliser([0.5] * 3, [0.5] * 3, torch.device("cpu"), torch.float32, False)
    world, options = World(0, 1, torch.device("cpu")), ScoringOptions(4, skip_bad=True, progress=False)
    told = f"data set '{frames.videos[0].dataset}': expected frames that can be read, got none of {len(frames)}"
    with pytest.raises(UserError, match=told):
        score_frames(TinyDetector(), data, normaliser, world, options)


class _DeadlyStore(MadeStore):
    def read(self, path):
        if path in self.broken:
            os._exit(1)
        return super().read(path)


def test_a_worker_that_dies_names_its_frame():
    config = made_config()
    path = made_dataset(config).frames.paths[7]
    data = made_dataset(config, store=_DeadlyStore([path]))
    loader = make_loader(data, EvaluationBatches(len(data), 4, 0, 1), 1, torch.device("cpu"))
    with pytest.raises(UserError, match=f"worker died.*{path}"):
        list(watched(loader))


def test_the_order_of_samples_is_a_function_of_seed_and_epoch():
    def order(epoch, seed, **options):
        batches = TrainBatches(50, 8, 1, 0, 1, seed)
        batches.start(epoch, **options)
        return list(batches)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(1, 1)
    assert order(0, 1) != order(0, 2)
    assert order(3, 1)[2:] == order(3, 1, first_step=2)
    assert len(order(0, 1)) == 6
    indices = [index for batch in order(0, 1) for _, index in batch]
    assert len(set(indices)) == len(indices) == 48


@pytest.mark.parametrize("world", [2, 4])
def test_shares_of_the_ranks_make_up_the_global_batch_in_order(world):
    whole = list(TrainBatches(70, 16, 1, 0, 1, 5))
    shares = [list(TrainBatches(70, 16, 2, rank, world, 5)) for rank in range(world)]
    for step, batch in enumerate(whole):
        joined = [key for share in shares for part in share[2 * step : 2 * step + 2] for key in part]
        assert joined == batch


@pytest.mark.parametrize("count", [1, 7, 64, 65, 130])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_deals_every_frame_once(count, world):
    dealt = [key for rank in range(world) for batch in EvaluationBatches(count, 8, rank, world) for key in batch]
    assert sorted(index for _, index in dealt) == list(range(count))


@pytest.mark.parametrize("augment", ["none", "flip", "crop", "resproto_fd", "deepfakebench"])
def test_a_samples_augmentation_depends_on_seed_epoch_and_index_alone(augment):
    config = made_config(augment=augment)
    data = made_dataset(config)
    first = data[(1, 4)]["image"]
    data[(0, 2)], data[(7, 4)]
    assert torch.equal(first, data[(1, 4)]["image"])
    assert first.shape == (3, 8, 8)
    assert first.dtype == torch.uint8
    if augment in ("flip", "resproto_fd", "deepfakebench"):
        assert any(not torch.equal(first, data[(epoch, 4)]["image"]) for epoch in range(2, 12))
    loader = make_loader(data, [[(1, 3), (1, 4)]], 1, torch.device("cpu"))
    assert torch.equal(next(iter(loader))["image"][1], first)


def test_scores_come_in_order_with_their_variants_and_unreadable_frames_are_listed():
    config = made_config()
    data = made_dataset(config, split="test")
    broken = made_dataset(config, split="test", store=MadeStore([data.frames.paths[2]]))
    checkpoint.seed_everything(0)
    detector = TinyDetector()
    normaliser = Normaliser([0.5] * 3, [0.5] * 3, CPU.device, torch.float32, False)
    whole = score_frames(detector, data, normaliser, CPU, ScoringOptions(5))
    assert whole.index.tolist() == list(range(len(data)))
    np.testing.assert_allclose(whole.variants["flipped"], 1 - whole.scores, atol=1e-6)
    with pytest.raises(UserError, match="is broken"):
        score_frames(detector, broken, normaliser, CPU, ScoringOptions(5))
    part = score_frames(detector, broken, normaliser, CPU, ScoringOptions(5, skip_bad=True))
    assert [frame.index for frame in part.skipped] == [2]
    assert 2 not in part.index
    assert detector.training


def test_scores_that_are_not_numbers_are_refused_by_frame():
    config = made_config()
    detector = TinyDetector()
    with torch.no_grad():
        detector.classifier.weight.fill_(float("nan"))
    normaliser = Normaliser([0.5] * 3, [0.5] * 3, CPU.device, torch.float32, False)
    with pytest.raises(UserError, match="36 of 36 scores are not finite numbers, first of Made/real/test000/000"):
        score_frames(detector, made_dataset(config, split="test"), normaliser, CPU, ScoringOptions(5))


def test_a_batch_larger_than_the_data_or_not_divisible_is_refused():
    with pytest.raises(UserError, match="more than the 7 training frames"):
        TrainBatches(7, 8, 1, 0, 1, 0)
    with pytest.raises(UserError, match="not a multiple of 3 processes"):
        TrainBatches(70, 8, 1, 0, 3, 0)


@pytest.mark.slow
def test_the_compiled_encoder_trains_like_the_plain_one(tmp_path):
    states = []
    for compile_ in (False, True):
        trainer = make_trainer(tmp_path / str(compile_), made_config(compile=compile_), TinyDetector(coupled=True))
        trainer.fit()
        states.append(state_of(trainer))
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-4, atol=1e-5)


def test_more_workers_than_cores_are_told_once_and_without_torchs_warning(capsys, recwarn):
    from resproto_fd.trainer import loader

    loader._note_many_workers.cache_clear()
    for _ in range(2):
        loader.FrameLoader(looks=False, dataset=[1], num_workers=1000)
    loader.FrameLoader(looks=False, dataset=[1], num_workers=1)
    shown = capsys.readouterr().err
    assert shown.count("note: 1000 data workers on ") == 1 and shown.count("note:") == 1
    assert not [each for each in recwarn if "DataLoader" in str(each.message)]
