"""The imitation of CUDA that other tests step on: its table, its memory, its captures."""

from __future__ import annotations

import ctypes
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from boundary import capsules
from gpu.fake_api import API_NAME, CONSTANTS, Api, Job, Step, blocks, floats
from gpu.fake_cuda import FakeCuda
from gpu.fake_cupy import ndarray
from support import Array, assert_bits

SGD = list(lrcore.rules()).index("sgd")
LR = np.float32(0.1)
TABLE = Path(__file__).resolve().parents[2] / "csrc" / "cuda" / "api.h"


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    """Two devices."""
    with FakeCuda(devices=2) as cuda:
        yield cuda


def table() -> Any:
    """Return the table as the core finds it."""
    api = sys.modules["lrcore._lrcore_cuda"].api
    return Api.from_address(capsules.pointer_of(api, API_NAME))


def sgd_job(p: ndarray, g: ndarray, lr: np.float32 = LR) -> Job:
    """Return what `make_job` gives for a step of plain SGD."""
    job = Job(n=p.size, width=1)
    job.step.p, job.step.g = p.data.ptr, g.data.ptr
    job.step.gscale, job.step.decay_factor, job.step.rule[0] = 1, 1, lr
    if p.data.ptr % 16 == g.data.ptr % 16:
        job.width = 4
        job.prologue = min(-p.data.ptr % 16 // 4, p.size)
    job.chunks = (job.n - job.prologue) // job.width
    return job


def problem(cuda: FakeCuda, n: int, p_offset: int = 0, g_offset: int = 0) -> tuple[ndarray, ndarray]:
    """Return parameters and gradients that begin so many elements after aligned memory."""
    values = np.random.default_rng(n).standard_normal((2, n + 4)).astype(np.float32)
    p, g = map(cuda.cupy.asarray, values)
    return p[p_offset : p_offset + n], g[g_offset : g_offset + n]


def stepped(p: Array, g: Array, *lrs: np.float32) -> Array:
    """Return the parameters after a step for each rate."""
    for lr in lrs:
        p = p - lr * g
    return p


def allocate(api: Any, size: int) -> int:
    """Return the address of new memory."""
    memory = ctypes.c_void_p()
    assert api.allocate(ctypes.byref(memory), size) == 0
    return memory.value or 0


def state(api: Any, stream: int) -> tuple[int, int]:
    """Return the error and the answer of `is_capturing`."""
    capturing = ctypes.c_int(-1)
    error = api.is_capturing(stream, ctypes.byref(capturing))
    return error, capturing.value


@pytest.mark.skipif(not TABLE.is_file(), reason="the C++ sources are not here")
def test_the_table_has_the_order_of_the_header() -> None:
    names = re.findall(r"^  [^/\n]*\(\*(\w+)\)", TABLE.read_text(), re.MULTILINE)
    assert names == [field[0] for field in Api._fields_]


@pytest.mark.parametrize(("p_offset", "g_offset"), [(0, 0), (1, 1), (3, 3), (1, 0), (0, 2)])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 1024, 9001])
def test_a_launch_steps(cuda: FakeCuda, n: int, p_offset: int, g_offset: int) -> None:
    """Quads with a head and a tail where both arrays lie alike, else single elements; in one block and in more."""
    p, g = problem(cuda, n, p_offset, g_offset)
    job = sgd_job(p, g)
    assert blocks(job) == max(1, -(-job.chunks // (256 * 4 // job.width)))
    expected = stepped(p.get(), g.get(), LR)
    assert table().launch(SGD, 0, ctypes.byref(job), 7) == 0
    assert_bits(p.get(), expected)

    (call,) = cuda.calls("launch")
    assert (call.device, call.stream, call.detail.rule, call.detail.coupled) == (0, 7, SGD, False)
    assert bytes(call.detail.job) == bytes(job)
    assert call.detail.job is not job


def test_coupled_decay(cuda: FakeCuda) -> None:
    p, g = problem(cuda, 21)
    job = sgd_job(p, g)
    job.step.wd = 0.5
    expected = stepped(p.get(), g.get() + np.float32(0.5) * p.get(), LR)
    assert table().launch(SGD, 1, ctypes.byref(job), 0) == 0
    assert_bits(p.get(), expected)


def test_chosen_blocks(cuda: FakeCuda) -> None:
    p, g = problem(cuda, 3 * 1024)
    before, after = p.get(), stepped(p.get(), g.get(), LR)
    seen = []

    def only_second(job: Job, total: int) -> list[tuple[int, int]]:
        seen.append((job.n, total))
        return [(1, 2)]

    cuda.blocks = only_second
    assert table().launch(SGD, 0, ctypes.byref(sgd_job(p, g)), 0) == 0
    assert seen == [(3 * 1024, 3)]
    assert_bits(p.get(), np.concatenate([before[:1024], after[1024:2048], before[2048:]]))


def test_more_blocks_than_a_grid_has(cuda: FakeCuda) -> None:
    job = Job(n=2**43, chunks=2**43, width=1)
    assert table().launch(SGD, 0, ctypes.byref(job), 0) == 1
    assert cuda.calls("launch")


def test_the_stream_bound_adds_whole_vectors(cuda: FakeCuda) -> None:
    p, g = problem(cuda, 7)
    expected = p.get()
    expected[:4] += g.get()[:4]
    step = Step(p=p.data.ptr, g=g.data.ptr)
    assert table().stream_bound(ctypes.byref(step), 0, 7, 0) == 0
    assert_bits(p.get(), expected)
    assert [call.detail for call in cuda.log] == [(0, 7)]


def test_a_captured_step_is_replayed(cuda: FakeCuda) -> None:
    """Each replay takes the next row of the table, and after the last row the last."""
    p, g = problem(cuda, 21)
    rates = [np.float32(0.5), np.float32(0.25)]
    rows = (ctypes.c_float * 24)()
    for row, lr in enumerate(rates):
        constants = Step(gscale=1, decay_factor=1)
        constants.rule[0] = lr
        ctypes.memmove(ctypes.byref(rows, 48 * row), ctypes.byref(constants, CONSTANTS), 48)
    taken = ctypes.c_int64(0)
    job = sgd_job(p, g)
    job.rows, job.step_count, job.last = ctypes.addressof(rows), ctypes.addressof(taken), 1

    api, start = table(), p.get()
    with cuda.cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        assert state(api, stream.ptr) == (0, 1)
        assert state(api, 0) == (0, 0)
        assert api.launch(SGD, 0, ctypes.byref(job), stream.ptr) == 0
        assert api.advance(ctypes.byref(taken), stream.ptr) == 0
        g.fill(2)
        graph = stream.end_capture()
    job.n = 0  # the graph has a copy
    assert_bits(p.get(), start)

    first = g.get()
    graph.launch(stream)
    graph.launch()
    graph.launch()
    assert taken.value == 3
    twos = np.full(21, 2, np.float32)
    assert_bits(p.get(), stepped(stepped(start, first, rates[0]), twos, rates[1], rates[1]))


@pytest.mark.parametrize("name", ["fill", "copy", "synchronize", "wait_for_event"])
def test_what_may_not_run_during_a_capture(cuda: FakeCuda, name: str) -> None:
    """Nor in another thread; it breaks the capture."""
    api = table()
    memory = allocate(api, 64)
    arguments = {
        "wait_for_event": (1,),
        "fill": (memory, 0.0, 4),
        "copy": (memory, memory, 4),
        "synchronize": (),
    }
    stream = cuda.cupy.cuda.Stream(non_blocking=True)
    stream.begin_capture()
    errors: list[int] = []
    thread = threading.Thread(target=lambda: errors.append(getattr(api, name)(*arguments[name])))
    thread.start()
    thread.join()
    assert errors == [900]
    assert state(api, stream.ptr) == (0, 1)
    assert api.advance(memory, stream.ptr) == 901
    with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureInvalidated: operation failed due to"):
        stream.end_capture()
    assert state(api, stream.ptr) == (0, 0)
    assert api.release(memory) == 0


def test_the_legacy_stream_during_a_capture(cuda: FakeCuda) -> None:
    """A blocking stream that captures makes it unusable on its device, where asking is harmless."""
    api, n = table(), ctypes.c_int64()
    with pytest.raises(RuntimeError, match="legacy"):
        cuda.cupy.cuda.Stream.null.begin_capture()
    stream = cuda.cupy.cuda.Stream()
    stream.begin_capture()
    assert state(api, 1)[0] == 906
    with cuda.cupy.cuda.Device(1):
        assert state(api, 1) == (0, 0)
        assert api.advance(ctypes.byref(n), 0) == 0
    assert not stream.end_capture().recorded
    stream.begin_capture()
    assert api.advance(ctypes.byref(n), 0) == 906
    with pytest.raises(RuntimeError, match="Invalidated"):
        stream.end_capture()
    assert n.value == 1


def test_errors_that_are_asked_for(cuda: FakeCuda) -> None:
    api, n = table(), ctypes.c_int64()
    cuda.fail["advance"] = 35
    assert [api.advance(ctypes.byref(n), 0) for _ in range(2)] == [35, 35]
    cuda.fail.clear()
    assert api.advance(ctypes.byref(n), 0) == 0
    assert n.value == 1
    assert len(cuda.calls("advance")) == 3
    cuda.clear()
    assert not cuda.log

    def text(address: int) -> bytes:
        return ctypes.string_at(address)

    assert text(api.error_name(100)) == b"cudaErrorNoDevice"
    assert text(api.error_text(100)) == b"no CUDA-capable device is detected"
    assert text(api.error_text(2)) == b"out of memory"
    assert text(api.error_name(12345)) == b"cudaErrorUnknown"


def test_errors_within_a_call_come_out() -> None:
    with pytest.raises(BaseExceptionGroup) as raised, FakeCuda() as cuda:
        cuda.blocks = lambda _job, total: [(0, total // 0)]
        p, g = problem(cuda, 4)
        assert table().launch(SGD, 0, ctypes.byref(sgd_job(p, g)), 0) == 999
    assert isinstance(raised.value.exceptions[0], ZeroDivisionError)
    assert sys.modules.get("cupy") is not cuda.cupy


def test_memory(cuda: FakeCuda) -> None:
    api = table()
    memory = allocate(api, 5000)
    assert memory % 256 == 0
    assert [tuple(each) for each in cuda.leaked()] == [(memory, 5000, 0)]
    values = floats(memory, 1250)
    assert np.isnan(values).all()
    assert api.fill(memory, 0.0, 1250) == 0
    assert not values.any()
    assert api.fill(memory + 4, -0.0, 3) == 0
    assert np.signbit(values[:5]).tolist() == [False, True, True, True, False]
    source = np.arange(3, dtype=np.float32)
    assert api.copy(memory, source.ctypes.data, 12) == 0
    assert values[:4].tolist() == [0, 1, 2, 0]
    del values
    assert api.release(memory) == 0
    assert not cuda.leaked()
    assert api.release(memory) == 1
    assert api.release(None) == 0
    assert api.allocate(ctypes.byref(ctypes.c_void_p()), -1) == 2
    assert [call.name for call in cuda.log[:4]] == ["allocate", "fill", "fill", "copy"]


def test_large_memory_is_filled_without_being_touched(cuda: FakeCuda) -> None:
    api = table()
    memory = allocate(api, 2**30)
    ends = [floats(memory, 4096), floats(memory + 2**30 - 4 * 4096, 4096)]
    for end in ends:
        end[:] = 1
    assert api.fill(memory + 12, 0.0, 2**28 - 5) == 0
    assert [np.flatnonzero(end).tolist() for end in ends] == [[0, 1, 2], [4094, 4095]]
    del end, ends
    assert api.release(memory) == 0
    assert not cuda.leaked()


def test_devices(cuda: FakeCuda) -> None:
    """The current one belongs to the thread; a stream belongs to its device."""
    api, number = table(), ctypes.c_int()
    assert api.device_count(ctypes.byref(number)) == 0
    assert number.value == 2
    name = ctypes.create_string_buffer(6)
    assert api.device_name(1, name, 6) == 0
    assert name.value == b"Imita"
    assert api.set_device(1) == 0
    assert api.set_device(2) == 101
    assert api.current_device(ctypes.byref(number)) == 0
    assert number.value == cuda.device == 1
    elsewhere: list[int] = []
    thread = threading.Thread(target=lambda: elsewhere.append(cuda.device))
    thread.start()
    thread.join()
    assert elsewhere == [0]

    stream, n = cuda.cupy.cuda.Stream(), ctypes.c_int64()
    assert api.advance(ctypes.byref(n), stream.ptr) == 0
    assert api.set_device(0) == 0
    assert api.advance(ctypes.byref(n), stream.ptr) == 400
    assert [call.device for call in cuda.calls("advance")] == [1, 0]


def test_no_device() -> None:
    with FakeCuda(devices=0):
        assert table().device_count(ctypes.byref(ctypes.c_int())) == 100
        assert table().set_device(0) == 100
        assert table().synchronize() == 100


def test_the_modules_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there were none, and where one is blocked."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    with FakeCuda() as cuda:
        import cupy
        import cupy.cuda

        assert cupy is cuda.cupy
        assert cupy.ndarray.__module__ == "cupy"
        assert vars(lrcore)["_lrcore_cuda"] is sys.modules["lrcore._lrcore_cuda"]
    assert sys.modules.get("cupy", "missing") is None
    assert sys.modules.get("lrcore._lrcore_cuda") is vars(lrcore).get("_lrcore_cuda")
