"""The gradients of a FusedOptimizer: absent, assigned, accumulated, of other layouts, shared and exchanged.

They are compared with separate lrcore optimizers, or with PyTorch's on numbers that are exact in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import lrcore
from pytorch.modules import (
    FusedOptimizer,
    Separate,
    each_optimizer,
    give,
    grouped,
    in_groups,
    network,
    ones,
    sgd,
    torch,
    train,
    weights,
    zeros,
)


@each_optimizer
def test_a_parameter_without_a_gradient_is_not_visited(name: str) -> None:
    """Each parameter has the bits of a separate optimizer that steps only when there is a gradient.

    A step leaves all gradients, and no hook, where they are.
    """
    params = weights()
    separate = Separate(name, in_groups(name, params))
    opt = grouped(name, params)
    for t, share in enumerate([0.5] * 7 + [0.0, 1.0] + [0.3] * 11):
        give(params, (1, t), share)
        grads = [each.grad for each in params]
        places = [None if each is None else (each.data_ptr(), each._version) for each in grads]
        versions = [each._version for each in params]
        separate.step()
        opt.step()
        separate.assert_same(opt)
        assert all(each.grad is grad for each, grad in zip(params, grads, strict=True))
        assert places == [None if each is None else (each.data_ptr(), each._version) for each in grads]
        for each, grad, version in zip(params, grads, versions, strict=True):
            assert (each._version > version) == (grad is not None) or not each.numel()
    assert opt.step_count == 20
    assert opt.optimizers[0].grads is None
    assert not any(each._post_accumulate_grad_hooks or each._backward_hooks for each in params)


VALUES = torch.arange(6.0).view(2, 3)


def steps_of(make: Callable[[list[Any]], Any], change: Callable[[Any, list[Any], int], None]) -> list[Any]:
    """Return the parameters after each of 6 steps of an optimizer, with gradients from `change`."""
    params = [torch.nn.Parameter(VALUES - k) for k in range(3)]
    opt = make(params)
    seen = []
    for t in range(6):
        change(opt, params, t)
        opt.step()
        seen.append([each.tolist() for each in params])
    return seen


def as_pytorchs(change: Callable[[Any, list[Any], int], None]) -> None:
    """Check that an SGD optimizer whose numbers are exact in float32 gives the results of PyTorch's."""
    numbers = {"lr": 0.5, "momentum": 0.5, "weight_decay": 0.5}
    ours = steps_of(lambda params: FusedOptimizer(params, lrcore.SGD, **numbers), change)
    assert ours == steps_of(lambda params: torch.optim.SGD(params, **numbers), change)
    assert len({str(each) for each in ours}) == len(ours)


def loss(params: list[Any], t: int) -> Any:
    """Return a loss whose gradients are 1, 2 and 4 in step 0, and 1 more in each step."""
    return sum(((t + 2**k) * each).sum() for k, each in enumerate(params) if each.requires_grad)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_freezing_and_thawing(set_to_none: bool) -> None:
    """A frozen parameter is not visited, unless it still has a gradient, as in PyTorch."""

    def change(opt: Any, params: list[Any], t: int) -> None:
        opt.zero_grad(set_to_none)
        params[1].requires_grad_(t % 4 < 2)
        loss(params, t).backward()

    as_pytorchs(change)


@pytest.mark.parametrize("begins", [True, False])
def test_a_parameter_that_is_frozen_at_first(begins: bool) -> None:
    """The optimizer accepts it, and steps it once it has a gradient."""
    params = [ones(3), torch.ones(2) if begins else torch.ones(2).requires_grad_(False)]
    opt = sgd(*params)
    params[0].sum().backward()
    opt.step()
    assert params[1].tolist() == [1.0] * 2
    params[1].requires_grad_()
    (params[0].sum() + params[1].sum()).backward()
    opt.step()
    assert (params[0].tolist(), params[1].tolist()) == ([-2.0] * 3, [0.0] * 2)


@pytest.mark.parametrize("way", ["none", "zero", "module", "set by hand", "never"])
def test_gradients_accumulate(way: str) -> None:
    """Two backward passes add up, however the gradients were reset before the first."""

    def change(opt: Any, params: list[Any], t: int) -> None:
        before = [each.grad for each in params]
        if way == "module":
            torch.nn.ParameterList(params).zero_grad()
        elif way == "set by hand":
            for each in params:
                each.grad = None
        elif way != "never":
            opt.zero_grad(set_to_none=way == "none")
        if t and way in ("zero", "never"):
            assert all(each.grad is grad for each, grad in zip(params, before, strict=True))
        elif way != "zero":
            assert all(each.grad is None for each in params)
        for _ in range(2):
            loss(params[: 2 + t % 2], t).backward()

    as_pytorchs(change)
    assert "zero_grad" not in vars(FusedOptimizer)


def assign(*grads: Any) -> Callable[[list[Any]], None]:
    def assigned(params: list[Any]) -> None:
        for each, grad in zip(params, grads, strict=True):
            each.grad = grad

    return assigned


def in_inference_mode(params: list[Any]) -> None:
    with torch.inference_mode():
        assign(VALUES + 1, VALUES - 7, None)(params)


def moved(params: list[Any]) -> None:
    """Move gradients to other memory, which the tensors keep."""
    assign(VALUES.clone(), VALUES + 1, None)(params)
    params[0].grad.share_memory_()
    params[1].grad.data = 3 * VALUES


def in_a_buffer(params: list[Any]) -> None:
    """Gradients in a buffer of the caller's, which is modified as a whole."""
    bucket = torch.arange(18.0)
    assign(*(each.view(2, 3) for each in bucket.split(6)))(params)
    bucket.div_(2)


def clipped(params: list[Any]) -> None:
    assign(VALUES + 0, VALUES + 1, 4 - VALUES)(params)
    torch.nn.utils.clip_grad_value_(params, 2.0)


ONE = VALUES + 1
GRADIENTS: dict[str, Callable[[list[Any]], None]] = {
    "assigned": assign(ONE, None, VALUES - 5),
    "expanded": assign(torch.ones(()).expand(2, 3), torch.arange(3.0).expand(2, 3), None),
    "transposed": assign(torch.arange(6.0).view(3, 2).t(), VALUES, None),
    "every other": assign(torch.arange(24.0).view(4, 6)[::2, ::2], VALUES, None),
    "with a graph": assign(VALUES * ones(3), ONE, None),
    "in inference mode": in_inference_mode,
    "moved": moved,
    "in a buffer": in_a_buffer,
    "clipped": clipped,
    "shared": assign(ONE, ONE, ONE),
    "a view of another's": assign(ONE, ONE.view(-1).view(2, 3), ONE.detach()),
    "the memory of its parameter": lambda params: assign(params[0].detach(), VALUES, None)(params),
    "the memory of another parameter": lambda params: assign(params[1].detach(), VALUES, None)(params),
}


@pytest.mark.parametrize("way", GRADIENTS)
def test_gradients_that_are_assigned(way: str) -> None:
    """A step reads a gradient where it lies, whatever its memory and strides, and leaves it there."""
    given: list[Any] = []

    def change(_: Any, params: list[Any], t: int) -> None:
        if t % 3 != 1:  # the gradients of the previous step are read again in every third step
            GRADIENTS[way](params)
            given[:] = [each.grad for each in params]
            given.append([each.data_ptr() for each in given if each is not None])
        else:
            assert all(each.grad is grad for each, grad in zip(params, given, strict=False))
            assert [each.grad.data_ptr() for each in params if each.grad is not None] == given[-1]

    as_pytorchs(change)


EXCHANGES: dict[str, Callable[[Any, Any, Any], tuple[Any, Any, Any]]] = {
    "two exchanged": lambda a, b, c: (b, a, c),
    "three rotated": lambda a, b, c: (b, c, a),
    "one for two": lambda _, b, c: (b, b, c),
    "taken over": lambda _, b, c: (b, None, c),
    "viewed": lambda _, b, c: (b.view(-1).view(2, 3), b, c),
    "memory exchanged": lambda a, b, c: (b.detach(), a.detach(), c),
}
"""New gradients for three parameters, made from their current gradients."""


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("way", EXCHANGES)
def test_gradients_that_are_exchanged(way: str, set_to_none: bool) -> None:
    """Exchanged gradients act over several steps and backward passes as in PyTorch's optimizer."""

    def change(opt: Any, params: list[Any], t: int) -> None:
        if t % 2:
            return  # the same gradients again
        opt.zero_grad(set_to_none)
        loss(params, t).backward()
        assign(*EXCHANGES[way](*(each.grad for each in params)))(params)

    as_pytorchs(change)


@pytest.mark.filterwarnings("ignore:Using backward")  # PyTorch warns about the cycle
def test_gradients_that_can_be_differentiated() -> None:
    """A step uses gradients that have a graph, and a penalty can be computed from them."""
    weight = ones(1)
    opt = sgd(weight)
    (weight**3).sum().backward(create_graph=True)
    penalty = (weight.grad**2).sum()
    ((weight**2).sum() + penalty).backward()  # 3 w^2 + 2 w + 36 w^3
    opt.step()
    assert weight.item() == 1 - 41
    opt.zero_grad()
    (weight**2).sum().backward(create_graph=True)
    opt.step()
    assert weight.item() == -40 + 80


@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="this PyTorch has no grad_dtype")
def test_gradients_of_another_dtype() -> None:
    """A step converts the values, and they remain the gradients of the parameter, as in PyTorch."""

    def change(opt: Any, params: list[Any], t: int) -> None:
        if not t:
            params[0].grad_dtype = torch.bfloat16
        opt.zero_grad(set_to_none=t % 2 == 0)
        loss(params, t).backward()
        assert params[0].grad.dtype == torch.bfloat16

    as_pytorchs(change)


def test_a_gradient_that_becomes_a_negated_view() -> None:
    """PyTorch negates such a view lazily. The gradient object is the same in all steps."""

    def change(_: Any, params: list[Any], t: int) -> None:
        if not t:
            assign(VALUES + 1, VALUES, None)(params)
        params[0].grad.data = torch._neg_view(VALUES + t) if t == 3 else VALUES + t % 3
        params[1].grad.neg_()

    as_pytorchs(change)


def test_a_hook_on_a_gradient_that_steps() -> None:
    """The optimizer of one parameter can step, and drop the gradient, inside the backward pass."""
    first, second = weights = zeros(3), zeros(3)
    opts = [sgd(each) for each in weights]

    def stepping(opt: Any) -> Callable[[Any], None]:
        def step(_: Any) -> None:
            opt.step()
            opt.zero_grad()

        return step

    for weight, opt in zip(weights, opts, strict=True):
        weight.register_post_accumulate_grad_hook(stepping(opt))
    for _ in range(3):
        (first + 2 * second).sum().backward()
        assert first.grad is second.grad is None
    assert (first.tolist(), second.tolist()) == ([-3.0] * 3, [-6.0] * 3)


def test_a_step_in_inference_mode() -> None:
    """The parameters and gradients can be used outside of it afterwards."""
    weight = zeros(3)
    opt = sgd(weight)
    weight.sum().backward()
    with torch.inference_mode():
        opt.step()
        opt.zero_grad()
    (4 * weight).sum().backward()
    opt.step()
    assert weight.tolist() == [-5.0] * 3
    assert not weight.is_inference()


def test_tied_weights() -> None:
    """A parameter that a module has twice is one parameter."""
    model = network()
    model.append(torch.nn.Linear(3, 3)).append(torch.nn.Linear(3, 3))
    model[-1].weight = model[-2].weight
    separate = Separate("AdamW", [{"params": [*model.parameters()]}])
    opt = FusedOptimizer(model.named_parameters(), lrcore.AdamW, lr=0.01)
    assert model[-1].weight is model[-2].weight
    for t in range(4):
        train(model, opt, range(t, t + 1))
        separate.step()
        separate.assert_same(opt)


def test_a_gradient_that_is_a_shifted_view_of_the_parameters() -> None:
    """The step reads the values from before it, not those that it has written."""
    first, second = ones(1000), ones(1000)
    opt = FusedOptimizer([first, second], lrcore.SGD, lr=1.0)
    flat = opt.optimizers[0].params
    flat.copy_(torch.arange(len(flat)))
    begin = (second.data_ptr() - flat.data_ptr()) // 4
    second.grad = flat.as_strided((1000,), (1,), begin - 1)
    opt.step()
    assert (second == 1).all()  # begin + i - (begin - 1 + i)
