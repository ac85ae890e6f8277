"""The pool of cards: memory is never promised twice, and whole cards are found when they are free."""

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resproto_fd.training.sweeps.pool import CONTEXT_GIB, MARGIN, Node, Placement, Pool


@dataclass(frozen=True)
class Needs:
    cards: float = 1
    cpus: int | None = 1


def pool(*cards, cpus=64):
    return Pool([Node("a", cards, cpus)])


def test_a_run_gets_a_card_for_itself():
    room = pool(80, 80)
    first, second = room.place(Needs()), room.place(Needs())
    assert {first.cards, second.cards} == {(0,), (1,)}
    assert first.share == 1
    assert room.place(Needs()) is None
    room.give_back(first)
    assert room.place(Needs()).cards == first.cards


def test_a_share_without_a_measured_peak_is_a_card():
    room = pool(80)
    assert room.place(Needs(0.25)).share == 1
    assert room.place(Needs(0.25), peak_gib=1) is None


def test_runs_with_measured_peaks_share_a_card():
    room = pool(80)
    placed = [room.place(Needs(0.25), peak_gib=10) for _ in range(5)]
    assert [each and each.share for each in placed] == [0.25, 0.25, 0.25, 0.25, None]


def test_a_peak_above_the_share_takes_more_than_the_share():
    room = pool(80)
    assert room.place(Needs(0.25), peak_gib=40).share == pytest.approx((40 * MARGIN + CONTEXT_GIB) / 80, abs=1e-4)
    assert room.place(Needs(0.25), peak_gib=40) is None
    assert room.place(Needs(0.25), peak_gib=30) is not None


def test_a_run_that_must_be_alone_gets_no_neighbour():
    room = pool(80)
    alone = room.place(Needs(0.25), peak_gib=1, alone=True)
    assert alone.share == 1
    assert room.place(Needs(0.25), peak_gib=1) is None


def test_a_card_of_unknown_memory_is_shared_by_none():
    room = pool(0.0)
    alone = room.place(Needs(0.25), peak_gib=1)
    assert alone.share == 1
    assert room.place(Needs(0.25), peak_gib=1) is None
    room.give_back(alone)
    assert room.place(Needs(0.25)).share == 1


def test_a_run_with_a_peak_above_every_card_gets_a_card_for_itself():
    room = pool(24)
    assert room.place(Needs(0.25), peak_gib=23.5).share == 1
    room = Pool([Node("a", (24,)), Node("b", (80,))])
    assert [room.place(Needs(0.25), peak_gib=40).node, room.place(Needs(0.25), peak_gib=40)] == ["b", None]


def test_a_run_with_a_known_peak_waits_for_cards_that_hold_it():
    room = pool(24, 80, 80)
    large = room.place(Needs(), peak_gib=40)
    assert large.cards == (1,)
    assert room.hold(Needs(2), peak_gib=40) == {("a", 2), ("a", 1)}
    assert room.place(Needs(2), peak_gib=40) is None
    assert room.place(Needs(), peak_gib=40).cards == (2,)
    assert room.place(Needs(), peak_gib=40) is None
    assert room.place(Needs(), peak_gib=10).cards == (0,)
    room.give_back(large)
    assert room.place(Needs(3), peak_gib=40) is None  # no node has three such cards: three of any kind are waited for
    assert room.hold(Needs(3), peak_gib=40) == {("a", 0), ("a", 1), ("a", 2)}


def test_cards_of_one_run_are_on_one_node():
    room = Pool([Node("a", (80, 80)), Node("b", (80, 80))])
    room.place(Needs())
    assert room.place(Needs(2)).node == "b"
    assert room.place(Needs(2)) is None
    assert not room.ever_fits(Needs(3))


def test_cpus_are_counted_and_more_than_there_are_is_all_of_them():
    room = pool(cpus=4)
    assert room.place(Needs(0, cpus=3)) == Placement("a", (), 0.0, 0.0, 3)
    assert room.place(Needs(0, cpus=2)) is None
    assert room.place(Needs(0, cpus=1)) is not None
    assert pool(cpus=4).place(Needs(0, cpus=9)).cpus == 4


def test_held_cards_are_those_that_are_free_first_and_are_kept():
    room = pool(80, 80, 80)
    busy = room.place(Needs(0.5), peak_gib=10)
    held = room.hold(Needs(2))
    assert ("a", busy.cards[0]) not in held
    assert len(held) == 2
    assert room.place(Needs(0.25), peak_gib=1, held=held).cards == busy.cards
    assert room.place(Needs(1), held=held) is None


def test_a_lost_node_takes_what_was_placed_there_with_it():
    room = Pool([Node("a", (80,)), Node("b", (80,))])
    placed = {each.node: each for each in (room.place(Needs()), room.place(Needs()))}
    room.remove("a")
    assert room.place(Needs()) is None
    room.give_back(placed["a"])
    room.give_back(placed["b"])
    assert room.place(Needs()).node == "b"


@settings(max_examples=60, deadline=None)
@given(
    cards=st.lists(st.floats(4, 141), min_size=1, max_size=4),
    runs=st.lists(
        st.tuples(st.sampled_from([0, 0.1, 0.3, 0.5, 1, 2]), st.floats(0.1, 150), st.integers(1, 6)), max_size=40
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_card_and_no_cpu_is_ever_promised_twice(cards, runs, seed):
    rng, room, placed = random.Random(seed), Pool([Node("a", tuple(cards), 16)]), []
    for share, peak, cpus in runs:
        if placed and rng.random() < 0.4:
            room.give_back(placed.pop(rng.randrange(len(placed)))[0])
        known = peak if rng.random() < 0.8 else None
        if found := room.place(Needs(share, cpus), known):
            placed.append((found, peak))
        assert sum(each.cpus for each, _ in placed) <= 16
        for at, gib in enumerate(cards):
            here = [(each, peak) for each, peak in placed if at in each.cards]
            assert sum(each.share for each, _ in here) <= 1 + 1e-9
            if len(here) > 1:
                assert sum(peak * MARGIN + CONTEXT_GIB for _, peak in here) <= gib + 1e-9
    for each, _ in placed:
        room.give_back(each)
    assert room.used()[0] == 0
    assert room.place(Needs(len(cards), 16)) is not None
