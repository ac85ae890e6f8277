"""Configurations: every YAML loads, every fault names file, key and choices, one precedence holds."""

import argparse
import re
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
        ("detector: clip\nepochs: 3\n", r"mine\.yaml: unknown key 'epochs'; set train\.epochs"),
        ("detector: clip\ntrain: {epoch: 3}\n", r"unknown key 'train\.epoch'; the nearest is 'epochs'"),
        ("detector: clip\ntrain: {epochs: many}\n", r"key 'train\.epochs': .*integer, got 'many'"),
        ("detector: clip\ntrain: {epochs: true}\n", r"key 'train\.epochs'"),
        ("detector: clip\ntrain: {optimizer: {lr: -1.0}}\n", r"key 'train\.optimizer\.lr': .*greater than 0"),
        (
            "detector: clip\ntrain: {batch_size: 9, accumulate: 2}\n",
            "expected batch_size to be a multiple of accumulate=2, got 9",
        ),
        ("detector: clip\ninput: {mean: rgb}\n", "expected clip, imagenet, half or three numbers, got 'rgb'"),
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
        (["epochs=3"], r"unknown key 'epochs'; set train\.epochs; known here: .*input, model, .*train"),
        (["lr=0.1"], r"command line: unknown key 'lr'; set train\.optimizer\.lr; known here"),
        (["train.lr=0.1"], r"unknown key 'train\.lr'; set train\.optimizer\.lr; known here"),
        (["workers=1"], r"unknown key 'workers'; set run\.workers; known here"),
        (["run.worker=2"], r"command line: unknown key 'run\.worker'; the nearest is 'workers'"),
        (["train.epochs=3", "train.epochs.x=3"], "already has a value"),
    ],
)
def test_a_fault_on_the_command_line_is_named(tmp_path, words, message):
    path = write(tmp_path, MINIMAL)
    with pytest.raises(UserError, match=message):
        loading.resolve(path, "demo_cross", loading.parse_overrides(words))


CONTRADICTING = [
    ["train.epochs=3", "train.epochs=1"],
    ["train.optimizer.lr=1e-3", "train.optimizer={name: sgd}"],
    ["train.optimizer={name: sgd, lr: 1e-3}", "train.optimizer.lr=0.1"],
    ["detector.train.epochs=3", "train.epochs=1"],
    ["detector={train: {epochs: 3}}", "train.epochs=1"],
]


@pytest.mark.parametrize("words", CONTRADICTING, ids=" ".join)
def test_words_that_contradict_each_other_are_refused_on_one_line_and_override_in_layers(words):
    with pytest.raises(UserError) as error:
        loading.parse_overrides(words)
    assert f"'{words[0]}' and '{words[1]}' contradict each other; give one of them" in str(error.value)
    one_by_one = loading.resolve("clip_tiny", "demo_cross", loading.parse_overrides(*([word] for word in words)))
    line = loading.in_one_line(words)
    assert loading.resolve("clip_tiny", "demo_cross", loading.parse_overrides(line)) == one_by_one
    assert loading.in_one_line(["train", "--seed=1", *line, "run.workers=2"])[:2] == ["train", "--seed=1"]


def test_words_that_say_the_same_or_add_to_each_other_are_taken():
    said = loading.parse_overrides(
        ["train.epochs=3", "train.optimizer={name: sgd}", "train.optimizer.lr=1", "train.epochs=3"]
    )
    assert said == {"train": {"epochs": 3, "optimizer": {"name": "sgd", "lr": 1}}}


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


def test_a_deepfakebench_yaml_is_translated():
    name, changes, notes = deepfakebench.translate(THEIRS, "their.yaml")
    config = loading.resolve(name, "ffpp_c23_cross", changes)
    assert config.detector.train.epochs == 10
    assert config.detector.train.optimizer.lr == 2e-4
    assert config.detector.input.size == 256
    assert config.protocol.train == ["FF-DF"]
    assert config.protocol.test == ["Celeb-DF-v2"]
    assert (config.protocol.frames.train, config.protocol.frames.test) == (8, 32)
    assert config.protocol.selection.metric == "frame_auc"
    assert not notes


def translated(**changes):
    name, settings, notes = deepfakebench.translate({**THEIRS, **changes}, "their.yaml")
    return loading.resolve(name, "ffpp_c23_cross", settings), notes


def test_keys_of_a_deepfakebench_yaml_that_change_results_are_obeyed(tmp_path, monkeypatch):
    from resproto_fd.training.protocols import dataset_config

    protocol = translated(compression="c40", metric_scoring="eer", test_dataset=["UADFV", "DeepFakeDetection"])[
        0
    ].protocol
    assert (protocol.train, protocol.test) == (["FF-DF_c40"], ["UADFV", "DeepFakeDetection_c40"])
    assert protocol.selection.metric == "frame_eer"
    assert dataset_config("DeepFakeDetection_c40", tmp_path).compression == "c40"
    aug = {**deepfakebench.DATA_AUG, "rotate_prob": 0.0, "quality_lower": 90, "gridmask_prob": 0}
    augment = translated(use_data_augmentation=True, data_aug=aug)[0].detector.train.augment
    assert augment == {"deepfakebench": {"rotate_prob": 0.0, "quality_lower": 90}}
    assert (
        translated(use_data_augmentation=True, data_aug=deepfakebench.DATA_AUG)[0].detector.train.augment
        == "deepfakebench"
    )
    assert translated(use_data_augmentation=False, data_aug=aug)[0].detector.train.augment == "none"
    (tmp_path / "x.pth").touch()
    config, notes = translated(pretrained=str(tmp_path / "x.pth"))
    assert config.detector.model["pretrained"] == str(tmp_path / "x.pth") and not notes
    config, notes = translated(pretrained="./training/pretrained/gone.pth")
    assert config.detector.model["pretrained"] is True and "no file ./training/pretrained/gone.pth" in notes[0]
    # The file is looked for in the checkout that the YAML lies in, too.
    yaml = tmp_path / "training/config/detector/xception.yaml"
    settings = deepfakebench.translate({**THEIRS, "pretrained": "./x.pth"}, str(yaml))[1]
    assert settings["model"]["pretrained"] == str(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nEpochss": 1}, "their.yaml: nEpochss: unknown key; the nearest is 'nEpochs'"),
        ({"nEpochs": "9"}, "nEpochs: expected a whole number, got '9'"),
        ({"compression": "c4"}, "compression: expected raw, c23, c40, got 'c4'"),
        ({"lr_scheduler": "steps"}, "lr_scheduler: expected null, step, cosine or linear, got 'steps'"),
        ({"data_aug": {"rotate_probb": 0}}, "data_aug: unknown key 'rotate_probb'; the nearest is 'rotate_prob'"),
        ({"use_data_augmentation": True, "data_aug": {"blur_limit": [2, 4]}}, "blur_limit: expected odd"),
        ({"data_aug": 5}, "data_aug: expected a mapping, got 5"),
        ({"data_aug": {1: 2}}, "data_aug: expected keys that are texts, got 1"),
        ({"metric_scoring": ["auc"]}, r"metric_scoring: expected a text, got \['auc'\]"),
        ({"lr_scheduler": {}}, "lr_scheduler: expected a text, got {}"),
        ({"rgb_dir": 5}, "rgb_dir: expected a text, got 5"),
        ({"train_dataset": [["FF-DF"]], "compression": "c23"}, "train_dataset: expected a data set's name or a list"),
        ({"optimizer": {"type": "lion"}}, "optimizer: type 'lion'"),
        ({"optimizer": {"type": "adam", "adam": {"lr": 1e-3, "amsgrad": True}}}, "amsgrad: expected False, got True"),
        ({"optimizer": {"type": "adam", "adam": {"learning_rate": 1}}}, "unknown key 'learning_rate'"),
        ({"frame_num": {"tran": 8}}, "frame_num: expected {train: n, test: n}"),
        ({"backbone_config": {"dropout": 0.5}}, "backbone_config.dropout: expected False, .* got 0.5"),
        ({"loss_func": "focal"}, "loss_func: expected cross_entropy"),
        ({"mid_dim": 3}, "mid_dim: DeepfakeBench's xception has no such setting"),
        ({"start_epoch": 3}, "start_epoch: expected 0, got 3"),
        ({"SWA": True}, "SWA: expected False, got True"),
        ({"label_dict": 3}, "label_dict: expected a mapping of labels to 0 or 1, got "),
        ({"label_dict": {"FF-DF": 0}}, "label_dict: 'FF-DF' is fake here, got 0"),
        ({"metric_scoring": "aucc"}, "metric_scoring: expected auc, .*; the nearest is 'auc'"),
        ({"model_name": "i3d"}, "model_name 'i3d' is a detector of videos.*name ours instead: --detector i3d"),
        ({"model_name": "time_transformer"}, "is a detector of videos.*resproto list detectors"),
    ],
)  # fmt: skip
def test_keys_of_a_deepfakebench_yaml_that_cannot_be_obeyed_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        translated(**changes)


def test_a_schedule_is_obeyed_in_training_and_gives_way_to_one_that_is_said():
    values = {**THEIRS, "lr_scheduler": "step", "lr_step": 3, "lr_gamma": 0.4}
    config, notes = translated(**values)
    schedule = config.detector.train.schedule
    assert (schedule.name, schedule.step_epochs, schedule.gamma) == ("step", 3, 0.4)
    assert "DeepfakeBench reads this key and never changes the rate; set train.schedule.name=constant" in notes[0]
    for options in ({"trains": False}, {"given": {"train": {"schedule": {"name": "constant"}}}}):
        _, settings, notes = deepfakebench.translate(values, "their.yaml", **options)
        assert "schedule" not in settings["train"] and not notes


def test_data_given_here_go_before_the_folders_of_a_deepfakebench_yaml(tmp_path, monkeypatch):
    monkeypatch.delenv("RESPROTO_DATA", raising=False)
    foreign = {"lmdb_dir": "I:\\transform_2_lmdb", "dataset_json_folder": "/foreign", "rgb_dir": str(tmp_path)}
    _, settings, notes = deepfakebench.translate(THEIRS | foreign, "x.yaml", {"data": {"root": "here"}})
    assert "data" not in settings and not notes
    _, settings, notes = deepfakebench.translate(THEIRS | foreign, "x.yaml")
    assert settings["data"] == {"rgb_dir": str(tmp_path)}
    assert [note.partition(":")[0] for note in notes] == ["lmdb_dir", "dataset_json_folder"]
    _, settings, _ = deepfakebench.translate(THEIRS | foreign, "x.yaml", {"data": {"rgb_dir": "mine"}})
    assert "data" not in settings
    monkeypatch.setenv("RESPROTO_DATA", str(tmp_path))
    assert "data" not in deepfakebench.translate(THEIRS | foreign, "x.yaml")[1]


def test_every_image_detector_of_deepfakebench_takes_what_its_own_yaml_says():
    from resproto_fd.configs.deepfakebench_keys import check_keys, own_values

    assert len(own_values()) == 27 and {*own_values()} <= {*loading.names("detectors")}
    for name, values in own_values().items():
        check_keys({"model_name": name, **values}, name, "their.yaml")


def test_a_key_may_stand_twice_in_a_deepfakebench_yaml_as_in_many_of_its_own(tmp_path):
    from resproto_fd.training.commands import arguments

    parser = argparse.ArgumentParser()
    arguments.add_shared(parser)
    for text, refused in (("model_name: meso4\nnEpochs: 3\nnEpochs: 4\n", False), ("detector: timm\n" * 2, True)):
        (tmp_path / "made.yaml").write_text(text)
        args = parser.parse_args(["--detector_path", str(tmp_path / "made.yaml")])
        with pytest.raises(UserError, match="'detector' stands twice") if refused else nullcontext():
            assert arguments.run_config(args).detector.train.epochs == 5


def test_a_wrong_value_is_said_by_the_file_or_by_the_command_line_that_has_it(tmp_path):
    from resproto_fd.training.commands import arguments

    parser = argparse.ArgumentParser()
    arguments.add_shared(parser)
    path = tmp_path / "their.yaml"
    for text, words, where in (
        ("train_batchSize: 0", [], f"{path}: key 'train.batch_size'"),
        ("resolution: 0", ["train.batch_size=0"], "command line: key 'train.batch_size'"),
        ("resolution: 0", ["train.batch_size=0"], f"{path}: key 'input.size'"),
        ("frame_num: {train: x}", ["--seed", "1"], f"{path}: key 'protocol.frames.train'"),
        ("test_dataset: []", ["--out", "here"], f"{path}: key 'protocol'"),
        ("test_dataset: [UADFV, UADFV]", ["protocol.sampling=balanced"], "command line: key 'protocol'"),
        ("manualSeed: -1", ["run.worker=2"], "command line: unknown key 'run.worker'"),
    ):
        path.write_text(f"model_name: meso4\n{text}\n")
        args = parser.parse_args([*words, "--detector_path", str(path)])
        with pytest.raises(UserError, match=re.escape(where)):
            arguments.run_config(args)


def test_files_of_weights_are_found_where_deepfakebench_keeps_them(tmp_path):
    checkout = tmp_path / "checkout/training"
    (checkout / "pretrained").mkdir(parents=True)
    names = ("xception-b5690688", "efficientnet-b4-6ed6700e", "backbone", "resnet34-b627a593")
    names += ("hrnetv2_w48_imagenet_pretrained",)
    files = {name: str(checkout / f"pretrained/{name}.pth") for name in names}
    for file in files.values():
        open(file, "w").close()

    def model(name, **values):
        yaml = str(checkout / "config/detector" / f"{name}.yaml")
        return deepfakebench.translate({"model_name": name, **values}, yaml)[1].get("model")

    elsewhere = "/home/someone/DeepfakeBench/training/pretrained/xception-b5690688.pth"
    windows = "I:\\pretrained\\xception-b5690688.pth"
    for given in (elsewhere, windows, "./training/pretrained/xception-b5690688.pth"):
        assert model("ucf", pretrained=given) == {"pretrained": files["xception-b5690688"]}
        assert model("resnet34", pretrained=given) == {"pretrained": files["resnet34-b627a593"]}
        assert model("sbi", pretrained=given) == {"pretrained": files["efficientnet-b4-6ed6700e"]}
        assert model("facexray", pretrained=given) == {"pretrained": files["hrnetv2_w48_imagenet_pretrained"]}
    own = {"pretrained": elsewhere, "explicit_extractor_pretrained": "./training/pretrained/backbone.pth"}
    assert model("iid", **own) == {"pretrained": files["xception-b5690688"], "identity_weights": files["backbone"]}
    lsda = {"pretrained": files["efficientnet-b4-6ed6700e"], "real_weights": "random", "train_real": True}
    assert model("lsda", real_encoder=None) == lsda
    assert model("recce", pretrained=elsewhere) is None  # its network has weights of its own there


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
        for path in (root / folder).rglob("*.py")
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
