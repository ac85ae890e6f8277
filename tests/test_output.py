"""What a command does if what it prints, or the folder that it writes into, is refused by the system."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resproto_fd.training import cli
from resproto_fd.training.cli import main

FULL = Path("/dev/full")
FULL_DEVICE = [["list"], ["list", "detectors", "ucf"], ["--version"], [], ["nonsense"]]


@pytest.mark.slow
@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", FULL_DEVICE, ids=" ".join)
def test_output_to_a_full_device_is_an_error_without_a_traceback(words):
    with FULL.open("w") as full:
        told = subprocess.run([sys.executable, cli.__file__, *words], stdout=full, stderr=subprocess.PIPE, text=True)
        assert told.returncode == 2
        assert "Traceback" not in told.stderr and "Exception ignored" not in told.stderr
        assert (
            "nonsense" in words
            or "stdout, stderr or a temporary file: No space left on device; free some space" in told.stderr
        )
        assert subprocess.run([sys.executable, cli.__file__, *words], stdout=full, stderr=full).returncode == 2


@pytest.mark.slow
def test_a_closed_output_is_no_error():
    with subprocess.Popen(
        [sys.executable, cli.__file__, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.wait() == 141
        assert process.stderr.read() == b""


def commands(demo, out):
    """Every command that writes, told to write to `out`."""
    data, manifest = f"data.root={demo}", str(demo / "dataset_json" / "Demo-A.json")
    return {
        "train": ["train", "--detector", "chance", "--protocol", "demo_cross", "--out", out, data],
        "test": ["test", "--detector", "chance", "--protocol", "demo_cross", "--out", out, data],
        "control": ["control", "--protocol", "demo_cross", "--out", out, data],
        "demo": ["demo", "--size", "tiny", "--out", out],
        "template": ["submit", "--protocol", "demo_cross", "--template", f"{out}/t.csv", data],
        "pack": ["pack", manifest, "--frames", str(demo / "lmdb" / "Demo-A_lmdb"), "--out", f"{out}/A_lmdb"],
        "html": ["check", manifest, "--html", f"{out}/a.html"],
        "json": ["check", manifest, "--json", f"{out}/a.json"],
    }


@pytest.mark.slow
@pytest.mark.parametrize("command", commands(Path(), ""))
def test_a_file_in_the_place_of_the_output_folder_is_an_error_that_names_it(demo, tmp_path, capsys, command):
    (tmp_path / "file").write_text("kept")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(commands(demo, str(out))[command]) == 2
        told = capsys.readouterr().err
        assert f"{tmp_path / 'file'}" in told and "cannot be written" in told and ("set" in told or "check" in told)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("command", commands(Path(), ""))
def test_an_output_folder_that_may_not_be_written_is_an_error_that_names_it(
    demo, tmp_path, capsys, command, monkeypatch
):
    """As on a file system that is mounted read-only; root may write where others may not."""
    (tmp_path / "read_only").mkdir()
    access, mkdir = os.access, os.mkdir

    def refuse(place, *args, **kwargs):
        if str(place).startswith(str(tmp_path)):
            raise OSError(30, os.strerror(30), str(place))
        return mkdir(place, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr(os, "access", lambda place, mode: str(tmp_path) not in str(place) and access(place, mode))
    assert main(commands(demo, str(tmp_path / "read_only"))[command]) == 2
    told = capsys.readouterr().err
    assert str(tmp_path / "read_only") in told and "cannot be written" in told and ("set" in told or "check" in told)


def test_a_system_error_without_a_file_is_not_hidden(monkeypatch):
    def fail(args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("resproto_fd.training.commands.listing.run", fail)
    with pytest.raises(OSError, match="Input/output"):
        main(["list"])
    monkeypatch.setattr("resproto_fd.training.commands.listing.run", lambda args: Path("/no/such").read_text())
    assert main(["list"]) == 2


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-", "1</dev/null 2</dev/null"])
def test_closed_streams_stop_no_command_and_give_no_file_their_place(demo, tmp_path, closed):
    manifest, found = demo / "dataset_json" / "Demo-A.json", tmp_path / "found"
    words = ["check", str(manifest), "--store", str(demo / "lmdb" / "Demo-A_lmdb"), "--html", str(tmp_path / "a.html")]
    program = f"""
import os, sys
from resproto_fd.training.cli import main
status = main({words!r})
with open({str(found)!r}, "w") as file:
    print(status, file.fileno() > 2, os.get_inheritable(2), sys.stderr.write("x"), file=file)
"""
    told = subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, program])
    assert told.returncode == 0
    assert found.read_text().split() == ["0", "True", "True", "1"]
    assert (tmp_path / "a.html").is_file()
