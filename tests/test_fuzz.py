"""Readers may refuse a file, and do nothing else: what once broke them, and files spoiled by Hypothesis."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))
fuzz = importlib.import_module("fuzz")
sys.path.remove(str(FOLDER))
READERS = fuzz.readers()

THEIRS = b"model_name: ucf\n"
BROKE = [
    *(("detector", b"detector: clip\n" + text) for text in (
        b"? [a]\n: b", b"title: 2001-99-99", b"title: !!int ''", b"title: !!bool x", b"title: " + b"9" * 5000,
        b"title: !!timestamp x", b"title: !!float ''", b"? {a: b}\n: c", b"title: \"\\0\"", b"- a", b"title: &a [*a]",
        b"input: {size: 100000}", b"input: {mean: [.nan, 0, 0]}", b"train: {epochs: 0_1}", b"train: {epochs: 1:30}",
        b"model: " + b"[" * 5000, b"model: " + b"- " * 5000, b"title: \xe9", b"title: !!binary x", b"title: 1e400",
    )),
    *(("detector", text) for text in (b"", b"\0", b"\xff\xfea\0", b"---\na: b\n---\nc: d", b"[]", b"null")),
    *(("deepfakebench", THEIRS + text) for text in (
        b"optimizer: {type: adam, adam: {eps: x}}",
        b"optimizer: {1: 2}",
        b"nEpochs: x", b"nEpochs: {}", b"optimizer: adam", b"optimizer: {type: [a]}", b"optimizer: {adam: 3}",
        b"optimizer: {type: adam, adam: {lr: '0x'}}", b"optimizer: {type: adam, adam: {beta1: []}}", b"frame_num: 3",
    )),
    *(("setting", text) for text in (
        b"seed=99999999999999999999999", b"seed=" + b"9" * 5000, b"model=? [a]", b"seed=!!int ''", b"train.lr=\xff",
        b"model.x={a: &a [*a]}", b"train.optimizer.betas=[1]", b"run.workers=1000000", b"train.epochs=.inf",
    )),
    *(("manifest", text) for text in (
        b"[" * 100_000, b'{"D": ' * 500, b'{"D": {"real": {}, "real": {}}}', b'{"D": 1e400}',
        b'{"D": ' + b"9" * 5000 + b"}",
        b'{"D": {"CelebDFv2_real": {"test": {"v": {"frames": ["D/v/\\ud800.png"]}}}}}',
        b'{"D": {"CelebDFv2_real": {"test": {"v": {"frames": ["D/v/\\u0000.png"]}}}}}',
        b'{"D": {"CelebDFv2_real": {"test": {"v": {"frames": ["D/v/9223372036854775808.png"]}}}}}',
        b'{"D": {"CelebDFv2_real": {"test": {"v": {"frames": ["D/v/' + b"9" * 5000 + b'.png"]}}}}}',
        b'{"D": {"CelebDFv2_real": {"test": {"v": {}}}}}', b'{"D": NaN}', b"", b"\xef\xbb\xbf", b"{}", b"null",
    )),
    *(("side", b'{"format": "resproto side 1"}\n' + line) for line in (
        b'{"id": ["a"], "splits": ["test"], "label": 0, "label_name": "x", "method": "m", "forgery_type": "t"}',
        b'{"id": "a", "splits": "test", "label": 0, "label_name": "x", "method": "m", "forgery_type": "t"}',
        b'{"id": "a", "splits": ["test"], "label": 2, "label_name": "x", "method": "m", "forgery_type": "t"}',
        b'{"facts": [1], "id": "a", "splits": [], "label": 0, "label_name": "x", "method": "m", "forgery_type": "t"}',
        b'{"media": 3, "id": "a", "splits": [], "label": 0, "label_name": "x", "method": "m", "forgery_type": "t"}',
        b'{"id": "a", "id": "b"}', b"[" * 100_000,
    )),
    *(("faces", text) for text in (b"[1]", b"3", b"{}", b"[" * 100_000, b'{"format": "resproto faces 1"}', b"\xe9")),
    *(("sweep", b"title: s\ncells: [{detectors: [" + text + b"], protocols: [demo_cross]}]") for text in (
        b"a/" + b"9" * 5000, b"9" * 5000 + b".yaml", b'"a/\\0"',
    )),
    ("landmarks", b"\x93NUMPY\x01\x00\x08\x00{'a': (1"),
    *(("lists", text) for text in (
        b'{"v.mp4": {"label": ["FAKE"]}}', b"a 1 1 " + b"9" * 5000, b"filename,label\nv,1\nv,0\n",
    )),
    *(("scores csv", b"test_set,frame,score\nD,D/r1/000.png," + text) for text in (
        b"0_1", "\u0661".encode(), b"1e400", b"inf",
    )),
    *(("scores csv", text) for text in (
        b"test_set,frame,score,score\n", b"", b"\xff\xfe", b"a\0b", b'"', b"x" * 2_000_000,
    )),
]  # fmt: skip


@pytest.mark.parametrize("name, data", BROKE, ids=[f"{name} {data[:30]!r}" for name, data in BROKE])
def test_what_once_broke_a_reader_is_refused(tmp_path, name, data):
    reader = READERS[name]
    refused = []

    def read(path):
        try:
            reader.read(path)
        except fuzz.UserError as error:
            refused.append(str(error))
            raise

    assert fuzz.breaks(fuzz.Reader(reader.name, [data], read), data, tmp_path) == ""
    assert refused or name == "lists"


@pytest.mark.parametrize("name", READERS)
def test_a_whole_file_is_read(tmp_path, name):
    for data in READERS[name].whole:
        (tmp_path / READERS[name].name).write_bytes(data)
        try:
            READERS[name].read(tmp_path / READERS[name].name)
        except fuzz.UserError as error:
            assert name == "adopted" and "frames" in str(error)  # there is no picture


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_spoiled_file_is_read_or_refused(tmp_path, name):
    hypothesis = pytest.importorskip("hypothesis")
    reader = READERS[name]

    @hypothesis.settings(max_examples=400, deadline=None, derandomize=True, database=None,
                         suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    @hypothesis.given(hypothesis.strategies.data())
    def check(drawn):
        data = fuzz.spoiled(reader, lambda count: drawn.draw(hypothesis.strategies.integers(0, count - 1)))
        assert not (fault := fuzz.breaks(reader, data, tmp_path)), f"{data!r}\n{fault}"

    check()
