"""Our detectors inside a stand-in for a DeepfakeBench checkout: same interface, same loops, in our own words."""

import copy
import importlib
import runpy
import sys
import textwrap

import pytest
import torch
import yaml
from tiny import quick_and_slow
from torch import nn

from resproto_fd.configs import deepfakebench as their_yaml
from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector, registry
from resproto_fd.detectors.hosted import HostedDetector, _mask, _settings

PLUGIN = "resproto_fd.detectors.deepfakebench"
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VIT = {"embed_dim": 12, "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}}
TINY = {"backbone": {**VIT, "text_cfg": TEXT}, "pretrained": None}
MODEL = {**TINY, "start_epoch": 1, "capacity": 5, "top_k": 4, "clusters": 2}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
LABELS = torch.tensor([0, 1, 4, 0, 2, 1])
IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))

CHECKOUT = {
    "metrics/__init__.py": "",
    "metrics/registry.py": """
        class Registry:
            def __init__(self):
                self.data = {}

            def register_module(self, module_name=None):
                def put(cls):
                    self.data[module_name or cls.__name__] = cls
                    return cls
                return put

            def __getitem__(self, name):
                return self.data[name]

        DETECTOR = Registry()
    """,
    "detectors/__init__.py": """
        {first}
        from metrics.registry import DETECTOR
        from .xception_detector import XceptionDetector
        {last}
    """,
    "detectors/base_detector.py": """
        import abc
        from torch import nn

        def asked(self, *args, **kwargs):
            ...

        METHODS = "features forward classifier build_backbone build_loss get_losses get_train_metrics"
        methods = {name: abc.abstractmethod(asked) for name in METHODS.split()}
        AbstractDetector = abc.ABCMeta("AbstractDetector", (nn.Module,), methods)
    """,
    "detectors/xception_detector.py": """
        from torch import nn
        from metrics.registry import DETECTOR

        @DETECTOR.register_module(module_name="xception")
        class XceptionDetector(nn.Module):
            ...
    """,
    "trainer/__init__.py": "",
    "trainer/trainer.py": """
        from collections import defaultdict
        import numpy as np
        import torch

        class Trainer:
            def __init__(self, config, model, optimizer):
                self.config, self.model, self.optimizer = config, model, optimizer
                self.model.device = torch.device("cpu")
                self.losses, self.metrics = defaultdict(list), defaultdict(list)

            def train_step(self, data_dict):
                predictions = self.model(data_dict)
                losses = self.model.get_losses(data_dict, predictions)
                self.optimizer.zero_grad()
                losses["overall"].backward()
                self.optimizer.step()
                return losses, predictions

            def train_epoch(self, loader):
                for data_dict in loader:
                    self.model.train()
                    losses, predictions = self.train_step(data_dict)
                    for name, value in losses.items():
                        self.losses[name].append(value.item())
                    for name, value in self.model.get_train_metrics(data_dict, predictions).items():
                        self.metrics[name].append(value)

            @torch.no_grad()
            def test_one_dataset(self, loader):
                self.model.eval()
                probs, labels, feats = [], [], []
                for data_dict in loader:
                    data_dict["label"] = torch.where(data_dict["label"] != 0, 1, 0)
                    predictions = self.model(data_dict, inference=True)
                    labels += list(data_dict["label"].numpy())
                    probs += list(predictions["prob"].cpu().detach().numpy())
                    feats += list(predictions["feat"].cpu().detach().numpy())
                    for name, value in self.model.get_losses(data_dict, predictions).items():
                        self.losses["test_" + name].append(float(value))
                return np.array(probs), np.array(labels), np.array(feats)
    """,
    "common.py": """
        import argparse
        import torch
        import yaml
        from torch.utils.data import DataLoader
        from detectors import DETECTOR
        from trainer.trainer import Trainer

        parser = argparse.ArgumentParser()
        parser.add_argument("--detector_path")
        parser.add_argument("--weights_path")
        parser.add_argument("--flip", action="store_true")
        args = parser.parse_args()

        def loader(config):
            images, labels = torch.load("data.pt")
            labels = 1 - labels.clamp(max=1) if args.flip else labels
            rows = [(image, int(label)) for image, label in zip(images, labels)]

            def collate(batch):
                image, label = zip(*batch)
                return {"image": torch.stack(image), "label": torch.tensor(label), "mask": None, "landmark": None}
            return DataLoader(rows, batch_size=config["train_batchSize"], collate_fn=collate)

        def read(second):
            config = yaml.safe_load(open(args.detector_path))
            config.update(second)
            torch.manual_seed(config["manualSeed"])
            return config
    """,
    "train.py": """
        import torch
        from common import DETECTOR, Trainer, loader, read

        config = read({"lmdb": True, "save_avg": True, "mode": "train"})
        model = DETECTOR[config["model_name"]](config)
        given = config["optimizer"]["adam"]
        optimizer = torch.optim.Adam(
            params=model.parameters(), lr=given["lr"], weight_decay=given["weight_decay"], eps=given["eps"],
            betas=(given["beta1"], given["beta2"]), amsgrad=given["amsgrad"],
        )
        trainer = Trainer(config, model, optimizer)
        for epoch in range(config["start_epoch"], config["nEpochs"] + 1):
            trainer.model.epoch = epoch
            trainer.train_epoch(loader(config))
        tested = trainer.test_one_dataset(loader(config))
        torch.save(model.state_dict(), "ckpt_best.pth")
    """,
    "test.py": """
        import torch
        from common import DETECTOR, Trainer, args, loader, read

        config = read({"lmdb": True, "mode": "test", "weights_path": args.weights_path})
        model = DETECTOR[config["model_name"]](config)
        model.load_state_dict(torch.load(args.weights_path, map_location="cpu"), strict=True)
        trainer = Trainer(config, model, None)
        tested = trainer.test_one_dataset(loader(config))
    """,
}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Makes a stand-in checkout and enters it: `checkout(first=...)` puts our line before its own, else it is last."""

    def forget():
        for name in [m for m in sys.modules if m.split(".")[0] in ("metrics", "detectors", "trainer", "common")]:
            del sys.modules[name]
        sys.modules.pop(PLUGIN, None)

    def make(first: bool = False):
        line = f"import {PLUGIN}"
        for name, text in CHECKOUT.items():
            path = tmp_path / "training" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            text = textwrap.dedent(text)
            if name == "detectors/__init__.py":
                text = text.format(first=line if first else "", last="" if first else line)
            path.write_text(text)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path / "training")
        return tmp_path

    forget()
    yield make
    forget()


def run(script: str, monkeypatch, *words: str) -> dict:
    """A script of the checkout, as `python training/SCRIPT WORDS` runs it; its global names."""
    monkeypatch.setattr(sys, "argv", [f"training/{script}", *words])
    sys.modules.pop("common", None)
    return runpy.run_path(f"training/{script}", run_name="__main__")


def their_config(name: str = "resproto_fd", **changes) -> dict:
    """What `written` gives for a preset, made small."""
    config = yaml.safe_load(their_yaml.written(loading.load("detectors", name)))
    small = {"model": MODEL, "input": {"size": 32, "fit": "resize"}, "resolution": 32, "train_batchSize": 6}
    return {**config, **small, "nEpochs": 1, **changes}


def hosted(name: str = "resproto_fd", **changes) -> HostedDetector:
    """Our detector as a checkout would build it."""
    torch.manual_seed(0)
    return type("Hosted", (HostedDetector,), {"preset": name})(their_config(name, **changes))


def batch(labels=LABELS, **more) -> dict:
    return {"image": IMAGES, "label": labels, "mask": None, "landmark": None, **more}


def test_outside_a_checkout_the_import_says_what_it_is_for():
    with pytest.raises(UserError, match=r"inside a DeepfakeBench checkout: import it at the end of its training/det"):
        importlib.import_module(PLUGIN)


@pytest.mark.parametrize("first", [False, True])
def test_one_line_registers_ours_and_replaces_none_of_theirs(checkout, first):
    checkout(first)
    theirs = importlib.import_module("detectors")
    found = theirs.DETECTOR.data
    ours = {name for name in found if issubclass(found[name], HostedDetector)}
    assert found["xception"] is theirs.XceptionDetector
    assert {"resproto_fd", "timm", "resproto_xception", "resproto_clip", "univfd"} <= ours
    assert not ours & {*their_yaml.OWN_NAMES, "deepfakebench_class"}
    assert {found[name].preset for name in ours} == {*loading.names("detectors"), *registry.class_names()} - {
        "deepfakebench_class"
    }
    methods = importlib.import_module("detectors.base_detector").AbstractDetector.__abstractmethods__
    assert all(callable(getattr(HostedDetector, name)) for name in methods)


def test_names_that_another_checkout_has_taken_get_the_prefix_or_are_refused(checkout):
    checkout()
    plugin = importlib.import_module(PLUGIN)
    made = importlib.import_module("metrics.registry").Registry()
    made.register_module(module_name="univfd")(nn.Module)
    assert "resproto_univfd" in plugin.register_all(made)
    assert made["univfd"] is nn.Module
    assert "resproto_univfd" in plugin.register_all(made)  # once more, as a reload does
    made.register_module(module_name="resproto_univfd")(nn.Module)
    with pytest.raises(UserError, match="other detectors called univfd and resproto_univfd"):
        plugin.register_all(made)


def test_trained_and_tested_there_it_is_what_it_is_here(checkout, monkeypatch, tmp_path):
    checkout()
    torch.save((IMAGES, LABELS), "data.pt")
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(their_config()))
    trained = run("train.py", monkeypatch, "--detector_path", "made.yaml")
    assert len(trained["trainer"].losses["overall"]) == 2
    assert {"cross_entropy", "regulariser", "test_overall"} < {*trained["trainer"].losses}
    assert {*trained["trainer"].metrics} == {"acc", "auc", "eer", "ap"}

    torch.manual_seed(1024)
    ours = create_detector("resproto_fd", **MODEL)
    optimizer = torch.optim.Adam(ours.parameters(), lr=5e-7, weight_decay=1e-6)
    ours.start_training(torch.tensor([1, 4]))
    for epoch in range(2):
        ours.train().start_epoch(epoch)
        optimizer.zero_grad()
        ours(IMAGES, LABELS.clamp(max=1)).losses["total"].backward()
        optimizer.step()
        ours.after_step()
    state = torch.load("ckpt_best.pth", weights_only=True)
    assert state.keys() == ours.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in ours.state_dict().items())
    assert ours.memory.ready

    outside = create_detector("resproto_fd", **MODEL).eval()
    outside.load_state_dict(state)
    with torch.no_grad():
        expected = outside(IMAGES)
    for flip in ([], ["--flip"]):
        tested = run("test.py", monkeypatch, "--detector_path", "made.yaml", "--weights_path", "ckpt_best.pth", *flip)
        scores, labels, features = tested["tested"]
        assert (scores == expected.scores.numpy()).all()
        assert (features == expected.features.numpy()).all()
        assert (labels == (LABELS.clamp(max=1).numpy() if not flip else 1 - LABELS.clamp(max=1).numpy())).all()
    assert (trained["tested"][0] == expected.scores.numpy()).all()


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_labels_do_not_reach_the_detector_at_inference(training):
    there, calls = hosted().train(training), []
    there.detector.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    before = copy.deepcopy(there.state_dict())
    said = [there(batch(labels), inference=True) for labels in (LABELS, 1 - LABELS.clamp(max=1), None)]
    assert all(len(args) == 1 and not kwargs for args, kwargs in calls)
    for name in ("cls", "prob", "feat"):
        assert torch.equal(said[0][name], said[1][name])
        assert torch.equal(said[0][name], said[2][name])
    assert all(torch.equal(before[key], value) for key, value in there.state_dict().items())


def test_the_detector_is_told_of_start_epochs_and_steps(monkeypatch):
    there, told = hosted(nEpochs=2).train(), []
    for name in ("start_training", "start_epoch", "after_step"):
        monkeypatch.setattr(there.detector, name, lambda *args, name=name: told.append((name, *args)))
    optimizers = [torch.optim.Adam(there.parameters(), 1e-3), torch.optim.Adam([nn.Parameter(torch.ones(1))], 1e-3)]
    monkeypatch.setattr(type(there.detector), "start_epoch", lambda self, epoch: told.append(("start_epoch", epoch)))
    for there.epoch in (0, 1):
        for _ in range(2):
            there.get_losses(batch(), there(batch()))["overall"].backward()
            for optimizer in optimizers:
                optimizer.step()
    assert torch.equal(told[0][1], torch.tensor([1, 4]))
    names = ["start_training", "start_epoch", "after_step", "after_step", "start_epoch", "after_step", "after_step"]
    assert [name for name, *_ in told] == names
    assert [args for name, *args in told if name == "start_epoch"] == [[0], [1]]


def test_without_class_counts_the_first_batch_stands_for_all(capsys):
    there = hosted(class_counts=None).train()
    there.epoch = 0
    there(batch())
    assert there.detector.loss.class_counts.tolist() == [2, 4]
    assert "class_counts: [real, fake] is not set" in capsys.readouterr().err


def test_an_epoch_told_to_the_parallel_wrapper_must_be_counted():
    with pytest.raises(UserError, match="steps_per_epoch: N"):
        hosted().train()(batch())
    there = hosted(steps_per_epoch=2).train()
    optimizer, collects = torch.optim.SGD(there.parameters(), 1e-3), []
    for _ in range(3):
        there(batch())["losses"]["overall"].backward()
        collects.append(there.detector.collects)
        optimizer.step()
    assert collects == [False, False, True]


def test_images_normalised_otherwise_are_renormalised_and_other_sizes_refused():
    ours, theirs = hosted().eval(), hosted(**HALF).eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (their_config()["mean"], their_config()["std"]))
    pixels = IMAGES * std + mean
    with torch.no_grad():
        expected, found = ours(batch()), theirs(batch(image=(pixels - 0.5) / 0.5))
    torch.testing.assert_close(found["feat"], expected["feat"], atol=1e-5, rtol=0)
    assert not ours.renormalises
    assert theirs.renormalises
    assert theirs.state_dict().keys() == ours.detector.state_dict().keys()
    with pytest.raises(UserError, match=r"expected images of 224 pixels, got 256; set resolution: 224, or input:"):
        _settings("resproto_fd", {"resolution": 256})
    with pytest.raises(UserError, match=r"univfd expected the centre of a face.*input: \{fit: resize\}"):
        _settings("univfd", {"resolution": 224})
    with pytest.raises(UserError, match=r"DeepfakeBench's YAML, detector 'univfd': unknown key 'input.sise'"):
        _settings("univfd", {"resolution": 224, "input": {"sise": 3}})
    with pytest.raises(UserError, match=r"expected images .*, got \[6, 1, 3, 32, 32\]; set video_mode: false"):
        ours(batch(image=IMAGES[:, None]))


def test_what_a_detector_asks_for_and_does_not_get_is_named():
    sd2 = {"model": {**TINY, "lora_rank": None, "labels": "simple"}}
    with pytest.raises(UserError, match=r"requires captions_.*forgery_type in training.* set leave_out: \[captions_"):
        hosted("sd2", **sd2).train()(batch())
    lacking = sorted(hosted("sd2", **sd2).detector.requires)
    there = hosted("sd2", **sd2, leave_out=lacking).train()
    there.get_losses(batch(), there(batch()))["overall"].backward()
    gm_df = {"model": {**TINY, "second_order": [1], "mim": 0.0}, "leave_out": ["domain"]}
    with pytest.raises(UserError, match=r"gm_df requires domain in training, .* give; train it with `resproto train`"):
        hosted("gm_df", **gm_df).train()(batch())
    assert hosted("gm_df", **gm_df).eval()(batch())["prob"].shape == (6,)


def test_masks_reach_a_detector_that_asks_for_them(monkeypatch):
    there, given = hosted("meso4", model={"size": 32}).train(), []
    there.detector.requires = frozenset({"mask"})
    head = there.detector.head
    monkeypatch.setattr(there.detector, "head", lambda *a, mask=None, **k: given.append(mask) or head(*a, **k))
    with pytest.raises(UserError, match=r"requires mask in training, .* set with_mask: true, or set leave_out"):
        there(batch())
    there(batch(mask=torch.full((6, 32, 32, 1, 3), 255.0)))
    assert torch.equal(given[0], torch.ones(6, 1, 32, 32))
    for form in ((6, 32, 32), (6, 32, 32, 1), (6, 32, 32, 3)):
        assert torch.equal(_mask(torch.ones(form, dtype=torch.float64)), given[0])


def test_a_step_of_several_backward_passes_is_refused(monkeypatch):
    there = hosted("meso4", model={"size": 32}).train()

    def training_step(model, step, images, labels, **fields):
        losses = model(images, labels).losses
        step.backward(losses["total"])
        step.backward(losses["total"])
        return losses

    monkeypatch.setattr(there.detector, "training_step", training_step)
    with pytest.raises(UserError, match="expected one backward pass a training step, got 2"):
        there(batch())


def test_a_batch_of_one_class_has_no_auc():
    there = hosted("meso4", model={"size": 32}).train()
    metrics = there.get_train_metrics(batch(LABELS * 0), there(batch(LABELS * 0)))
    assert metrics.keys() == {"acc", "auc", "eer", "ap"}
    assert metrics["auc"] is None
    both = there.get_train_metrics(batch(), there(batch()))
    assert all(0 <= value <= 1 for value in both.values())


def test_our_own_checkpoints_and_parallel_ones_load():
    there, other = hosted("meso4", model={"size": 32}), hosted("meso4", model={"size": 32})
    state = {key: torch.rand_like(value.float()).to(value.dtype) for key, value in there.state_dict().items()}
    for form in ({"model": state, "epoch": 3}, {f"module.{key}": value for key, value in state.items()}):
        other.load_state_dict(form, strict=True)
        assert all(torch.equal(other.state_dict()[key], value) for key, value in state.items())
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({})


def test_a_class_without_a_preset_takes_what_the_checkout_gives():
    config = {"resolution": 32, **HALF, "model": {"backbone": "test_resnet", "pretrained": None}}
    there = type("Hosted", (HostedDetector,), {"preset": "timm"})(config).eval()
    assert not there.renormalises
    assert there(batch())["cls"].shape == (6, 2)
    assert torch.equal(there.classifier(there.features(batch())), there(batch())["cls"])


def of_frames(name):
    return loading.load("detectors", name).input.frames == 1


def test_a_preset_that_takes_clips_is_not_written_for_their_loader_and_not_made_there():
    config = loading.load("detectors", "meso4")
    clips = config.model_copy(update={"input": config.input.model_copy(update={"frames": 8})})
    with pytest.raises(UserError, match="meso4 takes clips of 8 frames; within DeepfakeBench"):
        their_yaml.written(clips)
    with pytest.raises(UserError, match="meso4 takes clips of 8 frames"):
        _settings("meso4", {"input": {"frames": 8}})


OF_FRAMES = [*filter(of_frames, loading.names("detectors"))]


@pytest.mark.parametrize("name", quick_and_slow(OF_FRAMES, OF_FRAMES[::5]))
def test_every_preset_of_frames_is_written_as_their_yaml_and_read_back(name):
    config = loading.load("detectors", name)
    text = their_yaml.written(config, {"mask"})
    values = yaml.safe_load(text)
    assert values["with_mask"] is True
    assert isinstance(values["optimizer"][values["optimizer"]["type"]]["lr"], float)
    settings = _settings(name, values)
    assert settings.input.size == values["resolution"]
    back, changes, _ = their_yaml.translate(values, "made.yaml")
    again = loading.resolve(back, "ffpp_c23_cross", changes).detector
    assert again.input.channel_mean() == config.input.channel_mean()
    assert (again.train.epochs, again.train.batch_size) == (config.train.epochs, config.train.batch_size)
    assert back == name
    if config.train.optimizer.name == "adamw":
        assert "no AdamW" in text
        assert values["optimizer"]["adam"]["weight_decay"] == 0
    if config.train.schedule.name != "constant":
        assert "schedules never act" in text
    if config.train.accumulate > 1:
        assert f"nothing like train.accumulate (the recipe: {config.train.accumulate})" in text


def test_their_sam_is_ours_over_sgd_and_any_other_is_said_to_be_lost():
    sbi = loading.load("detectors", "sbi")
    text = their_yaml.written(sbi)
    values = yaml.safe_load(text)
    assert values["optimizer"] == {"type": "sam", "sam": {"lr": 1e-3, "momentum": 0.9}}
    assert "Its SAM fails with --ddp" in text
    values["optimizer"]["sam"]["weight_decay"] = 1e-4  # it passes this over
    back, changes, _ = their_yaml.translate(values, "made.yaml")
    optimizer = loading.resolve(back, "ffpp_c23_cross", changes).detector.train.optimizer
    assert (optimizer.name, optimizer.sam_rho, optimizer.weight_decay) == ("sgd", 0.05, 0)
    plain = {"model_name": "sbi", "optimizer": {"type": "adam", "adam": {"lr": 2e-4}}}
    back, changes, _ = their_yaml.translate(plain, "made.yaml")
    assert loading.resolve(back, "ffpp_c23_cross", changes).detector.train.optimizer.sam_rho == 0
    other = sbi.train.model_copy(update={"optimizer": sbi.train.optimizer.model_copy(update={"name": "adam"})})
    text = their_yaml.written(sbi.model_copy(update={"train": other}))
    assert "no SAM like the recipe's: adam alone (the recipe: sam_rho 0.05)" in text
    assert yaml.safe_load(text)["optimizer"]["type"] == "adam"


@pytest.mark.slow
def test_the_command_writes_the_yaml(checkout, capsys):
    folder = checkout()
    main = importlib.import_module(PLUGIN).main
    assert main(["meso4", "--out", str(folder / "their.yaml")]) == 0
    values = yaml.safe_load((folder / "their.yaml").read_text())
    assert values["model_name"] == "resproto_meso4"
    assert main(["sd2"]) == 0
    assert "leave_out: [captions_environmental, captions_facial, forgery_type]" in capsys.readouterr().out
    assert main(["mezo4"]) == 2
    assert "no detector is called 'mezo4'; the nearest is 'meso4'" in capsys.readouterr().err


def test_what_cannot_be_trained_there_is_written_for_its_tests_and_says_so(checkout, capsys):
    checkout()
    main = importlib.import_module(PLUGIN).main
    for name, reason in (("gm_df", "its training step needs domain"), ("clip_zero_shot_tiny", "no parameter to train")):
        assert main([name]) == 0
        text = capsys.readouterr().out
        assert "for DeepfakeBench's test.py." in text and reason in text and "leave_out" not in text
    there = type("Hosted", (HostedDetector,), {"preset": "chance"})({}).train()
    with pytest.raises(UserError, match=r"chance has no parameter to train; use DeepfakeBench's test\.py"):
        there(batch())


def test_a_checkpoint_of_deepfakebenchs_detector_of_this_name_loads_there(monkeypatch):
    there, other = hosted("meso4", model={"size": 32}), hosted("meso4", model={"size": 32})
    state = {key: torch.rand_like(value.float()).to(value.dtype) for key, value in there.state_dict().items()}
    theirs = {f"theirs.{key}": value for key, value in state.items()}
    rename = lambda found: {key.removeprefix("theirs."): value for key, value in found.items()}  # noqa: E731
    monkeypatch.setattr(other.detector, "from_deepfakebench", rename)
    other.load_state_dict(theirs, strict=True)
    assert all(torch.equal(other.state_dict()[key], value) for key, value in state.items())
