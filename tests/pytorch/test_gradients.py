"""The gradients of a FusedOptimizer: attached, absent, assigned, exchanged, kept, or changed by hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytorch.modules import built, loss_of, ones, sgd, torch, zeros

FORGETS: list[Callable[[Any, Any], object]] = [
    lambda opt, _: opt.zero_grad(),
    lambda _, weight: setattr(weight, "grad", None),
    lambda _, weight: setattr(weight, "grad", torch.zeros(3)),
]
"""Ways to discard a gradient. Code that has kept a reference to the gradient still sees its values."""


@pytest.mark.parametrize("forget", FORGETS)
def test_a_parameter_without_a_gradient_counts_as_zero(forget: Callable[[Any, Any], object]) -> None:
    """Momentum and decay affect the parameter, but an old gradient does not.

    The `grad` of the parameter stays None, as in PyTorch.
    """
    first, second = zeros(3), zeros(3)
    opt = sgd(first, second, lr=0.5, momentum=0.5)
    assert first.grad is None
    first.sum().backward()
    opt.step()
    assert second.grad is None
    assert not second.any()
    second.sum().backward()
    opt.step()
    forget(opt, second)
    opt.step()
    assert second.tolist() == [-0.5 - 0.25] * 3


def ready(model: Any, opt: Any, way: str) -> None:
    """Reset the gradients, so that the next backward pass starts from zero."""
    if way == "module":
        model.zero_grad()
    elif way == "none":
        opt.zero_grad()
    else:
        for each in model.parameters():
            if way == "assigned":
                each.grad = None if each.grad is None else each.grad.clone()
            elif way == "absent":
                each.grad = None
        opt.zero_grad(set_to_none=False)


@pytest.mark.parametrize("way", ["module", "none", "zero", "assigned", "absent"])
def test_gradients_accumulate(way: str) -> None:
    """Gradients accumulate in the flat buffer over two backward passes, however they were zeroed before.

    A step does not move the gradients.
    """
    model, opt = built("SGD", lr=0.0)
    (flat,) = opt.optimizers
    loss_of(model, 0).backward()
    expected, places = 2 * flat.grads, [each.grad.data_ptr() for each in model.parameters()]
    assert expected.any()
    for _ in range(2):
        ready(model, opt, way)
        assert all((each.grad is None) == (way in ("module", "none")) for each in model.parameters())
        assert way == "module" or not flat.grads.any()
        for _ in range(2):
            loss_of(model, 0).backward()
        assert [each.grad.data_ptr() for each in model.parameters()] == places
        opt.step()
        assert torch.equal(flat.grads, expected)


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


def test_gradients_that_are_assigned() -> None:
    """Every step reads assigned gradients, whether in the caller's tensor or in memory that has moved."""
    weight = zeros(3)
    opt = sgd(weight)
    weight.grad = torch.zeros(3)
    for value in (1.0, 2.0, 4.0):
        weight.grad.fill_(value)
        opt.step()
    assert weight.tolist() == [-7.0] * 3
    for k, set_to_none in enumerate((True, False)):
        opt.zero_grad(set_to_none=set_to_none)
        weight.sum().backward()
        weight.grad.share_memory_()
        opt.step()
        weight.grad[0] = 3
        opt.step()
        assert weight.tolist() == [-11.0 - 4 * k, -9.0 - 2 * k, -9.0 - 2 * k]


EXCHANGES: dict[str, Callable[[Any, Any, Any], tuple[Any, Any, Any]]] = {
    "two exchanged": lambda a, b, c: (b, a, c),
    "three rotated": lambda a, b, c: (b, c, a),
    "one for two": lambda _, b, c: (b, b, c),
    "taken over": lambda _, b, c: (b, None, c),
    "viewed": lambda _, b, c: (b.view(-1), b, c),
    "wrapped": lambda a, b, c: (a.detach(), b, c),
    "memory exchanged": lambda a, b, c: (b.detach(), a.detach(), c),
    "memory taken": lambda a, _, c: (None, a.detach(), c.detach()),
    "memory taken back": lambda _, b, c: (b.detach(), None, c),
}
"""New gradients for three parameters, made from their current gradients."""


@pytest.mark.parametrize("way", EXCHANGES)
def test_gradients_that_are_exchanged(way: str) -> None:
    """Exchanged gradients act as in PyTorch's optimizer over several steps and backward passes.

    The only difference is that a missing gradient counts as zero here.
    """
    seen = []
    for ours in (True, False):
        one, two, three = params = [zeros(2) for _ in range(3)]
        opt = sgd(*params) if ours else torch.optim.SGD(params, lr=1.0)
        values: list[Any] = []
        for _ in range(2):
            (one + 10 * two + 100 * three).sum().backward()
            given = EXCHANGES[way](one.grad, two.grad, three.grad)
            for each, grad in zip(params, given, strict=True):
                each.grad = grad
            for _ in range(2):
                opt.step()
                values.append([each.tolist() for each in params])
            grads = [*(each.grad for each in params), given[0] if given[1] is None else None]
            values.append([each.tolist() for each in grads if each is not None and each.any()])
            opt.zero_grad()
        seen.append(values)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("forget", FORGETS)
def test_gradients_that_are_kept(forget: Callable[[Any, Any], object]) -> None:
    """A gradient that was taken from a parameter before a reset keeps its values, as in PyTorch."""
    weight = zeros(3)
    opt = sgd(weight)
    kept = []
    for value in (1.0, 2.0, 4.0):
        (value * weight).sum().backward()
        kept.append(weight.grad)
        forget(opt, weight)
    opt.step()
    (8 * weight).sum().backward()
    opt.step()
    assert [each.tolist() for each in kept] == [[1.0] * 3, [2.0] * 3, [4.0] * 3]
    assert (weight == -8).all()
    opt.zero_grad()
    weight.sum().backward()
    assert opt.optimizers[0].grads.tolist() == [1.0] * 3


def test_gradients_in_a_buffer_of_the_callers() -> None:
    """Gradients in a caller's buffer stay there in backward passes, zeroing and scaling, as in PyTorch."""
    parameters = [zeros(n) for n in (3, 1, 4)]
    opt = sgd(*parameters)
    bucket = torch.zeros(8)
    places = list(bucket.split([3, 1, 4]))
    for parameter, place in zip(parameters, places, strict=True):
        parameter.grad = place
    for turn in range(4):
        opt.zero_grad(set_to_none=False) if turn % 2 else bucket.zero_()
        sum((each * (i + 1)).sum() for i, each in enumerate(parameters)).backward()
        bucket.div_(2)
        opt.step()
        assert all(each.grad is place for each, place in zip(parameters, places, strict=True))
    assert [each.tolist() for each in parameters] == [[-2.0] * 3, [-4.0], [-6.0] * 4]


@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="this PyTorch has no grad_dtype")
@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("asked_after", [True, False])
def test_gradients_of_another_dtype(asked_after: bool, set_to_none: bool, dtype: Any) -> None:
    """Gradients have the dtype that `grad_dtype` requires, as in PyTorch.

    A step converts their values, and they remain the gradients of the parameter.
    """
    weight = zeros(3)
    if not asked_after:
        weight.grad_dtype = dtype
    opt = sgd(weight)
    weight.grad_dtype = dtype
    opt.step()
    for _ in range(2):
        opt.zero_grad(set_to_none=set_to_none)
        for _ in range(2):
            (1.25 * weight).sum().backward()
        assert weight.grad.dtype == (dtype or torch.float32)
        assert opt.optimizers[0].grads.tolist() == [2.5] * 3
        opt.step()
    assert weight.tolist() == [-5.0] * 3


@pytest.mark.parametrize("before", [True, False])
def test_hooks_of_others_on_gradients(before: bool) -> None:
    """A hook may remove or replace a gradient, even if it was registered before the optimizer was made."""
    weight, other = zeros(3), zeros(3)
    taken: list[Any] = []

    def take(parameter: Any) -> None:
        taken.append(parameter.grad)
        parameter.grad = None

    def double(parameter: Any) -> None:
        parameter.grad = 2 * parameter.grad

    opt = None if before else sgd(weight, other)
    weight.register_post_accumulate_grad_hook(take)
    other.register_post_accumulate_grad_hook(double)
    opt = opt or sgd(weight, other)
    opt.zero_grad()
    (weight + other).sum().backward()
    opt.step()
    assert (weight.tolist(), other.tolist()) == ([0.0] * 3, [-2.0] * 3)
    assert taken[0].tolist() == [1.0] * 3


def test_a_hook_on_a_gradient_that_steps() -> None:
    weight = zeros(3)
    makers: list[Any] = []

    def step(_: Any) -> None:
        makers[-1].step()
        makers[-1].zero_grad()

    weight.register_post_accumulate_grad_hook(step)
    for _ in range(2):
        makers.append(sgd(weight))
        for _ in range(2):
            weight.sum().backward()
    assert weight.tolist() == [-4.0] * 3


@pytest.mark.parametrize("way", ["zero_grad", "step"])
def test_gradients_in_inference_mode(way: str) -> None:
    """Gradients that were kept or exchanged keep their values.

    The gradients that replace them can be changed later, for example by clipping.
    """
    one, two, empty = weights = [zeros(3), zeros(3), zeros(0)]
    opt = sgd(*weights)
    (one.sum() + 10 * two.sum() + empty.sum()).backward()
    kept = [each.grad for each in weights]
    with torch.inference_mode():
        one.grad, two.grad = two.grad, one.grad
        opt.step()
        if way == "step":
            one.grad = two.grad = empty.grad = None
            opt.step()
        else:
            opt.zero_grad()
    assert (one.tolist(), two.tolist(), kept[0].tolist()) == ([-10.0] * 3, [-1.0] * 3, [1.0] * 3)
    (4 * one.sum() + two.sum() + empty.sum()).backward()
    torch.nn.utils.clip_grad_value_(weights, 3.0)
    opt.step()
    assert (one.tolist(), two.tolist()) == ([-13.0] * 3, [-2.0] * 3)
    assert not any(each.is_inference() for each in kept)
    assert kept[0].mul_(2).tolist() == [2.0] * 3
