"""Files are whole or not there."""

import errno
import os
import stat
import sys

import pytest

from resproto_fd.configs.errors import UnreadableFile, UserError
from resproto_fd.configs.files import atomic_file, refuse_same, sha256_of, write_text
from resproto_fd.configs.locks import SoleLock


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_written_file_holds_what_was_written(tmp_path):
    write_text(tmp_path / "deep" / "a", "new")
    assert (tmp_path / "deep" / "a").read_text() == "new"
    assert names(tmp_path / "deep") == ["a"]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "a") as file:
        file.write(b"half")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="names of streams on Linux")
def test_a_stream_is_written_to_and_not_replaced(tmp_path):
    with open(tmp_path / "stream", "wb") as stream:
        place = f"/proc/self/fd/{stream.fileno()}"
        write_text(place, "new")
        assert os.path.islink(place)
    assert (tmp_path / "stream").read_text() == "new"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_device_stays_one(tmp_path):
    with pytest.raises(UserError, match=r"/dev/full: cannot be written \(No space left on device\)"):
        write_text("/dev/full", "new")
    write_text("/dev/null", "new")
    assert all(stat.S_ISCHR(os.stat(place).st_mode) for place in ("/dev/null", "/dev/full"))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_said_plainly_even_when_a_library_wraps_the_error(tmp_path, wrapped):
    (tmp_path / "a").write_text("old")

    def write(file):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            if wrapped:
                raise RuntimeError("writer failed") from error
            raise

    with pytest.raises(UserError, match=r"No space left.*the a from before is untouched; free some space"):  # noqa: SIM117
        with atomic_file(tmp_path / "a") as file:
            write(file)
    assert names(tmp_path) == ["a"]


def test_a_folder_that_cannot_be_made_is_an_error_to_mend(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_text(tmp_path / "file" / "a", "x")


def test_a_folder_in_the_place_of_a_file_is_named_as_one(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="a: expected a file, got a folder; set another path"):
        write_text(tmp_path / "a", "x")
    assert names(tmp_path) == ["a"]


def test_without_space_a_new_file_leaves_no_half_of_it(tmp_path):
    with pytest.raises(UserError, match="no half-written file was left; free"), atomic_file(tmp_path / "b" / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path / "b") == []


def test_an_output_in_the_place_of_an_input_or_of_another_output_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "read").write_text("x")
    (tmp_path / "link").symlink_to("read")
    (tmp_path / "folder").mkdir()
    for place in ("read", "./folder/../read", tmp_path / "link"):
        with pytest.raises(UserError, match=r"--json .*: expected a file of its own, got one that this command reads"):
            refuse_same({"--json": place}, ["other", "read"])
    with pytest.raises(UserError, match="--html new: expected a file of its own, got the file of --json; set another"):
        refuse_same({"--json": tmp_path / "new", "--html": "new"}, ["read"])
    with pytest.raises(UserError, match=r"^--json folder: expected a file, got a folder; set another --json"):
        refuse_same({"--json": "folder"})
    refuse_same({"--json": "new", "--html": None}, ["read"])


def test_the_digest_is_the_known_value(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a file of Linux whose beginning is not readable")
def test_a_file_that_cannot_be_read_to_its_end_is_named():
    with pytest.raises(UnreadableFile, match=r"^/proc/self/mem: cannot be read to its end \(Input/output error\)"):
        sha256_of("/proc/self/mem")


def test_one_holder_at_a_time_has_a_lock(tmp_path):
    first, second = SoleLock(tmp_path / "lock"), SoleLock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_a_write_that_need_not_last_is_whole_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: pytest.fail("flushed"))
    with atomic_file(tmp_path / "a.txt", durable=False) as file:
        file.write(b"whole")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_bytes() == b"whole"


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, capsys):
    lock = SoleLock(tmp_path / "lock")

    def refuse(timeout):
        raise NotImplementedError

    monkeypatch.setattr(lock._lock, "acquire", refuse)
    assert lock.acquire()
    assert "has no locks; do not start a second process there" in capsys.readouterr().err
