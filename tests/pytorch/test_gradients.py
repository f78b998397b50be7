"""The gradients of a FusedOptimizer: attached, absent, assigned, exchanged, kept, and of hooks of others."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from pytorch.modules import assert_equal, built, loss_of, parameters, sgd, torch, zeros

FORGETS: list[Callable[[Any, Any], object]] = [
    lambda opt, _: opt.zero_grad(),
    lambda _, weight: setattr(weight, "grad", None),
    lambda _, weight: setattr(weight, "grad", torch.zeros(3)),
]
"""What ends the use of a gradient, and leaves its values to whoever has kept it."""


def test_a_parameter_without_a_gradient_counts_as_zero() -> None:
    """Momentum and decay act on it, and an old gradient does not. As with PyTorch nobody takes zeros for gradients."""
    first, second = zeros(3), zeros(3)
    opt = sgd(first, second, lr=0.5, momentum=0.5)
    assert first.grad is None
    first.sum().backward()
    opt.step()
    assert second.grad is None
    assert not second.any()
    second.sum().backward()
    opt.step()
    assert (second == -0.5).all()
    for forget in FORGETS:
        forget(opt, second)
        first.sum().backward()
        before = second.detach().clone()
        velocity = opt.state[second]["momentum_buffer"].clone()
        opt.step()
        assert (second == before - 0.5 * (0.5 * velocity)).all()


def places(model: Any) -> list[int]:
    """Return where the gradients lie."""
    return [each.grad.data_ptr() for each in model.parameters()]


def test_zeroing() -> None:
    """The flat gradients are those of the last backward passes, before a step as well."""
    model, opt = built("SGD")
    loss_of(model, 0).backward()
    flat, attached = opt.optimizers[0].grads, places(model)
    norm = flat.norm()
    assert norm > 0
    opt.zero_grad()
    assert all(each.grad is None for each in model.parameters())
    assert not flat.any()
    loss_of(model, 0).backward()
    assert places(model) == attached  # the hook has put them back
    assert flat.norm() == norm
    for foreign in (lambda _: None, lambda each: each.grad.clone()):
        for each in model.parameters():
            each.grad = foreign(each)
        opt.zero_grad(set_to_none=False)
        assert places(model) == attached
        assert not flat.any()


def test_gradients_accumulate() -> None:
    """Over two backward passes, in both forms of zeroing; the module's own `zero_grad` and assigned gradients are seen."""
    expected = None
    for way in ("none", "zero", "module", "assigned"):
        model, opt = built("Adam")
        for _ in range(2):
            if way == "module":
                model.zero_grad()
            else:
                opt.zero_grad(set_to_none=way != "zero")
            for step in (0, 1):
                (loss_of(model, step) / 2).backward()
            if way == "assigned":
                for each in model.parameters():
                    each.grad = each.grad.clone()
            opt.step()
        expected = expected or parameters(model)
        assert_equal(model, expected)


def test_gradients_that_can_be_differentiated() -> None:
    """They are stepped with, and left for what is computed of them: a penalty."""
    weight = zeros(1)
    weight.data.fill_(1.0)
    opt = sgd(weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of the cycle that this makes
        (weight**3).sum().backward(create_graph=True)
    penalty = (weight.grad**2).sum()
    ((weight**2).sum() + penalty).backward()  # 3 w^2 + 2 w + 36 w^3
    opt.step()
    assert weight.item() == 1 - 41
    opt.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (weight**2).sum().backward(create_graph=True)
    opt.step()
    assert weight.item() == -40 + 80


def test_gradients_that_are_assigned() -> None:
    """They are read at every step, wherever they lie: in a tensor of the caller's, in one another's place, or moved."""
    first, second = zeros(3), zeros(3)
    opt = sgd(first, second)
    own = torch.zeros(3)
    first.grad = own
    for value in (1.0, 2.0, 4.0):
        own.fill_(value)
        opt.step()
    assert first.tolist() == [-7.0] * 3
    opt.zero_grad(set_to_none=False)
    (first.sum() + 10 * second.sum()).backward()
    first.grad, second.grad = second.grad, first.grad
    opt.step()
    assert (first.tolist(), second.tolist()) == ([-17.0] * 3, [-1.0] * 3)
    opt.zero_grad(set_to_none=False)
    first.sum().backward()
    first.grad.data = first.grad.data * 5
    opt.step()
    assert first.tolist() == [-22.0] * 3
    for _ in range(2):
        opt.zero_grad(set_to_none=False)
        first.sum().backward()
        opt.step()
    assert first.tolist() == [-24.0] * 3


def test_gradients_whose_storage_has_moved() -> None:
    """They are read where they lie, as those that are assigned."""
    weight = zeros(5)
    opt = sgd(weight)
    weight.sum().backward()
    weight.grad.share_memory_()
    opt.step()
    weight.grad[0] = 3
    opt.step()
    assert weight.tolist() == [-4, -2, -2, -2, -2]
    for set_to_none in (False, True):
        opt.zero_grad(set_to_none=set_to_none)
        weight.sum().backward()
        opt.step()
    assert weight.tolist() == [-6, -4, -4, -4, -4]


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
"""The gradients of three parameters, from those that they have."""


def exchange(parameters: list[Any], way: str) -> Any:
    """Assign them; return one that was taken from the second parameter, which then has none."""
    given = EXCHANGES[way](*(each.grad for each in parameters))
    for parameter, grad in zip(parameters, given, strict=True):
        parameter.grad = grad
    return given[0] if given[1] is None else None


@pytest.mark.parametrize("way", EXCHANGES)
def test_gradients_that_are_exchanged(way: str) -> None:
    """Over several steps and backward passes, as with PyTorch's optimizer, where a missing gradient is zero here."""
    seen = []
    for ours in (True, False):
        one, two, three = params = [zeros(2) for _ in range(3)]
        opt = sgd(*params) if ours else torch.optim.SGD(params, lr=1.0)
        values: list[Any] = []
        for _ in range(2):
            (one + 10 * two + 100 * three).sum().backward()
            kept = exchange(params, way)
            for _ in range(2):
                opt.step()
                values.append([each.tolist() for each in params])
            grads = [each.grad for each in params] + [kept]
            values.append([each.tolist() for each in grads if each is not None and each.any()])
            opt.zero_grad()
        seen.append(values)
    assert seen[0] == seen[1]


def test_gradients_that_are_kept() -> None:
    """What is taken from a parameter before its gradient is set to None stays what it is, as in PyTorch."""
    for forget in FORGETS:
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
    """They stay there, through backward passes, zeroing and scaling, as with PyTorch."""
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
def test_gradients_of_another_dtype() -> None:
    """Where `grad_dtype` asks for it, as PyTorch's optimizer: they are converted at the step, and stay the parameter's."""
    for asked_after, set_to_none in ((True, True), (True, False), (False, True), (False, False)):
        weight = zeros(3)
        if not asked_after:
            weight.grad_dtype = torch.bfloat16
        opt = sgd(weight)
        if asked_after:
            weight.grad_dtype = torch.bfloat16
        opt.step()
        for _ in range(2):
            opt.zero_grad(set_to_none=set_to_none)
            for _ in range(2):
                (1.25 * weight).sum().backward()
            assert weight.grad.dtype == torch.bfloat16
            assert opt.optimizers[0].grads.tolist() == [2.5] * 3
            opt.step()
        assert weight.tolist() == [-5.0] * 3
    weight = zeros(3)
    weight.grad_dtype = None
    opt = sgd(weight)
    weight.sum().backward()
    opt.step()
    assert weight.tolist() == [-1.0] * 3


@pytest.mark.parametrize("before", [True, False])
def test_hooks_of_others_on_gradients(before: bool) -> None:
    """Registered before or after the optimizer, they may take a gradient away or replace it."""
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


def test_gradients_in_inference_mode() -> None:
    """Kept and exchanged ones stay what they are."""
    one, two = zeros(3), zeros(3)
    opt = sgd(one, two)
    (one + 10 * two).sum().backward()
    kept = one.grad
    with torch.inference_mode():
        one.grad, two.grad = two.grad, one.grad
        opt.step()
        opt.step()
        opt.zero_grad()
    assert (one.tolist(), two.tolist(), kept.tolist()) == ([-20.0] * 3, [-2.0] * 3, [1.0] * 3)
    (one + two).sum().backward()
    opt.step()
    assert (one.tolist(), two.tolist()) == ([-21.0] * 3, [-3.0] * 3)
    assert not kept.is_inference()
    assert kept.mul_(2).tolist() == [2.0] * 3


@pytest.mark.parametrize("way", ["zero_grad", "step"])
def test_gradients_after_inference_mode(way: str) -> None:
    """The tensors that took the place of kept ones in it can be changed outside of it, by clipping say."""
    full, empty = zeros(3), zeros(0)
    opt = sgd(full, empty)
    (full.sum() + empty.sum()).backward()
    kept = [full.grad, empty.grad]
    with torch.inference_mode():
        if way == "step":
            full.grad = empty.grad = None
            opt.step()
        else:
            opt.zero_grad()
    (4 * full.sum() + empty.sum()).backward()
    torch.nn.utils.clip_grad_value_([full, empty], 3.0)
    opt.step()
    assert (full.tolist(), kept[0].tolist()) == ([-3.0] * 3, [1.0] * 3)
