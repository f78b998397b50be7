"""The histories of Recursive and Plateau: signal handlers, threads, forks and interrupts at any moment."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from lrcore.schedules import Cosine, Function, Plateau, Recursive, Schedule
from opcodes import at_each_opcode, interrupt
from schedules.examples import WAYS
from support import assert_runs, run_in_threads


def count_up(t: int, lr: float) -> float:
    """Return the next rate, so that the rate at t is t + 1."""
    assert lr == t
    return lr + 1.0


# ---- Recursive


@pytest.mark.parametrize("ahead", [0, 3])
@pytest.mark.parametrize("asked_at", [0, 1, 4])
def test_a_rate_that_is_asked_while_it_is_made(ahead: int, asked_at: int) -> None:
    """The inner call returns first, and its result is kept."""
    asked: list[int] = []

    def fn(t: int, lr: float) -> float:
        asked.append(t)
        if t == asked_at and asked.count(t) == 1:
            assert rates(t + ahead) == t + ahead + 1
            return 99.0
        return lr + 1

    rates = Recursive(fn, lr=0.0)
    assert rates(6) == 7
    assert rates(range(7)).tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert [asked.count(t) for t in range(7)] == [1 + (t == asked_at) for t in range(7)]


@pytest.mark.parametrize("way", ["itself", "warmup", "plateau"])
def test_a_handler_before_any_opcode_of_a_recursive(way: str) -> None:
    """Each rate follows from the previous one, whenever a handler calls the schedule or a copy of it."""
    rates = Recursive(count_up, lr=0.0)
    schedule, expected = WAYS[way](rates), WAYS[way](Function(lambda t: t + 1.0))
    far = iter(range(5, 10**6, 5))

    def ask() -> None:
        t = next(far)
        for each in (schedule, copy.copy(schedule), pickle.loads(pickle.dumps(schedule))):
            assert each(t) == expected(t)

    for _ in at_each_opcode(lambda: schedule(next(far)), ask):
        assert schedule(range(9)).tolist() == expected(range(9)).tolist()


def test_an_interrupt_before_any_opcode_of_a_recursive() -> None:
    rates = Recursive(count_up, lr=0.0)
    far = iter(range(3, 10**6, 3))
    for number in at_each_opcode(lambda: rates(next(far)), interrupt):
        known = 3 * number + 6
        assert rates(range(known)).tolist() == [*range(1, known + 1)]


def test_two_threads_that_make_the_same_rate() -> None:
    """Both threads run the callable at the same time, because there is no lock. Both get the first result."""
    meet, got = threading.Barrier(2, timeout=60), {}
    numbers = iter(range(1, 100))

    def fn(t: int, lr: float) -> float:
        if t == 1:
            meet.wait()
        return lr + next(numbers)  # not pure: the second call returns another result

    rates = Recursive(fn, lr=0.0)

    def work(index: int) -> None:
        rates(0)
        meet.wait()
        got[index] = rates(3)

    run_in_threads(2, work)
    assert got[0] == got[1] == rates(3)
    before = [rates(t) for t in range(4)]
    assert all(later > earlier for earlier, later in zip([0.0, *before], before, strict=False))
    assert rates(range(4)).tolist() == before


def test_threads_that_ask_in_any_order() -> None:
    rates = Recursive(count_up, lr=0.0)
    orders = [range(20_000), range(19_999, -1, -1), range(0, 20_000, 7), range(1, 20_000, 2)]

    def work(index: int) -> None:
        for t in orders[index]:
            assert rates(t) == t + 1

    run_in_threads(4, work)


# ---- Plateau


def falling(**more: Any) -> Plateau:
    """Return a Plateau that reduces the rate at each observation from now on."""
    plateau = Plateau(1.0, **{"factor": 0.999999, "patience": 0} | more)
    for _ in range(plateau.window):
        plateau.observe(1.0)
    return plateau


KINDS: dict[str, dict[str, Any]] = {
    "best": {},
    "mean": {"statistic": "mean", "window": 3},
    "max": {"mode": "max", "threshold_mode": "abs", "threshold": 5.0},
    "nan": {"nan": "bad"},
}
kinds = pytest.mark.parametrize("kind", KINDS)


def test_threads_lose_no_observation() -> None:
    plateau = falling()

    def work(_: int) -> None:
        for _ in range(25_000):
            plateau.observe(2.0)

    run_in_threads(4, work)
    assert plateau.reductions == 100_000


SAVED = 10**6


@kinds
@pytest.mark.parametrize(
    ("action", "intrusion", "outcomes"),
    [
        ("observe", "observe", {2}),
        ("observe", "load", {SAVED, SAVED + 1}),
        ("load", "observe", {SAVED, SAVED + 1}),
        ("observe", "interrupt", {0, 1}),
    ],
)
def test_before_any_opcode_of_a_plateau(kind: str, action: str, intrusion: str, outcomes: set[int]) -> None:
    """An intrusion takes effect before or after the whole action. The next observation counts as usual."""
    plateau = falling(**KINDS[kind])
    state = plateau.state_dict()
    calls = {
        "observe": lambda: plateau.observe(1.0),
        "load": lambda: plateau.load_state_dict(state | {"reductions": SAVED}),
        "interrupt": interrupt,
    }
    seen = set()
    for _ in at_each_opcode(calls[action], calls[intrusion]):
        before = plateau.reductions
        seen.add(before)
        plateau.observe(1.0)
        assert plateau.reductions == before + 1
        plateau.load_state_dict(state)
    assert seen == outcomes


@kinds
def test_copies_that_are_made_while_a_plateau_observes(kind: str) -> None:
    """A copy made at any moment is consistent and has a state of its own, even if it is a shallow copy."""
    plateau = falling(**KINDS[kind])
    copies: list[Plateau] = []

    def take() -> None:
        whole = plateau * Cosine(1.0, 10)
        copies.extend([copy.copy(plateau), copy.deepcopy(plateau), pickle.loads(pickle.dumps(plateau))])
        copies.extend(schedules.plateaus(copy.deepcopy(whole)))

    for number in at_each_opcode(lambda: plateau.observe(1.0), take):
        for each in copies:
            assert each == plateau
            before = each.reductions
            assert before in (number, number + 1)
            each.observe(1.0)
            assert each.reductions == before + 1
        assert plateau.reductions == number + 1
        copies.clear()


def test_former_states_are_not_kept() -> None:
    plateau = falling()
    before = len(gc.get_objects())
    for _ in range(10_000):
        plateau.observe(1.0)
    assert len(gc.get_objects()) < before + 1000


# ---- both


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_child_forked_while_threads_compute_and_observe() -> None:
    """The threads do not exist in the child, which computes the rate and observes metrics without them."""
    assert_runs("""
        import os, signal, threading
        inside, leave = threading.Event(), threading.Event()
        def fn(t, lr):
            if t == 1 and threading.current_thread() is workers[0]:
                inside.set()
                leave.wait()
            return lr + 1.0
        def observe():
            while not leave.is_set():
                plateau.observe(1.0)
        rates = lrcore.schedules.Recursive(fn, lr=0.0)
        plateau = lrcore.schedules.Plateau(1.0, factor=0.999999, patience=0)
        plateau.observe(1.0)
        workers = [threading.Thread(target=each) for each in (lambda: rates(2), observe)]
        for each in workers:
            each.start()
        inside.wait()
        for _ in range(20):
            child = os.fork()
            if child == 0:
                signal.alarm(10)
                before = plateau.reductions
                for _ in range(100):
                    plateau.observe(1.0)
                os._exit(rates(5) != 6 or plateau.reductions != before + 100)
            assert os.waitpid(child, 0)[1] == 0
        leave.set()
        for each in workers:
            each.join()
        assert rates(2) == 3
    """)


# ---- numbers


class Own(Schedule):
    """A user-defined schedule."""

    def __init__(self, fn: Callable[[int], Any]) -> None:
        self.fn = fn

    def _value(self, t: int) -> Any:
        return self.fn(t)


NUMBERS: dict[str, Callable[[float], Any]] = {
    "float32": np.float32,
    "float16": np.float16,
    "array": lambda value: np.array(value, np.float32),
    "integer": lambda value: np.int8(value * 10),
}
SOURCES: dict[str, Callable[[Callable[[int], Any]], Any]] = {
    "function": Function,
    "recursive": lambda fn: Recursive(lambda t, _: fn(t), 0.0),
    "own": Own,
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("number", NUMBERS)
def test_arithmetic_is_in_float64(source: str, number: str) -> None:
    """A rate of another type gives the same results as the equal float64."""
    convert = NUMBERS[number]
    schedule = SOURCES[source](lambda t: convert(0.1 + 0.01 * (t % 3)))
    for way, compose in WAYS.items():
        narrow, wide = compose(schedule), compose(Function(lambda t: float(convert(0.1 + 0.01 * (t % 3)))))
        assert [narrow._value(t) for t in range(12)] == [wide(t) for t in range(12)], way
        assert {type(narrow._value(t)) for t in range(12)} == {float}, way


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("wrong", ["fast", None, True, 1j, np.ones(2)], ids=lambda each: type(each).__name__)
def test_what_is_no_rate_is_refused_where_it_is_returned(source: str, wrong: Any) -> None:
    """The message names the t that the callable was called with, and no step is taken."""
    opt = lrcore.SGD(np.zeros(2, np.float32), lr=SOURCES[source](lambda t: wrong if t else 0.5) * 0.5)
    opt.step(np.ones(2, np.float32))
    with pytest.raises(TypeError, match="^lr from the schedule at t = 1: expected a number, got"):
        opt.step(np.ones(2, np.float32))
    assert opt.step_count == 1
