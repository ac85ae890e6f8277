"""Why a score: maps that find what was planted, prototypes whose origin is the run's own batches, and the page."""

import json
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tiny
import torch
from made import made_config, made_dataset
from torch import nn

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector, registry
from resproto_fd.detectors.base import Detector, two_class_output
from resproto_fd.detectors.parts.clip_tower import load_clip
from resproto_fd.detectors.parts.prototype_memory import MEMBERS, PrototypeMemory
from resproto_fd.preprocessing.store.frame_store import open_store
from resproto_fd.trainer import checkpoint
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.trainer import Trainer
from resproto_fd.training.cli import main
from resproto_fd.training.commands import explain
from resproto_fd.training.commands.figures import run_detector
from resproto_fd.training.explaining import embedding, maps, prototypes
from resproto_fd.training.explaining.page import Face, as_html
from resproto_fd.training.results import RunResult
from resproto_fd.training.run import create

CPU = World(0, 1, torch.device("cpu"))
WITHOUT_MAP = {"chance"}
ATTENTION = {"c2p_clip", "clip", "clip_lora", "effort", "forensics_adapter", "gm_df", "repdfd", "resproto_fd"}
ATTENTION |= {"fatformer", "forensics_adapter_pp", "fsfm", "gend", "sd2", "sd2_probe", "uia_vit"}
OF_PIXELS = {"d3", "patchcraft"}
OF_PARTS = {
    "capsule_net": ["vgg"],
    "f3net": ["backbone.block12", "second.block12"],
    "gramnet": ["backbone.layer"],
    "iid": ["encoder.", "explicit."],
    "lrl": ["rgb.", "frequency."],
    "mfclip": ["image."],
    "multi_attention": ["texture.", "backbone."],
}
PREDICTING = {
    "facexray": {},
    "facexray, DeepfakeBench's": {},
    "ffd": {},
    "sladd": {"mask_weight": 0.1},
    "lrl": {"segmentation": 1.0},
    "forensics_adapter": {"mask_weight": 1.0},
    "forensics_adapter_pp": {"mask_weight": 1.0},
}


class Corner(Detector):
    """Sees one thing: how bright the upper left of the picture is."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3, padding=1)
        nn.init.constant_(self.body.weight, 0.05)
        nn.init.zeros_(self.body.bias)

    def encode(self, images):
        return self.body(images)[:, :, :8, :8].mean(dim=(2, 3))

    def head(self, features, labels=None, **fields):
        odds = features.sum(dim=1, keepdim=True)
        return two_class_output(torch.cat([-odds, odds], dim=1), features, labels)


class PatchVote(Detector):
    """Attends from a class token to the bright patches, 4 x 4 of them, by torch's own attention."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 2, 8, 8, bias=False)
        self.attention = nn.MultiheadAttention(2, 1, bias=False, batch_first=True)
        with torch.no_grad():
            self.patches.weight.fill_(1 / 192)
            self.attention.in_proj_weight.copy_(torch.eye(2).repeat(3, 1) * torch.tensor([4, 4, 4, 4, 1, 1.0])[:, None])
            self.attention.out_proj.weight.copy_(torch.eye(2))

    def encode(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([torch.ones_like(tokens[:, :1]), tokens], dim=1)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0][:, 0]

    def head(self, features, labels=None, **fields):
        odds = features.sum(dim=1, keepdim=True)
        return two_class_output(torch.cat([-odds, odds], dim=1), features, labels)


class Windows(Detector):
    """Reads maps of the form [B, h, w, C], and states it as timm's networks do."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 8, 8)
        nn.init.constant_(self.patches.weight, 0.05)
        self.body = nn.Module()
        self.body.output_fmt = "NHWC"
        self.body.read = nn.Linear(6, 5)
        nn.init.constant_(self.body.read.weight, 0.1)

    def encode(self, images):
        return self.body.read(self.patches(images).permute(0, 2, 3, 1)).mean(dim=(1, 2))

    def head(self, features, labels=None, **fields):
        odds = features.sum(dim=1, keepdim=True)
        return two_class_output(torch.cat([-odds, odds], dim=1), features, labels)


@pytest.mark.slow
def test_grad_cam_points_at_the_part_that_a_detector_reads():
    pytest.importorskip("pytorch_grad_cam")
    images = torch.zeros(2, 3, 32, 32)
    images[0, :, :8, :8], images[0, :, 20:, 20:] = 1, 0.2
    images[1] = images[0].flip(-1)
    detector = Corner().eval()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    found, how = maps.evidence_map(detector, images[:1])
    assert how == "Grad-CAM of body"
    mask = np.zeros((1, 32, 32), bool)
    mask[:, :9, :9] = True
    assert maps.mass_inside(found.numpy(), mask)[0] > 5 * mask.mean()
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    assert all(parameter.grad is None for parameter in detector.parameters())


def test_attention_weighted_by_its_gradient_points_at_the_patch_that_tells():
    detector, images = PatchVote().eval(), torch.zeros(1, 3, 32, 32)
    images[:, :, 16:24, 8:16] = 1.0
    plain = detector(images).scores
    found, how = maps.evidence_map(detector, images)
    assert how == "gradient-weighted attention"
    assert divmod(int(found[0].argmax()), 32)[0] in range(16, 24)
    assert divmod(int(found[0].argmax()), 32)[1] in range(8, 16)
    torch.testing.assert_close(detector(images).scores, plain)
    assert nn.functional.scaled_dot_product_attention.__module__ != maps.__name__


@pytest.mark.parametrize("case", ["clip", "effort", "gm_df", pytest.param("sd2", marks=pytest.mark.slow), "uia_vit"])
def test_attention_that_is_written_out_gives_the_same_scores(case):
    detector, images = tiny.make(case).eval(), tiny.IMAGES.clone().requires_grad_()
    expected = detector(images).scores
    with maps._attention_weights(detector, 6) as (blocks, grids):
        found = detector(images).scores
    torch.testing.assert_close(found, expected)
    weights, grid = maps._tower(blocks, grids)
    tokens = 1 + grid[0] * grid[1]
    assert grid == (4, 4) if case != "uia_vit" else grid[0] == grid[1]
    visual = detector.backbone.blocks if case == "uia_vit" else detector.clip.visual.transformer.resblocks
    assert len(weights) == len(visual)
    assert all(each.shape[0] == 6 and each.shape[2:] == (tokens, tokens) for each in weights)
    torch.testing.assert_close(weights[0].sum(dim=-1), torch.ones(weights[0].shape[:3]))


def test_attention_that_pools_a_resnets_maps_is_no_attention_among_patches():
    layout = tiny.RESNET | {"vision_cfg": tiny.RESNET["vision_cfg"] | {"image_size": 128}, "text_cfg": tiny.TEXT}
    detector, images = create_detector("clip", backbone=layout, pretrained=None).eval(), torch.zeros(2, 3, 128, 128)
    with maps._attention_weights(detector, 2) as (blocks, _):
        detector(images.requires_grad_())
    assert blocks == []
    assert maps.places_layers(detector, images) == ["clip.visual.layer4"]


def test_pixels_tell_where_a_detector_looks_whose_layers_have_other_places():
    detector, images = Corner().eval(), torch.full((1, 3, 32, 32), 0.2)
    detector.map_parts = None
    found, how = maps.evidence_map(detector, images)
    assert how == "gradient times picture"
    mask = np.zeros((1, 32, 32), bool)
    mask[:, :10, :10] = True
    assert maps.mass_inside(found.numpy(), mask)[0] > 0.9


@pytest.mark.slow
def test_the_map_of_a_network_with_channels_last_has_the_places_of_the_picture():
    pytest.importorskip("pytorch_grad_cam")
    detector = Windows().eval()
    images = torch.zeros(1, 3, 32, 64)
    images[..., :8, 40:48] = 1.0
    assert maps.places_layers(detector, images) == ["body.read"]
    found, _ = maps.evidence_map(detector, images)
    assert divmod(int(found[0].argmax()), 64)[0] < 8
    assert divmod(int(found[0].argmax()), 64)[1] in range(40, 48)


def test_the_residual_map_says_which_patches_are_like_a_forged_face():
    detector = tiny.make("resproto_fd").eval()
    found = detector.residual_map(tiny.IMAGES[:2])
    tower = detector.clip.visual
    tokens = tower.forward_intermediates(tiny.IMAGES[:2], indices=1, output_fmt="NLC")["image_intermediates"][-1]
    feature = nn.functional.normalize(tower.ln_post(tokens[1, 6]) @ tower.proj, dim=-1)
    residual = feature - detector.residual_weight * detector.text_features
    cosine = nn.functional.cosine_similarity(residual, detector.text_features)
    assert found.shape == (2, 4, 4)
    torch.testing.assert_close(found[1, 1, 2], cosine[1] - cosine[0])


def test_the_mass_of_a_map_is_its_share_inside_the_mask():
    mask = np.zeros((1, 4, 4), bool)
    mask[:, :2] = True
    assert maps.mass_inside(np.ones((1, 4, 4)), mask) == [0.5]
    assert maps.mass_inside(mask.astype(float), mask) == [1.0]
    assert np.isnan(maps.mass_inside(np.zeros((1, 4, 4)), mask)[0])
    assert np.isnan(maps.mass_inside(np.ones((1, 4, 4)), ~mask & mask)[0])


@pytest.mark.slow
@pytest.mark.parametrize("case", [name for name in tiny.CASES if "," not in name and tiny.clip_frames(name) == 1])
def test_every_detector_has_a_map_or_says_that_it_has_none(case):
    pytest.importorskip("pytorch_grad_cam")
    detector = tiny.make(case).eval()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    try:
        found, how = maps.evidence_map(detector, tiny.IMAGES[:2])
    except UserError as error:
        assert case in WITHOUT_MAP
        assert "no layer of places" in str(error)
        return
    assert found.shape == (2, 32, 32)
    assert found.isfinite().all()
    assert 0 <= found.min() <= found.max() <= 1
    name = case.split(",")[0]
    words = how.removeprefix("Grad-CAM of ").split(" and ")
    if case in ATTENTION:
        assert how == "gradient-weighted attention"
    elif name in OF_PIXELS:
        assert how == "gradient times picture"
    elif case in OF_PARTS:
        assert [word[: len(part)] for word, part in zip(words, OF_PARTS[case], strict=True)] == OF_PARTS[case]
    else:
        assert len(words) == 1
        assert isinstance(detector.get_submodule(words[0]), nn.Module)
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    assert all(parameter.grad is None for parameter in detector.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("case", PREDICTING)
def test_a_method_that_predicts_a_map_shows_it(case):
    name, keywords = tiny.CASES[case]
    detector = tiny.thin_detector(name, **keywords | PREDICTING[case]).eval()
    found = maps.predicted_map(detector, tiny.IMAGES[:2])
    assert found.shape == (2, 32, 32)
    assert 0 <= found.min() <= found.max() <= 1
    torch.testing.assert_close(maps.predicted_map(detector, tiny.IMAGES[1:2]), found[1:], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_only_methods_with_a_map_of_their_own_predict_one():
    assert maps.predicted_map(tiny.make("clip").eval(), tiny.IMAGES[:1]) is None
    with_map = {name for name in registry.class_names() if predicts(name)}
    assert with_map == {case.split(",")[0] for case in PREDICTING}


def predicts(name):
    return registry.detector_class(name).predicted_map is not Detector.predicted_map


# --- where prototypes come from --------------------------------------------------------------------------------------


def test_the_members_of_a_candidate_are_the_nearest_frames_of_its_class():
    generator = torch.Generator().manual_seed(3)
    residual, labels = torch.randn(11, 5, generator=generator), torch.tensor([0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1])
    frames = torch.arange(100, 111)
    memory = PrototypeMemory(6, 5)
    memory.collect(residual, labels, torch.tensor([1.0, 2.0]), 3, frames, (4, 7))
    for label in (0, 1):
        own = (labels == label).nonzero().flatten().tolist()
        for slot in range(int(memory.count[label])):
            distance = {i: float((residual[i] - memory.prototypes[label, slot]).norm()) for i in own}
            expected = sorted(own, key=distance.get)[:MEMBERS]
            expected = [100 + i for i in expected] + [-1] * (MEMBERS - len(expected))
            assert memory.members[label, slot].tolist() == expected
            assert memory.entered[label, slot].tolist() == [4, 7]
    assert (memory.members[0, 1:] == -1).all()
    assert "members" not in memory.state_dict()


class Noting(Trainer):
    """Notes the frames of each step, apart from what the detector is told."""

    def _step(self, micro):
        self.__dict__.setdefault("noted", {})[self.progress.step] = (
            self.progress.epoch,
            [int(i) for batch in micro for i in batch["index"]],
        )
        super()._step(micro)


def fitted(folder, epochs=2, **changes):
    config = made_config(epochs=epochs, **changes)
    config.detector.input.size = 32
    detector = tiny.make("resproto_fd")
    detector.first_epoch = 0
    trainer = Noting(detector, made_dataset(config, videos=8), config, CPU, folder, history={})
    trainer.fit()
    return trainer


@pytest.mark.slow
def test_recorded_origins_are_the_runs_own_batches_and_survive_a_resume(tmp_path):
    trainer = fitted(tmp_path / "whole")
    told, frames = prototypes.origins_in(tmp_path / "whole" / "best.pt"), trainer.data.frames
    memory = trainer.detector.memory
    seen = 0
    for label in (0, 1):
        for slot in range(int(memory.count[label])):
            epoch, step = told["entered"][label, slot].tolist()
            members = [number for number in told["members"][label, slot].tolist() if number >= 0]
            batch_epoch, batch = trainer.noted[step]
            assert epoch == batch_epoch
            assert members
            paths = {frames.paths[i] for i in batch if frames.labels[i] == label}
            assert {told["frames"][number] for number in members} <= paths
            seen += len(members)
    assert seen >= 4
    assert set(told["datasets"]) == {"Made"}

    fitted(tmp_path / "parts", run={"max_steps": 3})
    resumed_config = checkpoint.load_newest(tmp_path / "parts" / "checkpoints")[1]
    assert set(resumed_config["origins"]) == {"members", "entered"}
    again = tiny.make("resproto_fd")
    again.set_origins(resumed_config["origins"])
    assert torch.equal(again.memory.members, resumed_config["origins"]["members"])


def test_weights_without_origins_say_not_recorded(tmp_path):
    detector = tiny.make("resproto_fd").eval()
    for label in (0, 1):
        detector.memory.update(label, torch.randn(2, 12, generator=torch.Generator().manual_seed(label)), 1.0)
    checkpoint.save(tmp_path / "best.pt", {"model": detector.state_dict(), "history": {}})
    origins = prototypes.origins_in(tmp_path / "best.pt")
    assert origins == {}
    features = detector.memory.prototypes[1, :1]
    (near,) = prototypes.nearest(detector.memory, features, 9, origins)
    assert (near[0].label, near[0].slot, near[0].epoch, near[0].frames) == ("forged", 0, None, [])
    assert near[0].similarity == pytest.approx(1, abs=1e-5)
    assert len(near) == 4
    assert [each.similarity for each in near] == sorted((each.similarity for each in near), reverse=True)
    heat = np.zeros((8, 8))
    face = Face("a<b>.png", 0.5, np.zeros((8, 8, 3), np.uint8), {"one": heat, "two": heat + 1}, near=near)
    page = as_html("run", [], [face], lambda *frame: None, None)
    assert page.count("not recorded") == 8
    assert "a&lt;b&gt;.png" in page
    assert "one; empty: no place raises the score<" in page
    assert page.count("empty:") == 1


@pytest.mark.parametrize(
    "spoil",
    [
        {"members": torch.full((2, 3, MEMBERS), 9)},
        {"members": torch.zeros(2, 3, MEMBERS)},
        {"entered": torch.zeros(2, 3, dtype=torch.int64)},
        {"frames": [1]},
        {"datasets": []},
    ],
)
def test_a_strangers_origins_of_another_form_are_not_used(tmp_path, spoil):
    told = {
        "members": torch.zeros(2, 3, MEMBERS, dtype=torch.int64),
        "entered": torch.zeros(2, 3, 2, dtype=torch.int64),
        "frames": ["a.png"],
        "datasets": ["A"],
    }
    checkpoint.save(tmp_path / "good.pt", {"model": {}, "history": {}, "origins": told})
    checkpoint.save(tmp_path / "best.pt", {"model": {}, "history": {}, "origins": told | spoil})
    assert prototypes.origins_in(tmp_path / "good.pt")
    assert prototypes.origins_in(tmp_path / "best.pt") == {}


# --- the page --------------------------------------------------------------------------------------------------------


def test_alike_features_are_neighbours_on_the_plane():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(0, 0.05, (12, 6)) + np.eye(6)[i] for i in (0, 3)])
    found = embedding.scatter(features, ["a"] * 12 + ["b"] * 12, [str(i) for i in range(24)], 2, "tsne")
    places = np.array([point[:2] for point in found.points])
    distance = np.linalg.norm(places[:, None] - places, axis=2) + 1e9 * np.eye(24)
    assert ((distance.argmin(axis=1) < 12) == (np.arange(24) < 12)).all()
    assert found.counts() == {"a": 12, "b": 12}
    assert [found.drawing().count(mark) for mark in ("<path", 'stroke="currentColor"')] == [24, 2]
    assert found.key().count("<li>") == 2


def test_groups_of_one_colour_have_marks_of_other_shapes():
    names = [f"method {number}" for number in range(20)]
    points = [(1.0, 1.0, number, "") for number in range(20)]
    found = embedding.Scatter(how="UMAP", groups=names, points=points, prototypes=0)
    marks = re.findall(r'd="M1\.0 1\.0([^"]*)" fill="([^"]*)"', found.drawing())
    assert len(set(marks)) == 20


def test_a_map_needs_four_points():
    with pytest.raises(UserError, match="expected 4 to 3000 points, got 3"):
        embedding.plane(np.eye(3), "tsne")


@pytest.mark.slow
def test_the_command_explains_files_and_test_frames_on_one_page(demo, tmp_path):
    words = ["train", "--detector", "resproto_fd_tiny", "--protocol", "demo_cross", "--test_dataset", "Demo-C"]
    settings = ["run.workers=0", "run.progress=false", "run.device=cpu", f"data.root={demo}", f"run.out={tmp_path}"]
    little = ["train.epochs=3", "run.max_steps=3", "train.batch_size=12", "model.start_epoch=0"]
    assert main([*words, *settings, *little]) == 0
    (result,) = tmp_path.rglob("result.json")
    (tmp_path / "faces").mkdir()
    cv2.imwrite(str(tmp_path / "faces" / "one.png"), np.full((90, 80, 3), 120, np.uint8))
    (tmp_path / "faces" / "none.png").write_bytes(b"no picture")
    assert main(["explain", str(result.parent), str(tmp_path / "faces"), "--frames", "2", "--embedding", "tsne"]) == 0
    page = (result.parent / "explain" / "explain.html").read_text()
    drawn = embedding.stored_map(result.parent, RunResult.load(result).checkpoint_sha256)
    assert len(drawn.points) == 5 + drawn.prototypes
    records = [json.loads(line) for line in (result.parent / "explain" / "explain.jsonl").read_text().splitlines()]
    assert len(records) == 5
    assert records[0]["name"].endswith("one.png")
    assert all(record["near"][0]["step"] in (0, 1, 2) for record in records)
    assert all(each["frames"] for record in records for each in record["near"])
    assert [record["area"] is not None for record in records] == [False, False, False, True, True]
    # Three steps may leave a map that is empty, which has no share inside the mask.
    assert all(0 <= share <= 1 for record in records for share in record["mass"].values())
    for text in ("Grad-CAM of clip.visual", "t-SNE", "epoch 1, step", "Diamonds"):
        assert text in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_detector_of_a_run_without_learnt_weights_has_its_fetched_ones(tmp_path):
    config = loading.load("detectors", "clip_zero_shot_tiny")
    torch.manual_seed(3)
    clip = load_clip(config.model["backbone"], None)
    state = {name: value for name, value in clip.state_dict().items() if name != "quick_gelu"}
    torch.save(state, tmp_path / "clip.pt")
    model = config.model | {"pretrained": str(tmp_path / "clip.pt"), "quick_gelu": False}
    found = run_detector(tmp_path, SimpleNamespace(seed=0, detector=config.model_copy(update={"model": model})))
    given = found.clip.visual.state_dict()
    assert all(torch.equal(given[name], value) for name, value in clip.visual.state_dict().items())


def test_a_run_in_double_precision_is_explained_in_it(tmp_path):
    config = loading.load("detectors", "resnet_tiny")
    double = config.model_copy(update={"train": config.train.model_copy(update={"precision": "fp64"})})
    checkpoint.save(tmp_path / "best.pt", {"model": create(double)[0].state_dict()})
    found = run_detector(tmp_path, SimpleNamespace(seed=0, detector=double))
    assert {p.dtype for p in found.parameters()} == {torch.float64}
    with pytest.raises(UserError, match=r"best.pt: no such file"):
        run_detector(tmp_path / "nowhere", SimpleNamespace(seed=0, detector=double))


def test_too_many_files_are_refused_before_they_are_read(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(b"no picture")
    monkeypatch.setattr(explain, "MOST_FACES", 2)
    with pytest.raises(UserError, match="expected at most 2 faces, got 3 files"):
        explain._samples(SimpleNamespace(files=[str(tmp_path)], frames=0), None)


def test_a_strangers_weights_show_no_picture_outside_the_store(tmp_path):
    (tmp_path / "data" / "A").mkdir(parents=True)
    for place in ("secret.png", "data/A/a.png"):
        cv2.imwrite(str(tmp_path / place), np.zeros((8, 8, 3), np.uint8))
    stores = {"A": open_store(tmp_path / "data")}
    assert stores["A"].read("A/a.png").shape == explain._training_frame(stores, "A", "A/a.png").shape
    for path in ("../secret.png", "A/../../secret.png", str(tmp_path / "secret.png"), "A/\0.png", ""):
        assert explain._training_frame(stores, "A", path) is None
    assert explain._training_frame(stores, "B", "A/a.png") is None


@pytest.mark.parametrize("features", [np.ones((8, 4)), np.zeros((8, 4)), np.full((8, 4), np.nan)])
def test_features_that_are_no_map_are_an_error(features):
    with pytest.raises(UserError, match="expected features that are finite and differ"):
        embedding.plane(features, "tsne")


def test_a_name_that_is_no_text_is_shown():
    face = Face("a\udcff.png", 0.5, np.zeros((8, 8, 3), np.uint8), {})
    as_html("run", [], [face], lambda *frame: None, None).encode()


def test_what_cannot_be_explained_is_named(tmp_path, capsys):
    assert main(["explain", str(tmp_path), "a.png"]) == 2
    assert "no config.yaml in it; name the folder of a run" in capsys.readouterr().err
    (tmp_path / "config.yaml").touch()
    for words, message in (
        ([], "name pictures of faces, or set --frames N"),
        (["a.png", "--embedding", "tsne"], "--embedding: needs frames of the test sets"),
        (["a.png", "--prototypes", "0"], "--prototypes: expected at least 1"),
    ):
        assert main(["explain", str(tmp_path), *words]) == 2
        assert message in capsys.readouterr().err
