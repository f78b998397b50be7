"""Libraries of CUDA arrays as the tests use them: CuPy, real or imitated, and PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest

from gpu.fake_cuda import FakeCuda
from support import Array


class CuPy:
    """CuPy, or what imitates it."""

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy

    def array(self, values: Any, device: int = 0) -> Any:
        """Return a device array of these values."""
        with self.cupy.cuda.Device(device):
            return self.cupy.asarray(np.asarray(values))

    def zeros(self, n: int) -> Any:
        """Return n zeros."""
        return self.cupy.zeros(n, self.cupy.float32)

    def numpy(self, array: Any) -> Array:
        """Return the values of a device array, when all work on its device is done."""
        with array.device:
            self.cupy.cuda.Device().synchronize()
            host: Array = self.cupy.asnumpy(array)
        return host

    def write(self, array: Any, values: Array) -> None:
        """Write values into a device array, on the current stream."""
        array[...] = self.array(values, array.device.id)

    def address(self, array: Any) -> int:
        """Return the address of the first element."""
        return int(array.data.ptr)

    def stream(self) -> Any:
        """Return a new stream that waits for no other."""
        return self.cupy.cuda.Stream(non_blocking=True)

    def handle(self, stream: Any) -> int:
        """Return its raw handle."""
        return int(stream.ptr)

    def using(self, stream: Any) -> AbstractContextManager[Any]:
        """Make it the current stream."""
        context: AbstractContextManager[Any] = stream
        return context

    def wait(self, stream: Any) -> None:
        """Wait for a stream."""
        stream.synchronize()

    def busy(self, stream: Any) -> bool:
        """Tell whether work is left on a stream."""
        return not stream.done

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """Return a function that replays what `work` put on a stream."""
        stream = self.stream()
        with stream:
            stream.begin_capture()
            work()
            graph = stream.end_capture()

        def replay() -> None:
            self.cupy.cuda.Stream.null.synchronize()  # for which a stream that does not block would not wait
            graph.launch(stream)
            stream.synchronize()

        return replay

    def devices(self) -> int:
        """Return the number of devices."""
        return int(self.cupy.cuda.runtime.getDeviceCount())

    def current_device(self) -> int:
        """Return the number of the current device."""
        return int(self.cupy.cuda.Device().id)

    def free_bytes(self) -> int:
        """Return the bytes that the current device has left."""
        return int(self.cupy.cuda.runtime.memGetInfo()[0])

    def free(self) -> None:
        """Return back memory that is not in use."""
        self.cupy.get_default_memory_pool().free_all_blocks()


class Torch:
    """PyTorch's CUDA tensors."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch

    def array(self, values: Any, device: int = 0) -> Any:
        """Return a device array of these values."""
        return self.torch.from_numpy(np.array(values)).to(f"cuda:{device}")

    def zeros(self, n: int) -> Any:
        """Return n zeros."""
        return self.torch.zeros(n, device="cuda")

    def numpy(self, array: Any) -> Array:
        """Return the values of a device array, when all work on its device is done."""
        self.torch.cuda.synchronize(array.device)
        host: Array = array.cpu().numpy()
        return host

    def write(self, array: Any, values: Array) -> None:
        """Write values into a device array, on the current stream."""
        array.copy_(self.torch.from_numpy(values))

    def address(self, array: Any) -> int:
        """Return the address of the first element."""
        return int(array.data_ptr())

    def stream(self) -> Any:
        """Return a new stream that waits for no other."""
        return self.torch.cuda.Stream()

    def handle(self, stream: Any) -> int:
        """Return its raw handle."""
        return int(stream.cuda_stream)

    def using(self, stream: Any) -> AbstractContextManager[Any]:
        """Make it the current stream."""
        context: AbstractContextManager[Any] = self.torch.cuda.stream(stream)
        return context

    def wait(self, stream: Any) -> None:
        """Wait for a stream."""
        stream.synchronize()

    def busy(self, stream: Any) -> bool:
        """Tell whether work is left on a stream."""
        return not stream.query()

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """Return a function that replays what `work` put on a stream."""
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            work()
        replay: Callable[[], None] = graph.replay
        return replay

    def devices(self) -> int:
        """Return the number of devices."""
        return int(self.torch.cuda.device_count())

    def current_device(self) -> int:
        """Return the number of the current device."""
        return int(self.torch.cuda.current_device())

    def free_bytes(self) -> int:
        """Return the bytes that the current device has left."""
        return int(self.torch.cuda.mem_get_info()[0])

    def free(self) -> None:
        """Return back memory that is not in use."""
        self.torch.cuda.empty_cache()


class Imitated(CuPy):
    """The imitated CuPy, with the devices behind it."""

    def __init__(self, fake: FakeCuda) -> None:
        super().__init__(fake.cupy)
        self.fake = fake

    def devices(self) -> int:
        """Return the number of devices."""
        return self.fake.devices

    def free(self) -> None:
        """Return back memory that is not in use: there is none."""


@contextmanager
def imitated() -> Iterator[Imitated]:
    """Imitate two devices."""
    with FakeCuda(devices=2) as fake:
        yield Imitated(fake)


@contextmanager
def library(name: str) -> Iterator[CuPy | Torch]:
    """Yield the library of that name."""
    if name == "imitated":
        with imitated() as made:
            yield made
    elif name == "cupy":
        yield CuPy(pytest.importorskip("cupy"))
    else:
        yield Torch(pytest.importorskip("torch"))


LIBRARIES = [
    "imitated",
    pytest.param("cupy", marks=pytest.mark.gpu),
    pytest.param("torch", marks=pytest.mark.gpu),
]
"""The libraries to test with; the real ones where a GPU works."""
