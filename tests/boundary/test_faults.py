"""Failures around a step: no memory, no threads, leaks, exceptions during a call, a second interpreter."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from support import ONES, N, assert_bits, assert_runs, run_in_threads, start

measured = pytest.mark.skipif(
    not Path("/proc/self/statm").exists() or "san" in os.environ.get("LD_PRELOAD", ""),
    reason="this platform has no /proc/self, or a sanitizer manages the memory",
)

# ---- memory and threads that the system refuses

LIMITED = """
import os, resource, signal
from pathlib import Path

MiB = 2**20

def pages(which):
    return int(Path("/proc/self/statm").read_text().split()[which]) * resource.getpagesize()

def limit(room):
    most = pages(0) + room if room else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))

"""


@measured
def test_no_memory_for_the_state() -> None:
    """MemoryError is raised, nothing stays allocated, and an existing optimizer still loads and steps."""
    assert_runs(
        LIMITED
        + """
def refused(call, *arguments):
    try:
        call(*arguments)
    except MemoryError:
        return
    raise AssertionError("expected MemoryError")

n = 4 * MiB
params, grads = np.ones(n, np.float32), np.ones(n, np.float32)
opt = lrcore.SGD(params, lr=0.5, momentum=0.5, grads=grads)
opt.step()
limit(25 * MiB)  # room for one state of 16 MiB
for turn in range(20):
    refused(lrcore.Adam, params)
    refused(lambda: [opt.state_dict(), opt.state_dict()])
    if turn == 1:
        before = pages(0)  # malloc's caches are full by now
assert pages(0) < before + 4 * MiB, (pages(0), before)
opt.load_state_dict(opt.state_dict())
opt.step()
assert opt.step_count == 2 and (params == -0.25).all()
"""
    )


@measured
def test_no_threads_to_be_had() -> None:
    """Steps run in the calling thread alone, then with some of the pool's threads, then with all of them."""
    assert_runs(
        LIMITED
        + """
n = 16 * 262_144
lrcore.set_num_threads(16)
opt = lrcore.SGD(np.zeros(n, np.float32), lr=1.0, grads=np.full(n, -1, np.float32))
before = len(os.listdir("/proc/self/task"))
mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
hired = []
for room in (MiB, 20 * MiB, None):  # a thread's stack takes 2 or 8 MiB
    limit(room)
    for _ in range(3):
        opt.step()
    hired.append(len(os.listdir("/proc/self/task")) - before)
assert hired[0] == 0 < hired[1] < hired[2] == 15, hired
assert opt.step_count == 9 and (opt.params == 9).all()
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
"""
    )


@pytest.fixture(scope="module")
def failing_new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a library to preload whose operator new fails on request."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler was found")
    library = tmp_path_factory.mktemp("new") / "failing_new.so"
    source = Path(__file__).with_name("failing_new.cpp")
    subprocess.run([compiler, "-std=c++20", "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
    return library


@measured
def test_no_memory_inside_the_core(failing_new: Path) -> None:
    """Each C++ allocation fails in turn: a call raises MemoryError or succeeds, and is never half done.

    No signal stays blocked. Constructing an optimizer is left out: pybind11 aborts the process if it cannot
    allocate its own record of the instance.
    """
    assert_runs(
        """
        import ctypes, signal
        core = ctypes.CDLL(None)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        large, small = (np.full(n, -1, np.float32) for n in (8 * 262_144, 100))
        lrcore.set_num_threads(8)  # none of them has started yet

        def build(params):
            opt = lrcore.SGD(params, lr=lambda t: 1.0, momentum=0.5)
            opt.step_count = 5
            return opt

        def seen(opt):
            momentum, = opt.state.values()
            assert (opt.params == opt.params[0]).all() and (momentum == momentum[0]).all()
            return opt.params[0], momentum[0], opt.step_count, opt.hyper["momentum"], opt.lr

        saved = build(np.zeros_like(small)).state_dict() | {"step_count": 9}
        calls = {
            "step": lambda opt: opt.step(large),
            "lr": lambda opt: setattr(opt, "lr", 0.25),
            "hyper": lambda opt: opt.hyper.update(momentum=0.25),
            "load": lambda opt: opt.load_state_dict(saved),
            "refuse": lambda opt: opt.step(small[::2]),
        }
        for name, call in calls.items():
            ends = set()
            for which in range(1, 1000):
                opt = build(np.zeros_like(large if name == "step" else small))
                before = seen(opt)
                core.fail_new(which)
                try:
                    call(opt)
                except (MemoryError, ValueError) as error:
                    assert isinstance(error, MemoryError) or name == "refuse"
                    assert seen(opt) == before, (name, which)
                else:
                    ends.add(seen(opt))
                survived = core.fail_new(0)
                assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask, (name, which)
                if survived:
                    break
                if name != "step":  # a large step would start all workers
                    opt.step(small)
            assert survived and which > 3 * (name == "step"), name
            assert len(ends) == (name != "refuse") and before not in ends, ends
        """,
        LD_PRELOAD=str(failing_new),
    )


@measured
def test_optimizers_that_come_and_go_leave_nothing() -> None:
    """A leak of 64 bytes per call adds 32 kB in every round, but allocators add pages only in some rounds."""
    assert_runs(
        LIMITED
        + """
import gc
params, grads = np.ones(64, np.float32), np.ones(64, np.float32)

def work():
    opt = lrcore.Adam(params, lr=lambda t: 1e-3, grads=grads)
    opt.step()
    opt.step(grads)
    opt.load_state_dict(opt.state_dict())
    opt.hyper["eps"] = 1e-6
    opt.lr = lambda t: "none"
    for wrong in (lambda: opt.step(grads[::2]), lambda: opt.step(grads), lambda: lrcore.Adam(params, lr=-1)):
        try:
            wrong()
        except (TypeError, ValueError):
            continue
        raise AssertionError

growth = []
for _ in range(4):
    before = pages(1)
    for _ in range(500):
        work()
    gc.collect()
    growth.append(pages(1) - before)
assert min(growth) <= 16 * 1024, growth
"""
    )


# ---- exceptions in the middle of a call


class Raises:
    """An object that raises an error when it is called, converted or exported, but reports its device."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def fail(self, *_: Any, **__: Any) -> Any:
        raise self.error

    __call__ = __float__ = __index__ = __dlpack__ = fail

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class Nowhere(Raises):
    """An object that also raises when its device is queried."""

    __dlpack_device__ = Raises.fail


def step_at(opt: Any, lr: Any) -> None:
    opt.lr = lr
    opt.step(ONES)


CALLS: dict[str, Callable[[Any, BaseException], object]] = {
    "call a schedule": lambda opt, error: step_at(opt, Raises(error)),
    "convert a rate": lambda opt, error: step_at(opt, lambda _: Raises(error)),
    "convert a scale": lambda opt, error: opt.step(ONES, grad_scale=Raises(error)),
    "convert a count": lambda opt, error: setattr(opt, "step_count", Raises(error)),
    "query a device": lambda opt, error: opt.step(Nowhere(error)),
    "export": lambda opt, error: opt.step(Raises(error)),
}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()], ids=repr)
@pytest.mark.parametrize("call", CALLS)
def test_an_exception_in_the_middle(call: str, error: BaseException) -> None:
    """The exception propagates, nothing is changed, and any thread can use the optimizer afterwards."""
    opt = lrcore.SGD(start(), lr=0.5, momentum=0.5)
    with pytest.raises(type(error)) as raised:
        CALLS[call](opt, error)
    assert raised.value is error
    assert opt.step_count == 0
    assert_bits(opt.params, start())
    assert_bits(opt.state["momentum_buffer"], np.zeros(N, np.float32))
    opt.lr = 0.5
    run_in_threads(2, lambda _: opt.step(ONES))
    assert opt.step_count == 2
    assert_bits(opt.params, start() - np.float32(0.5) - np.float32(0.75))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="on other processors, traps are optional")
def test_floating_point_exceptions_that_the_caller_traps() -> None:
    """A step divides 0 by 0 and overflows without a signal; the caller's traps are in place afterwards."""
    assert_runs("""
        import ctypes, ctypes.util
        traps = 1 | 4 | 8  # invalid, division by zero, overflow
        libm = ctypes.CDLL(ctypes.util.find_library("m"))
        g = np.array([0, 3e38, np.inf, np.nan] * 20, np.float32)
        optimizers = {}
        for backend in (*lrcore._runtime.cpu_backends(), "emulated"):
            with lrcore.use_backend(backend):
                optimizers[backend] = lrcore.RMSprop(np.ones(80, np.float32), eps=0.0, grads=g)
        libm.feenableexcept(traps)
        for backend, opt in optimizers.items():
            lrcore.use_backend(backend)
            opt.step()
            assert libm.fegetexcept() == traps
        libm.fedisableexcept(traps)
        assert np.isnan(opt.params[[0, 3]]).all()
        assert len({each.params.tobytes() for each in optimizers.values()}) == 1
    """)


def test_a_second_interpreter_is_refused() -> None:
    """The core exists once per process; the first interpreter keeps working."""
    assert_runs("""
        import importlib, os, sys
        name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
        interpreters = importlib.import_module(name)
        opt = lrcore.SGD(np.zeros(300_000, np.float32), lr=1.0, grads=np.full(300_000, -1, np.float32))
        opt.step()
        second = interpreters.create()
        end, other_end = os.pipe()
        interpreters.run_string(second, f'''if True:
            import os
            try:
                import lrcore
            except ImportError as error:
                os.write({other_end}, str(error).encode())
        ''')
        assert os.read(end, 100) == b"lrcore only works in the main interpreter of a process, not in a subinterpreter"
        interpreters.destroy(second)
        opt.step()
        assert (opt.params == 2).all()
    """)
