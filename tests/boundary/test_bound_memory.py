"""Bound memory that is replaced, shrunk, closed or made read-only: the step raises and writes nothing.

A refused call changes neither the step count nor any bit of an array.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore.tune import range_test
from support import Array, assert_bits

MOVED = "its memory has moved, or its size, dtype or layout has changed, since the optimizer was made"
REPLACED = "its memory was replaced during the call"
SHAPE = (3, 4)


def ones() -> Array:
    return np.ones(SHAPE, np.float32)


class Doing:
    """An array that runs an action before each export."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.array, self.action = ones(), action

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __dlpack__(self, **kwargs: Any) -> Any:
        self.action()
        return self.array.__dlpack__(**kwargs)


def rate_after(action: Callable[[], object]) -> Callable[[int], float]:
    """Return a schedule that runs an action before it returns the rate."""

    def rate(_: int) -> float:
        action()
        return 1.0

    return rate


@pytest.mark.parametrize("name", ["params", "exp_avg"])
def test_an_array_that_becomes_read_only(name: str) -> None:
    opt = lrcore.Adam(ones(), grads=ones())
    array = opt.params if name == "params" else opt.state[name]
    array.flags.writeable = False
    with pytest.raises(ValueError, match=f"^{name}: the array has become read-only since it was bound"):
        opt.step()
    assert opt.step_count == 0
    array.flags.writeable = True
    opt.grads.flags.writeable = False  # gradients are only read
    opt.step()
    assert opt.step_count == 1


def test_what_is_put_back_is_not_written_to_memory_that_moved() -> None:
    params = ones()
    closure = rate_after(lambda: params.resize(100_000, refcheck=False))
    with pytest.raises(RuntimeError, match=f"^params: {MOVED}"):
        range_test(lrcore.SGD(params, grads=ones()), lambda: closure(0), steps=3)
    assert_bits(params[:12], np.ones(12, np.float32))


# ---- memory that belongs to something else


def of_shared_memory(_: Path) -> Iterator[tuple[Any, list[Callable[[], object]]]]:
    """Yield an array over foreign memory, and calls that would invalidate it; then release the memory."""
    memory = SharedMemory(create=True, size=4096)
    yield np.ndarray(SHAPE, np.float32, buffer=memory.buf)[1:], [memory.close]
    memory.close()
    memory.unlink()


def of_a_file(path: Path) -> Iterator[tuple[Any, list[Callable[[], object]]]]:
    path.write_bytes(bytes(4096))
    array: Any = np.memmap(path, np.float32, shape=SHAPE)
    memory = array._mmap
    yield array, [memory.close, lambda: memory.resize(8192)]
    del array
    memory.close()


@pytest.mark.parametrize("role", ["params", "grads"])
@pytest.mark.parametrize("owner", [of_shared_memory, of_a_file])
def test_memory_is_not_taken_away_under_an_optimizer(tmp_path: Path, owner: Any, role: str) -> None:
    """The optimizer holds the memory as long as it lives, and no longer."""
    owned = owner(tmp_path / "weights")
    array, takers = next(owned)
    other = np.ones_like(array, subok=False)
    params, grads = (array, other) if role == "params" else (other, array)
    opt = lrcore.SGD(params, lr=1.0, grads=grads)
    for take in takers:
        with pytest.raises(BufferError):
            take()
    opt.step()
    assert (params == (-1 if role == "params" else 1)).all()
    del opt, array, params, grads
    gc.collect()
    assert next(owned, None) is None


@pytest.mark.parametrize("call", ["step", "function", "load"])
def test_a_map_is_not_closed_during_a_call(tmp_path: Path, call: str) -> None:
    """A passed array is held for the duration of the call. A memory map that is already closed is refused."""
    array, (close, _) = next(of_a_file(tmp_path / "weights"))
    refused = []

    def close_now(_: int = 0) -> float:
        with pytest.raises(BufferError):
            close()
        refused.append(True)
        return 1.0

    if call == "step":
        lrcore.SGD(ones(), lr=close_now).step(array)
    elif call == "function":
        lrcore.functional.sgd(array, Doing(close_now), step=1, lr=0.1)
    else:
        opt = lrcore.Adam(ones())
        opt.load_state_dict(opt.state_dict() | {"state": {"exp_avg": array, "exp_avg_sq": Doing(close_now)}})
    assert refused == [True]
    close()
    for take in (lrcore.SGD, lrcore.SGD(ones()).step):
        with pytest.raises(ValueError, match="^(params|grads): the memory of this array belongs to .*mmap"):
            take(array)


# ---- memory that is replaced

WAYS: dict[str, Callable[[Any], object]] = {
    "numpy: larger": lambda array: array.resize(100_000, refcheck=False),
    "numpy: smaller": lambda array: array.resize(2, refcheck=False),
    "numpy: a larger dtype": lambda array: setattr(array, "dtype", np.float64),
    "numpy: another byte order": lambda array: setattr(array, "dtype", ">f4"),
    "numpy: integers": lambda array: setattr(array, "dtype", np.int32),
    "torch: data": lambda tensor: setattr(tensor, "data", tensor.data + 1),
    "torch: set_": lambda tensor: tensor.set_(tensor + 1),
    "torch: larger": lambda tensor: tensor.resize_(1000, 1000),
    "torch: smaller": lambda tensor: tensor.resize_(2, 2),
    "torch: shared": lambda tensor: tensor.share_memory_(),
    "torch: freed": lambda tensor: tensor.untyped_storage().resize_(0),
    "torch: transposed": lambda tensor: tensor.t_(),
}  # fmt: skip

FIXED = ("numpy: larger", "numpy: smaller", "torch: larger", "torch: freed", "torch: transposed")
"""Changes not tested on a state: it is flat and does not own its memory, so they fail or have no effect."""


@pytest.mark.parametrize(
    ("role", "way"),
    [(role, way) for role in ("params", "grads", "exp_avg") for way in WAYS if role != "exp_avg" or way not in FIXED],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*dtype:DeprecationWarning")
def test_memory_that_is_replaced(role: str, way: str) -> None:
    library = pytest.importorskip(way.partition(":")[0])
    params, grads = (library.ones(SHAPE, dtype=library.float32) for _ in range(2))
    opt = lrcore.Adam(params, lr=1.0, grads=grads)
    opt.step()
    array = {"params": params, "grads": grads}.get(role, opt.state["exp_avg"])
    former = array if library is np else array.detach()  # a view of the memory that was bound
    watched = [*opt.state.values(), *([] if "freed" in way else [params, former])]
    WAYS[way](array)
    before = [np.array(each) for each in watched]
    for gradients in ((), (ones(),)):
        with pytest.raises(RuntimeError, match=f"^{role}: {MOVED}.*; make the optimizer again"):
            opt.step(*gradients)
    assert opt.step_count == 1
    for each, bits in zip(watched, before, strict=True):
        assert np.array(each).tobytes() == bits.tobytes()
    if role == "exp_avg":
        with pytest.raises(RuntimeError, match=f"^exp_avg: {MOVED}"):
            opt.state_dict()  # the saved array would not be the one that is stepped
    else:
        assert opt.state_dict()["step_count"] == 1


class Owned(np.ndarray[Any, Any]):
    """An array that can have attributes."""


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_an_array_that_holds_its_optimizer_is_collected(library: str) -> None:
    module = pytest.importorskip(library)
    alive = []
    for role in ("params", "grads", "exp_avg", "schedule"):
        params, grads = (module.ones(12, dtype=module.float32) for _ in range(2))
        if library == "numpy":
            params, grads = params.view(Owned), grads.view(Owned)
        opt = lrcore.Adam(params, lr=lambda _: 0.5, grads=grads)
        owners = {"params": params, "grads": grads, "schedule": opt.schedule.fn}  # type: ignore[attr-defined]
        owner = owners.get(role, opt.state["exp_avg"])
        if type(owner) is not np.ndarray:  # a state is a plain array, which cannot have attributes
            owner.opt = opt
        opt.step()
        alive += [weakref.ref(opt), weakref.ref(owner)]
        del params, grads, opt, owner, owners
    gc.collect()
    assert not any(each() is not None for each in alive)


@pytest.mark.parametrize("way", ["numpy: larger", "torch: data", "torch: freed"])
def test_memory_that_is_replaced_during_a_call(way: str) -> None:
    """The memory is checked immediately before the step."""
    library = pytest.importorskip(way.partition(":")[0])

    def victim() -> tuple[Any, Callable[[], object]]:
        array = library.ones(12, dtype=library.float32)
        return array, lambda: WAYS[way](array)

    params = ones()
    grads, move = victim()
    opt = lrcore.SGD(params, lr=rate_after(move))
    with pytest.raises(RuntimeError, match=f"^grads: {REPLACED}"):
        opt.step(grads)
    assert opt.step_count == 0

    for of_the_rate in (True, False):
        bound, move = victim()
        opt = lrcore.SGD(bound, lr=rate_after(move) if of_the_rate else 1.0)
        with pytest.raises(RuntimeError, match=f"^params: {MOVED}"):
            opt.step(ones() if of_the_rate else Doing(move))
        assert opt.step_count == 0

    for name in ("params", "exp_avg"):
        array, move = victim()
        operands = (array, Doing(move), params) if name == "params" else (params, Doing(move), array)
        with pytest.raises(RuntimeError, match=f"^{name}: {REPLACED}"):
            lrcore.functional.lion(*operands, step=1, lr=1.0)
    assert_bits(params, ones())

    target = lrcore.Adam(ones())
    average, move = victim()
    with pytest.raises(RuntimeError, match=f"^exp_avg: {REPLACED}"):
        target.load_state_dict(
            target.state_dict() | {"state": {"exp_avg": average, "exp_avg_sq": Doing(move)}}
        )
    assert not any(each.any() for each in target.state.values())
