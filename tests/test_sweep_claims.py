"""Claims of sweeps that share a folder: one owner a cell, the dead are succeeded, and nothing is done twice."""

import errno
import json
import os
import subprocess
import sys
import threading

import pytest

from resproto_fd.configs.errors import UserError
from resproto_fd.training.sweeps import claims as module
from resproto_fd.training.sweeps.claims import Claims


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def claims(folder, clock=None, **options):
    """Claims whose heart beats only when the test says so."""
    return Claims(folder, beat_every=1e6, stale_after=90, clock=clock or Clock(), **options)


@pytest.fixture
def elsewhere(monkeypatch):
    """Makes every `Claims` an owner on a machine of its own, so that only the counters tell who lives."""
    numbers = iter(range(1000))
    monkeypatch.setattr(module, "_machine", lambda: f"machine {next(numbers)}")


def test_a_cell_has_one_owner_until_it_is_given_back(tmp_path):
    with claims(tmp_path) as one, claims(tmp_path) as other:
        assert one.take("a")
        assert one.take("a")
        assert not other.take("a")
        assert other.owner_of("a") == one.owner
        one.release("a")
        assert other.owner_of("a") is None
        assert other.take("a")
        assert not one.take("a")
        assert other.holds("a")
        assert not one.holds("a")


def test_all_cells_are_given_back_at_the_end(tmp_path):
    with claims(tmp_path) as one:
        assert one.take("a")
        assert one.take("b")
    with claims(tmp_path) as other:
        assert other.take("a")
        assert other.take("b")


def test_of_many_who_want_a_cell_at_once_one_gets_it(tmp_path):
    owners = [claims(tmp_path).__enter__() for _ in range(8)]
    start, got = threading.Barrier(len(owners)), []

    def want(owner):
        start.wait()
        got.extend((name, owner.owner) for name in ("a", "b", "c", "d") if owner.take(name))

    threads = [threading.Thread(target=want, args=(owner,)) for owner in owners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for name, _ in got) == ["a", "b", "c", "d"]


def test_an_owner_on_another_machine_is_succeeded_after_its_counter_stood_still(tmp_path, elsewhere):
    clock = Clock()
    with claims(tmp_path) as dead, claims(tmp_path, clock) as heir:
        dead.take("a")
        assert not heir.take("a")
        clock.now = 89
        assert not heir.take("a")
        dead.beat()
        clock.now = 120
        assert not heir.take("a")  # it has beaten since
        clock.now = 209
        assert not heir.take("a")
        clock.now = 211
        assert heir.take("a")
        assert not dead.holds("a")
        dead.release("a")  # of what it has no more
        assert heir.holds("a")


def test_two_heirs_do_not_both_take_a_dead_owners_cell(tmp_path, elsewhere):
    clock = Clock()
    with claims(tmp_path) as dead, claims(tmp_path, clock) as one, claims(tmp_path, clock) as two:
        dead.take("a")
        one.take("a")
        two.take("a")
        clock.now = 91
        seen = two._newest("a")  # what the slower one has read before the quicker one acts
        assert one.take("a")
        assert not two._make("a", seen[0] + 1, two.owner)
        assert not two.take("a")
        assert one.holds("a")


def test_a_process_of_this_machine_that_ended_is_succeeded_at_once(tmp_path):
    program = (
        "import sys; from resproto_fd.training.sweeps.claims import Claims\n"
        "Claims(sys.argv[1]).__enter__().take('a'); import os; os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    with claims(tmp_path) as heir:
        assert heir.take("a")


def test_a_number_that_another_process_has_now_is_not_taken_for_the_owner(tmp_path):
    with claims(tmp_path) as dead, claims(tmp_path) as heir:
        dead.take("a")
        file = tmp_path / "owners" / f"{dead.owner}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"started": "1"}))
        assert heir.take("a")


def test_a_link_that_was_made_though_the_server_said_otherwise_counts(tmp_path, monkeypatch):
    link = os.link

    def answers_twice(source, target):
        link(source, target)
        raise FileExistsError(target)

    with claims(tmp_path) as one, claims(tmp_path) as other:
        monkeypatch.setattr(os, "link", answers_twice)
        assert one.take("a")
        monkeypatch.setattr(os, "link", link)
        assert not other.take("a")


def test_a_file_system_without_hard_links_is_named_and_not_waited_for(tmp_path, monkeypatch):
    def refused(source, target):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), source)

    with claims(tmp_path) as one:
        monkeypatch.setattr(os, "link", refused)
        with pytest.raises(UserError, match=r"expected a file system with hard links.*set --out"):
            one.take("a")
    assert not list(tmp_path.glob(".a.*"))


@pytest.mark.parametrize(
    "about",
    ["[]", "{}", "3", "not JSON", "[" * 100_000, "9" * 5000],
    ids=["list", "object", "short", "text", "nested", "number"],
)
def test_damaged_files_of_an_owner_are_those_of_a_dead_one(tmp_path, about):
    clock = Clock()
    with claims(tmp_path, clock) as heir:
        (tmp_path / "owners" / "odd.json").write_text(about)
        (tmp_path / "a.1").write_text("odd\n")
        (tmp_path / "b.1").write_bytes(b"\xff\0/odd")
        assert not heir.take("a") and not heir.take("b")
        clock.now = 91
        assert heir.take("a") and heir.take("b")


def test_others_names_the_living_alone(tmp_path):
    with claims(tmp_path) as one, claims(tmp_path) as two:
        assert one.others() == [two.owner]
        file = tmp_path / "owners" / f"{two.owner}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"pid": 2**22 + 1}))
        assert one.others() == []
