"""``step(zero_grads=True)`` of a FusedOptimizer: the results of a step and of ``zero_grad(set_to_none=False)``."""

from __future__ import annotations

import functools
import gc
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

import lrcore
from pytorch.modules import (
    FusedOptimizer,
    assert_equal,
    build,
    each_optimizer,
    everything,
    give,
    grouped,
    loss_of,
    network,
    ones,
    parameters,
    sgd,
    torch,
    weights,
    zeros,
)
from pytorch.test_gradients import EXCHANGES, VALUES, assign, loss
from pytorch.test_stepping import FAULTS, Trace
from support import LARGE, assert_bits

GUARD = 1e30


def bits(tensor: Any) -> bytes:
    """Return the bits of the elements."""
    return bytes(
        tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy()
    )


def gradients_of(params: Iterable[Any]) -> list[tuple[Any, Any, int | None]]:
    """Return parameters with their gradients and the version counters of those."""
    grads = [(each, each.grad) for each in params]
    return [(each, grad, None if grad is None else grad._version) for each, grad in grads]


def assert_zeroed(before: list[tuple[Any, Any, int | None]]) -> None:
    """Assert that the gradients are +0, the same objects as before, detached and counted as modified."""
    for parameter, grad, version in before:
        assert parameter.grad is grad
        if grad is not None:
            assert not any(bits(grad))
            assert not grad.requires_grad
            assert grad.grad_fn is None
            assert grad._version > version


def assert_alike(opt: Any, plain: Any) -> None:
    """Assert that two optimizers and their parameters have equal bits, and have counted and measured the same."""
    (params, saved), (others, expected) = everything(opt), everything(plain)
    assert saved["param_groups"] == expected["param_groups"]
    assert saved["state"].keys() == expected["state"].keys()
    for found, wanted in zip(params, others, strict=True):
        assert_bits(found.numpy(), wanted.numpy())
    for i, entries in expected["state"].items():
        for name, value in entries.items():
            assert_bits(saved["state"][i][name].numpy(), value.numpy(), name)
    np.testing.assert_equal(opt.grad_norm, plain.grad_norm)


@each_optimizer
@pytest.mark.parametrize("settings", [{}, {"max_norm": 0.5, "skip_nonfinite": 9}])
def test_bits_of_every_optimizer(name: str, settings: dict[str, Any]) -> None:
    """The step is that without zeroing. A parameter without a gradient keeps none. A skipped step zeroes, too."""
    params, others = weights(), weights()
    opt, plain = grouped(name, params, **settings), grouped(name, others, **settings)
    for t in range(8):
        for each in (params, others):
            give(each, (5, t), 0.6 if t else 1.0)
            if t == 5:  # other strides than those of its parameter
                each[4].grad = torch.arange(24.0).view(2, 3, 2, 2)
            if t in (3, 6) and settings:
                each[3].grad = torch.full((17,), math.inf)
        before = gradients_of(params)
        opt.step(grad_scale=-0.3, zero_grads=True)
        plain.step(grad_scale=-0.3)
        assert_alike(opt, plain)
        assert_zeroed(before)
    assert opt.skipped_steps == (2 if settings else 0)


def test_a_loop_without_zero_grad() -> None:
    """Training a network has the bits of a loop that calls ``zero_grad(set_to_none=False)``."""
    model, twin = network(), network()
    opt, plain = build("AdamW", model), build("AdamW", twin)
    for t in range(5):
        opt.step(lambda t=t: loss_of(model, t).backward(), zero_grads=True)
        plain.zero_grad(set_to_none=False)
        loss_of(twin, t).backward()
        plain.step()
        assert_equal(model, parameters(twin))
        assert not any(any(bits(each.grad)) for each in model.parameters())


# ---- as PyTorch


GRADIENTS: dict[str, Callable[[list[Any], Any], tuple[Any, Any, Any]]] = {
    "apart": lambda _, v: (v + 1, None, v - 5),
    "expanded": lambda _, v: (torch.ones(()).expand(2, 3), v[1].expand(2, 3), None),
    "transposed": lambda _, v: (v.view(3, 2).t(), v + 1, None),
    "every other": lambda _, v: (torch.arange(24.0).view(4, 6)[::2, ::2], v, None),
    "negated": lambda _, v: (torch._neg_view(v), v + 1, None),
    "with a graph": lambda _, v: (v * ones(3), v + 1, None),
    "leaves": lambda _, v: ((v + 1).requires_grad_(), v.requires_grad_(), None),
    "in a buffer": lambda *_: torch.arange(18.0).view(3, 2, 3).unbind(),
    "shared": lambda _, v: (v, v, v),
    "views of another": lambda _, v: (v, v.view(-1).view(2, 3), v.detach()),
    "another, transposed": lambda _, v: (v, v.view(3, 2).t(), None),
    "overlapping": lambda *_: torch.arange(14.0).unfold(0, 6, 4).unflatten(1, (2, 3)).unbind(),
    "its parameter": lambda params, v: (params[0].detach(), v, None),
    "another parameter": lambda params, v: (params[1].detach(), v, None),
}
"""New gradients for three parameters, made from values that nothing else uses."""


def assigned(way: str) -> Callable[[list[Any], int], None]:
    """Return a function that assigns new gradients, except in every third step, which reads zeros."""

    def change(params: list[Any], t: int) -> None:
        if t % 3 != 1:
            assign(*GRADIENTS[way](params, VALUES + t))(params)

    return change


def exchanged(way: str) -> Callable[[list[Any], int], None]:
    """Return a function that adds to the gradients, and exchanges them in every other step."""

    def change(params: list[Any], t: int) -> None:
        loss(params, t).backward()
        if t % 2 == 0:
            assign(*EXCHANGES[way](*(each.grad for each in params)))(params)

    return change


def frozen_and_thawed(params: list[Any], t: int) -> None:
    """Freeze parameters once they have gradients. PyTorch steps them once more, and zeroes the gradients."""
    for each in params:
        each.requires_grad_()
    loss(params, t).backward()
    params[0].requires_grad_(t % 2 == 0)
    params[1].requires_grad_(t % 4 < 2)


CHANGES: dict[str, Callable[[list[Any], int], None]] = {
    **{way: assigned(way) for way in GRADIENTS},
    **{way: exchanged(way) for way in EXCHANGES},
    "frozen after the backward pass": frozen_and_thawed,
    "none in every other step": lambda params, t: loss(params[: 2 + t % 2], t).backward(),
}


@pytest.mark.parametrize("way", CHANGES)
def test_the_results_of_pytorch(way: str) -> None:
    """Whatever the memory, strides and graphs of the gradients. All are read before one of them is zeroed."""
    numbers = {"lr": 0.5, "momentum": 0.5, "weight_decay": 0.5}  # exact in float32
    seen = []
    for is_ours in (True, False):
        params = [torch.nn.Parameter(VALUES - k) for k in range(3)]
        opt = FusedOptimizer(params, lrcore.SGD, **numbers) if is_ours else torch.optim.SGD(params, **numbers)
        results = []
        for t in range(6):
            CHANGES[way](params, t)
            before = gradients_of(params)
            if is_ours:
                opt.step(zero_grads=True)
            else:
                opt.step()
                opt.zero_grad(set_to_none=False)
            if way == "negated":  # whose zeros may be negated
                assert all(grad is None or not grad.any() for _, grad, _ in before)
            else:
                assert_zeroed(before)
            results.append([each.tolist() for each in params])
        seen.append(results)
    assert seen[0] == seen[1]


def test_gradients_that_overlap_anyhow() -> None:
    """Gradients of any lengths anywhere in a short buffer are read before one of them is zeroed."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(0, 30, 8)
        begins = rng.integers(0, 200 - sizes)
        results = []
        for is_ours in (True, False):
            params = [zeros(size) for size in sizes.tolist()]
            opt = sgd(*params, lr=0.5) if is_ours else torch.optim.SGD(params, lr=0.5)
            buffer = torch.arange(200.0)
            for each, begin, size in zip(params, begins.tolist(), sizes.tolist(), strict=True):
                each.grad = buffer[begin : begin + size]
            if is_ours:
                opt.step(zero_grads=True)
            else:
                opt.step()
                opt.zero_grad(set_to_none=False)
            results.append([bits(each) for each in (buffer, *params)])
        assert results[0] == results[1], seed


@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="this PyTorch has no grad_dtype")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_gradients_of_another_dtype(dtype: Any) -> None:
    """They are zeroed in the tensor of the user, not in a copy of it."""
    params, others = weights(), weights()
    opt, plain = grouped("Adam", params), grouped("Adam", others)
    for each in (*params, *others):
        each.grad_dtype = dtype
    for t in range(3):
        for each, other in zip(params, others, strict=True):
            each.grad = torch.full_like(each, 0.5 + t, dtype=dtype)
            other.grad = each.grad.clone()
        before = gradients_of(params)
        opt.step(zero_grads=True)
        plain.step()
        assert_alike(opt, plain)
        assert_zeroed(before)


def test_a_gradient_that_is_a_state() -> None:
    """A step reads it before it writes the state, and the state is zero afterwards."""
    weight = zeros(3)
    opt = sgd(weight, momentum=0.5)
    weight.grad = torch.ones(3)
    opt.step()
    weight.grad = opt.state[weight]["momentum_buffer"].detach()
    opt.step(zero_grads=True)
    assert weight.tolist() == [-1.0 - 1.5] * 3
    assert not any(bits(opt.state[weight]["momentum_buffer"]))


@pytest.mark.filterwarnings("ignore:Using backward")  # PyTorch warns about the cycle
def test_gradients_that_can_be_differentiated() -> None:
    weight = ones(1)
    opt = sgd(weight)
    for step in range(2):
        (weight**2).sum().backward(create_graph=True)
        before = gradients_of([weight])
        assert weight.grad.grad_fn is not None
        opt.step(zero_grads=True)
        assert_zeroed(before)
        assert weight.item() == (-1) ** (step + 1)


@pytest.mark.parametrize(
    "begin",
    [lambda grad: grad.requires_grad_(), lambda grad: grad.mul_(ones(3))],
    ids=["a leaf", "with a graph"],
)
def test_a_gradient_that_begins_to_require_gradients(begin: Callable[[Any], object]) -> None:
    """It no longer does after the step, also if the tensor was the gradient of a former step."""
    weight = zeros(3)
    opt = sgd(weight)
    weight.grad = torch.ones(3)
    for _ in range(3):
        opt.step(zero_grads=True)
        begin(weight.grad)
        before = gradients_of([weight])
        opt.step(zero_grads=True)
        assert_zeroed(before)


def of_inference_mode(weight: Any) -> None:
    with torch.inference_mode():
        weight.grad = torch.ones(2, 3)


def of_inference_mode_with_other_strides(weight: Any) -> None:
    with torch.inference_mode():
        weight.grad = torch.ones(3, 2).t()


def a_view_with_a_graph(weight: Any) -> None:
    weight.grad = (torch.ones(6) * ones(6)).view(2, 3)


@pytest.mark.parametrize("is_skipped", [False, True])
@pytest.mark.parametrize(
    "make", [of_inference_mode, of_inference_mode_with_other_strides, a_view_with_a_graph]
)
def test_gradients_that_pytorch_cannot_zero(make: Callable[[Any], None], is_skipped: bool) -> None:
    """A step with them either zeroes all gradients or is refused. It does not raise after it has changed something."""
    weight, other = zeros(2, 3), zeros(3)
    opt = sgd(other, weight)
    opt.found_inf = torch.tensor(float(is_skipped))
    for t in range(2):
        other.grad = torch.ones(3)
        make(weight)
        before = [bits(each) for each in (weight, other)], opt.step_count, opt.skipped_steps
        try:
            opt.step(zero_grads=True)
        except RuntimeError:
            assert ([bits(each) for each in (weight, other)], opt.step_count, opt.skipped_steps) == before
            assert weight.grad.tolist() == [[1.0] * 3] * 2
            assert other.grad.tolist() == [1.0] * 3
        else:
            assert weight.tolist() == [[0.0 if is_skipped else -1.0 - t] * 3] * 2
            assert not any(bits(weight.grad))
            assert not any(bits(other.grad))


def test_a_step_in_inference_mode() -> None:
    weight = zeros(3)
    opt = sgd(weight)
    weight.sum().backward()
    grad = weight.grad
    with torch.inference_mode():
        opt.step(zero_grads=True)
    (4 * weight).sum().backward()
    assert weight.grad is grad
    opt.step(zero_grads=True)
    assert weight.tolist() == [-5.0] * 3


def test_autograd_notices() -> None:
    """A backward pass that needs the values of a gradient is refused once they have been zeroed."""
    weight, x = ones(3), ones(3)
    opt = sgd(weight)
    for zero, expected in ((False, None), (True, "modified by an inplace operation")):
        weight.grad = torch.ones(3)
        product = (weight.grad * x).sum()
        opt.step(zero_grads=zero)
        if expected is None:
            product.backward()
        else:
            with pytest.raises(RuntimeError, match=expected):
                product.backward()


def test_a_hook_that_steps() -> None:
    """A parameter is stepped, and its gradient zeroed, inside the backward pass."""
    weight = zeros(3)
    opt = sgd(weight)
    weight.register_post_accumulate_grad_hook(lambda _: opt.step(zero_grads=True))
    for t in range(1, 4):
        weight.sum().backward()
        assert weight.tolist() == [-t] * 3
        assert not any(bits(weight.grad))


# ---- what is written


@pytest.mark.usefixtures("backend")
def test_nothing_else_is_written() -> None:
    """Gradients in a buffer of the caller's, at any offset and with any strides, between elements that remain."""
    for shift in range(16):
        params, others = weights(), weights()
        sizes = [each.numel() for each in params]
        buffer = torch.full((sum(sizes) + 8 * len(sizes) + 200,), GUARD)
        places = torch.arange(len(buffer))
        begin, owned = shift, torch.zeros(len(buffer), dtype=torch.bool)
        for i, (each, other) in enumerate(zip(params, others, strict=True)):
            stride = each.stride() if i != 3 else (5,)  # one is not contiguous, and is copied first
            each.grad = buffer.as_strided(each.shape, stride, begin)
            each.grad.copy_(torch.linspace(-1, 1, each.numel()).view(each.shape))
            other.grad = each.grad.clone()
            owned[places.as_strided(each.shape, stride, begin)] = True
            begin += each.numel() * (5 if i == 3 else 1) + 3
        opt, plain = grouped("Adam", params, max_norm=0.5), grouped("Adam", others, max_norm=0.5)
        opt.step(zero_grads=True)
        plain.step()
        assert_alike(opt, plain)
        assert bits(buffer) == bits(torch.where(owned, 0.0, GUARD))


@pytest.mark.usefixtures("threads")
def test_every_number_of_threads() -> None:
    params, others = ([zeros(7), zeros(LARGE), zeros(3, 1000), zeros(LARGE // 2, 3)] for _ in range(2))
    opt, plain = (sgd(*each, momentum=0.5, max_norm=0.5) for each in (params, others))
    for count in range(1, 9):
        lrcore.set_num_threads(count)
        for each in (params, others):
            give(each, (count,))
        before = gradients_of(params)
        opt.step(zero_grads=True)
        plain.step()
        assert_alike(opt, plain)
        assert_zeroed(before)


@pytest.mark.parametrize("set_requires_grad", [True, False])
def test_a_first_step_on_zeros(set_requires_grad: bool) -> None:
    """Such a step may only create states. Its gradients are zeroed like others: -0 becomes +0."""
    weight = ones(3)
    opt = FusedOptimizer([weight, ones(2)], lrcore.Adam)
    weight.grad = torch.full((3,), -0.0, requires_grad=set_requires_grad)
    before = gradients_of([weight])
    opt.step(zero_grads=True)
    assert_zeroed(before)


# ---- skipped steps and several devices


@pytest.mark.parametrize("apart", [False, True])
def test_steps_that_gradscaler_skips(apart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The infinite gradients are zeroed, so the next backward pass can add to them. Parameters remain."""
    if apart:
        monkeypatch.setattr("lrcore.torch._fused.place_of", lambda tensor: tensor.ndim)
    params, others = weights(), weights()
    opt, plain = grouped("AdamW", params), grouped("AdamW", others)
    scaler, its = (torch.amp.GradScaler("cpu", init_scale=4.0) for _ in range(2))
    for factor in (1.0, math.inf, 3.0, math.inf, 1.0):
        for each in others:
            each.grad = None
        for each, scales in ((params, scaler), (others, its)):
            scales.scale(sum((factor * parameter).sum() for parameter in each)).backward()
        before = gradients_of(params)
        scaler.step(opt, zero_grads=True)
        its.step(plain)
        for each in (scaler, its):
            each.update()
        assert_alike(opt, plain)
        assert_zeroed(before)
    assert (opt.step_count, opt.skipped_steps) == (3, 2)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("by_scaler", [False, True])
def test_a_skipped_step_that_raises(apart: bool, by_scaler: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if apart:
        monkeypatch.setattr("lrcore.torch._fused.place_of", lambda tensor: tensor.ndim)
    params = weights()
    opt = grouped("AdamW", params, skip_nonfinite=2)
    for t in range(3):
        give(params, (3, t))
        if by_scaler:
            opt.found_inf = torch.tensor(1.0)
        else:
            params[3].grad[t] = -math.inf
        before, kept = gradients_of(params), [bits(each) for each in params]
        if t == 0:
            opt.step(zero_grads=True)
        else:
            with pytest.raises(FloatingPointError, match="skip_nonfinite"):
                opt.step(zero_grads=True)
        assert [bits(each) for each in params] == kept
        assert_zeroed(before)
    assert (opt.step_count, opt.skipped_steps) == (0, 3)


def test_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrcore.torch._fused.place_of", lambda tensor: tensor.ndim)
    params, others = weights(), weights()
    opt, plain = (grouped("NAdam", each, max_norm=0.5, skip_nonfinite=2) for each in (params, others))
    assert len(opt.optimizers) > 1
    for t in range(5):
        for each in (params, others):
            give(each, (3, t), 0.6 if t else 1.0)
            each[4].grad = torch.arange(24.0).view(2, 3, 2, 2)
            if t == 2:
                each[4].grad[0, 0] = math.nan
        before = gradients_of(params)
        opt.step(zero_grads=True)
        plain.step()
        assert_alike(opt, plain)
        assert_zeroed(before)


# ---- refusals


@pytest.mark.parametrize("fault", [each for each in FAULTS if each != "a hook after the step"])
def test_a_refused_step_zeroes_nothing(fault: str) -> None:
    params = [ones(3), ones(3), ones(3, 2)]
    opt = sgd(*params, momentum=0.5)
    for each in params:
        each.grad = torch.ones_like(each)
    params[2].grad = torch.ones(2, 3).t()  # copied first
    opt.step()
    FAULTS[fault](opt, params[1])
    tensors = [*params, params[0].grad, params[2].grad]
    kept = [(bits(each), each._version) for each in tensors]
    with pytest.raises((TypeError, ValueError, NotImplementedError)):
        opt.step(zero_grads=True)
    assert [(bits(each), each._version) for each in tensors] == kept


@pytest.mark.parametrize("value", [1, 0, None, "yes", torch.tensor(True)])
def test_what_is_no_bool(value: Any) -> None:
    weight = ones(3)
    opt = sgd(weight)
    weight.grad = torch.ones(3)
    with pytest.raises(TypeError, match="^zero_grads: expected True or False, got "):
        opt.step(zero_grads=value)
    assert (weight == 1).all()
    assert (weight.grad == 1).all()
    opt.step(zero_grads=np.False_)
    assert (weight.grad == 1).all()
    opt.step(zero_grads=np.True_)
    assert not any(bits(weight.grad))
    with pytest.raises(TypeError):
        opt.step(None, 1.0, True)


def test_one_call_of_the_core() -> None:
    """What Python does to zero the gradients does not depend on their number."""
    traces = []
    for count in (4, 50):
        params = [zeros(2, 3) for _ in range(count)]
        opt = FusedOptimizer([{"params": params[:2]}, {"params": params[2:], "lr": 0.5}], lrcore.AdamW)
        for _ in range(4):
            sum(each.sum() for each in params).backward()
            gc.disable()
            try:
                trace = Trace().of(functools.partial(opt.step, zero_grads=True))
            finally:
                gc.enable()
        traces.append(trace)
    few, many = traces
    assert few.calls == many.calls
    assert few.core == many.core
    assert few.opcodes == many.opcodes > 0
    assert sum(count for name, count in few.core.items() if "step" in name) == 1
