"""What the scheduler of sweeps decides, with a made engine in a time of its own."""

import random

import pytest
from made_sweeps import MadeCell, MadeEngine, MadeNeeds, swept

from resproto_fd.training.sweeps.claims import Claims
from resproto_fd.training.sweeps.pool import Node
from resproto_fd.training.sweeps.scheduler import Ended, NodeJoined, Rules

SHARE = MadeNeeds(0.25)


def cells(count, **options):
    return [MadeCell(f"c{number}", **options) for number in range(count)]


def states(jobs):
    return {name: job.state for name, job in jobs.items()}


def test_every_cell_is_begun_once_and_a_card_has_one_at_a_time():
    jobs, engine = swept(cells(5))
    assert set(states(jobs).values()) == {"done"}
    assert [time for time, *_ in engine.starts] == [0, 10, 20, 30, 40]


def test_the_longest_known_cell_is_begun_first():
    wanted = [MadeCell("short", seconds=1), MadeCell("long", seconds=9)]
    _, engine = swept(wanted, seconds_of=lambda cell: cell.seconds)
    assert [digest for _, digest, *_ in engine.starts] == ["long", "short"]


def test_a_cell_that_was_stopped_goes_on_and_one_that_is_refused_fails_at_once_and_alone():
    ends = {"c0": ["stopped", "done"], "c1": ["refused"]}
    jobs, engine = swept(
        cells(3), MadeEngine(lambda cell, attempt, starts: ends.get(cell.digest, ["done"])[starts - 1 :][0])
    )
    assert states(jobs) == {"c0": "done", "c1": "failed", "c2": "done"}
    assert jobs["c1"].text == "c1 ended: refused"
    assert len(engine.starts) == 4


def test_a_cell_that_crashes_is_tried_three_times_and_again_if_it_gets_further():
    jobs, engine = swept(cells(1), MadeEngine(lambda *_: "crashed"))
    assert states(jobs) == {"c0": "failed"}
    assert len(engine.starts) == 3
    assert "the last of 3 attempts" in jobs["c0"].text

    def further(cell, attempt, starts):
        return Ended(0, "crashed", progress=starts) if starts < 9 else "done"

    jobs, engine = swept(cells(1), MadeEngine(further))
    assert states(jobs) == {"c0": "done"}
    assert len(engine.starts) == 9


def test_a_lost_worker_is_not_the_cells_fault_but_not_for_ever():
    jobs, engine = swept(cells(1), MadeEngine(lambda cell, attempt, starts: "lost" if starts < 8 else "done"))
    assert states(jobs) == {"c0": "done"}
    jobs, engine = swept(cells(1), MadeEngine(lambda *_: "lost"), rules=Rules(losses=4))
    assert states(jobs) == {"c0": "failed"}
    assert len(engine.starts) == 4


def test_a_run_folder_that_a_person_uses_is_waited_for_and_is_no_fault():
    jobs, engine = swept(cells(1), MadeEngine(lambda cell, attempt, starts: "busy" if starts < 30 else "done"))
    assert states(jobs) == {"c0": "done"}
    assert len(engine.starts) == 30


def test_a_server_that_is_away_for_a_look_at_the_claims_ends_no_sweep():
    class Away:
        def take(self, digest):
            return True

        def release(self, digest):
            pass

        def holds(self, digest):
            raise OSError("stale file handle")

    jobs, engine = swept([MadeCell("c0", seconds=100.0)], claims=Away())
    assert states(jobs) == {"c0": "done"}
    assert not engine.stopped


def test_out_of_memory_is_tried_alone_and_then_in_more_and_more_parts():
    def ends(cell, attempt, starts):
        return "memory" if cell.digest == "c0" and attempt.parts < 4 else "done"

    jobs, engine = swept(cells(4, needs=SHARE), MadeEngine(ends), peak_of=lambda cell: 5.0)
    assert set(states(jobs).values()) == {"done"}
    mine = [(placement.share, attempt.parts) for _, digest, attempt, placement in engine.starts if digest == "c0"]
    assert mine == [(0.25, 1), (1.0, 1), (1.0, 2), (1.0, 4)]


def test_out_of_memory_that_no_parts_help_fails():
    jobs, engine = swept(cells(1), MadeEngine(lambda *_: "memory"), parts_of=lambda cell: [2])
    assert states(jobs) == {"c0": "failed"}
    assert [attempt.parts for _, _, attempt, _ in engine.starts] == [1, 1, 2]
    jobs, engine = swept(cells(1), MadeEngine(lambda *_: "memory"), parts_of=lambda cell: [])
    assert [attempt.parts for _, _, attempt, _ in engine.starts] == [1, 1]


def test_a_detector_that_cannot_take_parts_fails_with_what_was_too_large():
    jobs, _ = swept(cells(1), MadeEngine(lambda cell, attempt, starts: "refused" if attempt.parts > 1 else "memory"))
    assert jobs["c0"].text == "c0 ended: memory\nc0 ended: refused"


def test_shares_are_used_once_the_first_equal_cell_was_measured():
    known = {}
    engine = MadeEngine(lambda cell, *_: "done")
    jobs, _ = swept(
        cells(5, needs=SHARE),
        engine,
        peak_of=lambda cell: known.get("peak"),
        changed=lambda job: known.update(peak=10.0) if job.state == "done" else None,
    )
    assert set(states(jobs).values()) == {"done"}
    assert [time for time, *_ in engine.starts] == [0, 10, 10, 10, 10]


@pytest.mark.parametrize("gib", [0.0, 4.0])
def test_cells_that_no_card_can_share_get_one_each(gib):
    jobs, _ = swept(
        cells(3, needs=SHARE),
        nodes=[Node("a", (gib,), 4)],
        peak_of=lambda cell: 5.0,
        rules=Rules(hours=1),
    )
    assert set(states(jobs).values()) == {"done"}


def test_a_run_of_many_cards_is_not_starved_by_small_ones():
    small = [MadeCell(f"s{number}", seconds=7 + number % 5) for number in range(40)]
    engine = MadeEngine()
    nodes = [Node("a", (80.0,) * 4, 64)]
    late = [MadeCell("wide", MadeNeeds(4))]
    engine.ends = lambda cell, attempt, starts: "lost" if cell.digest == "wide" and starts == 1 else "done"
    jobs, _ = swept(small + late, engine, nodes)
    assert set(states(jobs).values()) == {"done"}
    again = [time for time, digest, *_ in engine.starts if digest == "wide"][1]
    assert again < 40


def test_a_run_that_waits_for_a_large_card_keeps_no_small_card_from_others():
    gib = {"c0": 40.0, "c1": 40.0, "c2": 4.0}
    jobs, engine = swept(cells(3), nodes=[Node("a", (24.0, 80.0), 16)], peak_of=lambda cell: gib[cell.digest])
    assert set(states(jobs).values()) == {"done"}
    assert [(time, digest, placement.cards) for time, digest, _, placement in engine.starts] == [
        (0, "c0", (1,)),
        (0, "c2", (0,)),
        (10, "c1", (1,)),
    ]


def test_a_budget_of_runs_counts_cells_and_not_attempts():
    jobs, engine = swept(
        cells(5), MadeEngine(lambda cell, attempt, starts: "stopped" if starts == 1 else "done"), rules=Rules(runs=2)
    )
    assert sorted(states(jobs).values()) == ["done", "done", "left", "left", "left"]
    assert len(engine.starts) == 4


def test_after_the_hours_nothing_is_begun_and_what_runs_is_finished():
    jobs, _ = swept(cells(5, seconds=1800), rules=Rules(hours=0.75))
    assert sorted(states(jobs).values()) == ["done", "done", "left", "left", "left"]


def test_a_stop_asks_running_cells_to_end_and_begins_nothing():
    engine = MadeEngine()
    jobs, _ = swept(cells(3, seconds=100), engine, asked=lambda: engine.time >= 10)
    assert set(states(jobs).values()) == {"left"}
    assert len(engine.stopped) == len(engine.starts) == 1


def test_the_cells_of_a_lost_node_run_elsewhere_and_a_new_node_is_used():
    engine = MadeEngine()
    engine.at(15, ("lose", "b"))
    engine.at(25, NodeJoined(Node("c", (80.0,), 4)))
    jobs, _ = swept(cells(8), engine, [Node("a", (80.0,), 4), Node("b", (80.0,), 4)])
    assert set(states(jobs).values()) == {"done"}
    assert len(engine.starts) == 9
    assert {placement.node for *_, placement in engine.starts} == {"a", "b", "c"}


def test_a_sweep_whose_nodes_are_all_lost_ends_after_some_patience():
    engine = MadeEngine()
    engine.at(5, ("lose", "a"))
    jobs, _ = swept(cells(2), engine)
    assert set(states(jobs).values()) == {"left"}
    assert engine.time > 600


def test_two_sweeps_with_claims_do_each_cell_once(tmp_path):
    done, wanted = set(), cells(12)

    def sweep(claims, **options):
        def changed(job):
            if job.state == "done":
                done.add(job.cell.digest)

        return swept(wanted, claims=claims, changed=changed, is_done=lambda cell: cell.digest in done, **options)

    with Claims(tmp_path) as one, Claims(tmp_path) as other:
        for digest in ("c3", "c7"):
            assert other.take(digest)
        engine = MadeEngine()
        engine.at(300, Ended("none", "done"))
        seen = []

        def finishes_later():
            if engine.time > 200 and not seen:
                seen.append(True)
                done.update(("c3", "c7"))
                other.release("c3")
                other.release("c7")
            return False

        jobs, _ = sweep(one, engine=engine, asked=finishes_later)
    assert set(states(jobs).values()) == {"done"}
    begun = [digest for _, digest, *_ in engine.starts]
    assert sorted(begun) == sorted({cell.digest for cell in wanted} - {"c3", "c7"})


def test_a_cell_that_another_sweep_gave_up_is_not_tried_again(tmp_path):
    with Claims(tmp_path) as claims:
        jobs, engine = swept(cells(2), claims=claims, has_failed=lambda cell: "no" if cell.digest == "c0" else None)
        assert states(jobs) == {"c0": "failed", "c1": "done"}
        assert claims.take("c0")
    assert len(engine.starts) == 1


def test_a_cell_that_was_taken_over_is_stopped():
    class Lost:
        def take(self, digest):
            return True

        def release(self, digest):
            pass

        def holds(self, digest):
            return False

    engine = MadeEngine()
    swept(cells(1, seconds=1e4), engine, claims=Lost(), rules=Rules(losses=1), asked=lambda: engine.time > 500)
    assert engine.stopped


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_each_cell_is_done_in_the_end_and_no_two_have_a_card(seed):
    rng = random.Random(seed)
    needs = [MadeNeeds(rng.choice([0, 0.3, 1, 1, 2]), rng.randint(1, 4)) for _ in range(60)]
    wanted = [MadeCell(f"c{i}", need, rng.uniform(1, 50)) for i, need in enumerate(needs)]
    kinds = ["done"] * 6 + ["stopped", "lost", "crashed", "memory"]
    engine = MadeEngine(lambda cell, attempt, starts: rng.choice(kinds) if starts < 3 else "done")
    nodes = [Node("a", (80.0, 80.0), 8), Node("b", (40.0, 40.0), 8)]
    busy, worst = {}, []

    def changed(job):
        if job.state == "running":
            busy[job.cell.digest] = job.placement
        else:
            busy.pop(job.cell.digest, None)
        for node in ("a", "b"):
            here = [placement for placement in busy.values() if placement.node == node]
            worst.append(sum(placement.cpus for placement in here) <= 8)
            for at in (0, 1):
                worst.append(sum(placement.share for placement in here if at in placement.cards) <= 1 + 1e-9)

    jobs, _ = swept(wanted, engine, nodes, peak_of=lambda cell: 9.0, changed=changed)
    assert set(states(jobs).values()) == {"done"}
    assert all(worst)
