"""What goes wrong around a step: no memory, no threads, exceptions and signals in the middle of it, forks, leaks."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from support import LARGE, N, assert_bits, python, run_in_threads, start

linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this platform has no /proc/self")
own_memory = pytest.mark.skipif(
    "san.so" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer manages the memory"
)
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")


def assert_runs(program: str, **env: str) -> None:
    """Run a program in a fresh interpreter, which fails by its status."""
    done = python(program, **env)
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)


# ---- memory and threads that the system does not give

LIMITED = """
import os, resource, signal
from pathlib import Path
import numpy as np, lrcore

MiB = 2**20

def pages(which):
    return int(Path("/proc/self/statm").read_text().split()[which]) * resource.getpagesize()

def limit(room):
    most = pages(0) + room if room else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))

def refused(call, *arguments):
    try:
        call(*arguments)
    except MemoryError:
        return
    raise AssertionError("there was memory")
"""


@linux
@own_memory
def test_no_memory_for_the_state() -> None:
    """MemoryError, nothing is kept, and what fits is made and steps."""
    assert_runs(
        LIMITED
        + """
n = 4 * MiB
params, grads = np.ones(n, np.float32), np.ones(n, np.float32)
opt = lrcore.SGD(params, lr=0.5, momentum=0.5, grads=grads)
opt.step()
limit(25 * MiB)  # for one state of 16 MiB
for turn in range(20):
    refused(lrcore.Adam, params)
    refused(lambda: [opt.state_dict(), opt.state_dict()])
    if turn == 1:
        before = pages(0)  # malloc has now kept what it keeps
assert pages(0) < before + 4 * MiB, (pages(0), before)
opt.load_state_dict(opt.state_dict())
opt.step()
assert opt.step_count == 2 and (params == -0.25).all()
"""
    )


@linux
@own_memory
def test_state_takes_memory_where_it_is_touched() -> None:
    """Buffers that are larger than the memory: their state is mapped, or refused."""
    assert_runs(
        LIMITED
        + """
import mmap
params = np.zeros(256 * MiB, np.float32)
before = pages(1)
lrcore.Adam(params)
assert pages(1) < before + 64 * MiB
huge = mmap.mmap(-1, 2**42, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)  # MAP_NORESERVE
params = np.frombuffer(huge, np.float32)
limit(64 * MiB)
refused(lrcore.Adam, params)
lrcore.SGD(params[:MiB]).step(np.ones(MiB, np.float32))
"""
    )


@linux
@own_memory
def test_no_threads_to_be_had() -> None:
    """The pool works with the caller alone, then with some, then with all."""
    assert_runs(
        LIMITED
        + """
def threads():
    return len(os.listdir("/proc/self/task"))

def take_steps():
    for _ in range(3):
        opt.step()

n = 16 * 262_144
lrcore.set_num_threads(16)
opt = lrcore.SGD(np.zeros(n, np.float32), lr=1.0, grads=np.full(n, -1, np.float32))
before = threads()
mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
hired = []
for room in (MiB, 20 * MiB, None):  # a thread's stack takes 2 MiB or 8
    limit(room)
    take_steps()
    hired.append(threads() - before)
assert hired[0] == 0 < hired[1] < hired[2] == 15, hired
assert opt.step_count == 9 and (opt.params == 9).all()
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
"""
    )


@pytest.fixture(scope="module")
def failing_new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a library to preload whose operator new fails when it is told to."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler is here")
    library = tmp_path_factory.mktemp("new") / "failing_new.so"
    source = Path(__file__).with_name("failing_new.cpp")
    subprocess.run([compiler, "-std=c++20", "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
    return library


@linux
@own_memory
def test_no_memory_inside_the_core(failing_new: Path) -> None:
    """Each allocation of C++ in turn fails: MemoryError, or done without; never half done, no signal stays blocked.

    The making of an optimizer is left out: pybind11 ends the process where an instance's own entries fail.
    """
    assert_runs(
        """
        import ctypes, os, signal
        import numpy as np, lrcore
        core = ctypes.CDLL(None)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        large, small = (np.full(n, -1, np.float32) for n in (8 * 262_144, 100))
        lrcore.set_num_threads(8)  # none of which is there yet

        def build(name):
            params = np.zeros_like(large if name == "step" else small)
            opt = lrcore.SGD(params, lr=lambda t: 1.0, momentum=0.5)
            opt.step_count = 5
            return opt

        def step(opt):
            opt.step(large if opt.size == large.size else small)

        def seen(opt):
            momentum, = opt.state.values()
            assert (opt.params == opt.params[0]).all() and (momentum == momentum[0]).all()
            return opt.params[0], momentum[0], opt.step_count, dict(opt.hyper), opt.lr

        saved = build("load").state_dict() | {"step_count": 9}
        calls = {
            "step": step,
            "lr": lambda opt: setattr(opt, "lr", 0.25),
            "hyper": lambda opt: opt.hyper.update(momentum=0.25),
            "load": lambda opt: opt.load_state_dict(saved),
            "count": lambda opt: setattr(opt, "step_count", 7),
            "save": lambda opt: opt.state_dict(),
            "refuse": lambda opt: opt.step(small[::2]),
        }
        for name, call in calls.items():
            expected = {}
            for which in range(1, 1000):
                opt = build(name)
                expected.setdefault("before", seen(opt))
                core.fail_new(which)
                try:
                    call(opt)
                except (MemoryError, ValueError) as error:
                    assert isinstance(error, MemoryError) or name == "refuse"
                    assert seen(opt) == expected["before"], (name, which)
                else:
                    assert seen(opt) == expected.setdefault("after", seen(opt)), (name, which)
                survived = core.fail_new(0)
                assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask, (name, which)
                if survived:
                    break
                if name != "step":  # which would hire all workers
                    step(opt)
            else:
                raise AssertionError(name)
            if name == "step":
                assert expected["after"][2] == 6 and which > 3
        """,
        LD_PRELOAD=str(failing_new),
    )


@linux
@own_memory
def test_optimizers_that_come_and_go_leave_nothing() -> None:
    """A leak of 64 bytes in each would be 320 kB or 64 kB in every round; the allocators' own pages come in some rounds alone."""
    assert_runs(
        LIMITED
        + """
import gc
params, grads = np.ones(64, np.float32), np.ones(64, np.float32)

def cycle():
    opt = lrcore.Adam(params, lr=lambda t: 1e-3, grads=grads)
    opt.step()
    opt.step(grads)

def refusals():
    opt = lrcore.Adam(params, lr=lrcore.schedules.Constant(1e-3))
    opt.load_state_dict(opt.state_dict())
    opt.hyper["eps"] = 1e-6
    opt.lr = lambda t: "none"
    for wrong in (lambda: opt.step(grads[::2]), lambda: opt.step(grads), lambda: lrcore.Adam(params, lr=-1)):
        try:
            wrong()
        except (TypeError, ValueError):
            continue
        raise AssertionError

for work in (cycle, refusals):
    growth = []
    for _ in range(5):
        before = pages(1)
        for _ in range(5_000 if work is cycle else 1_000):
            work()
        gc.collect()
        growth.append(pages(1) - before)
    assert min(growth) <= (160 if work is cycle else 32) * 1024, (work, growth)
"""
    )


# ---- exceptions in the middle of a call


class Raises:
    """Raises whatever is asked of it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def fail(self, *_: Any, **__: Any) -> Any:
        if isinstance(self.error, KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise self.error

    __call__ = __float__ = __index__ = __dlpack__ = __dlpack_device__ = fail


class Exports(Raises):
    """Raises when it is exported, not before."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def ask_a_schedule(opt: lrcore.SGD, fault: Raises) -> None:
    opt.lr = fault
    opt.step(np.ones(N, np.float32))


def convert_a_rate(opt: lrcore.SGD, fault: Raises) -> None:
    opt.lr = lambda _: fault  # type: ignore[assignment,return-value]
    opt.step(np.ones(N, np.float32))


def convert_a_scale(opt: lrcore.SGD, fault: Raises) -> None:
    opt.step(np.ones(N, np.float32), grad_scale=fault)  # type: ignore[arg-type]


def convert_a_count(opt: lrcore.SGD, fault: Raises) -> None:
    opt.step_count = fault  # type: ignore[assignment]


def ask_a_device(opt: lrcore.SGD, fault: Raises) -> None:
    opt.step(fault)


def export(opt: lrcore.SGD, fault: Raises) -> None:
    opt.step(Exports(fault.error))


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), MemoryError(), SystemExit(), RecursionError()], ids=repr
)
@pytest.mark.parametrize(
    "call", [ask_a_schedule, convert_a_rate, convert_a_scale, convert_a_count, ask_a_device, export]
)
def test_an_exception_in_the_middle(call: Callable[[lrcore.SGD, Raises], None], error: BaseException) -> None:
    """It comes out, nothing is changed, and the optimizer is free for any thread."""
    opt = lrcore.SGD(start(), lr=0.5, momentum=0.5)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises((type(error), TypeError)) as raised:
            call(opt, Raises(error))
    finally:
        signal.signal(signal.SIGINT, before)
    if isinstance(error, RecursionError) and call in (ask_a_device, export):
        assert isinstance(raised.value.__cause__, RecursionError)  # refused as an array
    else:
        assert type(raised.value) is type(error)
    assert opt.step_count == 0
    assert_bits(opt.params, start())
    assert_bits(opt.state["momentum_buffer"], np.zeros(N, np.float32))
    opt.lr = 0.5
    run_in_threads(2, lambda _: opt.step(np.ones(N, np.float32)))
    assert opt.step_count == 2
    assert_bits(opt.params, start() - np.float32(0.5) - np.float32(0.75))


@pytest.mark.skipif(not Path("/lib64/ld-linux-x86-64.so.2").exists(), reason="MXCSR and glibc are needed")
def test_floating_point_exceptions_that_the_caller_traps() -> None:
    """A step divides 0 by 0 and overflows without a signal, and the caller's traps are there afterwards."""
    assert_runs("""
        import ctypes, ctypes.util
        import numpy as np, lrcore
        traps = 1 | 4 | 8  # invalid, division by zero, overflow
        libm = ctypes.CDLL(ctypes.util.find_library("m"))
        g = np.array([0, 3e38, np.inf, np.nan] * 20, np.float32)
        steps = []
        backends = [*lrcore._runtime.cpu_backends(), "emulated"]
        for backend in backends:
            lrcore.use_backend(backend)
            opt = lrcore.RMSprop(np.ones(80, np.float32), eps=0.0, grads=g)
            steps.append((opt.params, opt))
        libm.feenableexcept(traps)
        for backend, (_, opt) in zip(backends, steps):
            lrcore.use_backend(backend)
            opt.step()
            assert libm.fegetexcept() == traps
        libm.fedisableexcept(traps)
        for params, _ in steps:
            assert np.isnan(params[[0, 3]]).all() and params.tobytes() == steps[0][0].tobytes(), params[:4]
    """)


# ---- threads


def test_eight_threads_with_schedules_that_step_a_shared_optimizer() -> None:
    shared = lrcore.SGD(np.zeros(LARGE, np.float32), lr=1.0, grads=np.full(LARGE, -1, np.float32))

    def rate(_: int) -> float:
        shared.step()
        return 1.0

    optimizers = [lrcore.SGD(start(), lr=rate, grads=np.ones(N, np.float32)) for _ in range(8)]

    def work(index: int) -> None:
        for _ in range(10):
            optimizers[index].step()

    run_in_threads(8, work)
    assert shared.step_count == 80
    assert_bits(shared.params, np.full(LARGE, 80, np.float32))
    assert [opt.step_count for opt in optimizers] == [10] * 8


def test_two_threads_step_while_a_third_assigns_and_saves() -> None:
    """No step is lost, and what is saved is of one moment.

    The state is the number of steps ever taken; the count is 2^20 times the last assignment, and the steps since.
    """
    asked: list[int] = []

    def rate(t: int) -> float:
        asked.append(t)
        return 1.0

    opt = lrcore.Adagrad(np.zeros(LARGE, np.float32), lr=rate)
    g = np.ones(LARGE, np.float32)
    saved: list[dict[str, Any]] = []

    def work(index: int) -> None:
        for turn in range(1, 41):
            if index < 2:
                opt.step(g)
            else:
                opt.step_count = turn << 20
                opt.hyper.update(eps=turn, lr_decay=turn)
                opt.lr = rate
                saved.append(opt.state_dict())

    run_in_threads(3, work)
    assert len(asked) >= 80  # a step that another got ahead of, or an assignment, asks again
    assert (opt.state["sum"] == 80).all()
    assert all(t % 2**20 <= 80 for t in asked)
    for earlier, later in itertools.pairwise(saved):
        assert earlier["step_count"] <= later["step_count"]
    for turn, each in enumerate(saved, 1):
        total = each["state"]["sum"]
        assert (total == total[0]).all()
        since = each["step_count"] - (
            turn << 20
        )  # steps since the count was assigned, by the thread that saves
        assert 0 <= since <= total[0] <= 80
        assert each["hyper"]["eps"] == each["hyper"]["lr_decay"] == turn


def test_gradients_that_are_rewritten_during_a_step() -> None:
    """Each element is read once or twice as it was or is: a wrong program, but no crash, and the count is right."""
    g = np.ones(LARGE, np.float32)
    opt = lrcore.SGD(np.zeros(LARGE, np.float32), lr=1.0, grads=g)

    def work(index: int) -> None:
        for turn in range(50):
            if index:
                g.fill(1 + turn % 2)
            else:
                opt.step()

    run_in_threads(2, work)
    assert opt.step_count == 50
    assert ((opt.params >= -100) & (opt.params <= -50)).all()


# ---- processes

STEPPING = """
    import multiprocessing, os, signal, subprocess, sys, time
    import numpy as np, lrcore
    n = 1_500_000
    lrcore.set_num_threads(4)
    opt = lrcore.SGD(np.zeros(n, np.float32), lr=1.0, grads=np.full(n, -1, np.float32))

    def steps(count):
        signal.alarm(10)
        before = opt.step_count
        for _ in range(count):
            opt.step()
        signal.alarm(0)
        return opt.step_count - before, bool((opt.params == opt.step_count).all())

    steps(10)
"""


@forks
@pytest.mark.parametrize(
    "program",
    [
        """
    time.sleep(0.1)  # the workers fall asleep
    if (child := os.fork()) == 0:
        if (grandchild := os.fork()) == 0:
            os._exit(steps(10) != (10, True))
        worked = steps(10) == (10, True)
        os._exit(os.waitpid(grandchild, 0)[1] or not worked)
    assert os.waitpid(child, 0)[1] == 0
    """,
        """
    program = "import lrcore, numpy; lrcore.SGD(numpy.ones(300_000, 'f')).step(numpy.ones(300_000, 'f'))"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    if (child := os.fork()) == 0:
        steps(2)
        os.execv(sys.executable, [sys.executable, "-c", program])
    assert os.waitpid(child, 0)[1] == 0
    """,
        """
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map_async(steps, [2] * 9).get(60) == [(2, True)] * 9
    """,
    ],
    ids=["sleeping workers", "exec", "multiprocessing"],
)
def test_forks(program: str) -> None:
    """The child steps, and so does the parent afterwards."""
    assert_runs(STEPPING + program + "assert steps(10) == (10, True)")


def test_a_second_interpreter_is_refused() -> None:
    """NumPy is there once a process; the first interpreter goes on."""
    assert_runs("""
        import importlib, sys
        import numpy as np, lrcore
        name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
        interpreters = importlib.import_module(name)
        opt = lrcore.SGD(np.zeros(300_000, np.float32), lr=1.0, grads=np.full(300_000, -1, np.float32))
        opt.step()
        second = interpreters.create()
        interpreters.run_string(second, '''if True:
            try:
                import lrcore
            except ImportError:
                pass
        ''')
        interpreters.destroy(second)
        opt.step()
        assert (opt.params == 2).all()
    """)
