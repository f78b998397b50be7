"""Signal handlers, finalizers and other threads that run in the middle of a call.

They may read, save, copy and assign to the optimizer. They see a consistent state, or wait for one, and are
never refused. The interrupted call yields the same bits as if it had run alone, or as if it had run after
them.
"""

from __future__ import annotations

import contextlib
import copy
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from opcodes import at_each_opcode, interrupt
from support import ONES, N, assert_bits, assert_runs, run, run_in_threads, slow_but_first, start


def test_assigning_and_stepping_at_any_moment() -> None:
    """A step uses values assigned while its rate is computed; no assignment is lost; a save is a snapshot."""
    opt = lrcore.SGD(np.zeros(1, np.float32), lr=1.0, momentum=0.5)
    g = np.full(1, -1, np.float32)

    def reset() -> None:
        opt.params[:], opt.state["momentum_buffer"][:] = 0, 0
        opt.lr, opt.step_count = schedules.Constant(1.0).warmup(1) * 1.0, 100
        opt.hyper["weight_decay"] = 0.0

    def seen() -> tuple[float, int, float, float]:
        return float(opt.params[0]), opt.step_count, opt.lr, opt.hyper["weight_decay"]

    def intrude() -> None:
        opt.lr = 4.0
        opt.step_count = 200
        opt.hyper["weight_decay"] = 0.25

    reset()
    for _ in at_each_opcode(lambda: opt.step(g), intrude):
        assert seen() == (4.0, 201, 4.0, 0.25)
        reset()
    assert seen() == (1.0, 101, 1.0, 0.0)
    for _ in at_each_opcode(lambda: opt.hyper.update(momentum=0.25), intrude):
        assert (opt.hyper["momentum"], opt.hyper["weight_decay"]) == (0.25, 0.25)
        reset()
    saved: dict[str, Any] = {}
    for _ in at_each_opcode(lambda: saved.update(opt.state_dict()), lambda: opt.step(g)):
        assert saved["step_count"] - 100 == -saved["state"]["momentum_buffer"][0]
        reset()


@pytest.mark.parametrize("call", slow_but_first(["step", "load", "hyper", "lr", "copy", "save"]))
def test_all_or_nothing_at_any_moment(call: str) -> None:
    """An exception raised at any opcode, as by a signal handler, leaves either all effects of a call or none.

    Code that runs at an opcode without raising also sees all effects or none.
    """
    plateau = schedules.Plateau(schedules.Cosine(0.5, steps=1000), factor=0.5, patience=0)
    schedule = plateau.warmup(5) * schedules.Recursive(
        lambda _, lr: lr * 0.99, lr=1.0
    )  # runs Python code when it is called
    opt = lrcore.Adam(start(), lr=schedule, grads=ONES.copy())
    run(opt, 3)
    old = opt.state_dict(), opt.params.copy()
    run(opt, 2)
    for loss in (1.0, 2.0, 3.0):
        plateau.observe(loss)
    new = opt.state_dict(), opt.params.copy()

    def back() -> None:
        opt.lr = schedule
        opt.load_state_dict(old[0])
        opt.params[:] = old[1]

    def seen(opt: Any = opt) -> tuple[Any, ...]:
        saved = opt.state_dict()
        arrays = (each.tobytes() for each in (*saved.pop("state").values(), opt.params))
        return repr(saved), repr(opt.hyper), *arrays

    def look() -> None:
        assert seen() in (before, after)
        assert seen(copy.copy(opt)) in (before, after)
        assert opt.lr >= 0

    calls: dict[str, Callable[[], object]] = {
        "step": opt.step,
        "load": lambda: opt.load_state_dict(new[0]),
        "hyper": lambda: opt.hyper.update(eps=0.5, betas=(0.5, 0.5)),
        "lr": lambda: setattr(opt, "lr", 0.25),
        "copy": lambda: copy.copy(opt),
        "save": opt.state_dict,
    }
    back()
    before = seen()
    calls[call]()
    after = seen()
    assert (after == before) == (call in ("copy", "save"))
    back()
    ends = set()
    for _ in at_each_opcode(calls[call], interrupt):
        ends.add(seen())
        back()
    assert {before} <= ends <= {before, after}
    back()
    for _ in at_each_opcode(calls[call], look):
        assert seen() == after
        back()


@pytest.mark.parametrize(("intruder", "steps"), slow_but_first([("finalizer", 400), ("handler", 20_000)]))
def test_intruders_in_the_middle_of_everything(intruder: str, steps: int, tmp_path: Path) -> None:
    """Code that runs at every garbage collection, or at a signal every 300 microseconds, changes no bits.

    It reads, saves, copies and assigns during steps, saves, loads and assignments. Runs that resume from the
    files that it saves have the same bits as well.
    """
    program = """
        import copy, faulthandler, gc, pickle, random, signal
        faulthandler.dump_traceback_later(55, exit=True)
        from lrcore import schedules
        stored = schedules.Cosine(0.5, steps=20_000).warmup(20) * schedules.Exponential(1.0, rate=0.99, steps=10)
        beta1 = schedules.Linear(0.9, end=0.5, steps=300)

        def train(opt):
            for t in range(opt.step_count, steps):
                if t % 50 == 20:
                    opt.lr = stored * (1 + t % 3)
                if t % 50 == 30:
                    opt.hyper.update(eps=1e-8 * (1 + t % 4), weight_decay=stored * (0.1 * (t % 2)))
                if t % 100 == 40:
                    opt.save(folder + "/own.safetensors")
                    opt.load(folder + "/own.safetensors")
                opt.step(np.cos(opt.params * (1 + t % 7)))
            saved = opt.state_dict()
            arrays = [each.tobytes() for each in (opt.params, *saved.pop("state").values())]
            return repr(saved), arrays

        def build():
            return lrcore.Adam(np.linspace(-1, 1, 50, dtype=np.float32), lr=stored, betas=(beta1, 0.999))

        expected = train(build())
        opt = build()
        checkpoints, busy, intrusions, failed = [], False, 0, None

        def intrude(*_):
            global busy, intrusions, failed
            if busy:
                return
            busy = True
            try:
                intrusions += 1
                opt.lr, opt.schedule, repr(opt), opt.state_dict()
                if intrusions % 11 == 0:
                    pickle.loads(pickle.dumps(copy.copy(opt)))
                if intrusions % 101 == 0:  # assign the current values
                    opt.lr = opt.schedule
                    opt.hyper["eps"] = opt.hyper["eps"]
                    opt.load_state_dict(opt.state_dict())
                if intrusions % 97 == 0:
                    opt.save(f"{folder}/{intrusions}.safetensors")
                    checkpoints.append((f"{folder}/{intrusions}.safetensors", opt.params.copy()))
            except BaseException as error:
                failed = error
            busy = False

        if intruder == "handler":
            signal.signal(signal.SIGALRM, intrude)
            signal.setitimer(signal.ITIMER_REAL, 3e-4, 3e-4)
        else:
            gc.callbacks.append(intrude)
            gc.set_threshold(1)
        result = train(opt)
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.callbacks.clear()
        if failed:
            raise failed
        assert result == expected
        assert intrusions > 500 and len(checkpoints) > 5, (intrusions, len(checkpoints))
        for name, params in random.Random(1).sample(checkpoints, 3):
            assert train(lrcore.load(name, params)) == expected
    """
    given = f"folder, intruder, steps = {str(tmp_path)!r}, {intruder!r}, {steps}\n"
    assert_runs(given + textwrap.dedent(program))


# ---- threads


def test_a_rate_that_waits_for_a_step_of_its_own_optimizer() -> None:
    """Another thread takes the step; the rate is then computed again, for the next step."""
    asked: list[int] = []

    def rate(t: int) -> float:
        asked.append(t)
        if len(asked) == 1:
            run_in_threads(1, lambda _: opt.step(ONES))
        return 0.5

    opt = lrcore.SGD(start(), lr=rate)
    opt.step(ONES)
    assert asked == [0, 0, 1]
    assert_bits(opt.params, start() - np.float32(0.5) - np.float32(0.5))


def test_a_slow_rate_is_not_starved_by_fast_steps() -> None:
    """A thread with a slow rate completes its steps, however often other threads step in the meantime."""
    slow = threading.local()
    stop = threading.Event()

    def rate(_: int) -> float:
        if hasattr(slow, "here"):
            time.sleep(0.002)  # gives every other thread its turn
        return 1.0

    opt = lrcore.SGD(np.zeros(N, np.float32), lr=rate)
    g = np.full(N, -1, np.float32)
    taken = [0, 0, 0]

    def work(index: int) -> None:
        if index == 0:
            slow.here = True
            for _ in range(5):
                opt.step(g)
                taken[0] += 1
            stop.set()
        while not stop.is_set():
            opt.step(g)
            taken[index] += 1

    run_in_threads(3, work)
    assert opt.step_count == sum(taken)
    assert taken[0] == 5
    assert min(taken[1:]) > 5
    assert_bits(opt.params, np.full(N, sum(taken), np.float32))


TOUCHES: dict[str, Callable[[Any], Any]] = {
    "save": lambda opt: opt.state_dict(),
    "assign": lambda opt: opt.hyper.update(momentum=0.25),
    "load": lambda opt: opt.load_state_dict(opt.state_dict()),
    "copy": copy.copy,
}


@pytest.mark.parametrize("what", [*TOUCHES, "step"])
def test_two_optimizers_whose_rates_touch_each_other(what: str) -> None:
    """While the rates are computed, both optimizers are in a step but hold no lock. A nested step raises."""
    both = threading.Barrier(2)
    met = threading.local()
    optimizers: list[lrcore.SGD] = []
    touch: Callable[[Any], Any] = TOUCHES.get(what, lambda opt: opt.step(ONES))

    def rate_of(other: int) -> Callable[[int], float]:
        def rate(_: int) -> float:
            if not hasattr(met, "once"):
                met.once = both.wait(20)
            touch(optimizers[other])
            return 0.5

        return rate

    def work(index: int) -> None:
        refused = pytest.raises(RuntimeError, match="a schedule must not step the optimizer")
        with refused if what == "step" else contextlib.nullcontext():
            optimizers[index].step(ONES)

    optimizers += [lrcore.SGD(start(), lr=rate_of(1 - i), momentum=0.5) for i in range(2)]
    run_in_threads(2, work)
    for each in optimizers:
        assert each.step_count == (what != "step")
        assert_bits(each.params, start() - np.float32(0.5 * each.step_count))
