"""The command `resproto demo`: what it starts ends with it, and two do not work in one folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from patience import wait_until

from resproto_fd.configs.locks import SoleLock
from resproto_fd.training import cli
from resproto_fd.training.child_process import Children
from resproto_fd.training.cli import main

DEMO = [sys.executable, cli.__file__, "demo", "--size", "tiny", "--jobs", "2"]
DEMO += ["--detectors", "resnet_tiny", "clip_tiny"]


def test_a_second_demo_in_a_folder_says_that_another_is_at_work(tmp_path, capsys):
    (tmp_path / "demo_data").mkdir()
    lock = SoleLock(tmp_path / "demo_data" / ".lock")
    assert lock.acquire()
    assert main(["demo", "--size", "tiny", "--out", str(tmp_path)]) == 2
    assert f"{tmp_path}: another demo is at work in this folder" in capsys.readouterr().err
    lock.release()
    assert [path.name for path in (tmp_path / "demo_data").iterdir()] == [".lock"]


def test_settings_override_the_demos_own_and_none_contradicts_another(monkeypatch, tmp_path, capsys):
    given = []

    def run_all(runs, settings, jobs, epochs):
        given.extend(settings)
        return [(1, "failed on purpose")]

    monkeypatch.setattr("resproto_fd.preprocessing.demo.data.make_demo", lambda *args, **more: None)
    monkeypatch.setattr("resproto_fd.training.commands.demo._run_all", run_all)
    words = ["demo", "--out", str(tmp_path / "demo"), "--detectors", "chance"]
    for wrong, told in (("seed=3", "set --seeds"), ("run.out=x", "set --out")):
        assert main([*words, wrong]) == 2
        assert told in capsys.readouterr().err
    assert not given and not (tmp_path / "demo").exists()
    assert main([*words, "run.workers=2"]) == 2
    assert [word for word in given if word.startswith("run.workers")] == ["run.workers=2"]


def test_a_command_in_a_process_of_its_own_prints_and_ends_with_its_status(monkeypatch, tmp_path):
    """Nothing in the current folder takes part."""
    (tmp_path / "argparse.py").write_text(f"open({str(tmp_path / 'HIT')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    with Children().started(["list", "protocols", "no_such"]) as process:
        assert "no protocol is called 'no_such'" in process.stdout.read()
        assert process.wait() == 2
    assert not (tmp_path / "HIT").exists()


def test_children_that_were_stopped_start_no_more(monkeypatch):
    children = Children()
    children.stop()
    with pytest.raises(Exception, match="stopped"), children.started(["list"]):
        pass


def processes(out) -> list[int]:
    """Processes whose command line names a folder, or that a demo of this test has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(out) in words and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc to see processes")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_a_demo_has_started_ends_with_it_and_the_same_command_goes_on(tmp_path, how):
    words = [*DEMO, "train.epochs=3000", "--out", str(tmp_path)]
    demo = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    runs = ("resnet_tiny", "clip_tiny")
    wait_until(lambda: all(any(tmp_path.glob(f"runs/demo_cross/{run}/seed0/checkpoints/*.pt")) for run in runs))
    wait_until(lambda: len(processes(tmp_path)) == 3)
    demo.send_signal(how)
    wait_until(lambda: not processes(tmp_path))
    assert demo.wait() == {signal.SIGKILL: -9, signal.SIGINT: 130}.get(how, 75)
    again = subprocess.run([*words[:-3], "train.epochs=1", *words[-2:]], capture_output=True, text=True)
    assert "at work" not in again.stderr
    assert again.returncode == 2 and "train.epochs" in again.stderr  # the runs are there, of other settings
