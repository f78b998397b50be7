"""The histories of Recursive and Plateau: signal handlers, threads, forks and interrupts at any moment."""

from __future__ import annotations

import copy
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
from support import python, run_in_threads

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")


def count_up(t: int, lr: float) -> float:
    """Make the rate at t equal to t + 1."""
    assert lr == t
    return lr + 1.0


# ---- Recursive


@pytest.mark.parametrize("ahead", [0, 3])
@pytest.mark.parametrize("asked_at", [0, 1, 4])
def test_a_rate_that_is_asked_while_it_is_made(ahead: int, asked_at: int) -> None:
    """The inner result came first, and is the one that is kept."""
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
    """Whatever is asked when, each rate is the one after the rate before."""
    rates = Recursive(count_up, lr=0.0)
    schedule, expected = WAYS[way](rates), WAYS[way](Function(lambda t: t + 1.0))

    def ask() -> None:
        t = len(vars(rates)["_values"]) + 5
        assert schedule(t) == expected(t)

    for _ in at_each_opcode(ask, ask):
        known = len(vars(rates)["_values"])
        assert rates(range(known + 1)).tolist() == [*range(1, known + 2)]


def test_an_interrupt_before_any_opcode_of_a_recursive() -> None:
    rates = Recursive(count_up, lr=0.0)
    far = iter(range(3, 10**6, 3))
    for number in at_each_opcode(lambda: rates(next(far)), interrupt):
        known = 3 * number + 6
        assert rates(range(known)).tolist() == [*range(1, known + 1)]


def test_two_threads_that_make_the_same_rate() -> None:
    """Both are in the callable at once: nobody waits for the other, as a lock would have it. Both get what came first."""
    meet, got = threading.Barrier(2, timeout=60), {}
    numbers = iter(range(1, 100))

    def fn(t: int, lr: float) -> float:
        if t == 1:
            meet.wait()
        return lr + next(numbers)  # not pure: the second call gives another result

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


@forks
def test_a_child_forked_while_a_recursive_computes() -> None:
    """The thread that computes does not exist there; the child makes the rate itself."""
    done = python("""
        import os, signal, sys, threading
        import numpy as np, lrcore
        inside, leave = threading.Event(), threading.Event()
        def fn(t, lr):
            if t == 1 and threading.current_thread() is worker:
                inside.set()
                leave.wait()
            return lr + 1.0
        rates = lrcore.schedules.Recursive(fn, lr=0.0)
        one, two = (lrcore.SGD(np.zeros(2, np.float32), lr=rates * 1.0) for _ in range(2))
        g = np.full(2, -1, np.float32)
        worker = threading.Thread(target=lambda: [one.step(g) for _ in range(3)])
        worker.start()
        inside.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            for _ in range(3):
                two.step(g)
            os._exit(0 if two.params.tolist() == [6, 6] and rates(5) == 6 else 1)
        _, status = os.waitpid(child, 0)
        leave.set()
        worker.join()
        assert one.params.tolist() == [6, 6] and rates(2) == 3
        sys.exit(os.waitstatus_to_exitcode(status))
    """)
    assert done.returncode == 0, done.stderr


def test_copies_that_are_made_while_a_rate_is_computed() -> None:
    rates = Recursive(count_up, lr=0.0)

    def take() -> None:
        for each in (copy.copy(rates), copy.deepcopy(rates), pickle.loads(pickle.dumps(rates))):
            assert each(range(9)).tolist() == [*range(1, 10)]

    for number in at_each_opcode(lambda: rates(len(vars(rates)["_values"])), take):
        assert rates(number) == number + 1


# ---- Plateau


def falling(**more: Any) -> Plateau:
    """Return a Plateau that falls with each observation from now on."""
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


def test_threads_that_observe_improvements_and_failures() -> None:
    """Two tell of better metrics, two of worse: the best of all is the best, and nothing is counted in between."""
    plateau = Plateau(1.0, patience=10**9, threshold=0.0)

    def work(index: int) -> None:
        for turn in range(10_000):
            plateau.observe(10.0**9 if index % 2 else 10_000.0 - turn + index)

    run_in_threads(4, work)
    assert plateau.state_dict()["best"] == 1.0
    assert plateau.state_dict()["bad"] <= 40_000
    plateau.observe(0.5)
    assert plateau.state_dict() == {"reductions": 0, "best": 0.5, "bad": 0, "cooldown": 0, "recent": []}


@kinds
def test_an_observation_before_any_opcode_of_an_observation(kind: str) -> None:
    plateau, other = falling(**KINDS[kind]), Plateau(1.0)
    assert plateau.reductions == 0

    def intrude() -> None:
        plateau.observe(1.0)
        assert schedule(2) == plateau(0)

    schedule = plateau.warmup(3) * other
    for number in at_each_opcode(lambda: plateau.observe(1.0), intrude):
        assert plateau.reductions == 2 * (number + 1)


@kinds
def test_an_interrupt_before_any_opcode_of_an_observation(kind: str) -> None:
    """It is counted as a whole, or not at all; the next one counts as ever."""
    plateau = falling(**KINDS[kind])
    counts = []
    for _ in at_each_opcode(lambda: plateau.observe(1.0), interrupt):
        counts.append(plateau.reductions)
        plateau.observe(1.0)
        assert plateau.reductions == counts[-1] + 1
        plateau.load_state_dict(plateau.state_dict() | {"reductions": 0})
    assert set(counts) == {0, 1}
    assert counts == sorted(counts)


SAVED = 10**6


@kinds
def test_a_state_that_is_loaded_before_any_opcode_of_an_observation(kind: str) -> None:
    """It comes before the observation or after it: nothing of the former state returns."""
    plateau = falling(**KINDS[kind])
    state = plateau.state_dict() | {"reductions": SAVED}
    seen = set()
    for _ in at_each_opcode(lambda: plateau.observe(1.0), lambda: plateau.load_state_dict(state)):
        seen.add(plateau.reductions)
        plateau.load_state_dict(state | {"reductions": 0})
    assert seen == {SAVED, SAVED + 1}


def test_an_observation_before_any_opcode_of_loading() -> None:
    """It is of the former state, or of the new one."""
    plateau = falling()
    state = plateau.state_dict() | {"reductions": SAVED}
    seen = set()
    for _ in at_each_opcode(lambda: plateau.load_state_dict(state), lambda: plateau.observe(1.0)):
        seen.add(plateau.reductions)
    assert seen == {SAVED, SAVED + 1}


@kinds
def test_copies_that_are_made_while_a_plateau_observes(kind: str) -> None:
    """Of any moment, with a state of their own: a shallow copy too."""
    plateau = falling(**KINDS[kind])
    copies: list[Plateau] = []

    def take() -> None:
        whole = plateau * Cosine(1.0, 10)
        copies.extend([copy.copy(plateau), copy.deepcopy(plateau), pickle.loads(pickle.dumps(plateau))])
        copies.extend(schedules.plateaus(copy.deepcopy(whole)))

    for number in at_each_opcode(lambda: plateau.observe(1.0), take):
        assert plateau.reductions == number + 1
        for each in copies:
            assert each == plateau
            assert each.reductions in (number, number + 1)
            before = each.reductions
            each.observe(1.0)
            assert each.reductions == before + 1
        assert plateau.reductions == number + 1
        copies.clear()


def test_former_states_are_not_kept() -> None:
    """Nor is a thread that was late, with what it had read, a harm: the chain from there is followed and let go."""
    plateau = falling()
    history = vars(plateau)["_history"]
    early = history.last()
    for _ in range(10_000):
        plateau.observe(1.0)
    assert not history.last().following
    history._last = early
    assert plateau.reductions == 10_000
    assert not history._last.following
    del early
    assert plateau.reductions == 10_000


@forks
def test_a_child_forked_while_a_plateau_observes() -> None:
    done = python("""
        import os, signal, sys, threading
        from lrcore.schedules import Plateau
        plateau = Plateau(1.0, factor=0.999999, patience=0)
        plateau.observe(1.0)
        begun, end = threading.Event(), threading.Event()
        def work():
            while not end.is_set():
                plateau.observe(1.0)
                begun.set()
        worker = threading.Thread(target=work)
        worker.start()
        begun.wait()
        statuses = []
        for _ in range(20):
            child = os.fork()
            if child == 0:
                signal.alarm(10)
                before = plateau.reductions
                for _ in range(100):
                    plateau.observe(1.0)
                os._exit(plateau.reductions != before + 100)
            statuses.append(os.waitpid(child, 0)[1])
        end.set()
        worker.join()
        sys.exit(any(statuses))
    """)
    assert done.returncode == 0, done.stderr


# ---- numbers


class Own(Schedule):
    """A schedule of the caller's own."""

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
@pytest.mark.parametrize("way", WAYS)
def test_arithmetic_is_in_float64(source: str, number: str, way: str) -> None:
    """A rate in another type acts as the float64 that it is equal to."""
    compose, convert = WAYS[way], NUMBERS[number]
    narrow = compose(SOURCES[source](lambda t: convert(0.1 + 0.01 * (t % 3)))) * 0.3
    wide = compose(Function(lambda t: float(convert(0.1 + 0.01 * (t % 3))))) * 0.3
    for t in range(12):
        assert type(narrow._value(t)) is float
        assert narrow._value(t) == narrow(t) == wide(t)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("wrong", ["fast", None, True, 1j, np.ones(2)], ids=lambda each: type(each).__name__)
def test_what_is_no_rate_is_refused_where_it_is_returned(source: str, wrong: Any) -> None:
    """By the t that the callable was given, in any arithmetic."""
    schedule = SOURCES[source](lambda t: wrong if t else 0.5)
    for compose in WAYS.values():
        with pytest.raises(TypeError, match="^lr from the schedule at t = [1-9]: expected a number, got"):
            compose(schedule)(range(20))
    opt = lrcore.SGD(np.zeros(2, np.float32), lr=schedule)
    opt.step(np.ones(2, np.float32))
    with pytest.raises(TypeError, match="^lr from the schedule at t = 1: expected a number, got"):
        opt.step(np.ones(2, np.float32))
    assert opt.step_count == 1
