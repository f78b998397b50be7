"""CUDA devices imitated in host memory, behind the table of csrc/cuda/api.h and as a CuPy.

The core finds the table as it finds that of the real module, so a test steps "device" arrays through the whole binding
on any machine. A launch runs the code of the kernels' threads on the host, at once.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
import types
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Self

import lrcore
from boundary import capsules
from gpu import fake_cupy, fake_streams
from gpu.fake_api import (
    API_NAME,
    Allocation,
    Api,
    Call,
    Job,
    Launch,
    Step,
    blocks,
    emulate,
    error_string,
    floats,
)
from gpu.fake_runtime import Runtime

_QUERIES = frozenset({"device_count", "device_name", "current_device"})
"""Functions that are called at every turn and are not logged."""

_MISSING = object()


class FakeCuda(Runtime):
    """CUDA devices within a ``with`` block: the modules `lrcore._lrcore_cuda` and `cupy` are imitations there.

    While a stream is capturing, every function that waits is refused and breaks the captures, as in the runtime's global
    mode. Memory is managed in the relaxed mode.

    The table itself is never let go, so that what outlives the block can release its memory.

    Parameters
    ----------
    devices : int
        How many there are. With none, every function fails as on a machine without a GPU.

    Attributes
    ----------
    log : list of Call
        Every call of the table, those that failed too, but for the questions how many devices there are, how one is
        called and which is current.
    fail : dict
        Gives the functions named here the error to return, until they are taken out again. They do nothing else then.
    blocks : callable, optional
        Chooses what a launch runs: gives the ranges of blocks, from a `Job` and the number of its blocks. All by
        default.
    behind : bool
        Whether the devices say that they have not passed what they were given, though they have.
    errors : list of exceptions
        What was raised within a call, which gave error 999. Raised at the end of the block.
    cupy : module
        The imitation.
    exports : list of Export
        What was asked of the arrays of devices, also ``cupy.exports``.
    """

    def __init__(self, devices: int = 1) -> None:
        super().__init__(devices)
        self.log: list[Call] = []
        self.behind = False
        self.events = 0
        self.fail: dict[str, int] = {}
        self.blocks: Callable[[Job, int], Iterable[tuple[int, int]]] | None = None
        self.errors: list[BaseException] = []
        self.cupy: Any = fake_cupy.make_module(self.exports)
        self._memory: dict[int, tuple[Allocation, mmap.mmap]] = {}

        api = Api(*[field[1](self._guarded(field[0])) for field in Api._fields_])
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(api))
        self._module = types.ModuleType("lrcore._lrcore_cuda")
        vars(self._module).update(api=capsules.make_capsule(ctypes.addressof(api), API_NAME))

    def __enter__(self) -> Self:
        put = {"lrcore._lrcore_cuda": self._module, "cupy": self.cupy, "cupy.cuda": self.cupy.cuda}
        self._before = {name: sys.modules.get(name, _MISSING) for name in put}
        self._attribute = vars(lrcore).get("_lrcore_cuda", _MISSING)
        sys.modules.update(put)
        vars(lrcore)["_lrcore_cuda"] = self._module
        fake_streams.active.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        fake_streams.active.remove(self)
        _put_back(sys.modules, self._before)
        _put_back(vars(lrcore), {"_lrcore_cuda": self._attribute})
        if self.errors:
            raise BaseExceptionGroup("raised within calls of the CUDA table", self.errors)

    def calls(self, *names: str) -> list[Call]:
        """Return the logged calls of these functions, or all."""
        return [call for call in self.log if not names or call.name in names]

    def clear(self) -> None:
        """Forget the logged calls, and the exports of arrays."""
        self.log.clear()
        self.exports.clear()

    def leaked(self) -> list[Allocation]:
        """Return what was allocated and not released."""
        return [allocation for allocation, _ in self._memory.values()]

    # The functions of the table.

    def _guarded(self, name: str) -> Callable[..., int]:
        function = getattr(self, "_" + name)

        def call(*arguments: Any) -> int:
            try:
                return int(function(*arguments))
            except BaseException as error:
                self.errors.append(error)
                return 999

        return call

    def _begin(
        self, name: str, stream: int | None = None, detail: Any = None, *, unsafe: bool = False
    ) -> int:
        """Log a call; give its error, if it has to fail. What is `unsafe` may not run during a capture."""
        if name not in _QUERIES:
            self.log.append(Call(name, self.device, stream, detail))
        if name in self.fail:
            return self.fail[name]
        if not self.devices:
            return 100
        if unsafe and self.captures:
            self.break_captures()
            return 900
        return 0

    def _device_count(self, count: Any) -> int:
        count[0] = self.devices
        return self._begin("device_count")

    def _device_name(self, device: int, name: int, size: int) -> int:
        text = f"Imitation {device}".encode()[: size - 1]
        ctypes.memmove(name, text + b"\0", len(text) + 1)
        return self._begin("device_name") or (0 if device < self.devices else 101)

    def _current_device(self, device: Any) -> int:
        device[0] = self.device
        return self._begin("current_device")

    def _set_device(self, device: int) -> int:
        return self._begin("set_device", detail=device) or self.choose(device)

    def _restore_device(self, device: int) -> int:
        return self._begin("restore_device", detail=device) or self.choose(device)

    def _record_event(self, event: Any, stream: int) -> int:
        error = self._begin("record_event", stream)
        if not error:
            self.events += 1
            event[0] = self.events
        return error

    def _query_event(self, event: int, completed: Any) -> int:
        completed[0] = not self.behind
        return self._begin("query_event", detail=event)

    def _wait_for_event(self, event: int) -> int:
        return self._begin("wait_for_event", detail=event, unsafe=True)

    def _destroy_event(self, event: int) -> int:
        return self._begin("destroy_event", detail=event)

    def _allocate(self, memory: Any, size: int) -> int:
        error = self._begin("allocate", detail=size)
        if error or size == 0:
            memory[0] = None
            return error
        try:
            mapped = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError, ValueError):
            return 2
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        if size <= 1 << 20:
            ctypes.memset(address, 0xFF, size)  # NaN, so that nobody counts on zeros
        self._memory[address] = (Allocation(address, size, self.device), mapped)
        memory[0] = address
        return 0

    def _release(self, memory: int | None) -> int:
        error = self._begin("release", detail=memory)
        if error or memory is None:
            return error
        if memory not in self._memory:
            return 1
        self._memory.pop(memory)[1].close()
        return 0

    def _fill(self, memory: int | None, value: float, n: int) -> int:
        error = self._begin("fill", detail=(memory, value, n), unsafe=True)
        if error or n == 0:
            return error
        if memory is None:
            return 1
        begin = end = memory + 4 * n
        if value == 0 and math.copysign(1, value) > 0:
            begin, end = self._renew_pages(memory, end)
        floats(memory, (begin - memory) // 4)[:] = value
        floats(end, n - (end - memory) // 4)[:] = value
        return 0

    def _renew_pages(self, begin: int, end: int) -> tuple[int, int]:
        """Zero the whole pages of a range and give where they begin and end. They take no memory until they are used.

        Without any, the end comes twice.
        """
        first, last = begin + -begin % mmap.PAGESIZE, end - end % mmap.PAGESIZE
        for allocation, mapped in self._memory.values():
            if allocation.address <= begin < allocation.address + allocation.size and first < last:
                mapped.madvise(mmap.MADV_DONTNEED, first - allocation.address, last - first)
                return first, last
        return end, end

    def _copy(self, to: int | None, source: int | None, size: int) -> int:
        error = self._begin("copy", detail=(to, source, size), unsafe=True)
        if error or size == 0:
            return error
        if to is None or source is None:
            return 1
        ctypes.memmove(to, source, size)
        return 0

    def _synchronize(self) -> int:
        return self._begin("synchronize", unsafe=True)

    def _is_capturing(self, stream: int, capturing: Any) -> int:
        error = self._begin("is_capturing", stream)
        unusable, state = self.capture_state(stream)
        capturing[0] = state
        return error or unusable

    def _prepare(self, rule: int) -> int:
        return self._begin("prepare", detail=rule)

    def _launch(self, rule: int, coupled: int, job: Any, stream: int) -> int:
        launch = Launch(rule, bool(coupled), Job.from_buffer_copy(job.contents))
        error = self._begin("launch", stream, launch)
        if not error and blocks(launch.job) > 2**31 - 1:
            return 1
        return error or self.submit(stream, partial(self._run, launch))

    def _run(self, launch: Launch) -> None:
        total = blocks(launch.job)
        emulate(launch, [(0, total)] if self.blocks is None else self.blocks(launch.job, total))

    def _advance(self, taken: int, stream: int) -> int:
        def add_one() -> None:
            ctypes.c_int64.from_address(taken).value += 1

        return self._begin("advance", stream, taken) or self.submit(stream, add_one)

    def _stream_bound(self, step: Any, states: int, n: int, stream: int) -> int:
        taken = Step.from_buffer_copy(step.contents)
        vectors = n - n % 4

        def add() -> None:
            for address in (taken.p, *taken.states[:states]):
                floats(address, vectors)[:] += floats(taken.g, vectors)

        error = self._begin("stream_bound", stream, (states, n))
        return error if error or not vectors else self.submit(stream, add)

    def _error_name(self, error: int) -> int:
        return error_string(error, 0)

    def _error_text(self, error: int) -> int:
        return error_string(error, 1)


def _put_back(names: dict[str, Any], before: dict[str, Any]) -> None:
    for name, value in before.items():
        if value is _MISSING:
            names.pop(name, None)
        else:
            names[name] = value
