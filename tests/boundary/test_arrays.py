"""Arrays from other libraries, passed without conversion: PyTorch on the CPU, and JAX.

If a library is missing, the reason for the skip names it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lrcore
from boundary.model import roles
from support import assert_bits, make

SHAPE = (3, 4)
ROLES = roles(lambda: np.ones(SHAPE, np.float32))


@pytest.fixture
def torch() -> Any:
    """Return PyTorch, or skip the test if it is not installed."""
    return pytest.importorskip("torch")


def test_torch_tensors_step_like_numpy_arrays(torch: Any, rule: str) -> None:
    """Tensors get the same bits as arrays, and the states are tensors that share the optimizer's memory."""
    ours = np.linspace(-1, 1, 21, dtype=np.float32)
    theirs = torch.from_numpy(ours.copy())
    in_numpy, in_torch = make(rule, ours), make(rule, theirs)

    def assert_equal_states(states: Any) -> None:
        for name, state in states.items():
            assert isinstance(state, torch.Tensor)
            assert_bits(state.numpy(), in_numpy.state[name])

    for t in range(3):
        g = np.cos(np.arange(21, dtype=np.float32) + np.float32(t))
        in_numpy.step(g)
        in_torch.step(torch.from_numpy(g))
    assert in_torch.params is theirs
    assert_bits(theirs.numpy(), ours)
    assert_equal_states(in_torch.state)
    in_torch.load_state_dict(in_numpy.state_dict())
    in_numpy.load_state_dict(in_torch.state_dict())
    assert_equal_states(in_torch.state_dict()["state"])


# ---- tensors without float32 memory of their own


def with_storage_of(torch: Any, size: int) -> Any:
    tensor = torch.ones(1000)
    tensor.untyped_storage().resize_(size)
    return tensor


def fake(torch: Any) -> Any:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        return torch.zeros(SHAPE)


def wrapper(torch: Any) -> Any:
    return torch.Tensor._make_wrapper_subclass(
        type("Wrapper", (torch.Tensor,), {"__torch_dispatch__": None}), SHAPE, dtype=torch.float32
    )


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    **{
        dtype: (lambda torch, dtype=dtype: torch.ones(SHAPE, dtype=getattr(torch, dtype)), TypeError,
                f"expected dtype float32, got {dtype};")
        for dtype in ("bfloat16", "float64", "int64", "uint8", "bool")
    },
    "float8": (
        lambda torch: torch.zeros(SHAPE, dtype=torch.float8_e4m3fn), TypeError, "expected dtype float32, got DLPack type code"
    ),
    "transposed": (lambda torch: torch.ones(4, 3).t(), ValueError, "expected a C-contiguous array"),
    "expanded": (lambda torch: torch.ones(1).expand(12), ValueError, "expected a C-contiguous array"),
    "negated": (lambda torch: torch.ones(12, dtype=torch.cfloat).conj().imag, ValueError, r"negated view.*resolve_neg\(\)"),
    "with a graph": (lambda torch: torch.ones(SHAPE, requires_grad=True), TypeError, r"requires? grad.*detach\(\)"),
    "sparse": (lambda torch: torch.ones(SHAPE).to_sparse(), TypeError, "this Tensor cannot be exported"),
    "meta": (lambda torch: torch.ones(SHAPE, device="meta"), TypeError, "this Tensor cannot be exported"),
    "masked": (
        lambda torch: torch.masked.MaskedTensor(torch.ones(SHAPE), torch.ones(SHAPE, dtype=torch.bool)), TypeError,
        "got MaskedTensor, which overrides dispatch",
    ),
    "fake": (fake, TypeError, "got FakeTensor, which overrides dispatch"),
    "wrapper": (wrapper, TypeError, "got Wrapper, which overrides dispatch"),
    "zeros": (lambda torch: torch._efficientzerotensor(SHAPE), TypeError, "got a zero tensor, which has none"),
    "freed": (lambda torch: with_storage_of(torch, 0), ValueError, "got a null pointer"),
    "shortened": (lambda torch: with_storage_of(torch, 64), ValueError, "expected a tensor that fits in its storage"),
    "uninitialized": (
        lambda torch: torch.nn.parameter.UninitializedParameter(), TypeError,
        "expected a float32 array, but this UninitializedParameter",
    ),
}  # fmt: skip
"""The expected error for each wrong tensor, and a part of its message."""


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors:UserWarning")
@pytest.mark.parametrize(
    "wrong", [pytest.param(each, marks=[pytest.mark.slow] * (each == "fake")) for each in WRONG]
)  # slow: to make a fake tensor, PyTorch imports a compiler
def test_wrong_tensors(torch: Any, wrong: str) -> None:
    """These tensors are refused for every argument that takes an array."""
    made, error, words = WRONG[wrong]
    for role, call in ROLES.items():
        with pytest.raises(error, match=f"^{role.partition(' ')[0]}: .*{words}") as refused:
            call(made(torch))
        if "graph" in wrong:
            assert isinstance(refused.value.__cause__, (BufferError, RuntimeError))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_distributed_tensor(torch: Any) -> None:
    """The distributed tensor is refused; its local part can be stepped."""
    distributed = pytest.importorskip("torch.distributed")
    from torch.distributed.tensor import distribute_tensor

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
        tensor = distribute_tensor(torch.ones(SHAPE), mesh)
        for role, call in ROLES.items():
            with pytest.raises(TypeError, match=rf"^{role.partition(' ')[0]}: .*got DTensor.*to_local\(\)"):
                call(tensor)
        lrcore.SGD(tensor.to_local(), lr=0.5).step(np.ones(SHAPE, np.float32))
        assert (tensor.to_local() == 0.5).all()
    finally:
        distributed.destroy_process_group()


def test_torch_subclasses_have_torch_state(torch: Any) -> None:
    """A subclass that does not override dispatch is stepped like a plain tensor."""
    parameter = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    own = torch.ones(3).as_subclass(type("Own", (torch.Tensor,), {}))
    for params in (parameter, own):
        opt = lrcore.SGD(params, lr=0.5, momentum=0.5)
        assert isinstance(opt.state["momentum_buffer"], torch.Tensor)
        opt.step(torch.ones(3).as_subclass(type(own)))
        assert (params == 0.5).all()


def test_jax_arrays_are_gradients_and_no_parameters() -> None:
    """JAX arrays are immutable, so they are refused as parameters."""
    g = pytest.importorskip("jax.numpy").ones(4)
    params = np.ones(4, np.float32)
    lrcore.SGD(params, lr=0.5).step(g)
    assert_bits(params, np.full(4, 0.5, np.float32))
    with pytest.raises((TypeError, ValueError), match="^params: .*(immutable|read-only)"):
        lrcore.SGD(g, lr=0.5)
    assert (g == 1).all()


# ---- autograd


def test_versions_count_every_write_and_nothing_else(torch: Any, rule: str) -> None:
    """If version counts are correct, autograd refuses a backward pass that uses memory changed by a step.

    PyTorch's own in-place operations also increment the version.
    """
    params, grads = torch.ones(3), torch.ones(3)
    opt = make(rule, params, grads=grads)
    written = [params, *opt.state.values()]
    before = [each._version for each in written]

    def writes() -> list[int]:
        return [each._version - former for each, former in zip(written, before, strict=True)]

    opt.step()
    opt.step(torch.ones(3))
    saved = opt.state_dict()
    _ = opt.lr, opt.hyper, repr(opt)
    with pytest.raises(ValueError, match="grad_scale"):
        opt.step(grad_scale=np.inf)
    assert writes() == [2] * len(written)
    opt.load_state_dict(saved)
    assert writes() == [2, *[3] * len(opt.state)]
    lrcore.tune.range_test(opt, lambda: 1.0, steps=3)
    assert params._version - before[0] == 2 + 3 + 1
    assert grads._version == 0


def test_versions_of_the_functions(torch: Any) -> None:
    arrays = torch.ones(3), torch.ones(3), torch.zeros(3), torch.zeros(3)
    lrcore.functional.adam(*arrays, step=1, lr=0.1)
    assert [each._version for each in arrays] == [1, 0, 1, 1]


def test_tensors_of_inference_mode_have_no_version(torch: Any) -> None:
    with torch.inference_mode():
        params = torch.ones(3)
        opt = lrcore.Adam(params, lr=0.5)
        opt.step(torch.ones(3))
    opt.step(torch.ones(3))
    assert opt.step_count == 2
