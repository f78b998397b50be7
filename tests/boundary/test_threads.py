"""Threads and forks: no hang, no crash, no lost step."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore._lrcore_core import step_together
from support import (
    LARGE,
    assert_bits,
    assert_runs,
    assert_same,
    gradients,
    oracle_step,
    python,
    run_in_threads,
)

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")


@pytest.mark.parametrize("n", [100, 5 * LARGE])
@pytest.mark.parametrize("within", ["a loop", "schedules of others"])
def test_eight_threads_on_one_optimizer_lose_no_step(n: int, within: str) -> None:
    opt = lrcore.SGD(np.zeros(n, np.float32), lr=lambda t: float(t >= 0))
    g = np.full(n, -1, np.float32)

    def rate(_: int) -> float:
        opt.step(g)
        return 1.0

    def work(_: int) -> None:
        other = lrcore.SGD(np.zeros(8, np.float32), lr=rate, grads=np.ones(8, np.float32))
        for _ in range(25):
            opt.step(g) if within == "a loop" else other.step()

    references = sys.getrefcount(g)
    run_in_threads(8, work)
    assert sys.getrefcount(g) == references
    assert opt.step_count == 8 * 25
    assert_bits(opt.params, np.full(n, 8 * 25, np.float32))


def test_eight_threads_on_eight_optimizers() -> None:
    """Each optimizer steps as if it were alone, with the oracle's bits."""
    rng = np.random.default_rng(0)
    all_gradients = [gradients(rng, LARGE) for _ in range(5)]
    optimizers = [lrcore.Adam(np.ones(LARGE, np.float32), lr=0.01) for _ in range(8)]

    def work(index: int) -> None:
        for g in all_gradients:
            optimizers[index].step(g)

    run_in_threads(8, work)
    p, states = np.ones(LARGE, np.float32), [np.zeros(LARGE, np.float32) for _ in range(2)]
    for t, g in enumerate(all_gradients, 1):
        p, states = oracle_step(optimizers[0], p, g, states, t=t, lr=0.01)
    for opt in optimizers:
        assert_same(opt, p, states)


def test_eight_threads_call_one_function_with_the_same_arguments() -> None:
    """Each call steps as if alone, although NAdam continues the product of momenta from other calls."""

    def parameters_after(t: int) -> bytes:
        p, g, m, v = np.ones((4, 8), np.float32)
        lrcore.functional.nadam(p, g, m, v, step=t, lr=0.1, betas=(1 - 1e-7, 0.999), momentum_decay=0.5)
        return p.tobytes()

    steps = [100_000 * k for k in range(1, 9)]
    expected = {t: parameters_after(t) for t in steps}

    def work(index: int) -> None:
        for t in steps[index:] + steps[:index]:
            assert parameters_after(t) == expected[t]

    run_in_threads(8, work)


def test_two_threads_step_while_a_third_assigns_and_saves() -> None:
    """No step is lost, and each save is a snapshot of one moment.

    The state counts all steps. The step count is 2^20 times the number of the last assignment, plus the
    number of steps since then.
    """
    opt = lrcore.Adagrad(np.zeros(LARGE, np.float32), lr=lambda _: 1.0)
    g = np.ones(LARGE, np.float32)
    saved: list[dict[str, Any]] = []

    def work(index: int) -> None:
        for turn in range(1, 41):
            if index < 2:
                opt.step(g)
            else:
                opt.step_count = turn << 20
                opt.hyper.update(eps=turn, lr_decay=turn)
                opt.lr = opt.schedule
                saved.append(opt.state_dict())

    run_in_threads(3, work)
    assert (opt.state["sum"] == 80).all()
    for turn, each in enumerate(saved, 1):
        total = each["state"]["sum"]
        assert (total == total[0]).all()
        since = each["step_count"] - (turn << 20)  # the thread that saves also assigned the count
        assert 0 <= since <= total[0] <= 80
        assert each["hyper"]["eps"] == each["hyper"]["lr_decay"] == turn


def test_optimizers_that_step_together_in_either_order() -> None:
    """No two threads wait for each other, each holding the lock that the other needs."""
    n = 3_000_000  # sweeps are so long that a thread is waiting whenever another one releases the locks
    grads = np.full(n, -1, np.float32)
    first, second = (lrcore.SGD(np.zeros(n, np.float32), lr=1.0, grads=grads) for _ in range(2))

    def work(index: int) -> None:
        order = [first, second] if index % 2 else [second, first]
        for _ in range(10):
            step_together(order)

    run_in_threads(8, work)
    assert first.step_count == second.step_count == 80
    assert_bits(first.params, np.full(n, 80, np.float32))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot bind a process to a CPU")
def test_more_threads_than_the_system_runs_at_once() -> None:
    """The caller takes slices that no worker has begun.

    Each slice is taken once, for any timing and number of threads.
    """
    assert_runs("""
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        for threads in (2, 16, 1, 5):
            lrcore.set_num_threads(threads)
            for n in (65_536, 100_003, 300_000):
                opt = lrcore.SGD(np.zeros(n, np.float32), lr=1.0, grads=np.full(n, -1, np.float32))
                for step in range(200):
                    opt.step()
                assert (opt.params == 200).all(), (threads, n)
    """)


# ---- processes


@forks
@pytest.mark.parametrize("workers", ["awake", "asleep"])
def test_forks(workers: str) -> None:
    """The child inherits no pool threads, and neither waits for them nor loses work. The parent continues."""
    assert_runs(f"""
        import os, signal, time
        n = 1_500_000
        lrcore.set_num_threads(4)
        opt = lrcore.SGD(np.zeros(n, np.float32), lr=1.0, grads=np.full(n, -1, np.float32))

        def threads():
            return os.path.isdir("/proc/self/task") and len(os.listdir("/proc/self/task"))

        def work():
            signal.alarm(10)
            before = opt.step_count
            for _ in range(10):
                opt.step()
            signal.alarm(0)
            return opt.step_count == before + 10 and (opt.params == opt.step_count).all()

        work()
        time.sleep({0.1 * (workers == "asleep")})
        if (child := os.fork()) == 0:
            alone = threads()
            worked = work()  # would run alone if it relied on its parent's threads
            worked = worked and (not alone or threads() == alone + 3)
            if (grandchild := os.fork()) == 0:
                os._exit(not work())
            os._exit(os.waitpid(grandchild, 0)[1] or not worked)
        opt.step()
        assert os.waitpid(child, 0)[1] == 0
        assert work()
    """)


@pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="this platform does not list a process's threads"
)
def test_signals_are_for_the_threads_of_the_program() -> None:
    """The pool's threads block signals: a program may wait for a signal that all of its own threads block."""
    done = python("""
        import os, signal, sys, time
        from pathlib import Path
        import numpy as np, lrcore
        def status(thread):
            lines = Path(f"/proc/self/task/{thread}/status").read_text().splitlines()
            return dict(line.split(":", 1) for line in lines)
        lrcore.set_num_threads(4)
        opt = lrcore.SGD(np.zeros(1_500_000, np.float32), lr=1.0)
        before = set(os.listdir("/proc/self/task"))
        opt.step(opt.params.copy())
        hired = set(os.listdir("/proc/self/task")) - before
        while not all(int(status(each)["voluntary_ctxt_switches"]) for each in hired):
            time.sleep(0.001)  # until all wait for work: a thread that has not begun yet blocks all signals
        blocked = [int(status(each)["SigBlk"], 16) for each in hired]
        own = [signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1]
        sys.exit(len(hired) != 3 or not all(mask >> number - 1 & 1 for mask in blocked for number in own))
    """)
    assert done.returncode == 0, done.stderr


@forks
def test_a_child_forked_during_another_threads_step_is_told() -> None:
    """The child's arrays may be half updated, so the optimizer raises an error.

    Other optimizers work, and so do functions that are called with the same arguments.
    """
    assert_runs("""
        import os, signal, sys, threading
        arguments = {"lr": 0.1, "betas": (1 - 1e-7, 0.999), "momentum_decay": 1.0}
        late = 10**9  # the product of momenta up to this step takes seconds
        opt = lrcore.NAdam(np.ones(1, np.float32), grads=np.ones(1, np.float32), **arguments)
        opt.step_count = late
        large = lrcore.SGD(np.ones(5_000_000, np.float32), grads=np.ones(5_000_000, np.float32))

        def function(t):
            lrcore.functional.nadam(*np.ones((4, 1), np.float32), step=t, **arguments)

        function(1)
        sys.setswitchinterval(1000)  # each thread runs until it releases the GIL, within its step
        for work in (opt.step, lambda: function(late), lambda: [large.step() for _ in range(1000)]):
            started = threading.Event()
            threading.Thread(target=lambda: [started.set(), work()], daemon=True).start()
            started.wait()
        if (child := os.fork()) == 0:
            signal.alarm(10)
            function(2)
            lrcore.SGD(np.zeros(300_000, np.float32)).step(np.ones(300_000, np.float32))
            try:
                opt.step()
            except RuntimeError as error:
                os._exit("forked while another thread was stepping" not in str(error))
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
    """)


def test_a_daemon_thread_that_steps_does_not_disturb_the_exit() -> None:
    done = python("""
        import threading
        import numpy as np, lrcore
        opt = lrcore.SGD(np.zeros(300_000, np.float32), grads=np.ones(300_000, np.float32))
        def work():
            while True:
                opt.step()
        threading.Thread(target=work, daemon=True).start()
        while opt.step_count < 10:
            pass
    """)
    assert (done.returncode, done.stderr) == (0, "")


# ---- the GIL


@pytest.mark.parametrize("during", ["sweep", "product of a class", "product of a function"])
def test_the_gil_is_free_during_a_step(during: str) -> None:
    """The GIL is free during a large sweep and NAdam's product of momenta.

    The product takes a long time at late steps. On its own, the short sweep after the product would let
    another thread run only once or twice.
    """
    p, g, m, v = np.zeros((4, 10_000_000 if during == "sweep" else 1), np.float32)
    arguments: Any = {"lr": 0.1, "betas": (1 - 1e-7, 0.999), "momentum_decay": 1.0}
    opt = lrcore.SGD(p, grads=g) if during == "sweep" else lrcore.NAdam(p, grads=g, **arguments)
    running, ticks, seen = threading.Event(), 0, []

    def tick() -> None:
        nonlocal ticks
        running.set()
        while running.is_set():
            ticks += 1
            time.sleep(0)  # releases the GIL

    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # the GIL changes hands only when a thread releases it
    thread = threading.Thread(target=tick, daemon=True)
    try:
        thread.start()
        running.wait()
        for t in (2_000_000, 4_000_000, 6_000_000):
            before = ticks
            if during == "product of a function":
                lrcore.functional.nadam(p, g, m, v, step=t, **arguments)
            else:
                opt.step_count = t - 1
                opt.step()
            seen.append(ticks - before)
    finally:
        running.clear()
        sys.setswitchinterval(interval)
    thread.join(60)
    assert max(seen) > (0 if during == "sweep" else 10)
