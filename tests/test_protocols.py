"""How a protocol's training sets become one list of frames."""

import json

import numpy as np
import pytest

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import DataConfig
from resproto_fd.training.protocols import resolve


def shared_sets(folder, names=("One", "Two", "Three")) -> DataConfig:
    """Data sets of fakes of their own that share their nine real videos, as FaceForensics++'s methods do."""
    for name in names:
        reals = {f"{i:03}": {"label": "FF-real", "frames": [f"FF/real/frames/{i:03}/0.png"]} for i in range(9)}
        fakes = {f"{i:03}": {"label": "FF-DF", "frames": [f"FF/{name}/frames/{i:03}/0.png"]} for i in range(9)}
        splits = {
            label: {"train": videos, "val": {}, "test": videos}
            for label, videos in (("FF-real", reals), ("FF-DF", fakes))
        }
        (folder / f"{name}.json").write_text(json.dumps({name: splits}))
    return DataConfig(json_dir=str(folder), rgb_dir=str(folder))


def protocol(**changes):
    return loading.load("protocols", "demo_cross").model_copy(update=changes)


def test_real_videos_that_training_sets_share_are_spread_over_them(tmp_path):
    data = shared_sets(tmp_path)
    last = protocol().selection.model_copy(update={"rule": "last"})
    chosen = protocol(train=["One", "Two", "Three"], test=["One"], selection=last)
    train = resolve(chosen, data, lists_only=True).train
    assert len(train) == 36
    sets = np.asarray([train.videos[owner].dataset for owner in train.video_index])
    for name in ("One", "Two", "Three"):
        assert np.bincount(train.labels[sets == name]).tolist() == [3, 9]


@pytest.mark.slow
def test_on_noise_gm_df_finds_no_label_in_the_domain(tmp_path):
    import torch
    from test_gm_df import PlainStep, make

    def gap(own: np.ndarray, labels: np.ndarray) -> float:
        """Largest difference between domains of the mean P(fake) under their own prompts, on new noise."""
        domain, target = torch.from_numpy(own), torch.from_numpy(labels)
        detector = make(mim=0.0).train()
        optimizer = torch.optim.Adam([p for p in detector.parameters() if p.requires_grad], 3e-3)
        noise = torch.Generator().manual_seed(0)
        for _ in range(60):
            rows = torch.randperm(len(own), generator=noise)[:18]
            images = torch.randn(len(rows), 3, 32, 32, generator=noise)
            detector.training_step(detector, PlainStep, images, target[rows], domain=domain[rows])
            optimizer.step()
            optimizer.zero_grad()
        detector.eval()
        with torch.no_grad():
            images = torch.randn(len(own), 3, 32, 32, generator=noise)
            similar = detector._similar(detector.encode(images, domain))
            each = torch.arange(len(own))
            chances = (similar[each, domain + 1] / detector.temperatures()[domain + 1][:, None]).softmax(-1)[:, 1]
        means = [chances[domain == one].mean().item() for one in range(3)]
        print(f"P(fake) on noise by domain: {' '.join(f'{mean:.3f}' for mean in means)}")
        return max(means) - min(means)

    data, names = shared_sets(tmp_path), ["One", "Two", "Three"]
    last = protocol().selection.model_copy(update={"rule": "last"})
    train = resolve(protocol(train=names, test=["One"], selection=last), data, lists_only=True).train
    own = np.asarray([names.index(train.videos[owner].dataset) for owner in train.video_index])
    assert gap(own, train.labels) < 0.2
    # If the first data set had all the reals, the domain would tell the label.
    assert gap(np.where(train.labels == 0, 0, own), train.labels) > 0.3


def test_a_single_set_keeps_its_real_videos(tmp_path):
    data = shared_sets(tmp_path)
    last = protocol().selection.model_copy(update={"rule": "last"})
    found = resolve(protocol(train=["Two"], test=["One"], selection=last), data, lists_only=True)
    assert found.train.class_counts().tolist() == [9, 9]
    assert {video.dataset for video in found.tests["One"].videos} == {"One"}


def test_a_protocol_can_train_on_validation_splits_but_not_on_tested_frames(demo, tmp_path):
    data = DataConfig(root=str(demo))
    last = protocol().selection.model_copy(update={"rule": "last"})
    plain = resolve(protocol(selection=last), data, lists_only=True)
    both = resolve(protocol(selection=last, train_splits=["train", "val"]), data, lists_only=True)
    chosen = resolve(protocol(), data, lists_only=True).selection
    assert sorted(both.train.paths) == sorted([*plain.train.paths, *chosen.paths])
    assert both.fingerprint != plain.fingerprint
    shared = shared_sets(tmp_path, ["One"])
    path = tmp_path / "One.json"
    content = json.loads(path.read_text())
    for splits in content["One"].values():
        splits["train"], splits["val"] = dict(list(splits["train"].items())[:4]), splits["test"]
        splits["test"] = dict(list(splits["test"].items())[6:])
    path.write_text(json.dumps(content))
    found = resolve(
        protocol(train=["One"], test=["One"], selection=last, train_splits=["train", "val"]), shared, lists_only=True
    )
    tested = set(found.tests["One"].paths)
    assert len(found.train) == 12
    assert not tested & set(found.train.paths)
    assert any("6 frames of the training sets' validation splits are tested" in note for note in found.notes)


def test_selecting_on_a_split_that_is_trained_on_is_refused(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "train: [Demo-A]\ntrain_splits: [train, val]\nselection: {dataset: Demo-A}\ntest: [Demo-B]\n", encoding="utf-8"
    )
    with pytest.raises(UserError, match=r"expected a split that is not trained on, got Demo-A val.*selection\.rule"):
        loading.load("protocols", str(path))


def test_accuracies_of_genface_are_compared_as_balanced():
    names = [name for name in loading.names("protocols") if name.startswith("genface_") and "robust" not in name]
    assert len(names) == 13
    for name in names:
        config = loading.load("protocols", name)
        assert "frame_balanced_acc" in config.metrics
        assert "balanced_acc" in config.note


def test_sd2s_kinds_of_two_data_sets_are_a_switch():
    for name, kind in (("DFFD", "editing"), ("KoDF", "face swap")):
        ours, theirs = (loading.load("datasets", each) for each in (name, f"{name}-SD2"))
        assert theirs.json_file == ours.json_file
        assert {label["type"] for label in theirs.labels.values()} == {kind}
