"""Groups that are added to a FusedOptimizer between steps, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import lrcore
from pytorch.modules import (
    LINEAR,
    FusedOptimizer,
    Separate,
    assert_unchanged,
    each_optimizer,
    everything,
    give,
    grouped,
    in_groups,
    ones,
    own_numbers,
    sgd,
    stepping,
    torch,
    weights,
    zeros,
)


@each_optimizer
def test_a_group_that_is_added(name: str) -> None:
    """A new group steps as a separate optimizer does, and the others continue as if there were none.

    Parameters and states move to new memory; values, gradients and step counts are those of before.
    """
    params, later, single = weights(), weights(1), ones(4)
    opt, separate = grouped(name, params), Separate(name, in_groups(name, params))
    numbers = own_numbers(name)
    added: dict[int, tuple[Any, list[Any], dict[str, Any]]] = {
        3: (iter(later), later, numbers),
        6: (single, [single], {}),
    }
    for t in range(10):
        if t in added:
            given, new, own = added[t]
            grads = [each.grad for each in params]
            opt.add_param_group({"params": given, **own, "layer": t})
            separate.add({"params": new, **own})
            separate.assert_same(opt)
            assert all(each.grad is grad for each, grad in zip(params, grads, strict=True))
            params += new
        give(params, (9, t), 0.7)
        separate.step()
        opt.step()
        separate.assert_same(opt)
    assert opt.step_count == 10
    assert opt.param_groups[3]["layer"] == 3
    assert [len(group["params"]) for group in opt.param_groups] == [2, 2, 2, 6, 1]
    begin, size = opt.optimizers[0].params.data_ptr(), opt.optimizers[0].size
    assert all(0 <= each.data_ptr() - begin < 4 * size for each in params if each.numel())
    theirs = getattr(torch.optim, name, None)
    if theirs is not None:
        twin = theirs([ones(1)])
        twin.add_param_group({"params": ones(1)})
        assert opt.param_groups[4].keys() >= twin.param_groups[1].keys()


def test_a_schedule_of_a_group_that_is_added() -> None:
    """It is called with the optimizer's count, and the rate of the constructor is the default."""
    (first,), opt = stepping(None, lr=LINEAR)
    opt.step()
    second, third = zeros(1), zeros(1)
    second.grad = third.grad = torch.ones(1)
    opt.add_param_group({"params": second, "lr": lambda t: 1.0 * t})
    opt.add_param_group({"params": third})
    assert opt.param_groups[2]["lr"] == LINEAR(1)
    opt.step()
    assert (second.item(), third.item()) == (-1.0, pytest.approx(-LINEAR(1), rel=1e-7))
    assert first.item() == pytest.approx(-LINEAR(0) - LINEAR(1), rel=1e-6)  # float32 rounds


def shared_with(opt: Any) -> Any:
    return opt.param_groups[0]["params"][0].detach()[1:].requires_grad_()


WRONG: dict[str, tuple[Callable[[Any], Any], Any, str]] = {
    "no dictionary": (lambda _: [ones(3)], TypeError, "param_group"),
    "no parameters": (lambda _: {"lr": 0.5}, (KeyError, ValueError), "params"),
    "a set": (lambda _: {"params": {ones(3)}}, TypeError, "ordered collections"),
    "one twice": (lambda _: {"params": [ones(3)] * 2}, ValueError, r"param_groups\[2\]: params\[1\]|more than one|duplicate"),
    "one again": (lambda opt: {"params": opt.param_groups[1]["params"]}, ValueError, "more than one parameter group"),
    "with names": (lambda _: {"params": [("w", ones(3))]}, ValueError, "with/without names"),
    "another dtype": (lambda _: {"params": [ones(3), ones(3, dtype=torch.float64)]}, TypeError, r"^param_groups\[2\]: params\[1\]: expected dtype float32"),
    "no leaf": (lambda _: {"params": [ones(3) * 2]}, ValueError, "leaf"),
    "shared memory": (lambda opt: {"params": [shared_with(opt)]}, ValueError, r"^param_groups\[2\]: params\[0\]: shares memory"),
    "a rate": (lambda _: {"params": [ones(3)], "lr": -1.0}, ValueError, r"^param_groups\[2\]: lr: "),
    "a number": (lambda _: {"params": [ones(3)], "betas": (0.5, 1.0)}, ValueError, r"^param_groups\[2\]: betas\[1\]: "),
    "an option": (lambda _: {"params": [ones(3)], "amsgrad": True}, ValueError, r"^param_groups\[2\]: amsgrad"),
    "differentiable": (lambda _: {"params": [ones(3)], "differentiable": True}, ValueError, r"^param_groups\[2\]: differentiable"),
}  # fmt: skip


@pytest.mark.parametrize("way", WRONG)
def test_a_group_that_is_refused(way: str) -> None:
    """Nothing changes, neither in the optimizer nor in the parameters of the group."""
    params = [ones(3), ones(2)]
    opt = FusedOptimizer([{"params": each} for each in params], lrcore.Adam)
    give(params, (10,))
    opt.step()
    make, error, message = WRONG[way]
    group = make(opt)
    before, groups = everything(opt), [*opt.param_groups]
    new = [*group["params"]] if isinstance(group, dict) and "params" in group else []
    new = [each for each in new if isinstance(each, torch.Tensor)]
    places = [each.data_ptr() for each in (*params, *new)]
    with pytest.raises(error, match=message):
        opt.add_param_group(group)
    assert [each.data_ptr() for each in (*params, *new)] == places
    assert_unchanged(opt, before)
    assert all(map(lambda one, other: one is other, opt.param_groups, groups))
    assert len(opt.param_groups) == 2
    opt.step()
    opt.add_param_group({"params": [ones(3)]})


def test_memory_of_before_a_group_was_added() -> None:
    """Tensors that were taken before are stale: they keep their values, and writing to them has no effect."""
    weight, other = ones(3), ones(2)
    opt = sgd(weight, momentum=0.5)
    weight.grad = torch.ones(3)
    opt.step()
    stale = weight.data, opt.state[weight]["momentum_buffer"]
    opt.add_param_group({"params": other})
    for each in stale:
        each.fill_(7.0)
    opt.step()
    assert (weight.tolist(), other.tolist()) == ([-1.5] * 3, [1.0] * 2)
    assert all(each.tolist() == [7.0] * 3 for each in stale)


def test_dictionaries_of_before_a_group_was_added() -> None:
    """The list of groups and the mapping of states remain the same objects, and assignments to them take effect, as in PyTorch."""
    weight, other = ones(3), ones(2)
    opt = sgd(weight, momentum=0.5)
    weight.grad = torch.ones(3)
    opt.step()
    groups, states, entries = opt.param_groups, opt.state, opt.state[weight]
    opt.add_param_group({"params": other})
    assert groups is opt.param_groups
    assert len(groups) == 2
    assert states is opt.state
    assert entries is states[weight]
    entries["momentum_buffer"].fill_(6.0)
    opt.step()
    assert weight.tolist() == [-4.0] * 3
    opt.add_param_group({"params": ones(1)})
    groups[0]["lr"] = 0.5
    states.clear()
    opt.step()
    assert (weight.tolist(), len(groups)) == ([-4.5] * 3, 3)


class Wrapper:
    """A wrapper like Lightning's: it takes the class of an optimizer, and finds attributes there, but has its own."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped
        self.__class__ = type("Wrapped", (Wrapper, type(wrapped)), {})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)


def load_and_assign(opt: Any) -> None:
    saved = opt.state_dict()
    saved["state"][0]["exp_avg"].fill_(0.25)
    opt.load_state_dict(saved)
    opt.state[opt.param_groups[0]["params"][1]]["exp_avg"] = torch.full((2,), 0.5)


CHANGES: dict[str, Callable[[Any], object]] = {
    "a group": lambda opt: opt.add_param_group({"params": ones(4), "lr": 0.25}),
    "a dictionary": load_and_assign,
    "states": lambda opt: setattr(opt, "state", {}),
    "a rate": lambda opt: setattr(opt, "lr", 0.5),
}


@pytest.mark.parametrize("way", CHANGES)
def test_changes_through_a_wrapper(way: str) -> None:
    """They change the optimizer itself, which takes the steps."""
    opts = [FusedOptimizer([ones(3), ones(2)], lrcore.Adam) for _ in range(2)]
    for opt, wrapper in zip(opts, (Wrapper(opts[0]), opts[1]), strict=True):
        for t in range(4):
            if t == 2:
                CHANGES[way](wrapper)
            give((each for group in opt.param_groups for each in group["params"]), (16, t))
            opt.step()
    assert_unchanged(opts[0], everything(opts[1]))


def test_groups_that_are_assigned_with_further_ones() -> None:
    """They are added, as in PyTorch; Lightning restores in this way the groups that a run has added."""
    params = [ones(3), ones(2), ones(4)]
    opt = FusedOptimizer(params[:1], lrcore.Adam, lr=LINEAR)
    separate = Separate("Adam", [{"params": params[:1]}], lr=lambda t: LINEAR(t) * (1.0 if t < 2 else 0.5))
    for t in range(4):
        if t == 2:
            later = (
                {"params": [params[1]], "lr": 0.5},
                {"params": [params[2]], "weight_decay": 0.25, "lr": 0.5},
            )
            first = dict(opt.param_groups[0]) | {"lr": 0.5 * LINEAR}
            assigned = [first, *(dict(each) for each in later)]
            opt.param_groups = assigned
            assert opt.param_groups is assigned
            assert assigned[1]["betas"] == (0.9, 0.999)
            for each in later:
                separate.add(each)
        give(params, (17, t))
        separate.step()
        opt.step()
        separate.assert_same(opt)
    before, groups = everything(opt), opt.param_groups
    for wrong, message in (
        ([*groups[1:], groups[0], {"params": [ones(1)]}], "the group's parameters were changed"),
        ([*groups, {"params": [ones(1)]}, {"params": [ones(1)], "lr": -1.0}], r"^param_groups\[4\]: lr: "),
        ([*groups, {"params": groups[0]["params"]}], "more than one parameter group"),
    ):
        with pytest.raises(ValueError, match=message):
            opt.param_groups = wrong
        assert opt.param_groups is groups
        assert_unchanged(opt, before)
