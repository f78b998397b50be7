"""Memory that is bound and then replaced, shrunk, closed or made read-only: the step writes none of it, and says so.

What is refused leaves every array and the step count as they were. Equal means equal bits.
"""

from __future__ import annotations

import gc
import mmap
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from boundary import model as boundary_model
from lrcore.tune import range_test
from support import CLASSES, Array, assert_bits, make

MOVED = "its memory has moved, or its size, dtype or layout has changed, since the optimizer was made"
SHAPE = (3, 4)


def ones() -> Array:
    return np.ones(SHAPE, np.float32)


class Moving:
    """An array whose export replaces the memory of another."""

    def __init__(self, other: Array) -> None:
        self.array, self.other = np.ones(other.shape, np.float32), other

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __dlpack__(self, **kwargs: Any) -> Any:
        self.other.resize(100_000, refcheck=False)
        return self.array.__dlpack__(**kwargs)


@pytest.fixture
def torch() -> Any:
    """PyTorch."""
    return pytest.importorskip("torch")


# ---- NumPy

RESIZED: dict[str, Callable[[Any], object]] = {
    "larger": lambda array: array.resize(100_000, refcheck=False),
    "smaller": lambda array: array.resize(2, refcheck=False),
    "empty": lambda array: array.resize(0, refcheck=False),
    "a larger dtype": lambda array: setattr(array, "dtype", np.float64),
    "another byte order": lambda array: setattr(array, "dtype", ">f4"),
    "integers": lambda array: setattr(array, "dtype", np.int32),
}


@pytest.mark.parametrize("how", RESIZED)
@pytest.mark.parametrize("role", ["params", "grads"])
@pytest.mark.filterwarnings("ignore:.*dtype:DeprecationWarning")
def test_an_array_that_is_resized(role: str, how: str) -> None:
    params, grads = ones(), ones()
    opt = lrcore.Adam(params, lr=1.0, grads=grads)
    opt.step()
    before, state = params.copy(), opt.state_dict()
    moved = params if role == "params" else grads
    RESIZED[how](moved)
    for gradients in ((), (ones(),)):
        with pytest.raises(RuntimeError, match=f"^{role}: {MOVED}.*; make the optimizer again"):
            opt.step(*gradients)
    assert opt.step_count == 1
    if role == "grads":
        assert_bits(params, before)
    assert_bits(opt.state_dict()["state"]["exp_avg"], state["state"]["exp_avg"])  # which can still be saved


def test_every_class_looks_before_it_steps(rule: str) -> None:
    params = np.ones(8, np.float32)
    opt = make(rule, params)
    params.resize(4, refcheck=False)
    with pytest.raises(RuntimeError, match=f"^params: {MOVED}"):
        opt.step(np.ones(8, np.float32))
    assert_bits(params, np.ones(4, np.float32))
    assert opt.step_count == 0


def test_memory_that_moves_while_the_rate_is_asked() -> None:
    """The look is the last thing before the step."""
    params = np.ones(8, np.float32)

    def rate(_: int) -> float:
        params.resize(100_000, refcheck=False)
        return 1.0

    opt = lrcore.SGD(params, lr=rate)
    with pytest.raises(RuntimeError, match=f"^params: {MOVED}"):
        opt.step(np.ones(8, np.float32))
    assert_bits(params[:8], np.ones(8, np.float32))


def test_another_shape_of_the_same_memory_is_fine() -> None:
    params = np.ones(12, np.float32)
    opt = lrcore.SGD(params, lr=0.5)
    params.resize(SHAPE, refcheck=False)
    opt.step(np.ones(12, np.float32))
    assert_bits(params, np.full(SHAPE, 0.5, np.float32))


@pytest.mark.parametrize("name", ["params", "exp_avg"])
def test_an_array_that_becomes_read_only(name: str) -> None:
    opt = lrcore.Adam(ones(), grads=ones())
    array = opt.params if name == "params" else opt.state[name]
    array.flags.writeable = False
    with pytest.raises(ValueError, match=f"^{name}: the array has become read-only since it was bound"):
        opt.step()
    assert opt.step_count == 0
    array.flags.writeable = True
    opt.grads.flags.writeable = False  # which is only read
    opt.step()
    assert opt.step_count == 1


def test_what_is_put_back_is_not_written_to_memory_that_moved() -> None:
    params, grads = np.ones(8, np.float32), np.ones(8, np.float32)
    opt = lrcore.SGD(params, grads=grads)

    def closure() -> float:
        params.resize(100_000, refcheck=False)
        return 1.0

    with pytest.raises(RuntimeError, match=f"^params: {MOVED}"):
        range_test(opt, closure, steps=3)
    assert_bits(params[:8], np.ones(8, np.float32))


# ---- memory that belongs to something else


@pytest.fixture
def shared() -> Iterator[SharedMemory]:
    """Shared memory of 48 bytes."""
    memory = SharedMemory(create=True, size=4096)
    yield memory
    gc.collect()
    memory.close()
    memory.unlink()


BINDINGS: dict[str, Callable[[Array], Any]] = {
    "params": lrcore.Adam,
    "grads": lambda array: lrcore.Adam(np.ones_like(array), grads=array),
}


@pytest.mark.parametrize("role", BINDINGS)
def test_shared_memory_is_not_closed_under_an_optimizer(shared: SharedMemory, role: str) -> None:
    array = np.ndarray(SHAPE, np.float32, buffer=shared.buf)[1:]
    opt = BINDINGS[role](array)
    with pytest.raises(BufferError):
        shared.close()
    opt.step(ones()[1:])
    del opt
    shared.close()


@pytest.mark.parametrize("role", BINDINGS)
@pytest.mark.parametrize("how", ["memmap", "frombuffer"])
def test_maps_are_not_closed_under_an_optimizer(tmp_path: Path, role: str, how: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(4096))
    array: Any
    if how == "memmap":
        array = np.memmap(path, np.float32, shape=SHAPE)
        memory = array._mmap
    else:
        with path.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), 4096)
        array = np.frombuffer(memory, np.float32, 12).reshape(SHAPE)
    opt = BINDINGS[role](array)
    for call in (memory.close, lambda: memory.resize(8192)):
        with pytest.raises(BufferError):
            call()
    opt.step(ones())
    del opt
    if how == "memmap":  # NumPy itself holds what it got by frombuffer
        memory.close()


def test_memory_that_was_closed_before(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(4096))
    array: Any = np.memmap(path, np.float32, shape=SHAPE)
    array._mmap.close()
    for call in (lrcore.SGD, lrcore.SGD(ones()).step):
        with pytest.raises(ValueError, match="^(params|grads): the memory of this array belongs to .*mmap"):
            call(array)


@pytest.mark.parametrize("call", ["step", "function", "load"])
def test_a_map_is_not_closed_during_a_call(tmp_path: Path, call: str) -> None:
    """What is only passed is held as long as the call lasts."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(4096))
    array: Any = np.memmap(path, np.float32, shape=SHAPE)
    closed = []

    class Closing(Moving):
        def __dlpack__(self, **kwargs: Any) -> Any:
            try:
                array._mmap.close()
            except BufferError:
                closed.append(False)
            return self.array.__dlpack__(**kwargs)

    def rate(_: int) -> float:
        Closing(ones()).__dlpack__()
        return 0.5

    closing = Closing(ones())
    if call == "step":
        lrcore.SGD(ones(), lr=rate).step(array)
    elif call == "function":
        lrcore.functional.sgd(array, closing, step=1, lr=0.1)
    else:
        opt = lrcore.Adam(ones())
        opt.load_state_dict(opt.state_dict() | {"state": {"exp_avg": array, "exp_avg_sq": closing}})
    assert closed == [False]
    array._mmap.close()


def test_a_bytearray_does_not_grow_under_an_optimizer() -> None:
    memory = bytearray(48)
    opt = lrcore.SGD(np.ndarray(SHAPE, np.float32, buffer=memory), lr=1.0)
    with pytest.raises(BufferError):
        memory.extend(bytes(100_000))
    opt.step(ones())
    assert np.frombuffer(memory, np.float32).tolist() == [-1] * 12
    del opt
    memory.extend(bytes(100_000))


def test_an_array_that_holds_its_optimizer_is_collected() -> None:
    class Owned(np.ndarray):
        opt: Any

    alive = []
    for role in ("params", "grads"):
        array = ones().view(Owned)
        array.opt = lrcore.Adam(array) if role == "params" else lrcore.Adam(ones(), grads=array)
        alive += [weakref.ref(array.opt), weakref.ref(array)]
        del array
    gc.collect()
    assert [each() for each in alive] == [None] * 4


# ---- torch

MOVES: dict[str, Callable[[Any, Any], object]] = {
    "data": lambda _, tensor: setattr(tensor, "data", tensor.data.clone()),
    "data of a slice": lambda torch, tensor: setattr(tensor, "data", torch.ones(4, 4)[1:]),
    "set_": lambda torch, tensor: tensor.set_(torch.ones(SHAPE)),
    "set_ empty": lambda _, tensor: tensor.set_(),
    "resize_ larger": lambda _, tensor: tensor.resize_(1000, 1000),
    "resize_ smaller": lambda _, tensor: tensor.resize_(2, 2),
    "share_memory_": lambda _, tensor: tensor.share_memory_(),
    "freed storage": lambda _, tensor: tensor.untyped_storage().resize_(0),
    "larger storage": lambda _, tensor: tensor.untyped_storage().resize_(1 << 20),
    "swapped": lambda torch, tensor: torch.utils.swap_tensors(tensor, torch.ones(SHAPE)),
    "transposed": lambda _, tensor: tensor.t_(),
    "set_ to a storage": lambda torch, tensor: tensor.set_(
        torch.zeros(12).untyped_storage(), 0, SHAPE, (4, 1)
    ),
}


def bits(tensor: Any) -> bytes:
    return bytes(tensor.numpy().tobytes())


FIXED = ("resize_ larger", "freed storage", "larger storage", "transposed")
"""What torch itself refuses for a state, whose storage is not its own, or what leaves a flat tensor as it is."""


@pytest.mark.parametrize(
    ("role", "how"),
    [
        (role, how)
        for role in ("params", "grads", "exp_avg")
        for how in MOVES
        if role != "exp_avg" or how not in FIXED
    ],
)
def test_a_tensor_whose_memory_is_replaced(torch: Any, role: str, how: str) -> None:
    params, grads = torch.ones(SHAPE), torch.ones(SHAPE)
    opt = lrcore.Adam(params, lr=1.0, grads=grads)
    opt.step()
    tensor = {"params": params, "grads": grads}.get(role, opt.state["exp_avg"])
    former = tensor.detach()  # over the memory that was bound
    MOVES[how](torch, tensor)
    before = [bits(each) for each in (former, tensor) if each.untyped_storage().size()]
    for gradients in ((), (torch.ones(SHAPE),), (ones(),)):
        with pytest.raises(RuntimeError, match=f"^{role}: {MOVED}"):
            opt.step(*gradients)
    assert opt.step_count == 1
    assert [bits(each) for each in (former, tensor) if each.untyped_storage().size()] == before
    if role == "exp_avg":
        with pytest.raises(RuntimeError, match=f"^exp_avg: {MOVED}"):
            opt.state_dict()  # what is shown would not be what acts
    else:
        assert opt.state_dict()["step_count"] == 1


def test_a_module_that_moves(torch: Any) -> None:
    module = torch.nn.Linear(4, 3)
    module.requires_grad_(False)
    opt = lrcore.SGD(module.weight, lr=1.0)
    opt.step(torch.ones(SHAPE))
    module.double().float()
    weight = module.weight.clone()
    with pytest.raises(RuntimeError, match=f"^params: {MOVED}"):
        opt.step(torch.ones(SHAPE))
    assert torch.equal(module.weight, weight)
    again = lrcore.SGD(module.weight, lr=1.0)
    again.step(torch.ones(SHAPE))
    assert torch.equal(module.weight, weight - 1)


def test_a_tensor_that_holds_its_optimizer_is_collected(torch: Any) -> None:
    alive = []
    for role in ("params", "grads", "state"):
        tensor = torch.zeros(9)
        opt = lrcore.Adam(torch.zeros(9), grads=tensor) if role == "grads" else lrcore.Adam(tensor)
        if role == "state":
            opt.state["exp_avg"].opt = opt
        else:
            tensor.opt = opt
        opt.step(torch.ones(9))
        alive.append(weakref.ref(opt))
        del tensor, opt
    gc.collect()
    assert [each() for each in alive] == [None] * 3


# ---- torch: what has no memory of its own


def fake_tensor(torch: Any) -> Any:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        return torch.zeros(SHAPE)


def masked_tensor(torch: Any) -> Any:
    return torch.masked.MaskedTensor(torch.ones(SHAPE), torch.ones(SHAPE, dtype=torch.bool))


def wrapper_subclass(torch: Any) -> Any:
    class Wrapper(torch.Tensor):  # type: ignore[misc]
        @staticmethod
        def __new__(cls: Any) -> Any:
            return torch.Tensor._make_wrapper_subclass(cls, SHAPE, dtype=torch.float32)

        @classmethod
        def __torch_dispatch__(cls, *_: Any, **__: Any) -> Any:
            raise AssertionError("is not asked")

    return Wrapper()


DISGUISED: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "FakeTensor": (fake_tensor, TypeError, "got FakeTensor, which overrides dispatch"),
    "MaskedTensor": (masked_tensor, TypeError, "got MaskedTensor, which overrides dispatch"),
    "wrapper subclass": (wrapper_subclass, TypeError, "got .*Wrapper, which overrides dispatch"),
    "zero tensor": (
        lambda torch: torch._efficientzerotensor(SHAPE),
        TypeError,
        "got a zero tensor, which has none",
    ),
    "freed storage": (
        lambda torch: (tensor := torch.ones(SHAPE), tensor.untyped_storage().resize_(0))[0],
        ValueError,
        "got a null pointer",
    ),
}

ROLES = boundary_model.roles(ones)


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors:UserWarning")
@pytest.mark.parametrize("kind", DISGUISED)
@pytest.mark.parametrize("role", ROLES)
def test_tensors_that_are_not_their_memory(torch: Any, role: str, kind: str) -> None:
    tensor, error, words = DISGUISED[kind]
    with pytest.raises(error, match=f"^{role.split(maxsplit=1)[0]}: .*{words}"):
        ROLES[role](tensor(torch))


@pytest.mark.filterwarnings("ignore")
def test_a_distributed_tensor(torch: Any) -> None:
    """It is refused; its local part is stepped."""
    distributed = pytest.importorskip("torch.distributed")
    from torch.distributed.tensor import distribute_tensor

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
        tensor = distribute_tensor(torch.ones(SHAPE), mesh)
        for role, call in ROLES.items():
            with pytest.raises(TypeError, match=rf"^{role.split()[0]}: .*got DTensor.*to_local\(\)"):
                call(tensor)
        lrcore.SGD(tensor.to_local(), lr=0.5).step(ones())
        assert (tensor.to_local() == 0.5).all()
    finally:
        distributed.destroy_process_group()


def test_a_subclass_that_keeps_dispatch_is_its_memory(torch: Any) -> None:
    class Named(torch.Tensor):  # type: ignore[misc]
        pass

    params = torch.ones(SHAPE).as_subclass(Named)
    lrcore.SGD(params, lr=0.5).step(torch.ones(SHAPE).as_subclass(Named))
    assert (params == 0.5).all()


# ---- autograd


def test_a_step_is_seen_by_autograd(torch: Any) -> None:
    """As in-place operations of torch's own are."""
    weight = torch.nn.Parameter(torch.ones(3))
    opt = lrcore.SGD(weight.detach(), lr=1.0)
    loss = (weight**2).sum()
    opt.step(torch.ones(3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    loss = (weight**2).sum()
    with pytest.raises(ValueError, match="grad_scale"):
        opt.step(torch.ones(3), grad_scale=np.inf)
    loss.backward()  # a step that was refused has written nothing
    assert (weight.grad == 0).all()


@pytest.mark.parametrize("name", CLASSES)
def test_versions_count_every_write_and_nothing_else(torch: Any, name: str) -> None:
    params, grads = torch.ones(3), torch.ones(3)
    opt = CLASSES[name](params, grads=grads)
    written = [params, *opt.state.values()]

    def versions() -> list[int]:
        return [each._version for each in written]

    before = versions()
    opt.step()
    opt.step(torch.ones(3))
    assert versions() == [each + 2 for each in before]
    saved = opt.state_dict()
    _ = opt.lr, opt.hyper, repr(opt)
    assert versions() == [each + 2 for each in before]
    opt.load_state_dict(saved)
    assert versions() == [before[0] + 2, *(each + 3 for each in before[1:])]
    assert grads._version == 0


def test_versions_of_the_functions_and_of_the_range_test(torch: Any) -> None:
    params, first, second = torch.ones(3), torch.zeros(3), torch.zeros(3)
    lrcore.functional.adam(params, torch.ones(3), first, second, step=1, lr=0.1)
    assert [params._version, first._version, second._version] == [1, 1, 1]
    opt = lrcore.SGD(params, grads=torch.ones(3))
    range_test(opt, lambda: 1.0, steps=3)
    assert params._version == 1 + 3 + 1


def test_tensors_of_inference_mode_have_no_version(torch: Any) -> None:
    with torch.inference_mode():
        params = torch.ones(3)
        opt = lrcore.Adam(params, lr=0.5)
        opt.step(torch.ones(3))
    opt.step(torch.ones(3))
    assert opt.step_count == 2


# ---- memory that is replaced in the middle of a call


def test_gradients_that_move_while_the_rate_is_asked() -> None:
    grads = np.ones(8, np.float32)

    def rate(_: int) -> float:
        grads.resize(100_000, refcheck=False)
        return 1.0

    opt = lrcore.SGD(np.ones(8, np.float32), lr=rate)
    with pytest.raises(RuntimeError, match="^grads: its memory was replaced during the call"):
        opt.step(grads)
    assert_bits(opt.params, np.ones(8, np.float32))
    assert opt.step_count == 0


def test_torch_gradients_that_move_while_the_rate_is_asked(torch: Any) -> None:
    grads = torch.ones(8)

    def rate(_: int) -> float:
        grads.data = torch.full((8,), 2.0)
        return 1.0

    opt = lrcore.SGD(np.ones(8, np.float32), lr=rate)
    with pytest.raises(RuntimeError, match="^grads: its memory was replaced during the call"):
        opt.step(grads)
    assert_bits(opt.params, np.ones(8, np.float32))


def test_an_exporter_that_moves_what_was_imported_before() -> None:
    params, average = np.ones(8, np.float32), np.ones(8, np.float32)
    opt = lrcore.SGD(params, lr=1.0)
    with pytest.raises(RuntimeError, match=f"^params: {MOVED}"):
        opt.step(Moving(params))
    assert_bits(params[:8], np.ones(8, np.float32))
    for name, moved in (("params", params), ("exp_avg", average)):
        params.resize(8, refcheck=False)
        with pytest.raises(RuntimeError, match=f"^{name}: its memory was replaced during the call"):
            lrcore.functional.lion(params, Moving(moved), average, step=1, lr=1.0)
        assert_bits(params[:8], np.ones(8, np.float32))
        assert_bits(average[:8], np.ones(8, np.float32))


def test_an_exporter_that_moves_what_is_loaded_beside_it() -> None:
    opt = lrcore.Adam(np.ones(8, np.float32), grads=np.ones(8, np.float32))
    opt.step()
    before, saved = opt.state_dict(), opt.state_dict()
    average = np.full(8, 5, np.float32)
    with pytest.raises(RuntimeError, match="^exp_avg: its memory was replaced during the call"):
        opt.load_state_dict(saved | {"state": {"exp_avg": average, "exp_avg_sq": Moving(average)}})
    for name, array in before["state"].items():
        assert_bits(opt.state[name], array)


@pytest.mark.parametrize("how", ["data", "freed", "resize_"])
def test_torch_memory_that_is_replaced_during_a_call(torch: Any, how: str) -> None:
    ways: dict[str, Callable[[Any], object]] = {
        "data": lambda tensor: setattr(tensor, "data", torch.full((8,), 2.0)),
        "freed": lambda tensor: tensor.untyped_storage().resize_(0),
        "resize_": lambda tensor: tensor.resize_(100_000),
    }

    class MovingTensor(Moving):
        def __dlpack__(self, **kwargs: Any) -> Any:
            ways[how](self.other)
            return self.array.__dlpack__(**kwargs)

    def moving(victim: Any) -> Any:
        made = MovingTensor(ones().reshape(-1)[:8])
        made.other = victim
        return made

    def rate(_: int) -> float:
        ways[how](victim)
        return 1.0

    replaced = "its memory was replaced during the call"
    victim = torch.ones(8)
    with pytest.raises(RuntimeError, match=f"^grads: {replaced}"):
        lrcore.SGD(np.ones(8, np.float32), lr=rate).step(victim)
    victim = torch.ones(8)
    with pytest.raises(RuntimeError, match=f"^params: {replaced}"):
        lrcore.functional.lion(victim, np.ones(8, np.float32), moving(victim), step=1, lr=1.0)
    victim = torch.ones(8)
    opt = lrcore.Adam(np.ones(8, np.float32))
    state = {"exp_avg": victim, "exp_avg_sq": moving(victim)}
    with pytest.raises(RuntimeError, match=f"^exp_avg: {replaced}"):
        opt.load_state_dict(opt.state_dict() | {"state": state})
    assert not opt.state["exp_avg"].any()


def test_a_storage_that_is_shorter_than_its_tensor(torch: Any) -> None:
    tensor = torch.ones(1000)
    tensor.untyped_storage().resize_(64)
    for role, call in ROLES.items():
        with pytest.raises(ValueError, match=f"^{role.split()[0]}: expected a tensor within its storage"):
            call(tensor)
    lrcore.SGD(torch.ones(1000)[900:])  # at the end of its storage


def test_tensors_that_are_not_initialized(torch: Any) -> None:
    with pytest.raises(TypeError, match="^params: expected a float32 array, but this UninitializedParameter"):
        lrcore.SGD(torch.nn.parameter.UninitializedParameter())
