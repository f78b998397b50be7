"""The calls that a step makes to the driver and to the arrays' libraries, on imitated devices."""

from __future__ import annotations

import copy
import gc
import mmap
import re
import sys
import types
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.devices import Foreign, Imitated, elements_around_32_bits, imitated, with_the_tests
from gpu.fake_cuda import FUNCTIONS, FakeCuda, Job
from support import Array, assert_bits, make, python


@pytest.fixture
def xp() -> Iterator[Imitated]:
    """Yield imitated devices, which record the calls that they receive."""
    with imitated() as made:
        yield made


TABLE = Path(__file__).resolve().parents[2] / "csrc" / "cuda" / "api.h"


@pytest.mark.skipif(not TABLE.is_file(), reason="the C++ sources are missing")
def test_the_imitated_table_is_that_of_the_header() -> None:
    """Both tables have the same functions in the same order, with the same numbers of arguments."""
    declared = re.findall(r"^  [^/\n]*\(\*(\w+)\)\(([^)]*)\)", TABLE.read_text(), re.MULTILINE)
    assert [(name, len(arguments.split(", ")) if arguments else 0) for name, arguments in declared] == [
        (name, len(signature.split())) for name, signature in FUNCTIONS.items()
    ]


def ones(n: int = 8) -> Array:
    return np.ones(n, np.float32)


def test_a_step_launches_and_does_nothing_else(xp: Imitated, rule: str) -> None:
    """A step does not wait, allocate memory or load kernels; the constructor has already loaded them.

    A capturable optimizer also advances the count, on the same stream.
    """
    g, stream = xp.array(ones()), xp.stream()
    graph: Any = {"capturable": True, "max_steps": 3}
    for arguments, calls in (({}, ["is_capturing", "launch"]), (graph, ["launch", "advance"])):
        xp.fake.clear()
        opt = make(rule, xp.array(ones()), grads=g, **arguments)
        (prepared,) = xp.fake.calls("prepare")
        assert list(lrcore.rules())[prepared.arguments[0]] == rule
        xp.fake.clear()
        opt.step(stream=stream)
        assert [call.name for call in xp.fake.calls()] == calls
        assert {call.stream for call in xp.fake.calls()} == {stream.ptr}


def test_no_elements_no_launch(xp: Imitated) -> None:
    opt = lrcore.Adam(xp.array(ones(0)))
    opt.step(xp.array(ones(0)))
    assert opt.step_count == 1
    assert xp.fake.calls("launch", "allocate") == []


def launched_on(xp: Imitated) -> list[int | None]:
    """Return the streams of the launches so far."""
    return [call.stream for call in xp.fake.calls("launch")]


def test_the_stream_of_a_step(xp: Imitated) -> None:
    """A step runs on `stream`, by default the current stream of the parameters' library.

    Stream 0 means 1, the legacy default stream.
    """
    opt, g = lrcore.SGD(xp.array(ones())), xp.array(ones())
    side = xp.stream()

    class FromAnotherLibrary:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, side.ptr

    class OfTorch:
        cuda_stream = side.ptr

    opt.step(g)
    with side:
        opt.step(g)
        opt.step(g, stream=0)
    for stream in (side, side.ptr, np.uint64(side.ptr), FromAnotherLibrary(), OfTorch(), 0, 1, 2):
        opt.step(g, stream=stream)
    assert launched_on(xp) == [1, side.ptr, 1, *[side.ptr] * 5, 1, 1, 2]


def test_what_is_no_stream(xp: Imitated) -> None:
    opt, g = lrcore.SGD(xp.array(ones())), xp.array(ones())
    for wrong in (True, 1.5, "legacy", object()):
        with pytest.raises(TypeError, match="^stream: expected a CUDA stream or its raw handle, got"):
            opt.step(g, stream=wrong)
    for handle in (-1, 2**63, 2**70):
        with pytest.raises(ValueError, match=f"^stream: expected the handle of a stream, got {handle}"):
            opt.step(g, stream=handle)
    on_cpu = lrcore.SGD(ones())
    for stream in (0, xp.stream()):
        with pytest.raises(ValueError, match="^stream: CPU arrays have no stream"):
            on_cpu.step(ones(), stream=stream)
        with pytest.raises(ValueError, match="^stream: CPU arrays have no stream"):
            lrcore.functional.sgd(ones(), ones(), step=1, lr=0.1, stream=stream)
    assert launched_on(xp) == []
    assert opt.step_count == on_cpu.step_count == 0


def test_what_the_gradients_exporter_is_asked(xp: Imitated) -> None:
    """Gradients must be made safe for the step's stream unless it is the current stream of their library."""
    opt, g = lrcore.SGD(xp.array(ones())), xp.array(ones())
    side = xp.stream()
    xp.fake.clear()
    for current in (nullcontext(), side):
        with current:
            for stream in (None, 0, side):
                opt.step(g, stream=stream)
    assert [export.stream for export in xp.fake.exports] == [-1, -1, side.ptr, -1, 1, -1]


class Watched(np.ndarray[Any, Any]):
    """An array that supports weak references."""


def watched(xp: Imitated) -> Any:
    """Return a device array whose memory supports weak references."""
    return xp.cupy.ndarray(ones().view(Watched))


class ForeignLegacy(Foreign):
    """A foreign array that only supports unversioned DLPack."""

    def __dlpack__(self, *, stream: int | None = None) -> Any:  # type: ignore[override]
        self.asked.append(stream)
        return self.array.__dlpack__(stream=stream)


def test_foreign_gradients_are_kept_until_they_are_read(xp: Imitated) -> None:
    """The gradients' library may reuse released memory at once.

    If the step runs on the current stream of that library, the library itself orders the reuse.
    """
    opt: lrcore.SGD | None = lrcore.SGD(xp.array(ones()))
    side = xp.stream()

    def step(function: bool, g: Any, stream: Any = None) -> weakref.ref[Any]:
        host = g.array._host if isinstance(g, Foreign) else g._host
        assert opt is not None
        if function:
            lrcore.functional.sgd(opt.params, g, step=1, lr=0.1, stream=stream)
        else:
            opt.step(g, stream=stream)
        return weakref.ref(host)

    for function in (False, True):
        xp.fake.behind = True
        kept = [step(function, Foreign(watched(xp))), step(function, watched(xp), side)]
        gone = step(function, watched(xp))
        gc.collect()
        assert [each() is None for each in kept] == [False, False]
        assert gone() is None
        xp.fake.behind = False
        step(function, watched(xp))
        gc.collect()
        assert [each() is None for each in kept] == [True, True]
    xp.fake.behind = True
    last = step(False, Foreign(watched(xp)))
    xp.fake.clear()
    opt = None
    gc.collect()
    assert last() is None
    waited = [call.name for call in xp.fake.calls("wait_for_event", "destroy_event")]
    assert waited == ["wait_for_event", "destroy_event"]


@pytest.mark.parametrize("kind", [Foreign, ForeignLegacy])
def test_arrays_of_another_library(xp: Imitated, kind: type[Foreign]) -> None:
    """Gradients are made safe for the step's stream, by default the legacy one. The state is a CuPy array."""
    params, g = xp.array(ones()), kind(xp.array(ones()))
    opt = lrcore.SGD(Foreign(params), lr=1.0, momentum=0.5)
    side = xp.stream()
    opt.step(g)
    opt.step(g, stream=side)
    assert g.asked == launched_on(xp) == [1, side.ptr]
    assert isinstance(opt.state["momentum_buffer"], xp.cupy.ndarray)
    assert_bits(xp.numpy(params), -1.5 * ones())


def test_state_as_a_capsule(xp: Imitated) -> None:
    """Without CuPy, the state exports versioned and unversioned DLPack, and refuses unsupported requests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", None)
        state = lrcore.SGD(Foreign(xp.array(ones())), momentum=0.9).state["momentum_buffer"]
    assert state.__dlpack_device__() == (2, 0)
    assert_bits(xp.numpy(xp.cupy.from_dlpack(state)), 0 * ones())
    for version in (None, (0, 8), (1, 0), (2, 0)):
        capsule = state.__dlpack__(stream=1, max_version=version)
        assert f'"dltensor{"_versioned" if version and version[0] else ""}"' in repr(capsule)
    with pytest.raises(BufferError, match="^dl_device"):
        state.__dlpack__(dl_device=(1, 0))
    with pytest.raises(BufferError, match="^copy"):
        state.__dlpack__(copy=True)
    state.__dlpack__(dl_device=(2, 0), copy=False)
    del state, capsule
    gc.collect()
    assert xp.fake.leaked() == []  # unused capsules release the memory, too


def test_the_arrays_device_is_current_for_exports_and_launches(xp: Imitated) -> None:
    """The current device is the same afterwards."""
    opt = lrcore.SGD(xp.array(ones(), device=1), momentum=0.9)
    opt.step(xp.array(ones(), device=1))
    opt.state_dict()
    assert {export.current for export in xp.fake.exports} == {1}
    assert {call.device for call in xp.fake.calls("launch", "allocate", "prepare", "fill", "copy")} == {1}
    assert xp.current_device() == 0


def test_memory_is_let_go(xp: Imitated) -> None:
    opt = lrcore.Adam(xp.array(ones()), grads=xp.array(ones()), capturable=True, max_steps=3)
    state = opt.state["exp_avg"]
    opt.step()
    saved = opt.state_dict()
    assert len(xp.fake.leaked()) == 5  # two states, their copies, the table
    del opt, saved
    gc.collect()
    assert len(xp.fake.leaked()) == 1
    assert_bits(xp.numpy(state), np.full(8, 1 - 0.9, np.float32))
    del state
    gc.collect()
    assert xp.fake.leaked() == []


@pytest.mark.parametrize(
    ("function", "error", "match"),
    [
        ("allocate", 2, "CUDA: allocating 32 bytes on cuda:0: cudaErrorMemoryAllocation: .*; free memory"),
        ("fill", 1, "CUDA: filling the state: cudaErrorInvalidValue"),
        ("prepare", 209, "CUDA: loading the kernels: cudaErrorNoKernelImage.*LRCORE_CUDA_ARCHITECTURES"),
        ("current_device", 35, "params: the array is on cuda:0, but CUDA: .*InsufficientDriver.*driver"),
        ("launch", 999, "CUDA: launching the step: cudaErrorUnknown"),
    ],
)
def test_what_the_driver_refuses(xp: Imitated, function: str, error: int, match: str) -> None:
    """A failed call changes nothing and leaks nothing; the next step succeeds."""
    params, g = xp.array(ones()), xp.array(ones())
    opt = lrcore.SGD(params, lr=1.0)

    def attempt() -> None:
        if function == "launch":
            opt.step(g)
        else:
            lrcore.SGD(params, momentum=0.9)

    xp.fake.fail[function] = error
    with pytest.raises(RuntimeError, match=f"^{match}"):
        attempt()
    gc.collect()
    assert xp.fake.leaked() == []
    xp.fake.fail.clear()
    opt.step(g)
    assert opt.step_count == 1
    assert_bits(xp.numpy(params), 0 * ones())


def test_a_capture_refuses_what_waits(xp: Imitated) -> None:
    opt = lrcore.SGD(xp.array(ones()), grads=xp.array(ones()), capturable=True, max_steps=3)
    stream = xp.stream()
    with stream:
        stream.begin_capture()
        match = "^CUDA: reading the step count: cudaErrorStreamCapture.*while a stream"
        with pytest.raises(RuntimeError, match=match):
            _ = opt.step_count
        with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureInvalidated"):
            stream.end_capture()


def test_an_optimizer_is_let_go_during_a_capture(xp: Imitated) -> None:
    """The garbage collector may run during a capture, which continues."""
    p, g = (xp.array(ones()) for _ in range(2))
    opt = lrcore.SGD(p, momentum=0.9, grads=g, capturable=True, max_steps=3)
    other: lrcore.SGD | None = copy.copy(opt)
    before = len(xp.fake.leaked())

    def step() -> None:
        nonlocal other
        other = None
        gc.collect()
        opt.step()

    xp.capture(step)()
    assert opt.step_count == 1
    assert len(xp.fake.leaked()) < before


def test_a_library_that_knows_of_no_devices(xp: Imitated, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays of a library without CUDA, such as a CPU build of PyTorch, are refused like other CPU arrays."""

    def current_stream(_: int) -> None:
        raise AssertionError("Torch not compiled with CUDA enabled")

    Tensor = type("Tensor", (np.ndarray,), {"__module__": "torch"})
    cuda = types.SimpleNamespace(current_stream=current_stream)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    opt = lrcore.SGD(xp.array(ones()))
    with pytest.raises(RuntimeError, match="^grads: expected an array on cuda:0 like params, got one on cpu"):
        opt.step(ones().view(Tensor))


def test_the_librarys_own_current_device(xp: Imitated, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch only exports from its own current device, which may differ from the driver's."""
    current = [0]

    class Tensor(Foreign):
        __module__ = "torch"

        def __dlpack__(self, **keywords: Any) -> Any:
            if current != [1]:
                raise BufferError("Can't export tensors on a different CUDA device index.")
            return super().__dlpack__(**keywords)

    @contextmanager
    def using(device: int) -> Iterator[None]:
        current[:] = [device]
        yield
        current[:] = [0]

    cuda = types.SimpleNamespace(
        current_device=lambda: current[0],
        device=using,
        current_stream=lambda _: types.SimpleNamespace(cuda_stream=0),
    )
    torch = types.SimpleNamespace(cuda=cuda, from_dlpack=xp.cupy.from_dlpack)
    monkeypatch.setitem(sys.modules, "torch", torch)
    opt = lrcore.SGD(Tensor(xp.array(ones(), device=1)), lr=1.0)
    opt.step(Tensor(xp.array(ones(), device=1)))
    with pytest.raises(ValueError, match="^grads: expected 8 elements"):
        opt.step(Tensor(xp.array(ones(7), device=1)))
    assert current == [0]
    assert opt.step_count == 1


def test_the_first_device_arrays_in_several_threads() -> None:
    """Run in a new process, because some modules are imported, and some objects made, only once."""
    program = """
import sys, threading
sys.setswitchinterval(1e-6)
from gpu.devices import imitated
import lrcore, numpy
with imitated() as xp:
    arrays = [xp.array(numpy.ones(8, numpy.float32)) for _ in range(4)]
    threads = [threading.Thread(target=lrcore.SGD, args=(array,)) for array in arrays]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""
    ran = python(program, PYTHONPATH=with_the_tests())
    assert ran.returncode == 0, ran.stderr


class Elsewhere:
    """An array on a device that may be missing."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 1


def test_no_device() -> None:
    with FakeCuda(devices=0) as fake:
        assert "cuda" not in lrcore.backends()
        assert lrcore.info()["devices"] == ["cpu"]
        assert "no device" in lrcore.info()["cuda_error"]

        match = "^params: the array is on cuda:1, but CUDA: .*cudaErrorNoDevice"
        with pytest.raises(RuntimeError, match=match):
            lrcore.SGD(Elsewhere())
        assert fake.leaked() == []


def test_devices_are_listed(xp: Imitated) -> None:
    info = lrcore.info()
    assert info["backends"][-1] == lrcore.backends()[-1] == "cuda"
    assert info["devices"] == ["cpu", "cuda:0 Imitation 0", "cuda:1 Imitation 1"]
    assert info["cuda_error"] is None
    assert xp.fake.calls("set_device", "allocate") == []
    with pytest.raises(ValueError, match="^backend: .*got 'cuda'; it is used automatically for CUDA arrays"):
        lrcore.use_backend("cuda")


def test_without_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the build lacks CUDA, the error says how to add it; if the module cannot be loaded, it says why."""
    monkeypatch.setitem(sys.modules, "lrcore._lrcore_cuda", None)
    built = lrcore.info()["cuda"]
    remedy = "cannot be loaded" if built else "CPU arrays only; install it with LRCORE_CUDA=ON"
    with pytest.raises(RuntimeError, match=f"^params: the array is on cuda:1, but .*{remedy}"):
        lrcore.SGD(Elsewhere())
    monkeypatch.setitem(sys.modules, "lrcore._lrcore_cuda", types.SimpleNamespace(api=None))
    with pytest.raises(ValueError, match="PyCapsule"):
        lrcore.SGD(Elsewhere())


def sparse(n: int) -> Array:
    """Return n float32 zeros; only pages that are touched take memory."""
    without_reserve = 0x4000
    memory = mmap.mmap(-1, 4 * n, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | without_reserve)
    return np.frombuffer(memory, np.float32)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("n", [2**31 + 5, 2**32 + 1])
def test_more_elements_than_32_bits_count(xp: Imitated, n: int, shift: int) -> None:
    """Elements at both ends and around 2^31 and 2^32 are stepped, in vectors of four or one by one."""
    memories = [sparse(n + 1) for _ in range(3)]
    params, momentum = (xp.cupy.ndarray(memory[:n]) for memory in memories[:2])
    grads = xp.cupy.ndarray(memories[2][shift : n + shift])
    wanted = elements_around_32_bits(n)

    def owners(job: Job, total: int) -> list[tuple[int, int]]:
        tile = 1024
        assert job.width == (1 if shift else 4)
        assert total == -(-job.whole[2] * job.width // tile)
        owning = {0, *(element // tile for element in wanted if element // tile < total)}
        return [(block, block + 1) for block in owning]

    for k, element in enumerate(wanted):
        memories[0][element] = k
        memories[2][element + shift] = 1 + k
    xp.fake.blocks = owners
    lrcore.functional.sgd(params, grads, momentum, step=1, lr=0.5, momentum=0.5)
    for k, element in enumerate(wanted):
        assert memories[0][element] == k - 0.5 * (1 + k)
        assert memories[1][element] == 1 + k
