"""The imitation of CUDA that other tests step on: it has the table's form, and is no more lenient than a device."""

from __future__ import annotations

import ctypes
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import lrcore
from gpu.fake_cuda import FUNCTIONS, WAITING, FakeCuda

TABLE = Path(__file__).resolve().parents[2] / "csrc" / "cuda" / "api.h"


@pytest.mark.skipif(not TABLE.is_file(), reason="the C++ sources are not here")
def test_the_table_is_that_of_the_header() -> None:
    """The same functions in the same order, with as many arguments each."""
    declared = re.findall(r"^  [^/\n]*\(\*(\w+)\)\(([^)]*)\)", TABLE.read_text(), re.MULTILINE)
    assert [(name, len(arguments.split(", ")) if arguments else 0) for name, arguments in declared] == [
        (name, len(signature.split())) for name, signature in FUNCTIONS.items()
    ]


@pytest.mark.parametrize("name", WAITING)
def test_what_waits_breaks_a_capture(name: str) -> None:
    """Also in another thread."""
    with FakeCuda() as fake:
        memory = ctypes.create_string_buffer(16)
        address = ctypes.addressof(memory)
        arguments = {"fill": (address, 0.0, 4), "copy": (address, address, 4), "wait_for_event": (address,)}
        stream = fake.cupy.cuda.Stream(non_blocking=True)
        stream.begin_capture()
        errors: list[int] = []
        call = fake.functions[name]
        thread = threading.Thread(target=lambda: errors.append(call(*arguments.get(name, ()))))
        thread.start()
        thread.join()
        assert errors == [900]
        assert fake.functions["advance"](address, stream.ptr) == 901
        with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureInvalidated: operation failed due to"):
            stream.end_capture()
        assert not any(memory.raw)


def test_a_stream_belongs_to_its_device_and_the_current_device_to_a_thread() -> None:
    with FakeCuda(devices=2) as fake:
        array = fake.cupy.zeros(3, np.float32)
        with fake.cupy.cuda.Device(1):
            assert fake.cupy.zeros(3, np.float32).__dlpack_device__() == (2, 1)
            stream = fake.cupy.cuda.Stream()
            elsewhere: list[int] = []
            thread = threading.Thread(target=lambda: elsewhere.append(fake.cupy.cuda.Device().id))
            thread.start()
            thread.join()
        assert elsewhere == [0]
        with pytest.raises(RuntimeError, match="cudaErrorInvalidResourceHandle"), stream:
            array[...] = 1
        with pytest.raises(RuntimeError, match="cudaErrorInvalidDevice"), fake.cupy.cuda.Device(2):
            pass


def test_arrays_do_not_turn_into_those_of_numpy_by_themselves() -> None:
    with FakeCuda() as fake:
        array = fake.cupy.zeros(3, np.float32)
        with pytest.raises(TypeError, match="Implicit conversion to a NumPy array is not allowed"):
            np.asarray(array)
        with pytest.raises(ValueError, match="numpy"):
            array[...] = np.ones(3, np.float32)


def test_errors_within_a_call_come_out() -> None:
    """At the end of the block, where the modules are as before."""
    before = sys.modules.get("cupy")
    with pytest.raises(BaseExceptionGroup) as raised, FakeCuda() as fake:
        fake.blocks = lambda _job, total: [(0, total // 0)]
        params, grads = (fake.cupy.zeros(3, np.float32) for _ in range(2))
        with pytest.raises(RuntimeError, match="cudaErrorUnknown"):
            lrcore.SGD(params).step(grads)
    assert isinstance(raised.value.exceptions[0], ZeroDivisionError)
    assert sys.modules.get("cupy") is before
