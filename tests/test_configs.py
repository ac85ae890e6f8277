"""Configurations: every YAML loads, every fault names file, key and choices, one precedence holds."""

import argparse
from contextlib import nullcontext

import pytest
import yaml

from resproto_fd.configs import deepfakebench, loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import DataConfig, ProtocolConfig, RunConfig


@pytest.mark.parametrize("kind", loading.KINDS)
def test_every_yaml_of_a_kind_loads(kind):
    assert len(loading.names(kind)) >= 3
    for name in loading.names(kind):
        assert loading.load(kind, name).name == name


def test_every_protocol_names_data_sets_that_exist():
    for name in loading.names("protocols"):
        protocol = loading.load("protocols", name)
        chosen = [protocol.selection.dataset] if protocol.selection.dataset else []
        assert {*protocol.train, *protocol.test, *chosen} <= set(loading.names("datasets")), name


def test_no_protocol_here_selects_on_a_test_split():
    assert not any(loading.load("protocols", name).selection.oracle for name in loading.names("protocols"))


@pytest.mark.parametrize("text", ["5e-7", "1e3", "-2E+3", "1.5e-3", ".5e1"])
def test_exponents_without_a_point_are_numbers(text):
    assert loading.parse_yaml(f"lr: {text}", "here")["lr"] == float(text)


@pytest.mark.parametrize("text", ["e4s", "1e", "0x1F", "v1e5"])
def test_words_that_look_like_exponents_stay_what_they_were(text):
    assert loading.parse_yaml(f"word: {text}", "here") == yaml.safe_load(f"word: {text}")


def write(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


MINIMAL = "detector: clip\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("detector: clip\nepochs: 3\n", r"mine\.yaml: unknown key 'epochs'"),
        ("detector: clip\ntrain: {epoch: 3}\n", r"unknown key 'train\.epoch'; the nearest is 'epochs'"),
        ("detector: clip\ntrain: {epochs: many}\n", r"key 'train\.epochs': .*integer, got 'many'"),
        ("detector: clip\ntrain: {epochs: true}\n", r"key 'train\.epochs'"),
        ("detector: clip\ntrain: {optimizer: {lr: -1.0}}\n", r"key 'train\.optimizer\.lr': .*greater than 0"),
        ("detector: clip\ntrain: {batch_size: 9, accumulate: 2}\n", "batch_size 9 is not a multiple of accumulate 2"),
        ("detector: clip\ninput: {mean: rgb}\n", "'rgb' is not one of clip, imagenet, half"),
        ("title: x\n", "key 'detector' is missing"),
        ("- a\n", "expected a mapping"),
        ("detector: [\n", "not readable as YAML"),
        ("detector: clip\ndetector: clip\n", "key 'detector' stands twice"),
        ("detector: !!python/object/apply:os.system ['true']\n", "not readable as YAML"),
    ],
)
def test_a_fault_in_a_yaml_names_file_key_and_choices(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        loading.load("detectors", path)
    assert "mine.yaml" in str(caught.value)


def test_an_unknown_name_says_what_exists_and_the_nearest(tmp_path):
    with pytest.raises(
        UserError, match=r"no protocol is called 'demo_cros'; the nearest is 'demo_cross'; known: .*ffpp"
    ):
        loading.load("protocols", "demo_cros")
    with pytest.raises(UserError, match=r"no such file; 'demo_cross' is a known name"):
        loading.load("protocols", str(tmp_path / "demo_cross.yaml"))


def test_selecting_on_a_test_split_must_be_written_out():
    values = {"train": ["a"], "test": ["b"], "selection": {"dataset": "b", "split": "test"}}
    with pytest.raises(UserError, match="oracle: true"):
        loading.validated(ProtocolConfig, values, "here")
    values["selection"]["oracle"] = True
    assert loading.validated(ProtocolConfig, values, "here").selection.oracle


def test_precedence_is_default_then_yaml_then_command_line(tmp_path):
    path = write(tmp_path, "detector: clip\ntrain: {epochs: 3, optimizer: {lr: 5e-7}}\n")
    plain = loading.resolve(path, "demo_cross")
    changed = loading.resolve(
        path, "demo_cross", loading.parse_overrides(["train.epochs=4", "train.optimizer.lr=1e-3"])
    )
    assert plain.detector.train.batch_size == 32
    assert (plain.detector.train.epochs, plain.detector.train.optimizer.lr) == (3, 5e-7)
    assert (changed.detector.train.epochs, changed.detector.train.optimizer.lr) == (4, 1e-3)
    assert changed.detector.train.optimizer.name == "adam"


def test_a_mapping_written_out_replaces_and_a_dotted_key_changes_one_value(tmp_path):
    path = write(tmp_path, "detector: clip\nmodel: {backbone: {embed_dim: 8, vision_cfg: {layers: 2, width: 16}}}\n")

    def backbone(word):
        return loading.resolve(path, "demo_cross", loading.parse_overrides([word])).detector.model["backbone"]

    changed = {"embed_dim": 8, "vision_cfg": {"layers": 2, "width": 32}}
    assert backbone("model.backbone.vision_cfg.width=32") == changed
    assert backbone("model.backbone={embed_dim: 4}") == {"embed_dim": 4}
    assert backbone("model.backbone=ViT-B-16") == "ViT-B-16"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.epochs"], "not of the form key=value"),
        (["train=3"], r"'train' takes no value of its own; set one of its parts: train\.PART=value"),
        (["train.epoch=3"], r"command line: unknown key 'train\.epoch'; the nearest is 'epochs'"),
        (["input.size=big"], r"command line: key 'input\.size': .*got 'big'"),
        (["detector.train.epoch=3"], r"command line: unknown key 'detector\.train\.epoch'"),
        (["epochs=3"], r"command line: unknown key 'epochs'; known here: .*input, model, .*train"),
        (["run.worker=2"], r"command line: unknown key 'run\.worker'; the nearest is 'workers'"),
        (["train.epochs=3", "train.epochs.x=3"], "already has a value"),
    ],
)
def test_a_fault_on_the_command_line_is_named(tmp_path, words, message):
    path = write(tmp_path, MINIMAL)
    with pytest.raises(UserError, match=message):
        loading.resolve(path, "demo_cross", loading.parse_overrides(words))


def test_a_resolved_configuration_reads_back_to_the_same(tmp_path):
    config = loading.resolve(write(tmp_path, MINIMAL), "demo_cross", {"seed": 7})
    saved = tmp_path / "config.yaml"
    saved.write_text(loading.dump(config))
    assert loading.validated(RunConfig, loading.load_yaml(saved), "saved") == config


def test_a_fault_in_a_saved_configuration_is_named_where_it_stands_in_the_file():
    values = loading.resolve("clip", "demo_cross").model_dump(by_alias=True)
    values["detector"]["train"]["epoch"] = 3
    with pytest.raises(UserError, match=r"config\.yaml: unknown key 'detector\.train\.epoch'"):
        loading.validated(RunConfig, values, "config.yaml")


def test_data_folders_come_from_the_root_or_one_by_one(tmp_path, monkeypatch):
    monkeypatch.delenv("RESPROTO_DATA", raising=False)
    with pytest.raises(UserError, match=r"neither data\.root nor data\.json_dir"):
        loading.data_folders(DataConfig())
    with pytest.raises(UserError, match="holds no dataset_json"):
        loading.data_folders(DataConfig(root=str(tmp_path)))
    with pytest.raises(UserError, match=r"data\.root: no folder"):
        loading.data_folders(DataConfig(root=str(tmp_path / "absent")))
    (tmp_path / "dataset_json").mkdir()
    monkeypatch.setenv("RESPROTO_DATA", str(tmp_path))
    assert loading.data_folders(DataConfig()) == {"json": tmp_path / "dataset_json", "lmdb": None, "rgb": None}
    with pytest.raises(UserError, match=r"data\.lmdb_dir: no folder"):
        loading.data_folders(DataConfig(lmdb_dir=str(tmp_path / "nowhere")))


THEIRS = {
    "model_name": "xception",
    "train_dataset": ["FF-DF"],
    "test_dataset": "Celeb-DF-v2",
    "frame_num": {"train": 8, "test": 32},
    "nEpochs": 9,
    "train_batchSize": 16,
    "resolution": 256,
    "mean": [0.5, 0.5, 0.5],
    "optimizer": {"type": "adam", "adam": {"lr": 0.0002, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0005}},
    "metric_scoring": "auc",
}


def test_a_deepfakebench_yaml_is_translated_and_what_has_no_effect_is_named():
    name, changes, unused = deepfakebench.translate(THEIRS, "their.yaml")
    config = loading.resolve(name, "ffpp_c23_cross", changes)
    assert config.detector.train.epochs == 10
    assert config.detector.train.optimizer.lr == 2e-4
    assert config.detector.input.size == 256
    assert config.protocol.train == ["FF-DF"]
    assert config.protocol.test == ["Celeb-DF-v2"]
    assert (config.protocol.frames.train, config.protocol.frames.test) == (8, 32)
    assert unused == ["metric_scoring"]


def test_a_key_may_stand_twice_in_a_deepfakebench_yaml_as_in_many_of_its_own(tmp_path):
    from resproto_fd.training.commands import arguments

    parser = argparse.ArgumentParser()
    arguments.add_shared(parser)
    for text, refused in (("model_name: meso4\nnEpochs: 3\nnEpochs: 4\n", False), ("detector: timm\n" * 2, True)):
        (tmp_path / "made.yaml").write_text(text)
        args = parser.parse_args(["--detector_path", str(tmp_path / "made.yaml")])
        with pytest.raises(UserError, match="'detector' stands twice") if refused else nullcontext():
            assert arguments.run_config(args).detector.train.epochs == 5


def test_a_deepfakebench_yaml_of_an_unknown_model_is_refused():
    with pytest.raises(UserError, match="model_name 'xceptoin' is no detector here; the nearest is 'xception'"):
        deepfakebench.translate({"model_name": "xceptoin"}, "their.yaml")


def dead_fields():
    """Fields of the schema that no module reads."""
    from pathlib import Path

    from resproto_fd.configs import schema

    root = Path(__file__).resolve().parents[1]
    text = "\n".join(
        path.read_text()
        for folder in ("configs", "trainer", "training", "detectors")
        for path in (root / folder).glob("*.py")
    )
    models = [
        schema.InputConfig,
        schema.OptimizerConfig,
        schema.ScheduleConfig,
        schema.TrainConfig,
        schema.DatasetConfig,
    ]
    models += [schema.Frames, schema.Selection, schema.ProtocolConfig, schema.DataConfig, schema.RunSettings]
    documentary = {"title", "paper", "source", "note"}
    fields = {field for model in models for field in model.model_fields} - documentary
    return sorted(field for field in fields if text.count(f".{field}") == 0 and f'"{field}"' not in text)


def test_no_field_of_the_schema_is_dead():
    indirect = {"json_dir", "lmdb_dir", "rgb_dir"}  # read as f"{kind}_dir"
    assert set(dead_fields()) <= indirect
