"""Cells of sweeps: the run folder and the specification that each stands for, and what its files tell of it."""

import json
import re
from pathlib import Path

import pytest
from made_runs import configuration_of, put_checkpoint, put_result, shipped, sweep
from tiny import quick_and_slow

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.registry import detector_class
from resproto_fd.training.calibration import FAILED
from resproto_fd.training.results import Selection
from resproto_fd.training.settings import folder_of
from resproto_fd.training.sweeps.cells import cells_of, fault_in, state
from resproto_fd.training.sweeps.plan import plan_of, text_of
from resproto_fd.training.sweeps.run import _record, _why_failed, measured_peak, run_sweep
from resproto_fd.training.sweeps.scheduler import Job

SHIPPED = ("deepfakebench", "demo", "resproto_tables", "seeds_methods")


@pytest.mark.parametrize("name", quick_and_slow(SHIPPED, ["demo", "deepfakebench"]))
def test_every_cell_of_the_shipped_sweeps_is_a_run_of_its_own(name):
    assert {*SHIPPED} == {*loading.names("sweeps")}
    cells = shipped(name)
    assert len({cell.digest for cell in cells}) == len({cell.folder for cell in cells}) == len(cells) >= 12
    assert {cell.folder.split("/")[0] for cell in cells} <= {*loading.names("protocols")}


@pytest.mark.parametrize("name", ["demo", *(pytest.param(n, marks=pytest.mark.slow) for n in SHIPPED if n != "demo")])
def test_training_names_its_run_folder_as_the_cell_does(name):
    for cell in shipped(name):
        config = configuration_of(cell, "RUNS")
        assert folder_of(config).as_posix() == f"RUNS/{cell.folder}"
        assert (config.seed, config.run.device) == (cell.seed, "cuda" if cell.needs.cards else "cpu")


def test_runs_that_several_tables_share_stand_once():
    cells = shipped("resproto_tables")
    own = sorted({cell.task for cell in cells if cell.detector == "resproto_fd"})
    assert own == [
        "",  # Tables 2 to 4; "V, G" of Table 5; gamma 0.99 of Table 7; K = 64 of Figure 4
        "gamma=0.9",
        "gamma=0.95",
        "gamma=1.0",
        "grp=false",
        "grp=false+loss=ce",
        "grp=false+loss=ce+residual=false",
        "grp=false+residual=false",
        "loss=ce+residual=false",
    ]
    assert len(cells) == 3 * (len(own) + 17)


def test_an_override_that_states_the_default_makes_no_other_run():
    plain, *others = cells_of(
        sweep(
            {"detectors": ["resproto_fd"]},
            {"detectors": ["resproto_fd"], "overrides": {"model.top_k": [64, 16], "train.precision": ["fp32"]}},
            {"detectors": ["resproto_fd"], "overrides": [["model.top_k=0x10"], ["train.batch_size=32"]]},
        )
    )
    assert plain.overrides == () and [cell.task for cell in others] == ["top_k=16"]


def test_equal_cells_of_two_groups_and_repeated_seeds_stand_once():
    cells = cells_of(sweep({"seeds": [1, 0, 1]}, {}, seeds=[0, 2]))
    assert [cell.folder for cell in cells] == [f"demo_cross/clip_tiny/seed{seed}" for seed in (1, 0, 2)]


def test_settings_of_a_machine_change_neither_folder_nor_digest():
    (plain,), (other,) = (
        cells_of(sweep({"settings": words}, needs={"cards": 0}))
        for words in ([], ["run.workers=5", "run.save_every=7"])
    )
    assert (plain.folder, plain.digest) == (other.folder, other.digest)
    assert (other.needs.cpus, other.threads) == (6, 1)
    assert {"run.workers=5", "run.save_every=7", "run.device=cpu"} <= {*other.words("RUNS")}


def test_a_changed_protocol_or_recipe_is_another_cell():
    words = [[], ["protocol.share=0.5"], ["train.epochs=3"], ["run.max_steps=4"], ["model.backbone={embed_dim: 8}"]]
    cells = cells_of(sweep({"overrides": words}))
    assert len({cell.folder for cell in cells}) == len({cell.digest for cell in cells}) == 5
    assert [cell.task for cell in cells[:4]] == ["", "", "epochs=3", "max_steps=4"]
    assert cells[1].folder.startswith("demo_cross-custom-")
    assert set(cells[4].task) & set('{}":') == set()


def test_words_of_the_command_line_change_every_cell():
    (cell,) = cells_of(sweep({"overrides": [["train.epochs=3"]]}), typed=["train.epochs=5", "data.root=/data"])
    assert (cell.overrides, cell.settings, cell.epochs) == (("train.epochs=5",), ("data.root=/data",), 5)


def test_a_detector_without_anything_to_train_has_no_epochs():
    group = {"detectors": ["clip_zero_shot_tiny", "clip_tiny"], "overrides": [["train.epochs=3"]]}
    assert [cell.epochs for cell in cells_of(sweep(group))] == [0, 3]


def test_a_detector_and_a_protocol_of_the_users_lie_beside_the_sweep(tmp_path):
    (tmp_path / "mine.yaml").write_text("detector: clip\ntrain: {epochs: 2}\n")
    (tmp_path / "own.yaml").write_text("train: [A]\nselection: {rule: last}\ntest: [B]\n")
    (cell,) = cells_of(sweep({"detectors": ["mine.yaml"], "protocols": ["./own.yaml"]}), tmp_path)
    assert (cell.detector, cell.folder, cell.epochs) == (str(tmp_path / "mine.yaml"), "own/mine/seed0", 2)
    before = cell.digest
    (tmp_path / "mine.yaml").write_text("detector: clip\nnote: in other words\ntrain: {epochs: 2}\n")
    assert cells_of(sweep({"detectors": ["mine.yaml"], "protocols": ["own.yaml"]}), tmp_path)[0].digest == before


@pytest.mark.parametrize(
    "group, message",
    [
        ({"detectors": ["clip_tyni"]}, "no detector is called 'clip_tyni'; the nearest is 'clip_tiny'"),
        ({"protocols": ["demo_corss"]}, "no protocol is called 'demo_corss'"),
        ({"overrides": [["model.to_k=3"]]}, "model.to_k"),
        ({"overrides": [["train.epochs"]]}, "expected key=value, got 'train.epochs'"),
        ({"overrides": [["seed=3"]]}, "which a sweep sets itself; set seeds: instead"),
        ({"settings": ["run.out=x"]}, "which a sweep sets itself; set --out instead"),
        ({"settings": ["data.root=/x"]}, "belongs to a machine; type it after the command"),
        ({"overrides": {"data": [{"root": "/x"}]}}, "belongs to a machine"),
        ({"overrides": {"run": [{"out": "/x"}]}}, "which a sweep sets itself; set --out"),
        ({"settings": ["run.encode_once=/x"]}, "expected true or false, got 'run.encode_once=/x'"),
        ({"settings": ["run={encode_once: /x}"]}, "type a folder after the command"),
        ({"overrides": [["=1"]]}, "not of the form key=value"),
    ],
)
def test_what_is_wrong_in_a_sweep_is_named_with_its_place(group, message):
    with pytest.raises(UserError) as error:
        cells_of(sweep(group))
    assert message in str(error.value) and "made: cells.0" in str(error.value)


def test_a_mapping_of_settings_reaches_the_run_like_single_ones():
    (cell,) = cells_of(sweep({"settings": ["run={workers: 3, encode_once: true}"]}))
    assert (cell.workers, cell.needs.cpus) == (3, 4)
    assert "run={workers: 3, encode_once: true}" in cell.words("RUNS")
    (cell,) = cells_of(sweep({}), typed=["run.encode_once=/kept"])
    assert "run.encode_once=/kept" in cell.words("RUNS")


def test_words_of_one_list_may_not_contradict_each_other_and_those_of_a_later_one_override():
    twice = ["train.epochs=3", "train.epochs=5"]
    for group in ({"settings": twice}, {"overrides": [twice]}):
        with pytest.raises(UserError, match=r"made: cells\.0.*'train.epochs=3' and 'train.epochs=5' contradict"):
            cells_of(sweep(group))
    with pytest.raises(UserError, match="contradict"):
        cells_of(sweep({}), typed=twice)
    layers = {"settings": ["train.optimizer={name: sgd, lr: 1e-2}", "run.workers=5", "run.progress=true"]}
    (cell,) = cells_of(sweep(layers), typed=["train.optimizer.lr=1e-3", "run.workers=1"])
    config = configuration_of(cell, "RUNS")
    assert (config.detector.train.optimizer.lr, config.run.workers, config.run.progress) == (1e-3, 1, True)
    assert "run.workers=5" not in cell.words("RUNS")


def test_a_sweeps_file_may_not_name_code():
    group = {"detectors": ["deepfakebench_class"], "overrides": [["model.target=evil:Class"]]}
    with pytest.raises(UserError, match="--trust-code"):
        cells_of(sweep(group))
    (cell,) = cells_of(sweep(group), trust_code=True)
    assert "--trust-code" in cell.words("RUNS")
    del group["overrides"]
    (cell,) = cells_of(sweep(group), typed=["model.target=mine:Class"])
    assert "--trust-code" not in cell.words("RUNS")


def test_two_yamls_of_one_name_are_refused(tmp_path):
    for folder, epochs in (("a", 2), ("b", 3)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.yaml").write_text(f"detector: clip\ntrain: {{epochs: {epochs}}}\n")
    with pytest.raises(UserError, match=r"would have the run folder demo_cross/mine/seed0: .*a/mine.yaml"):
        cells_of(sweep({"detectors": ["a/mine.yaml", "b/mine.yaml"]}), tmp_path)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"cards": 1.5}, "expected a whole number of cards"),
        ({"cards": -1}, "greater than or equal to 0"),
        ({"cpus": 0}, "greater than 0"),
    ],
)
def test_needs_are_checked(values, message):
    with pytest.raises(UserError, match=message):
        sweep(needs=values)


@pytest.mark.parametrize("name", ["deepfakebench", "resproto_tables", "seeds_methods"])
def test_the_shipped_sweeps_state_their_whole_cost(name, tmp_path):
    config = loading.load("sweeps", name)
    plan = plan_of(config, shipped(name), tmp_path)
    assert plan.unknown == [] and all(row.seconds > 0 for row in plan.rows)
    assert plan.hours("to do", cards=True) > 10


# What the files tell


def test_the_state_of_a_cell_is_read_from_its_files(tmp_path):
    (cell,) = cells_of(sweep())
    assert state(cell, tmp_path) == "to do"
    put_checkpoint(cell, tmp_path)
    assert state(cell, tmp_path) == "broken"
    cell.failed_file(tmp_path).parent.mkdir(parents=True)
    cell.failed_file(tmp_path).write_text("{}")
    assert state(cell, tmp_path) == "failed"
    put_result(cell, tmp_path)
    (Path(tmp_path, cell.folder) / FAILED).write_text("one class")
    assert state(cell, tmp_path) == "done"


@pytest.mark.parametrize(
    "record",
    ["", "[]", "[" * 100_000, '{"text": 9' + "9" * 5000 + "}", "\ud800"],
    ids=["empty", "list", "nested", "number", "surrogate"],
)
def test_a_damaged_record_says_that_it_cannot_be_read(tmp_path, record):
    (cell,) = cells_of(sweep())
    file = cell.failed_file(tmp_path)
    file.parent.mkdir(parents=True)
    file.write_text(record, "utf-8", "surrogatepass")
    assert _why_failed(tmp_path, cell) == "it failed; its record cannot be read"
    (file.parent / "result.json").write_text(record, "utf-8", "surrogatepass")
    assert measured_peak(file.parent) is None


def test_why_a_cell_failed_is_read_back_whatever_its_log_holds(tmp_path):
    (cell,) = cells_of(sweep())
    _record(tmp_path, Job(cell, state="failed", text="a\0b \ufffd \x1b[0m é"))
    assert _why_failed(tmp_path, cell) == "a\ufffdb \ufffd \x1b[0m é"


def test_a_cell_that_was_killed_before_its_calibration_is_begun_and_not_done(tmp_path):
    (cell,) = cells_of(sweep())
    put_checkpoint(cell, tmp_path)
    put_result(cell, tmp_path)
    assert state(cell, tmp_path) == "broken"
    (Path(tmp_path, cell.folder) / "calibration.json").write_text("{}")
    assert state(cell, tmp_path) == "done"


def test_a_cell_that_keeps_no_checkpoint_is_not_trained_again_for_its_calibration(tmp_path):
    (cell,) = cells_of(sweep())
    put_result(cell, tmp_path)
    assert state(cell, tmp_path) == "done"


def test_a_cell_of_clips_needs_a_calibration_too(tmp_path):
    (cell,) = cells_of(sweep({"detectors": ["stil"]}))
    put_checkpoint(cell, tmp_path)
    put_result(cell, tmp_path)
    assert cell.frames > 1 and state(cell, tmp_path) == "broken"


def test_a_test_of_an_unfinished_runs_weights_does_not_make_it_done(tmp_path):
    (cell,) = cells_of(sweep())
    put_result(cell, tmp_path, train_images=None)
    assert state(cell, tmp_path) == "to do"
    put_checkpoint(cell, tmp_path)
    assert state(cell, tmp_path) == "broken"


def test_a_folder_of_another_run_is_named_with_what_differs(tmp_path):
    (cell,) = cells_of(sweep())
    (other,) = cells_of(sweep({"overrides": [["train.batch_size=8", "train.optimizer.lr=0.5"]]}))
    path = put_result(other, tmp_path)
    path.rename(Path(tmp_path, cell.folder).parent.mkdir(parents=True) or tmp_path / "moved.json")
    Path(tmp_path, cell.folder).mkdir()
    (tmp_path / "moved.json").rename(Path(tmp_path, cell.folder, "result.json"))
    with pytest.raises(UserError) as error:
        state(cell, tmp_path)
    text = str(error.value)
    assert "train.batch_size: saved with 8, now 16" in text and "lr: saved with 0.5" in text
    assert cell.folder in text and "--out" in text


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"source": "submitted", "selected_on": Selection(rule="given")}, "submitted scores"),
        ({"selected_on": Selection(rule="given")}, "a test of other weights"),
        ({"overrides": ["trained_under=demo_multi"]}, "a test of other weights"),
    ],
)
def test_a_result_that_is_not_of_the_cells_training_is_refused(changes, message, tmp_path):
    (cell,) = cells_of(sweep())
    put_result(cell, tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        state(cell, tmp_path)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    (cell,) = cells_of(sweep())
    put_checkpoint(cell, tmp_path)
    config = configuration_of(cell, tmp_path)
    saved = loading.with_changes(config.model_dump(by_alias=True), {"train": {"epochs": 9}})
    Path(tmp_path, cell.folder, "config.yaml").write_text(loading.dump(saved))
    with pytest.raises(
        UserError, match=r"config.yaml: is of a run with other settings[^$]*epochs: saved with 9, now 4"
    ):
        state(cell, tmp_path)
    Path(tmp_path, cell.folder, "config.yaml").write_text(loading.dump(config))
    assert state(cell, tmp_path) == "broken"


def test_a_result_of_an_older_version_and_one_with_other_words_count(tmp_path):
    """Keys that are newer than the run are not compared, nor is what only describes a detector or a protocol."""
    (cell,) = cells_of(sweep())
    path = put_result(cell, tmp_path)
    content = json.loads(path.read_text())
    del content["config"]["detector"]["train"]["accumulate"], content["config"]["protocol"]["share"]
    content["config"]["detector"] |= {"note": "was worded so", "fidelity": None, "parameters": 1}
    content["config"]["protocol"] |= {"title": "was called so", "metrics": ["frame_auc"]}
    content["config"]["run"] |= {"workers": 7, "out": "elsewhere"}
    path.write_text(json.dumps(content))
    assert state(cell, tmp_path) == "done"


def test_a_damaged_result_is_a_failure_of_its_cell_unless_training_can_write_it_anew(tmp_path):
    (cell,) = cells_of(sweep())
    put_result(cell, tmp_path).write_text('{"half')
    assert state(cell, tmp_path) == "failed"
    assert re.search(r"result.json: not a readable result file: .*; or remove it, and", fault_in(cell, tmp_path))
    put_checkpoint(cell, tmp_path)
    assert (state(cell, tmp_path), fault_in(cell, tmp_path)) == ("broken", None)
    (Path(tmp_path, cell.folder) / "config.yaml").write_text("a: [")
    assert state(cell, tmp_path) == "failed"
    assert "config.yaml: not readable as YAML" in fault_in(cell, tmp_path)


def test_a_damaged_file_of_a_cell_costs_that_cell_alone(tmp_path, capsys):
    config = sweep(seeds=[0, 1])
    done, bad = cells_of(config)
    put_result(done, tmp_path)
    put_result(bad, tmp_path).write_text('{"half')
    plan = plan_of(config, [done, bad], tmp_path)
    assert [row.state for row in plan.rows] == ["done", "failed"]
    assert plan.status() == 1
    assert re.search(f"failed: {bad.folder}: .*result.json: not a readable result file", text_of(plan, tmp_path))
    assert run_sweep(config, [done, bad], tmp_path) == 1  # nothing is to do, so that no engine is needed
    assert re.search(f"failed: {bad.folder}: .*result.json: not a readable result file", capsys.readouterr().err)


def test_keywords_that_training_frames_fill_are_no_difference(tmp_path):
    """A run's record has the methods that its frames showed; a sweep does not look at frames."""
    keyword = "methods"
    assert detector_class("ucf").keywords_from_data[keyword] == "train_methods"
    (cell,) = cells_of(sweep({"detectors": ["ucf"]}))
    path = put_result(cell, tmp_path)
    content = json.loads(path.read_text())
    content["config"]["detector"]["model"][keyword] = ["real", "A", "B"]
    path.write_text(json.dumps(content))
    assert state(cell, tmp_path) == "done"
