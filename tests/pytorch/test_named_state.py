"""State dictionaries of `torch.optim` with the names of the parameters, for optimizers over packs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from optimizers.test_groups import assert_refused
from pytorch.modules import torch
from pytorch.test_state import assert_same_groups, counted, each_row, of_groups, ours
from rules import peer_rows, peers
from support import Array, assert_bits

Adam: Any = lrcore.Adam

MEMBERS = [["layers.0.w", "head.s"], ["layers.0.b", "head.b"], ["embed"]]
"""The names of the arrays in each group, the rest first."""
OTHER_ORDER = [["head.s", "layers.0.w"], ["head.b", "layers.0.b"], ["head.w"]]
"""The same arrays in another order; embed has another name."""
GROUPS: list[Any] = ["*.b", lambda name, _: name == "head.w"]
STEPS, UNFROZEN = 5, 2
"""The number of steps before an exchange, and the step before which the last group is frozen."""


def pack_of(values: Array, pad: bool = False) -> lrcore.Pack:
    """Return a pack of the elements of `peers.problem`."""
    embed = values[:6].reshape(2, 3)
    layers = [{"w": values[6:10].reshape(2, 2), "b": values[10:12]}]
    head = {"w": embed, "b": values[12:13].reshape(()), "s": values[13:]}
    return lrcore.Pack({"embed": embed, "layers": layers, "head": head}, pad=pad)


def named(row: peers.Row, pack: Any, lr: Any, numbers: Any = None, **others: Any) -> Any:
    """Return our optimizer with three groups."""
    _, *rest = numbers or of_groups(row)
    groups = [{"params": params, **own} for params, own in zip(GROUPS, rest, strict=True)]
    return ours(row, pack, lr, groups=groups, **others)


class Torch:
    """A PyTorch optimizer of named parameters with the values of a pack."""

    def __init__(self, row: peers.Row, pack: Any, members: Any = MEMBERS, numbers: Any = None) -> None:
        arrays = pack.named_arrays()
        self.params = {
            name: torch.nn.Parameter(torch.from_numpy(arrays[name].copy()))
            for each in members
            for name in each
        }
        groups = [
            {"params": [(name, self.params[name]) for name in each], **own}
            for each, own in zip(members, numbers or of_groups(row), strict=True)
        ]
        self.opt = getattr(torch.optim, row.theirs.name)(groups, lr=row.lr, **row.theirs.kwargs)

    def step(self, grads: Any, lr: float, frozen: bool = False) -> None:
        """Take a step at a rate, which is halved from each group to the next, perhaps without the last group."""
        views = grads.named_arrays()
        for i, group in enumerate(self.opt.param_groups):
            group["lr"] = lr / 2**i
            for name in group["param_names"]:
                self.params[name].grad = None if frozen and i == 2 else torch.from_numpy(views[name].copy())
        self.opt.step()

    def copy_to(self, pack: Any) -> None:
        """Write the parameters into a pack."""
        for name, param in self.params.items():
            pack.named_arrays()[name][...] = param.detach().numpy()

    def assert_states(self, opt: Any, dictionary: Any) -> None:
        """Assert that a dictionary has the states of `opt` under its names."""
        keys = [key for group in dictionary["param_groups"] for key in group["params"]]
        names = [name for group in dictionary["param_groups"] for name in group["param_names"]]
        for state_name, state in opt.state.items():
            for key, name in zip(keys, names, strict=True):
                zeros = torch.zeros(self.params[name].shape)  # a parameter that has taken no step
                entry = dictionary["state"].get(key, {}).get(state_name, zeros)
                assert_bits(state.named_arrays()[name], entry.numpy(), name)


def go_on(row: peers.Row, theirs: Torch, opt: Any) -> None:
    """Check that both agree after each further step. The tolerance is that of `pytorch.test_state.go_on`."""
    _, gradients = peers.problem()
    for index in range(STEPS, 20):
        grads = pack_of(gradients[index], pad=opt.size > 18)
        opt.lr = rate = peers.rate(row.lr, index)
        for i, group in enumerate(opt.groups[1:], 1):
            group.lr = rate / 2**i
        opt.step(grads)
        theirs.step(grads, rate)
        for name, param in theirs.params.items():
            off = peers.deviation(opt.params.named_arrays()[name], param.detach().numpy())
            assert off.max(initial=0) <= 2 * row.tolerance.limit, f"step {index + 1}: {name}"


@each_row
def test_to_torch(row: peers.Row) -> None:
    """PyTorch's optimizer, made from named parameters, continues. A round trip restores the bits."""
    params, gradients = peers.problem()
    opt = named(row, pack_of(params, pad=True), lambda t: peers.rate(row.lr, t))
    opt.groups[1].lr_scale, opt.groups[2].lr_scale = 0.5, 0.25
    for index in range(STEPS):
        opt.groups[2].frozen = index < UNFROZEN
        opt.step(pack_of(gradients[index], pad=True))
    dictionary = opt.torch_state_dict()
    assert [group["param_names"] for group in dictionary["param_groups"]] == MEMBERS
    assert [group["params"] for group in dictionary["param_groups"]] == [[0, 1], [2, 3], [4]]
    theirs = Torch(row, opt.params)
    theirs.assert_states(opt, dictionary)
    expected = [group.keys() for group in theirs.opt.param_groups]
    theirs.opt.load_state_dict(dictionary)
    assert [group.keys() for group in theirs.opt.param_groups] == expected
    twin = named(row, copy.deepcopy(opt.params), 7.0)
    twin.load_torch_state_dict(theirs.opt.state_dict(), **counted(row, STEPS))
    theirs.assert_states(twin, dictionary)
    assert_same_groups(twin, opt)
    go_on(row, theirs, twin)


@pytest.mark.parametrize(("by_name", "pad"), [(True, True), (False, False)])
@each_row
def test_from_torch(row: peers.Row, by_name: bool, pad: bool) -> None:
    """Names may be in another order, and any name of a tied array. Without names, positions count."""
    params, gradients = peers.problem()
    theirs = Torch(row, pack_of(params), OTHER_ORDER if by_name else MEMBERS)
    for index in range(STEPS):
        theirs.step(pack_of(gradients[index]), peers.rate(row.lr, index), frozen=index < UNFROZEN)
    opt = named(row, pack_of(params, pad), 7.0, [{}, {"lr_scale": 3.0}, {"lr": 5.0}], weight_decay=0.25)
    theirs.copy_to(opt.params)
    given = theirs.opt.state_dict()
    loaded = copy.deepcopy(given)
    for group in () if by_name else loaded["param_groups"]:
        del group["param_names"]
    opt.load_torch_state_dict(loaded, **counted(row, STEPS))
    theirs.assert_states(opt, given)
    assert [group.lr for group in opt.groups] == [group["lr"] for group in given["param_groups"]]
    assert_same_groups(opt, named(row, pack_of(params), 7.0))
    if row.ours.name != "SGD":
        assert [group.step_count for group in opt.groups] == [STEPS, STEPS, STEPS - UNFROZEN]
    go_on(row, theirs, opt)


def adam(pad: bool = False, **arguments: Any) -> Any:
    """Return an Adam optimizer with these groups after two steps, of which the last group took one."""
    groups = [{"params": params} for params in GROUPS]
    opt = Adam(pack_of(np.ones(18, np.float32), pad), **{"groups": groups} | arguments)
    for frozen in (True, False):
        opt.groups[-1].frozen = frozen
        opt.step(pack_of(np.arange(18, dtype=np.float32), pad))
    return opt


def test_what_is_exported() -> None:
    """`opt.groups[0]` is left out if it has no arrays. There are no names with `shapes`, or without a pack."""
    opt = adam(pad=True)
    for shapes in (None, [6, 4, 2, 1, 5]):
        plain = Adam(opt.params.flat) if shapes is None else adam()
        assert all("param_names" not in group for group in plain.torch_state_dict(shapes)["param_groups"])
    entries = opt.torch_state_dict()["state"]
    assert [entry["exp_avg"].shape for entry in entries.values()] == [(2, 2), (5,), (2,), (), (2, 3)]
    assert [int(entry["step"]) for entry in entries.values()] == [2, 2, 2, 2, 1]
    for groups in (None, [{"params": "*"}]):
        (group,) = adam(pad=True, groups=groups).torch_state_dict()["param_groups"]
        assert group["param_names"] == ["embed", "layers.0.w", "layers.0.b", "head.b", "head.s"]


def test_an_array_without_elements_is_in_the_group_of_the_next_element() -> None:
    pack = lrcore.Pack({"a": 3, "none": (0, 4), "b": 2, "last": 0})
    opt = Adam(pack, groups=[{"params": "b"}, {"params": "none"}])
    found = opt.torch_state_dict()
    assert [group["param_names"] for group in found["param_groups"]] == [["a"], ["none", "b", "last"]]
    opt.load_torch_state_dict(found)
    nothing = Adam(lrcore.Pack({"none": (0, 4), "last": 0}), groups=[{"params": "last"}])
    nothing.step(nothing.params.like())
    (group,) = (found := nothing.torch_state_dict())["param_groups"]
    assert group["param_names"] == ["none", "last"]
    nothing.step_count = 0
    nothing.load_torch_state_dict(found)
    assert nothing.step_count == 1


def names(i: int, *found: Any) -> Callable[[Any], object]:
    """Return a function that changes the names of a group."""
    return lambda saved: saved["param_groups"][i].update(param_names=[*found])


def reshape(key: int, *shape: int) -> Callable[[Any], object]:
    """Return a function that changes the shape of a parameter's states."""
    return lambda saved: saved["state"][key].update(
        {name: saved["state"][key][name].reshape(shape) for name in ("exp_avg", "exp_avg_sq")}
    )


def without_names(change: Callable[[Any], object]) -> Callable[[Any], object]:
    """Return a function that changes a dictionary and removes all names."""
    return lambda saved: (change(saved), [group.pop("param_names") for group in saved["param_groups"]])


def add_embed_again(saved: Any) -> None:
    saved["state"][5] = saved["state"][4]
    saved["param_groups"][2].update(params=[4, 5], param_names=["embed", "head.w"])


def swap_groups(saved: Any) -> None:
    first, second, _ = saved["param_groups"]
    first["params"][0], second["params"][0] = second["params"][0], first["params"][0]
    first["param_names"][0], second["param_names"][0] = second["param_names"][0], first["param_names"][0]


def drop_last(saved: Any) -> None:
    saved["state"].pop(saved["param_groups"][0]["params"].pop())
    saved["param_groups"][0]["param_names"].pop()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (names(0, "layers.0.w", "tail"), ("tail", r"head\.s")),
        (names(0, "layers.0.w", "layers.0.w"), (r"layers\.0\.w|head\.s",)),
        (names(0, "layers.0.w"), ("param_names",)),
        (names(0, "layers.0.w", 3), ("param_names",)),
        (lambda saved: saved["param_groups"][2].update(param_names="embed"), ("param_names",)),
        (names(2, "layers.0.w"), (r"layers\.0\.w", "embed|head")),
        (swap_groups, (r"layers\.0\.[wb]",)),
        (add_embed_again, ("embed|head",)),
        (drop_last, (r"head\.s",)),
        (reshape(0, 4), (r"layers\.0\.w", r"2, 2", r"\b4\b")),
        (reshape(4, 3, 2), ("embed|head", "3, 2", "2, 3")),
        (without_names(reshape(4, 3, 2)), ("3, 2", "2, 3")),
        (without_names(lambda saved: saved["param_groups"][0]["params"].reverse()), ("2, 2",)),
    ],
)  # fmt: skip
def test_other_names_and_shapes_are_refused(spoil: Callable[[Any], object], words: tuple[str, ...]) -> None:
    opt = adam(pad=True)
    saved = copy.deepcopy(opt.torch_state_dict())
    opt.step(opt.params.like())
    spoil(saved)
    before = str(opt.state_dict()), opt.state["exp_avg"].flat.copy()
    assert_refused(lambda: opt.load_torch_state_dict(saved), (TypeError, ValueError), *words)
    assert str(opt.state_dict()) == before[0]
    assert_bits(opt.state["exp_avg"].flat, before[1])


@pytest.mark.parametrize("members", [MEMBERS, OTHER_ORDER])
def test_sgd_goes_on_with_equal_bits(members: Any) -> None:
    """In both directions. All numbers are exact in float32, and none is 0, whose sign could differ."""
    call = peer_rows.Call("SGD", {"momentum": 0.5})
    row = peers.Row("exact", "torch", 0.25, call, call)
    integers = np.arange(18, dtype=np.float32)
    start, numbers = pack_of(integers / np.float32(4)), [{}, {}, {"maximize": True}]
    theirs, opt = Torch(row, start, members, numbers), named(row, start, 0.25, numbers)
    opt.groups[1].lr_scale, opt.groups[2].lr_scale = 0.5, 0.25
    for t in range(6):
        grads = pack_of(((integers % 7 - 3.5) * (t + 1) / 8).astype(np.float32))
        theirs.step(grads, 0.25, frozen=t < UNFROZEN)
        if t == 2:
            opt.load_torch_state_dict(theirs.opt.state_dict(), step_count=3)
            theirs.copy_to(start)
        elif t > 2:
            opt.step(grads)
            if members is MEMBERS:
                theirs.opt.load_state_dict(opt.torch_state_dict())
            theirs.assert_states(opt, theirs.opt.state_dict())
            for name, param in theirs.params.items():
                assert_bits(start.named_arrays()[name], param.detach().numpy())
