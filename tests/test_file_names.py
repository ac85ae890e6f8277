"""Names that become files and folders: what is refused, what is made safe, and that nothing leaves `--out`."""

import json
import shutil

import pytest

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.file_names import fault_of, folded, hashed_name, plain_name, refuse_twin, safe_name, twins
from resproto_fd.training.board.collecting import collect
from resproto_fd.training.cli import main

USABLE = ["Celeb-DF-v2", "FaceForensics++", "000_003", "a b", "id0 (1)", "é", "图像", "console", "a.b", "x" * 200]
MORE_ODD = ("nul", ".x", "x/y", "\ud800")
ODD = ["", ".", "..", "../x", "/x", "a/b", "a\\b", "C:x", ".hidden", "end.", "end ", " x", "a\0b", "a\nb", "x" * 201]
ODD += ["é" * 101, "con", "NUL", "nul.npz", "Com1.x", "lpt9", "a*", "a?", 'a"', "a|b", "a<b", "\ud800"]


@pytest.mark.parametrize("name", USABLE)
def test_a_name_that_a_file_can_have_is_kept(name, tmp_path):
    assert fault_of(name) == "" and safe_name(name) == name == plain_name(name, "name")
    (tmp_path / f".{name}.npz.1234567.part").write_text("")


@pytest.mark.parametrize("name", ODD)
def test_another_name_is_refused_or_made_safe(name):
    with pytest.raises(UserError, match=r"video: expected a name that a file can have, got .*; rename it") as told:
        plain_name(name, "video", "rename it")
    assert len(str(told.value)) < 250
    assert fault_of(safe_name(name)) == ""


def test_safe_names_differ_wherever_the_names_do():
    names = [*ODD, "a_b", "x" * 202, "x" * 300, "é" * 102, "CON"]
    assert len({folded(safe_name(name)) for name in names}) == len(names)
    assert hashed_name("e\u0301") != hashed_name("é")


def test_names_are_twins_if_some_machine_takes_them_for_one():
    assert twins(["a", "A", "é", "e\u0301", "b", "ß", "SS", "a"]) == [("a", "A"), ("é", "e\u0301"), ("ß", "SS")]


def test_a_folder_beside_its_twin_is_refused_and_one_that_exists_is_not(tmp_path):
    (tmp_path / "Demo" / "a").mkdir(parents=True)
    refuse_twin(tmp_path / "Demo" / "a", levels=2)
    refuse_twin(tmp_path / "other" / "b", levels=2)
    for path in (tmp_path / "Demo" / "A", tmp_path / "demo" / "a"):
        with pytest.raises(UserError, match=r"differs in case or Unicode form alone.*use the same name"):
            refuse_twin(path, levels=2)
    (tmp_path / "demo").mkdir()
    refuse_twin(tmp_path / "demo" / "a", levels=2)


PROTOCOL = "name: {name}\ntrain: []\ntest: [{test}]\nselection: {{rule: last}}\n"


@pytest.mark.parametrize(
    "name", ["../../x", "a\0b", *(pytest.param(x, marks=pytest.mark.slow) for x in ("/abs", "a" * 300, *MORE_ODD))]
)
@pytest.mark.parametrize("what", ["protocol", "test set", "run.task", "--task_target", "detector", "protocol.name"])
def test_no_name_leads_out_of_the_folder_of_runs(demo, tmp_path, capsys, what, name):
    quoted, where = json.dumps(name), tmp_path / "deep" / "below"
    where.mkdir(parents=True)
    preset = where / "mine.yaml"
    preset.write_text(f"name: {quoted if what == 'detector' else 'mine'}\ndetector: chance\n")
    protocol = where / "tests.yaml"
    told = {"name": quoted if what == "protocol" else "mine", "test": quoted if what == "test set" else "Demo-A"}
    protocol.write_text(PROTOCOL.format(**told))
    words = {"run.task": [f"run.task={quoted}"], "--task_target": ["--task_target", name]}
    words["protocol.name"] = [f"protocol.name={quoted}"]
    before = sorted(tmp_path.rglob("*"))
    out = ["--out", str(where / "runs"), "run.device=cpu", "run.workers=0", f"data.root={demo}", *words.get(what, [])]
    assert main(["test", "--detector", str(preset), "--protocol", str(protocol), *out]) == 2
    told = capsys.readouterr().err
    assert "name" in told or "not readable as YAML" in told
    assert len(told) < 1000 + len(str(where))
    assert sorted(tmp_path.rglob("*")) == before


def test_two_test_sets_that_some_machine_takes_for_one_are_refused(tmp_path, capsys):
    (tmp_path / "p.yaml").write_text(PROTOCOL.format(name="p", test="Demo-A, demo-a"))
    assert main(["test", "--detector", "chance", "--protocol", str(tmp_path / "p.yaml")]) == 2
    assert "names 'Demo-A' and 'demo-a', which differ in case or Unicode form alone" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["run.out", "data.root", "data.json_dir"])
def test_a_path_with_a_nul_is_refused(key, capsys):
    words = ["test", "--detector", "chance", "--protocol", "demo_cross", f'{key}="a\\0b"']
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"value of {key}: not readable as YAML" in error and "expected text without NUL" in error


@pytest.mark.slow
def test_a_result_file_whose_test_sets_lead_elsewhere_is_left_out_of_the_board(demo, tmp_path):
    words = ["--detector", "chance", "--protocol", "demo_cross", f"data.root={demo}", "--out", str(tmp_path / "runs")]
    assert main(["test", *words, "run.device=cpu", "run.workers=0"]) == 0
    path = next(tmp_path.rglob("result.json"))
    shutil.copytree(path.parent / "scores", tmp_path / "elsewhere")
    result = json.loads(path.read_text())
    for name in ("../../../../../elsewhere/Demo-B", "x" * 300, "a\0b"):
        path.write_text(json.dumps({**result, "tests": {**result["tests"], name: result["tests"]["Demo-B"]}}))
        rows, problems, *_ = collect([tmp_path / "runs"])
        assert not rows and "expected" in problems[0].reason
