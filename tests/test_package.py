"""Guards of the layout: one namespace package, nothing heavy at start, nothing missing from the wheel."""

import ast
import doctest
import importlib
import json
import re
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("configs", "detectors", "losses", "preprocessing", "trainer", "training")
MODULES = {
    f"resproto_fd.{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}": path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "__init__.py" and path != ROOT / "detectors" / "deepfakebench.py"  # needs a DeepfakeBench checkout
}
BARE = {*FOLDERS, "tests"}


@cache
def parsed(path):
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def python_files():
    return [path for folder in (*FOLDERS, "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]


def test_no_file_imports_a_folder_by_its_bare_name():
    wrong, maybe = [], re.compile(rf"^\s*(?:from|import)\b.*\b(?:{'|'.join(BARE)})\b", re.M)
    for path in python_files():
        if not maybe.search(path.read_text(encoding="utf-8").replace("resproto_fd.", "resproto_fd_")):
            continue
        for node in ast.walk(parsed(path)):
            names = []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            wrong += [f"{path.relative_to(ROOT)}: {name}" for name in names if name.split(".")[0] in BARE]
    assert len(python_files()) > 20
    assert not wrong


def test_every_folder_with_an_init_is_listed_for_the_wheel():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = {
        ".".join(["resproto_fd", *path.parent.relative_to(ROOT).parts])
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    listed = ast.literal_eval(text.split("packages = ")[1].split("]")[0] + "]")
    mapped = text.split("[tool.setuptools.package-dir]")[1].split("[tool")[0]
    assert packages == set(listed)
    folders = {name: name.removeprefix("resproto_fd.").replace(".", "/") for name in packages}
    assert dict(re.findall(r'^"(.+)" = "(.+)"$', mapped, re.M)) == folders


def test_no_folder_of_modules_lacks_an_init():
    for folder in FOLDERS:
        for parent in {path.parent for path in (ROOT / folder).rglob("*.py")}:
            assert (parent / "__init__.py").is_file(), parent


LIGHT = [
    ["list"],
    ["--help"],
    ["manifest", "--help"],
    ["pack", "--help"],
    ["check", "--help"],
    ["faces", "--help"],
    ["list", "detectors"],
    ["train", "--help"],
    ["test", "--help"],
]


@pytest.fixture(scope="module")
def heavy():
    """The heavy modules that are loaded after each of the light commands, given one after the other in one process."""
    code = (
        "import json, sys\nfrom resproto_fd.training.cli import main\n"
        f"for words in {LIGHT!r}:\n"
        "    try: main(words)\n    except SystemExit: pass\n"
        "    loaded = {'torch', 'open_clip', 'timm', 'peft', 'sklearn', 'cv2', 'scipy'} & set(sys.modules)\n"
        "    print(json.dumps([words, sorted(loaded)]), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return {tuple(words): loaded for words, loaded in map(json.loads, ran.stderr.splitlines())}


@pytest.mark.parametrize("words", LIGHT)
def test_light_commands_import_nothing_heavy(words, heavy):
    assert heavy[tuple(words)] == []


def test_every_module_can_be_imported():
    assert len(MODULES) > 300
    for name in MODULES:
        importlib.import_module(name)


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if ">>>" in path.read_text(encoding="utf-8")])
def test_examples_in_docstrings_are_true(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert result.failed == 0


def test_no_module_of_training_hides_one_that_others_import():
    """`python training/train.py` puts that folder first on the path."""
    taken = sys.stdlib_module_names - {"test"}  # the standard library's own test suite, which nothing imports
    for path in (ROOT / "training").glob("*.py"):
        assert path.stem not in taken, path


def test_public_functions_and_classes_say_what_they_are():
    silent = []
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            tree = parsed(path)
            if not ast.get_docstring(tree):
                silent.append(str(path.relative_to(ROOT)))
            for node in tree.body:
                named = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
                if named and node.name not in ("add_arguments", "run") and not ast.get_docstring(node):
                    silent.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert not silent


def test_ci_runs_the_readmes_two_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line for line in readme.splitlines() if line.startswith("python3 -m venv .venv")]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert len(commands) == 2
    assert all(command in ci for command in commands)


def functions():
    """(file, function) of every function of the package and of the benchmarks."""
    for folder in (*FOLDERS, "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(parsed(path)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield path.relative_to(ROOT), node


@pytest.mark.slow
def test_no_function_is_longer_than_60_lines():
    found = [(path, node.name, node.end_lineno - node.lineno + 1) for path, node in functions()]
    assert len(found) > 1000
    assert not [each for each in found if each[2] > 60]


@pytest.mark.slow
def test_constructors_alone_have_more_than_seven_parameters():
    def count(arguments: ast.arguments) -> int:
        names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        return len(names) - (names[:1] in (["self"], ["cls"]))

    found = [node.name for _, node in functions() if node.name != "__init__" and count(node.args) > 7]
    assert not found


def test_half_of_the_detectors_files_have_fewer_than_100_lines():
    lengths = [
        len(text.splitlines())
        for path in (ROOT / "detectors").glob("*.py")
        if f'@register("{path.stem}")' in (text := path.read_text(encoding="utf-8"))
    ]
    assert len(lengths) > 40
    assert statistics.median(lengths) < 100
