"""The readers of YAML, JSON, CSV and npz: what they refuse, where they say it is, and how little memory it takes."""

import gc
import json
import os
import re
import socket
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from resproto_fd.configs.archives import DamagedArchive, check_archive
from resproto_fd.configs.errors import LONGEST_SHOWN, MissingFile, UnreadableFile, shown
from resproto_fd.configs.loading import load_yaml, parse_overrides, parse_yaml, resolve
from resproto_fd.configs.readers.csv_reader import read_csv
from resproto_fd.configs.readers.json_reader import LARGEST_MANIFEST, parse_json, read_json, read_json_lines
from resproto_fd.configs.readers.npz_reader import Kind, read_npz
from resproto_fd.configs.readers.text import is_number, read_text
from resproto_fd.preprocessing.manifest import listed_frames, read_manifest
from resproto_fd.preprocessing.store.beside_frames import decode_landmarks
from resproto_fd.training.cli import main
from resproto_fd.training.commands import predict
from resproto_fd.training.scores import MEMBERS

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
"""584 bytes or so; written out, 282 billion values."""


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: 1\n? [b]\n: c", r"line 2, column 3: expected a key that is a text or a number, got \['b'\]"),
        ("a: 2001-99-99", "line 1, column 4: '2001-99-99'"),
        ("a: !!int ''", "'' is no int"),
        ("a: !!bool x", "'x' is no bool"),
        ("a: " + "9" * 5000, r"'9+\.\.\.9+' is no int"),
        ("a: 0_1", "'0_1' is no int"),
        ("a: 1:30", "put a text in quotes"),
        ("a: 1e400", "finite"),
        ("a: .nan", "finite"),
        ("a: !!set {b}", "line 1, column 4: this mapping: values of kind set have no use here; remove !!set$"),
        ("a: !!omap [b: c]", "line 1, column 4: this sequence: values of kind omap have no use here"),
        ("a: !thing b", "line 1.*!thing"),
        ("---\na: b\n---\nc: d", "line 3.*single document"),
        ("a: b\na: c", "line 2, column 1: key 'a' stands twice"),
        ("a: &x [*x]", "'x' stands within itself"),
        ("[" * 40 + "]" * 40, "at most 32 levels"),
        (BOMB, "at most 200000 values"),
        ('a: "\\0"', "without NUL"),
        ("a\0b", "not readable"),
        ("a: \ud800", "not readable"),
    ],
)
def test_a_yaml_is_refused_with_its_place(text, message):
    with pytest.raises(UnreadableFile, match=message) as caught:
        parse_yaml(text, "x.yaml")
    assert str(caught.value).startswith("x.yaml: ") and len(str(caught.value)) < 800


def test_what_yaml_files_here_write_is_read():
    text = "a: 5e-7\nb: 1_000\nc: &x [1, two, null, true]\nd: *x\ne: 0x1f\nf: '0_1'\ng: ١\n"
    assert parse_yaml(text, "x") == {
        "a": 5e-7, "b": 1000, "c": [1, "two", None, True], "d": [1, "two", None, True], "e": 31, "f": "0_1", "g": "١",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "it is empty"),
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' stands twice"),
        ('[{"c": {"a": 1, "a": 1}}]', "key 'a' stands twice"),
        ('{"a": NaN}', "NaN is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ("[1e400]", "'1e400'"),
        ("[9223372036854775808]", "integer of 64 bits"),
        (f"[{'9' * 5000}]", "integer of 64 bits"),
        ('["\\ud800"]', r"lone surrogates, got '\\ud800'"),
        ('{"\\u0000": 1}', "NUL"),
        ("[" * 65 + "]" * 65, "at most 64 levels"),
        ("[" * 100_000 + "]" * 100_000, "at most 64 levels"),
        ('{"a": 1', "line 1, column 8"),
        ('{"a": 1}\n{"b": 2}', "line 2, column 1: Extra data"),
        ('["a\nb"]', "line 1, column 4: Invalid control character"),
    ],
)
def test_a_json_is_refused_with_its_place(text, message):
    with pytest.raises(UnreadableFile, match=message) as caught:
        parse_json(text, "x.json", "make it again")
    assert str(caught.value).startswith("x.json: ") and "make it again" in str(caught.value)


def test_a_json_beyond_its_memory_is_refused_before_it_is_parsed():
    text = b"[" + b"{}," * 100_000 + b"{}]"
    assert len(parse_json(text, "x")) == 100_001
    with pytest.raises(UnreadableFile, match="at most 1 MiB of memory"):
        parse_json(text, "x", largest=1 << 20)


def test_a_name_of_a_file_that_is_not_utf_8_is_read_where_names_are_kept():
    text = json.dumps({"source": "Set/\udcff.mp4"})
    assert parse_json(text, "x", file_names=True)["source"] == "Set/\udcff.mp4"
    for refused in (lambda: parse_json(text, "x"), lambda: parse_json('["\\ud800"]', "x", file_names=True)):
        with pytest.raises(UnreadableFile, match="surrogates"):
            refused()


def test_a_json_of_all_that_may_stand_in_one_is_read():
    value = {"a": [1, -2.5, 1e-300, True, None, "é臉\n\\ud800"], "": {"a": {}}, "n": 2**63 - 1, "😀": "\\u0000"}
    for ascii_only in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode(), "x") == value


@pytest.mark.parametrize("data, message", [
    (b"\xff\xfea\0", "got UTF-16"), (b"a\n\xe9", "line 2: expected UTF-8, got the byte 0xe9"),
    (b"a\nb\0", "line 2.*NUL"),
])  # fmt: skip
def test_text_in_another_encoding_is_refused_with_its_line(tmp_path, data, message):
    path = tmp_path / "x"
    path.write_bytes(data)
    for read in (lambda: read_text(path, 99), lambda: read_json(path), lambda: load_yaml(path)):
        with pytest.raises(UnreadableFile, match=message):
            read()
    with pytest.raises(UnreadableFile):
        list(read_csv(path).lines)


def test_the_byte_order_mark_of_windows_is_no_fault(tmp_path):
    (tmp_path / "x").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "x") == load_yaml(tmp_path / "x") == {"a": 1}
    assert list(read_json_lines(tmp_path / "x")) == [(1, {"a": 1})]


def test_what_is_no_readable_file_is_named(tmp_path):
    for read in (lambda path: read_text(path, 99), read_json, load_yaml, read_csv, lambda path: read_npz(path, {})):
        with pytest.raises(MissingFile, match="none: cannot be read: no such file"):
            read(tmp_path / "none")
        for path in (tmp_path, "a\0b"):
            with pytest.raises(UnreadableFile, match="cannot be read"):
                read(path)
    with pytest.raises(UnreadableFile, match="at most 5 bytes"):
        (tmp_path / "long").write_text("x" * 6)
        read_text(tmp_path / "long", 5)


NO_FILES = {
    "a folder": os.mkdir,
    "a pipe": os.mkfifo,
    "a socket": lambda path: socket.socket(socket.AF_UNIX).bind(path),
    "a device": lambda path: os.symlink("/dev/zero", path),
}


@pytest.mark.parametrize("what", NO_FILES)
def test_what_is_no_regular_file_is_refused_before_it_is_opened(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    NO_FILES[what]("x")
    npz = lambda path: read_npz(path, {})  # noqa: E731
    text, lines = lambda path: read_text(path, 99), lambda path: list(read_json_lines(path))
    for read in (text, read_json, lines, read_csv, load_yaml, npz):
        with pytest.raises(UnreadableFile, match=f"^x: cannot be read: expected a file, got {what}; "):
            read("x")
    with pytest.raises(DamagedArchive, match=f"expected a file, got {what}"):
        check_archive("x")


def test_links_to_files_and_lists_from_pipes_are_read(tmp_path):
    (tmp_path / "file").write_text('{"a": 1}')
    (tmp_path / "link").symlink_to("file")
    assert read_json(tmp_path / "link") == {"a": 1}
    for words in (["@/dev/fd/{}"], []), ([], ["/dev/fd/{}"]):
        ends = os.pipe()
        os.write(ends[1], b"a.png\n")
        os.close(ends[1])
        files, lists = ([word.format(ends[0]) for word in each] for each in words)
        with predict._places(files, lists) as places:
            assert places == ["a.png"]
        os.close(ends[0])


@pytest.mark.parametrize("text, message", [
    ("a,b,a\n1,2,3\n", "line 1: column 'a' stands twice"), ("", "lacks the column a"), ("b\n1\n", "lacks the column a"),
    ("a,b\n1\n", "line 2 has more or fewer fields"), ('a,b\n"1,2\n', "line 2"), ("a,b\n1,2\0\n", "line 2.*NUL"),
    ("a,b\n1,2\n" + "x" * 2_000_000, "line 3: expected at most"), ("a,b\n" + "x" * 200_000 + ",2", "field larger"),
])  # fmt: skip
def test_a_csv_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UnreadableFile, match=message):
        list(read_csv(tmp_path / "x.csv", ["a"]).lines)


def test_numbers_in_text_have_plain_digits():
    assert all(map(is_number, ["0", "1.", ".5", "-1e-3", "+2E5", "00.5"]))
    assert not any(map(is_number, ["", "0_1", "١", "nan", "inf", "1e", "0x1", " 1", "1\n", "9" * 401, "1e9999999"]))


def test_a_shown_value_is_short_also_if_its_repr_has_9_to_the_40_letters():
    deep = "x"
    for _ in range(40):
        deep = [deep] * 9
    values = [deep, "x" * 10**7, 10**5000, {"a": deep}, list(range(10**6)), "\ud800\0", {"x" * 999: 1}]
    assert all(len(shown(value)) <= LONGEST_SHOWN + 3 for value in values)
    assert all(shown(value).isprintable() for value in values)


@pytest.mark.parametrize("word, key", [
    ("seed=99999999999999999999999", "seed"), ("input.size=100000", "input.size"), ("run.workers=1000000", "workers"),
    ("train.optimizer.betas=[2, 3]", "betas.0"), ("train.optimizer.betas=[0.5]", "betas"), 
    ("input.std=[0, 1, 1]", "std"),
    ("train.optimizer.lr=1e300", "lr"), ("input.mean=[1e300, 0, 0]", "mean"), ("train.epochs=3000000000", "epochs"),
    ("title=" + BOMB, "title"), ("protocol.metrics=[]", r"metrics.*expected at least one metric, got none"),
    ("protocol.corruptions={jpeg: []}", "corruptions.*jpeg: expected at least one severity, 1 to 5, got none"),
])  # fmt: skip
def test_a_setting_out_of_bounds_is_refused_with_its_key(word, key):
    with pytest.raises(Exception, match=key) as caught:
        resolve("resnet_tiny", "demo_cross", parse_overrides([word]))
    assert type(caught.value).__name__ in ("UserError", "UnreadableFile") and len(str(caught.value)) < 2000


@pytest.mark.parametrize("word, message", [
    ("run.device=meta", "run.device: expected auto, cpu, cuda, cuda:N or mps, got 'meta'"),
    pytest.param(
        "protocol.share=1e-7", "protocol.share=1e-07 leaves none of the 36 training frames", marks=pytest.mark.slow
    ),
    pytest.param(
        "model.options={channels: [1]}",
        r"cannot score a picture of 128 x 128 pixels.*correct model\.\*",
        marks=pytest.mark.slow,
    ),
    pytest.param("model.dropout=5", r"dropout.*correct model\.\*", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_setting_that_cannot_work_is_refused_before_any_work(demo, tmp_path, capsys, word, message):
    command = ["train", "--detector", "resnet_tiny", "--protocol", "demo_cross", f"data.root={demo}", "run.workers=0"]
    assert main([*command, f"run.out={tmp_path}", word]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.rglob("config.yaml")) and not list(tmp_path.rglob("*.pt"))


def test_an_empty_entry_is_no_compression_level(tmp_path):
    path = tmp_path / "D.json"
    entry = {"label": "CelebDFv2_real", "frames": ["D/v/000.png"]}
    fakes = {"f": {**entry, "label": "CelebDFv2_fake"}}
    for table in ({"v": {}}, {"v": {}, "w": {}}, {"v": {}, "w": entry}):
        tables = {"CelebDFv2_real": {"test": table}, "CelebDFv2_fake": {"test": fakes}}
        path.write_text(json.dumps({"D": tables}))
        for read in (lambda: read_manifest(path, "D", split="test"), lambda: listed_frames(path)):
            with pytest.raises(Exception, match=r"video 'v' has the entry \{\}"):
                read()


IN_2_GIB = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from resproto_fd.configs.errors import UserError
from resproto_fd.configs import loading
from resproto_fd.preprocessing.manifest_layout import load_manifest
from resproto_fd.training.scores import ScoreTable
read = {"yaml": loading.load_yaml, "json": load_manifest, "npz": ScoreTable.load}[sys.argv[1]]
try:
    read(sys.argv[2])
except UserError as error:
    assert len(str(error)) < 2000
    sys.exit(2)
"""


def written(path, kind):
    """A file that would take many GiB if it were read without bounds."""
    if kind == "yaml":
        path.write_text("title:\n" + "".join(f"  {line}\n" for line in BOMB.splitlines()))
    elif kind == "json":
        with open(path, "wb") as file:
            file.write(b"[")
            for _ in range(100):
                file.write(b"{}," * 1_000_000)
            file.write(b"{}]")
    elif kind == "nested json":
        with open(path, "wb") as file:
            for _ in range(20):
                file.write(b'{"a":' * 1_000_000)
    elif kind == "sparse json":
        with open(path, "wb") as file:
            file.truncate(8 << 30)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name in sorted(name for name in MEMBERS if MEMBERS[name].needed and name not in ("score", "variant/")):
                with archive.open(f"{name}.npy", "w") as file:
                    np.save(file, np.zeros(3))
            with archive.open("score.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(
                    file, {"descr": "<f8", "fortran_order": False, "shape": (1 << 28,)}
                )
                for _ in range(32):
                    file.write(bytes(64 << 20))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["yaml", "json", "nested json", "sparse json", "npz"])
def test_two_gib_are_enough_to_refuse_any_file(tmp_path, kind):
    path = tmp_path / "bomb"
    written(path, kind)
    command = [sys.executable, "-c", IN_2_GIB, kind.split()[-1], str(path)]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    run = subprocess.run(command, env={**os.environ, **one}, capture_output=True, text=True)
    assert run.returncode == 2, run.stderr
    path.unlink()


@pytest.mark.slow
def test_a_manifest_of_the_size_of_dfdc_is_read(tmp_path):
    path = tmp_path / "DFDC.json"
    videos = {
        f"v{v:06d}": {
            "label": "DFDC_Real",
            "frames": [f"DFDC\\train\\frames\\v{v:06d}\\{i:03d}.png" for i in range(32)],
        }
        for v in range(100_000)
    }
    path.write_text(json.dumps({"DFDC": {"DFDC_Real": {"train": videos, "val": {}, "test": {}}}}))
    del videos
    assert LARGEST_MANIFEST == 4 << 30
    found = read_manifest(path, "DFDC", split="train")
    assert (len(found), sum(len(video.frames) for video in found)) == (100_000, 3_200_000)


def in_four_threads_at_once(work):
    """Results of forty calls, where every step of a thread may give way to another: also inside Python's parser."""
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()

    def give_way(phase, info):
        sum(range(30))

    gc.callbacks.append(give_way)
    try:
        gc.set_threshold(5)
        sys.setswitchinterval(1e-6)
        with ThreadPoolExecutor(4) as threads:
            return list(threads.map(work, range(40)))
    finally:
        gc.callbacks.remove(give_way)
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)


def test_arrays_are_read_in_many_threads_at_once(tmp_path):
    """Python 3.11 raises SystemError when two threads parse at once; later ones do not."""
    np.savez(tmp_path / "a.npz", **{name: np.arange(3) for name in "abcdefghij"})
    np.save(tmp_path / "points.npy", np.zeros((5, 2)))
    points, members = (tmp_path / "points.npy").read_bytes(), {name: Kind("i", 1) for name in "abcdefghij"}

    def read(_):
        return len(read_npz(tmp_path / "a.npz", members)) + len(decode_landmarks(points, "x"))

    assert set(in_four_threads_at_once(read)) == {15}


def test_an_npz_of_other_arrays_is_refused_by_name(tmp_path):
    path, known = tmp_path / "x.npz", {"a": Kind("f", 1), "b/": Kind("U", 1), "c": Kind("iu", 0, needed=False)}
    np.savez(path, **{"a": np.arange(3.0), "b/x": np.array(["é"]), "c": np.array(3)})
    found = read_npz(path, known)
    assert (found["a"].tolist(), found["b/x"].tolist(), int(found["c"])) == ([0, 1, 2], ["é"], 3)
    for arrays, message in [
        ({}, "lacks 'a'"),
        ({"a": np.arange(3)}, "array 'a': expected floats with 1 dimensions, got int64"),
        ({"a": np.zeros((2, 2))}, r"array 'a'.*\(2, 2\)"),
        ({"a": np.zeros(2), "d": np.zeros(2)}, "unknown array 'd'"),
        ({"a": np.zeros(2), "b/x": np.array([{}], object)}, "'b/x' holds pickled objects"),
        ({"a": np.zeros(2), "c": np.array(0.5)}, "array 'c'"),
        ({"a": np.zeros(2), "b": np.array(["x"])}, "unknown array 'b'"),
    ]:
        np.savez(path, **arrays)
        with pytest.raises(UnreadableFile, match=message):
            read_npz(path, known)
    np.savez_compressed(path, a=np.zeros(1 << 20))
    with pytest.raises(UnreadableFile, match="at most 1 MiB of arrays, got 8 MiB"):
        read_npz(path, known, largest=1 << 20)
    by_columns = np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3))
    np.savez(path, a=by_columns)
    assert np.array_equal(read_npz(path, {"a": Kind("f", 2)})["a"], by_columns)
