"""One interface to the CUDA array libraries of the tests: CuPy, real or imitated, and PyTorch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu.fake_cuda import FakeCuda
from support import Array, assert_bits, gradients


class CuPy:
    """CuPy, or its imitation."""

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy

    def array(self, values: Any, device: int = 0) -> Any:
        """Return a device array of these values."""
        with self.cupy.cuda.Device(device):
            return self.cupy.asarray(np.asarray(values))

    def zeros(self, n: int) -> Any:
        return self.cupy.zeros(n, self.cupy.float32)

    def numpy(self, array: Any) -> Array:
        """Return the values of a device array once all work on its device is done."""
        with array.device:
            self.cupy.cuda.Device().synchronize()
            host: Array = self.cupy.asnumpy(array)
        return host

    def write(self, array: Any, values: Array) -> None:
        """Write values into a device array, on the current stream."""
        array[...] = self.array(values, array.device.id)

    def address(self, array: Any) -> int:
        return int(array.data.ptr)

    def stream(self) -> Any:
        """Return a new stream that does not wait for others."""
        return self.cupy.cuda.Stream(non_blocking=True)

    def handle(self, stream: Any) -> int:
        return int(stream.ptr)

    def using(self, stream: Any) -> Any:
        """Return a context in which this stream is the current one."""
        return stream

    def busy(self, stream: Any) -> bool:
        """Return whether a stream has unfinished work."""
        return not stream.done

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """Return a function that replays a graph captured from `work`."""
        stream = self.stream()
        with stream:
            stream.begin_capture()
            work()
            graph = stream.end_capture()

        def replay() -> None:
            self.cupy.cuda.Stream.null.synchronize()  # non-blocking streams do not wait for it
            graph.launch(stream)
            stream.synchronize()

        return replay

    def devices(self) -> int:
        """Return the number of devices."""
        return int(self.cupy.cuda.runtime.getDeviceCount())

    def current_device(self) -> int:
        return int(self.cupy.cuda.Device().id)

    def free_bytes(self) -> int:
        """Return the number of free bytes on the current device."""
        return int(self.cupy.cuda.runtime.memGetInfo()[0])

    def free(self) -> None:
        """Release memory that is not in use."""
        self.cupy.get_default_memory_pool().free_all_blocks()


class Torch:
    """PyTorch's CUDA tensors, with the same interface."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch

    def array(self, values: Any, device: int = 0) -> Any:
        return self.torch.from_numpy(np.array(values)).to(f"cuda:{device}")

    def zeros(self, n: int) -> Any:
        return self.torch.zeros(n, device="cuda")

    def numpy(self, array: Any) -> Array:
        self.torch.cuda.synchronize(array.device)
        host: Array = array.cpu().numpy()
        return host

    def write(self, array: Any, values: Array) -> None:
        array.copy_(self.torch.from_numpy(values))

    def address(self, array: Any) -> int:
        return int(array.data_ptr())

    def stream(self) -> Any:
        return self.torch.cuda.Stream()

    def handle(self, stream: Any) -> int:
        return int(stream.cuda_stream)

    def using(self, stream: Any) -> Any:
        return self.torch.cuda.stream(stream)

    def busy(self, stream: Any) -> bool:
        return not stream.query()

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            work()
        replay: Callable[[], None] = graph.replay
        return replay

    def devices(self) -> int:
        return int(self.torch.cuda.device_count())

    def current_device(self) -> int:
        return int(self.torch.cuda.current_device())

    def free_bytes(self) -> int:
        return int(self.torch.cuda.mem_get_info()[0])

    def free(self) -> None:
        self.torch.cuda.empty_cache()


class Imitated(CuPy):
    """The imitated CuPy together with its devices."""

    def __init__(self, fake: FakeCuda) -> None:
        super().__init__(fake.cupy)
        self.fake = fake

    def devices(self) -> int:
        return self.fake.devices


@contextmanager
def imitated() -> Iterator[Imitated]:
    """Yield an imitated CuPy with two devices."""
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


class Foreign:
    """A device array of an unknown library that records the streams for which it is exported."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.asked: list[int | None] = []

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()

    def __dlpack__(self, *, stream: int | None = None, **keywords: Any) -> Any:
        self.asked.append(stream)
        return self.array.__dlpack__(stream=stream, **keywords)


def with_the_tests() -> str:
    """Return the PYTHONPATH for a process that imports from the tests."""
    places = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.pathsep.join(places)


CUPY = ["imitated", pytest.param("cupy", marks=pytest.mark.gpu)]
LIBRARIES = [*CUPY, pytest.param("torch", marks=pytest.mark.gpu)]
"""The libraries to test with; the real ones need a GPU."""


def problem(n: int, steps: int) -> tuple[Array, list[Array]]:
    """Return parameters, and gradients for some steps."""
    rng = np.random.default_rng(n)
    return rng.standard_normal(n).astype(np.float32), [gradients(rng, n) for _ in range(steps)]


def elements_around_32_bits(n: int) -> list[int]:
    """Return the indices of elements at both ends of a large array, and around 2^31 and 2^32."""
    around = (2**k + d for k in (31, 32) for d in range(-3, 4))
    return sorted({0, 1, 2, 3, n - 5, n - 2, n - 1, *(element for element in around if element < n)})


def assert_equal(xp: CuPy | Torch, found: Any, expected: Any, what: str = "") -> None:
    """Assert that an optimizer has the bits, step count and rate of an optimizer on the CPU."""
    assert found.step_count == expected.step_count, what
    assert found.lr == expected.lr
    for name, values in {"params": found.params, **found.state}.items():
        host = values if found.device == "cpu" else xp.numpy(values)
        assert_bits(host, {"params": expected.params, **expected.state}[name], f"{what} {name}")
