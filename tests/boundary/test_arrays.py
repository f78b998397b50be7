"""Arrays of other libraries, as they are: PyTorch on the CPU, JAX. Skipped by name where they are not installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lrcore
from support import assert_bits, make


@pytest.fixture
def torch() -> Any:
    """PyTorch."""
    return pytest.importorskip("torch")


@pytest.fixture
def jnp() -> Any:
    """JAX's NumPy."""
    return pytest.importorskip("jax.numpy")


def test_torch_tensors_step_like_numpy_arrays(torch: Any, rule: str) -> None:
    """Same bits; the state comes as tensors over the memory that is stepped."""
    ours = np.linspace(-1, 1, 21, dtype=np.float32)
    theirs = torch.from_numpy(ours.copy())
    in_numpy, in_torch = make(rule, ours), make(rule, theirs)
    for t in range(3):
        g = np.cos(np.arange(21, dtype=np.float32) + np.float32(t))
        in_numpy.step(g)
        in_torch.step(torch.from_numpy(g))
    assert in_torch.params is theirs
    assert_bits(theirs.numpy(), ours)
    for name, state in in_torch.state.items():
        assert isinstance(state, torch.Tensor)
        assert_bits(state.numpy(), in_numpy.state[name])

    in_torch.load_state_dict(in_numpy.state_dict())
    in_numpy.load_state_dict(in_torch.state_dict())
    for name, state in in_torch.state_dict()["state"].items():
        assert isinstance(state, torch.Tensor)
        assert_bits(state.numpy(), in_numpy.state[name])


def test_torch_gradients_of_a_backward_pass(torch: Any) -> None:
    weights = torch.ones(3, 4, requires_grad=True)
    (weights**2).sum().backward()
    opt = lrcore.SGD(weights.detach(), lr=0.25)
    opt.step(weights.grad)
    assert (weights == 0.5).all()


def test_what_torch_refuses_to_export_is_named(torch: Any) -> None:
    with pytest.raises(TypeError, match=r"^params: .*requires? grad.*detach\(\)") as refused:
        lrcore.SGD(torch.ones(3, requires_grad=True))
    assert isinstance(refused.value.__cause__, (BufferError, RuntimeError))
    for wrong in (torch.ones(3).to_sparse(), torch.ones(3, device="meta")):
        with pytest.raises(TypeError, match="^params: .*this Tensor cannot be exported"):
            lrcore.SGD(wrong)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "int64", "complex64", "bool"])
def test_torch_dtypes(torch: Any, dtype: str) -> None:
    array = torch.ones(3, dtype=getattr(torch, dtype))
    with pytest.raises(TypeError, match=f"^params: expected dtype float32, got {dtype};"):
        lrcore.SGD(array)
    assert (array == torch.ones(3, dtype=getattr(torch, dtype))).all()


def test_torch_layouts(torch: Any) -> None:
    for wrong in (torch.ones(3, 4).t(), torch.ones(8)[::2], torch.ones(1).expand(4)):
        with pytest.raises(ValueError, match="^params: expected a C-contiguous array"):
            lrcore.SGD(wrong)
    memory = torch.ones(8)
    with pytest.raises(ValueError, match="^grads: shares memory with params"):
        lrcore.SGD(memory[:5]).step(memory[3:])


def test_torch_negated_views(torch: Any) -> None:
    """Their memory holds the opposite, and their exporter does not say so."""
    negated = torch.tensor([1 + 2j]).conj().imag
    assert negated.is_neg()
    with pytest.raises(ValueError, match=r"^params: .*negated view.*resolve_neg\(\)"):
        lrcore.SGD(negated)


def test_torch_subclasses_have_torch_state(torch: Any) -> None:
    parameter = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    assert isinstance(lrcore.Adam(parameter).state["exp_avg"], torch.Tensor)
    own = torch.ones(3).as_subclass(type("Own", (torch.Tensor,), {}))
    assert isinstance(lrcore.Adam(own).state["exp_avg"], torch.Tensor)


def test_jax_arrays_are_gradients_and_no_parameters(jnp: Any) -> None:
    """They are immutable."""
    params = np.ones(4, np.float32)
    opt = lrcore.SGD(params, lr=0.5)
    g = jnp.ones(4)
    opt.step(g)
    assert_bits(params, np.full(4, 0.5, np.float32))
    with pytest.raises((TypeError, ValueError), match="^params: .*(immutable|read-only)"):
        lrcore.SGD(g, lr=0.5)
    assert (g == 1).all()
