"""The imitation of CuPy that other tests step on: its streams, its arrays, its DLPack."""

from __future__ import annotations

import copy
import ctypes
import gc
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from boundary import capsules
from gpu.fake_cuda import FakeCuda
from gpu.fake_cupy import ndarray
from gpu.fake_runtime import Export


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    """Two devices."""
    with FakeCuda(devices=2) as cuda:
        yield cuda


def test_current_streams(cuda: FakeCuda) -> None:
    """They belong to a device and a thread."""
    module = cuda.cupy.cuda
    with module.Device(1):
        one = module.Stream()
    with pytest.raises(RuntimeError, match="does not match with the current device"):
        one.use()
    with module.Device(1), one:
        assert module.get_current_stream() == one
        assert module.get_current_stream(0) == module.Stream.null
    assert module.get_current_stream(1).ptr == 0
    assert one.__cuda_stream__() == (0, one.ptr)
    assert one.ptr != module.Stream().ptr
    assert one.done
    assert not one.is_capturing()
    with module.Device(1):
        one.begin_capture()
    assert one.is_capturing()
    with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureUnsupported"):
        one.synchronize()


def test_arrays(cuda: FakeCuda) -> None:
    array = cuda.cupy.asarray(np.arange(6, dtype=np.float32)).reshape(2, 3)
    assert (array.size, array.shape, array.ndim, array.nbytes) == (6, (2, 3), 2, 24)
    assert array.data.ptr % 512 == 0
    assert array[1].data.ptr == array.data.ptr + 12
    array.ravel()[4:].fill(9)
    assert array.get().tolist() == [[0, 1, 2], [3, 9, 9]]
    other = array.copy()
    other[0] = array[1]
    array.set(np.zeros((2, 3), np.float32))
    assert cuda.cupy.asnumpy(other).tolist() == [[3, 9, 9], [3, 9, 9]]
    with cuda.cupy.cuda.Device(1):
        copied, loaded = copy.deepcopy(other), pickle.loads(pickle.dumps(other))
    assert [copied.device.id, loaded.device.id] == [0, 1]
    assert (copied.get() == loaded.get()).all()
    for convert in (np.asarray, lambda array: np.zeros(3) + array.ravel()):
        with pytest.raises(TypeError, match="Implicit conversion to a NumPy array is not allowed"):
            convert(array)
    with pytest.raises(ValueError, match="numpy"):
        array[...] = np.ones((2, 3), np.float32)
    with cuda.cupy.cuda.Device(1):
        assert cuda.cupy.zeros(3, np.float32).device.id == 1
    assert array.device.id == 0


class Counting:
    """Exports another array, and counts how often its deleter is called."""

    def __init__(self, array: Any, *, versioned: bool) -> None:
        self.array, self.versioned, self.deleted = array, versioned, 0
        self.asked: list[dict[str, Any]] = []

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()

    def __dlpack__(self, **keywords: Any) -> Any:
        self.asked.append(keywords)
        if not self.versioned and "max_version" in keywords:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        capsule = self.array.__dlpack__(**keywords)
        managed = capsules.managed_of(capsule)
        former = capsules.Deleter(managed.deleter)

        def delete(address: int) -> None:
            self.deleted += 1
            former(address)

        self.deleter = capsules.Deleter(delete)
        managed.deleter = ctypes.cast(self.deleter, ctypes.c_void_p)
        return capsule


@pytest.mark.slow
@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("shape", [(2, 3), (), (0,), (2, 0)])
def test_dlpack_shares_memory_and_lets_go_once(
    cuda: FakeCuda, versioned: bool, shape: tuple[int, ...]
) -> None:
    with cuda.cupy.cuda.Device(1):
        array = cuda.cupy.zeros(shape, np.float32)
    exporter = Counting(array, versioned=versioned)
    imported = cuda.cupy.from_dlpack(exporter)
    assert exporter.asked[-1]["stream"] == 1
    assert cuda.cupy.exports == [Export(current=1, device=1, stream=1)]
    assert (imported.shape, imported.dtype, imported.device.id) == (shape, np.float32, 1)
    assert imported.data == array.data
    view = imported.ravel()
    array.fill(3)
    assert (view.get() == 3).all()
    del imported
    gc.collect()
    assert exporter.deleted == 0
    del view
    gc.collect()
    assert exporter.deleted == 1


def test_dlpack_of_a_view(cuda: FakeCuda) -> None:
    array = cuda.cupy.asarray(np.arange(12, dtype=np.float32)).reshape(3, 4)
    assert cuda.cupy.from_dlpack(array.T[::2]).get().tolist() == [[0, 4, 8], [2, 6, 10]]


def test_capsules(cuda: FakeCuda) -> None:
    """They name the device, and say of read-only memory that it is."""
    host = np.ones(3, np.float32)
    host.flags.writeable = False
    for array, flags in ((ndarray(host, 1), capsules.READ_ONLY), (ndarray(host.copy(), 1), 0)):
        tensor = capsules.Tensor(array.__dlpack__(max_version=(1, 0)))
        assert (tensor.device, tensor.major, tensor.flags) == ((2, 1), 1, flags)
    capsule = ndarray(host.copy(), 1).__dlpack__()
    legacy = capsules.Tensor(capsule)
    assert (legacy.device, legacy.major) == ((2, 1), 0)
    with pytest.raises(ValueError, match="multiple times"):
        cuda.cupy.from_dlpack(capsule)
    with pytest.raises(TypeError, match="CPU arrays cannot be directly imported"):
        cuda.cupy.from_dlpack(host)
    on_cpu = capsules.Tensor(ndarray(host, 1).__dlpack__(dl_device=(1, 0), max_version=(1, 0)))
    assert (on_cpu.device, on_cpu.flags) == ((1, 0), capsules.IS_COPIED)


def test_streams_of_exports(cuda: FakeCuda) -> None:
    array = cuda.cupy.zeros(3, np.float32)
    for stream in (0, -2, "1"):
        with pytest.raises(ValueError, match="the valid stream for the DLPack protocol"):
            array.__dlpack__(stream=stream)
    assert not cuda.cupy.exports
    for accepted in (None, -1, 1, 0x1234):
        array.__dlpack__(stream=accepted)
    assert [export.stream for export in cuda.cupy.exports] == [None, -1, 1, 0x1234]

    capturing = cuda.cupy.cuda.Stream(non_blocking=True)
    capturing.begin_capture()
    array.__dlpack__(stream=-1)
    with capturing:
        array.__dlpack__(stream=capturing.ptr)
    with pytest.raises(RuntimeError, match="uncaptured work in another stream"):
        array.__dlpack__(stream=capturing.ptr)
