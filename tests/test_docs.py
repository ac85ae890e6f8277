"""README, CONTRIBUTING and docs/: every command is run or checked, and the site is whole."""

import argparse
import ast
import contextlib
import importlib
import importlib.util
import inspect
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

from resproto_fd.configs import loading
from resproto_fd.detectors.registry import check_model, class_names, detector_class
from resproto_fd.preprocessing.arrangers import DESCRIPTIONS
from resproto_fd.training.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]*?) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$", re.M | re.S)
SCRIPTS = {"training/train.py": "train", "training/test.py": "test", "resproto_fd.training.train": "train"}
needs_mkdocs = pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    mark: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@cache
def blocks_of(page: str, text: str) -> tuple[Block, ...]:
    found = BLOCK.finditer(text)
    return tuple(
        Block(page, text.count("\n", 0, m.start()) + 1, m["mark"] or "", m["language"], m["text"]) for m in found
    )


@cache
def written() -> dict[str, str]:
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in WRITTEN}


@cache
def made() -> dict[str, str]:
    """The pages that docs/generate.py makes; none without mkdocs, which it imports."""
    if importlib.util.find_spec("mkdocs") is None:
        return {}
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module("generate").pages()
    finally:
        sys.path.remove(str(DOCS))


def all_blocks(*languages: str) -> list[Block]:
    pages = {**written(), **{f"(made) {name}": text for name, text in made().items()}}
    return [block for page, text in pages.items() for block in blocks_of(page, text) if block.language in languages]


def page_text(block: Block) -> str:
    return written().get(block.page) or made()[block.page.removeprefix("(made) ")]


# Every block is run, or says why not


def test_every_command_block_is_run_or_says_why_not():
    known = re.compile(r"run|run: .+|not run: .+|file: \S+")
    silent = [
        str(block)
        for page, text in written().items()
        for block in blocks_of(page, text)
        if block.language in ("bash", "python") and not known.fullmatch(block.mark)
    ]
    assert len(all_blocks("bash")) > 100 and not silent


def command_lines(block: Block) -> list[list[str]]:
    """The words of each command of a block that is one of this package."""
    lines = []
    if block.text.startswith("#!"):  # a whole script
        return lines
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((i for i, word in enumerate(words) if word in ("&&", "|", ";")), len(words))
            one, words = words[:end], words[end + 1 :]
            if "resproto" in (names := [Path(word).name for word in one]):
                lines.append(one[names.index("resproto") + 1 :])
            elif script := next((word for word in one if word in SCRIPTS), None):
                lines.append([SCRIPTS[script], *one[one.index(script) + 1 :]])
    return lines


def fault_of(words: list[str], block: Block) -> str:
    """What the parser, the schema or the lists of names object to; empty if nothing."""
    if words[0] not in COMMANDS:
        return f"no command {words[0]}"
    command = importlib.import_module(f"resproto_fd.{COMMANDS[words[0]][0]}")
    parser, errors = argparse.ArgumentParser(), io.StringIO()
    command.add_arguments(parser)
    try:
        with contextlib.redirect_stderr(errors):
            args, rest = parser.parse_known_args(words[1:])
    except SystemExit:
        return errors.getvalue()
    settings = list(getattr(args, "settings", []))
    settings += [word for word in rest if "=" in word and not word.startswith("-")]
    if unknown := [word for word in rest if word not in settings]:
        return f"unknown words {unknown}"
    return names_fault(words[0], args, settings, block)


def names_fault(command: str, args: argparse.Namespace, settings: list[str], block: Block) -> str:
    text = page_text(block)
    own = set(re.findall(r'@register\("(\w+)"\)|(\w+)\.json', text))
    own = {name for pair in own for name in pair}
    detectors = {*loading.names("detectors"), *class_names(), *own}
    protocols, sets = {*loading.names("protocols")}, {*loading.names("datasets"), *own}
    if command == "manifest":
        known = {*DESCRIPTIONS, "DF40", "folders", "csv", "adopt"}
        return "" if args.dataset in known else f"no arranger {args.dataset}"
    detector = getattr(args, "detector", None) or getattr(args, "detector_path", None)
    protocol = getattr(args, "protocol", None)
    if command in ("train", "test") and detector and detector not in detectors and not detector.endswith(".yaml"):
        return f"no detector {detector}"
    if protocol and protocol not in protocols and not (protocol.endswith(".yaml") and protocol in text):
        return f"no protocol {protocol}"
    given = [*(getattr(args, "train_dataset", None) or []), *(getattr(args, "test_dataset", None) or [])]
    if unknown := [name for name in given if "=" not in name and name not in sets]:
        return f"no data set {unknown}"
    if command in ("train", "test", "demo"):
        settings = [*settings, *(word for word in given if "=" in word)]
        detector = detector if detector in loading.names("detectors") else "resproto_fd"
        protocol = protocol if protocol in protocols else "ffpp_c23_cross"
        check_model(loading.resolve(detector, protocol, loading.parse_overrides(settings)).detector)
    return ""


@pytest.mark.slow
def test_every_command_in_the_pages_is_understood_by_the_real_parsers():
    faults, checked = [], 0
    for block in all_blocks("bash"):
        for words in command_lines(block):
            checked += 1
            try:
                fault = fault_of(words, block)
            except Exception as error:
                fault = str(error)
            if fault:
                faults.append(f"{block}: {' '.join(words)}: {fault}")
    assert checked > 100
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "line",
    [
        "resproto train --detector no_such_detector --protocol ffpp_c23_cross",
        "resproto train --detector xception --protocol no_such_protocol",
        "resproto train --detector xception --test_dataset NoSuchSet",
        "resproto train --detector xception --no_such_flag",
        "resproto train --detector xception train.epoch=3",
        "resproto train --detector xception model.no_such_key=3",
        "resproto manifest NoSuchSet --root a",
        "resproto no_such_command",
        "python training/train.py --detector xception --no_such_flag",
    ],
)
def test_a_stale_command_would_be_found(line):
    block = Block("README.md", 1, "", "bash", line + "\n")
    (words,) = command_lines(block)
    try:
        assert fault_of(words, block)
    except Exception as error:
        assert "no_such_key" in str(error) or "epoch" in str(error)


def test_commands_named_in_sentences_exist_and_have_the_flags_that_stand_with_them():
    faults = []
    for page, text in written().items():
        for words in map(str.split, re.findall(r"`(?:resproto) ([^`\n]+)`", BLOCK.sub("", text))):
            if words[0] == "COMMAND":
                continue
            if words[0] not in COMMANDS:
                faults.append(f"{page}: {words}")
                continue
            parser = argparse.ArgumentParser()
            importlib.import_module(f"resproto_fd.{COMMANDS[words[0]][0]}").add_arguments(parser)
            flags = [word for word in words if word.startswith("--")]
            faults += [f"{page}: {words}" for flag in flags if flag not in parser._option_string_actions]
    assert not faults


def test_protocols_and_keywords_named_in_sentences_exist():
    protocol_like = re.compile(r"`((?:ffpp|gid|multi|genface|mmidd|genimage|df40|demo)_\w+)`")
    faults, checked = [], 0
    for page, text in written().items():
        known = {*loading.names("protocols"), *loading.names("detectors"), "demo_data", "multi_attention"}
        faults += [f"{page}: {name}" for name in protocol_like.findall(text) if name not in known]
        if page.startswith("docs/methods/"):
            keywords = inspect.signature(detector_class(Path(page).stem)).parameters
            used = re.findall(r"\bmodel\.(\w+)", text)
            checked += len(used)
            faults += [
                f"{page}: model.{name}" for name in used if name not in {*keywords, "sample_pairs", "pretrained"}
            ]
    assert checked > 20 and not faults


def test_python_blocks_compile_and_import_what_exists():
    blocks = all_blocks("python")
    for block in blocks:
        for node in ast.walk(ast.parse(block.text, str(block))):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("resproto_fd"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), f"{block}: {node.module}"
    assert blocks


def test_yaml_blocks_fit_the_schemas():
    kinds = {"detector": "detectors", "json": "datasets", "train": "protocols", "cells": "sweeps"}
    checked = set()
    for block in all_blocks("yaml"):
        values = loading.parse_yaml(block.text, str(block))
        if "detector" not in values and (isinstance(values.get("train"), dict) or "input" in values):  # a part of one
            values = {"detector": "mine", **values}
        kind = next(kind for key, kind in kinds.items() if key in values)
        loading.validated(loading.KINDS[kind], values, str(block))
        checked.add(kind)
    assert checked == {*kinds.values()}


# Running them


def prepare_demo(folder: Path) -> None:
    assert main(["demo", "--size", "tiny", "--out", str(folder), "train.epochs=1", "run.save_features=true"]) == 0


def write_video(path: Path, images: list) -> None:
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], "yuv420p"
        for image in images:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        file.mux(stream.encode())


def prepare_celeb_videos(folder: Path) -> None:
    """Drawn people under Celeb-DF's names; those of the test videos are in no other video."""
    import cv2
    import numpy as np

    from resproto_fd.preprocessing.demo.data import DEMO_SETS, make_pair, plan

    names = {
        ("real", 0): ("Celeb-real/id0_0000", "Celeb-real/id2_0000"),
        ("real", 1): ("YouTube-real/00000", "YouTube-real/00001"),
        ("demo swap", 0): ("Celeb-synthesis/id0_id1_0000", "Celeb-synthesis/id2_id3_0000"),
    }
    top = folder / "videos" / "Celeb-DF-v2"
    for number, pair in enumerate(plan(DEMO_SETS[0], seed=0, size="default")[:2]):
        seen = Counter()
        for video, frames, _ in make_pair(pair):
            name = names.get((video.method, seen[video.method]))
            seen[video.method] += 1
            if name:
                images = [cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR) for png in frames]
                write_video(top / f"{name[number]}.mp4", images)
    listed = "".join(f"{int(method == 'real')} {name[1]}.mp4\n" for (method, _), name in names.items())
    (top / "List_of_testing_videos.txt").write_text(listed)


PREPARED = {"after the demo": prepare_demo, "made Celeb-DF videos": prepare_celeb_videos}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What a kind of page finds in its folder, made once."""
    folders = {}

    def get(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("prepared")
            PREPARED[kind](folders[kind])
        return folders[kind]

    return get


def runnable(text: str, page: str) -> list[Block]:
    return [block for block in blocks_of(page, text) if re.match(r"run\b|file:", block.mark)]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, text in written().items() if runnable(text, page)])
def test_a_pages_commands_run_in_order(page, tmp_path, prepared):
    blocks = runnable(written()[page], page)
    kinds = {block.mark.partition(": ")[2] for block in blocks if block.mark.startswith("run")}
    assert len(kinds) == 1, f"{page}: its blocks share a folder, which is one of {kinds}"
    if kind := kinds.pop():
        shutil.copytree(prepared(kind), tmp_path, dirs_exist_ok=True)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": programs, "OMP_NUM_THREADS": "1"}
    for block in blocks:
        if block.mark.startswith("file: "):
            (tmp_path / block.mark.removeprefix("file: ")).write_text(block.text)
            continue
        (tmp_path / "block.py").write_text(block.text)
        command = ["bash", "-euo", "pipefail", "-c", block.text] if block.language == "bash" else ["python", "block.py"]
        ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, f"{block}\n{block.text}\n{ran.stdout}\n{ran.stderr}"


# The site


@needs_mkdocs
@pytest.mark.parametrize("kind", ["detectors", "protocols", "datasets"])
def test_everything_that_has_a_name_has_a_page(kind):
    pages = made()
    if kind == "detectors":
        from site_pages.methods import grouped
        from site_pages.source import registered

        on_pages = {name for page, presets in grouped().items() for name in (page, *presets)}
        own = {name for name in class_names() if name not in loading.names("detectors")} & set(registered())
        wanted = {*loading.names("detectors"), *own}
        assert wanted <= on_pages and all(f"methods/{page}.md" in pages for page in grouped())
        assert {loading.load("detectors", name).detector for name in loading.names("detectors")} <= set(registered())
    else:
        from site_pages.markdown import file_name

        assert {f"{kind}/{file_name(name)}.md" for name in loading.names(kind)} <= set(pages)


@needs_mkdocs
def test_two_averages_of_a_published_table_have_two_columns():
    made()
    from site_pages.published import rows_of, tables_of

    text = "\n".join(tables_of(rows_of(["GenD"])))
    assert "| average (cross-dataset) |" in text and "| average (cross-manipulation) |" in text
    assert "| 0.923 |" in text and "| 0.958 |" in text
    assert "AUC of videos, which is assumed" in text


class Links(HTMLParser):
    """What a browser would fetch for a page by itself."""

    def __init__(self):
        super().__init__()
        self.fetched = []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.fetched.append(values.get("src"))
        if tag == "link" and values.get("rel") in ("stylesheet", "preload", "icon", "preconnect", "modulepreload"):
            self.fetched.append(values.get("href"))


@pytest.mark.slow
@needs_mkdocs
def test_the_site_builds_strictly_and_fetches_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_COLOR": "1"}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    for page in pages:
        links = Links()
        links.feed(page.read_text(encoding="utf-8"))
        assert not [url for url in links.fetched if url and re.match(r"(https?:)?//", url)], page
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"(@import|url\()[^;)]*//", sheet.read_text(encoding="utf-8")), sheet
    assert len(pages) > len(made())


def test_the_readmes_links_and_pictures_are_files_of_the_repository():
    for page in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)", written()[page]):
            assert (ROOT / target).is_file(), f"{page}: {target}"


def test_the_readme_is_short():
    assert len(written()["README.md"].splitlines()) <= 130
