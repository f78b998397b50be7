"""The states of a FusedOptimizer: assigned and reset in `opt.state`, saved and loaded as dictionaries."""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from pytorch.modules import (
    ARGUMENTS,
    FusedOptimizer,
    assert_same_dictionary,
    build,
    built,
    each_of_torch,
    network,
    ones,
    own,
    set_group,
    set_state,
    sgd,
    torch,
    train,
    zeros,
)

State = Callable[[Any, Any], Any]
"""A change to the state of an optimizer, or of one parameter."""


def stepped(name: str, theirs: bool, change: State, count: int) -> list[Any]:
    """Return the parameters after two steps, a change, and two more steps of our optimizer or PyTorch's."""
    model = torch.nn.ParameterList([zeros(2) for _ in range(count)])
    opt = (
        getattr(torch.optim, name)(model, **ARGUMENTS.get(name, {}), lr=0.5)
        if theirs
        else build(name, model, lr=0.5)
    )
    for i in range(4):
        if i == 2:
            change(opt, model[0])
        for k, weight in enumerate(model):
            weight.grad = torch.tensor([1.0 + i, 2.0 - k])
        opt.step()
    return [each.tolist() for each in model]


def adam(*weights: Any) -> Any:
    """Return an Adam optimizer of some weights, after a step with gradients of 1."""
    opt = FusedOptimizer(weights, lrcore.Adam)
    for each in opt.param_groups[0]["params"]:
        each.grad = torch.ones_like(each)
    opt.step()
    return opt


def swap_in(opt: Any, _: Any) -> None:
    """Replace the state, take a step, and restore the former state."""
    former, opt.state = opt.state, defaultdict(dict)
    opt.step()
    opt.state = former


REMOVALS: dict[str, State] = {
    "del": lambda opt, weight: opt.state.__delitem__(weight),
    "pop": lambda opt, weight: opt.state.pop(weight),
    "popitem": lambda opt, _: opt.state.popitem(),
    "empty": lambda opt, weight: opt.state.__setitem__(weight, {}),
    "clear one": lambda opt, weight: opt.state[weight].clear(),
}
"""Removals of the state of one parameter: a reset if there is no other parameter, and an error otherwise."""
RESETS: dict[str, State] = {
    "defaultdict": lambda opt, _: setattr(opt, "state", defaultdict(dict)),
    "setstate": lambda opt, _: opt.__setstate__({"state": defaultdict(dict)}),
    "clear": lambda opt, _: opt.state.clear(),
    "swap": swap_in,
}
"""Resets of the state of all parameters. `swap_in` undoes its reset."""


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "NAdam"])
@pytest.mark.parametrize("way", [*RESETS, *REMOVALS])
def test_beginning_anew(way: str, name: str) -> None:
    """The optimizer starts afresh, including its step count, as PyTorch's optimizer does.

    Both optimizers round numbers of about 10 with a relative error of 2^-24.
    """
    change, count = (REMOVALS | RESETS)[way], 2 if way in RESETS else 1
    ours = stepped(name, False, change, count)
    np.testing.assert_allclose(ours, stepped(name, True, change, count), rtol=0, atol=1e-5)
    assert ours != stepped(name, False, lambda *_: None, count) or way == "swap"


def test_beginning_anew_from_what_the_states_began_with() -> None:
    weight = ones(3)
    opt = FusedOptimizer([weight], lrcore.Adagrad, initial_accumulator_value=0.25)
    weight.grad = torch.ones(3)
    opt.step()
    opt.state.clear()
    assert opt.state[weight]["sum"].tolist() == [0.25] * 3
    assert opt.step_count == 0


def put(way: str, opt: Any, weight: Any, values: Any) -> None:
    """Assign one state of a parameter, `exp_avg`."""
    entries = opt.state[weight]
    if way == "an entry":
        entries["exp_avg"] = values
    elif way == "update of entries":
        entries.update(exp_avg=values)
    elif way == "|= of entries":
        entries |= {"exp_avg": values}
    elif way == "entries":
        opt.state[weight] = {**entries, "exp_avg": values}
    elif way == "update":
        opt.state.update({weight: {"exp_avg": values}})
    elif way == "|=":
        opt.state |= {weight: {"exp_avg": values}}
    else:
        opt.state = {**opt.state, weight: {**entries, "exp_avg": values}}


@pytest.mark.parametrize(
    "way", ["an entry", "update of entries", "|= of entries", "entries", "update", "|=", "all"]
)
def test_states_that_are_assigned(way: str) -> None:
    """Assigned states are copied immediately, then shown, used and saved. Wrong values change nothing."""
    one, two = ones(3), ones(2, 2)
    opt = adam(("one", one), ("two", two))
    given = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    put(way, opt, two, given)
    expected = given.clone()
    given.zero_()
    for wrong, error, message in (
        (torch.zeros(4), ValueError, r"expected shape \(2, 2\), got \(4,\)"),
        (expected.double(), TypeError, "expected a float32 tensor, got float64"),
        (expected.to_sparse(), TypeError, "expected a dense tensor"),
        (None, TypeError, "expected a float32 tensor, got NoneType"),
        (0.0, TypeError, "expected a float32 tensor, got float"),
    ):
        with pytest.raises(error, match=rf"^state\[(two|1)\].*: {message}"):
            put(way, opt, two, wrong)
    assert torch.equal(opt.state[two]["exp_avg"], expected)
    assert torch.equal(opt.state_dict()["state"][1]["exp_avg"], expected)
    assert opt.step_count == 1
    opt.step()
    # float32 rounds 0.9, 0.1, the two products and their sum by 2^-24 each
    np.testing.assert_allclose(opt.state[two]["exp_avg"], 0.9 * expected + 0.1, rtol=1e-6)


def test_states_that_are_exchanged() -> None:
    """One call can exchange two states. Two assignments would lose the first state, and are refused."""
    one, two = ones(2), ones(2)
    opt = FusedOptimizer([one, two], lrcore.Adam)
    opt.state[one]["exp_avg"], opt.state[two]["exp_avg"] = torch.ones(2), torch.full((2,), 3.0)
    opt.state.update({one: opt.state[two], two: opt.state[one]})
    assert [opt.state[each]["exp_avg"].tolist() for each in (one, two)] == [[3.0] * 2, [1.0] * 2]
    with pytest.raises(ValueError, match="got the live state of another parameter.*assign clones"):
        opt.state[one], opt.state[two] = opt.state[two], opt.state[one]
    assert [opt.state[each]["exp_avg"].tolist() for each in (one, two)] == [[3.0] * 2, [1.0] * 2]
    entries = opt.state[one]
    entries["exp_avg_sq"].fill_(7.0)
    entries.update(exp_avg=entries["exp_avg_sq"], exp_avg_sq=entries["exp_avg"])
    entries["exp_avg_sq"] *= 2
    assert [each.tolist() for each in entries.values()] == [[7.0] * 2, [6.0] * 2]
    assert opt.optimizers[0].state["exp_avg_sq"][:2].tolist() == [6.0] * 2


REFUSED: dict[str, State] = REMOVALS | {
    "del entry": lambda opt, weight: opt.state[weight].__delitem__("exp_avg"),
    "pop entry": lambda opt, weight: opt.state[weight].pop("exp_avg"),
    "popitem entry": lambda opt, weight: opt.state[weight].popitem(),
    "some": lambda opt, weight: setattr(opt, "state", {weight: opt.state[weight]}),
    "lacking": lambda opt, weight: opt.state.__setitem__(weight, {"exp_avg": opt.state[weight]["exp_avg"]}),
    "others": lambda opt, weight: opt.state.__setitem__(ones(3), {**opt.state[weight]}),
    "read others": lambda opt, _: opt.state[ones(3)],
    "no dictionary": lambda opt, _: setattr(opt, "state", 3),
    "no entries": lambda opt, weight: opt.state.__setitem__(weight, 3),
    "name": lambda opt, weight: opt.state[weight].setdefault("velocity", torch.zeros(3)),
    "count": lambda opt, weight: opt.state[weight].update(step=torch.tensor(0.0)),
}


@pytest.mark.parametrize("way", REFUSED)
def test_states_that_cannot_be_assigned(way: str) -> None:
    """Incomplete states, and assignments without an effect, are refused immediately and change nothing."""
    weights = [ones(3), ones(3)]
    opt = adam(*weights)
    before = opt.state_dict()
    with pytest.raises((KeyError, TypeError, ValueError), match="state"):
        REFUSED[way](opt, weights[0])
    assert_same_dictionary(opt.state_dict(), before)
    assert [*opt.state] == weights
    assert opt.state.pop(ones(3), None) is None
    assert opt.state[weights[0]].pop("step", None) is None
    assert opt.state.setdefault(weights[1], {}) is opt.state[weights[1]]


def test_a_state_that_was_read_before_others_took_its_place() -> None:
    """A state that was replaced keeps its values and its step count, and is an ordinary dictionary."""
    weights = [ones(3), ones(3)]
    opt = adam(*weights)
    opt.step()
    former, expected = opt.state, copy.deepcopy(opt.state)
    assert type(copy.copy(former)) is type(expected) is defaultdict
    opt.state = {}
    assert opt.step_count == 0
    assert not opt.state[weights[0]]["exp_avg"].any()
    assert [entries["exp_avg"].tolist() for entries in former.values()] == [
        entries["exp_avg"].tolist() for entries in expected.values()
    ]
    opt.state = former
    assert opt.step_count == 2
    del former[weights[0]]["exp_avg"]
    former.clear()
    former[3]["more"] = 1
    assert opt.state[weights[0]]["exp_avg"].any()


def test_an_optimizer_without_states() -> None:
    """The state of an SGD optimizer without momentum is only a step count."""
    weight = ones(3)
    opt = sgd(weight)
    opt.step()
    former, opt.state = opt.state, {}
    assert opt.step_count == 0
    opt.state = former
    assert opt.step_count == 1
    with pytest.raises(ValueError, match=r"^state\[params\[0\]\]: expected the entries \[\], got momentum"):
        opt.state[weight]["momentum_buffer"] = torch.zeros(3)


@pytest.mark.parametrize(
    "values",
    [lambda opt, each: opt.state[each]["exp_avg"], lambda opt, _: opt.optimizers[0].state["exp_avg"]],
)
def test_states_whose_storage_was_replaced(values: State) -> None:
    weight = ones(3)
    opt = FusedOptimizer([weight], lrcore.Adam)
    values(opt, weight).data = torch.zeros(3)
    with pytest.raises(RuntimeError, match="exp_avg"):
        opt.step()
    assert (weight == 1).all()


# State dictionaries.


@each_of_torch
def test_from_and_for_torchs_optimizer(name: str) -> None:
    """A network learns as with PyTorch's optimizer, and each optimizer continues from the other's dictionary.

    Both optimizers round every step in float32, by 2^-24 of p, but they round differently. Over 60 steps of a
    falling loss of about 1, the losses differ by far less than 1e-3.
    """
    for k in (0, 3):
        (model, opt), twin = built(name), network()
        theirs = getattr(torch.optim, name)(twin.parameters(), **ARGUMENTS.get(name, {}))
        train(model, opt, range(k))
        train(twin, theirs, range(k))
        from_ours, from_theirs = copy.deepcopy(model), copy.deepcopy(twin)
        from_ours_opt = getattr(torch.optim, name)(from_ours.parameters(), lr=7.0)
        from_ours_opt.load_state_dict(opt.state_dict())
        from_theirs_opt = build(name, from_theirs, lr=lrcore.schedules.Constant(7.0))
        counted = {"step_count": k} if name == "SGD" else {}
        from_theirs_opt.load_state_dict(theirs.state_dict(), **counted)
        assert from_theirs_opt.step_count == k
        expected = train(twin, theirs, range(k, 60))
        assert expected[-1] < expected[0]
        loaded = (from_ours, from_ours_opt, 20), (from_theirs, from_theirs_opt, 20)
        for each, its, end in ((model, opt, 60), *loaded):
            losses = train(each, its, range(k, end))
            np.testing.assert_allclose(losses, expected[: end - k], rtol=0, atol=1e-3)


def test_independent_decay() -> None:
    """PyTorch lacks it. The group shows it in an entry that dictionaries of this optimizer must have.

    PyTorch's optimizer keeps the entry, but its own steps are not taken over.
    """
    numbers: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.25}
    model, opt = built("AdamW", decay="independent", **numbers)
    before = [each.detach().clone() for each in model.parameters()]
    opt.step()  # without gradients, so only the decay acts
    for each, start in zip(model.parameters(), before, strict=True):
        assert torch.equal(each.detach(), 0.75 * start)
    train(model, opt, range(1, 3))
    saved = opt.state_dict()
    (group,) = saved["param_groups"]
    assert (group["decay"], group["decoupled_weight_decay"]) == ("independent", True)
    theirs = torch.optim.AdamW(copy.deepcopy(model).parameters())
    theirs.load_state_dict(copy.deepcopy(saved))  # it changes the step counts in place
    resumed, again = copy.deepcopy(model), theirs.state_dict()
    other = build("AdamW", resumed, decay="independent")
    other.load_state_dict(again)
    assert train(resumed, other, range(3, 6)) == train(model, opt, range(3, 6))
    assert_same_dictionary(other.state_dict(), opt.state_dict())

    for each in theirs.param_groups[0]["params"]:
        each.grad = torch.ones_like(each)
    theirs.step()
    decoupled = build("AdamW", copy.deepcopy(model))
    set_group(spoilt := copy.deepcopy(saved), decoupled_weight_decay=False)
    for loading, dictionary, message in (
        (opt, theirs.state_dict(), "decay: torch.optim.AdamW has no decay='independent'"),
        (opt, spoilt, "decay: got 'independent' and decoupled_weight_decay=False"),
        (opt, decoupled.state_dict(), "param_groups: expected the entries .*'decay'.*got"),
        (decoupled, saved, "param_groups: expected the entries .*got .*'decay'"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            loading.load_state_dict(dictionary)
    opt.param_groups[0]["decay"] = "l2"
    with pytest.raises(ValueError, match="^decay: fixed at construction"):
        opt.step()


def test_the_group_of_a_dictionary() -> None:
    """Loading applies the numbers in the group, and keeps the entries of PyTorch's tools.

    Our own entry has a value only in dictionaries; in `param_groups`, it is empty.
    """
    opt = adam(ones(3))
    opt.param_groups[0]["lr_scale"] = 2.0
    saved = opt.state_dict()
    assert saved["param_groups"][0]["lrcore"] != ""
    saved["param_groups"][0] |= {"lr": 0.25, "weight_decay": 0.5, "initial_lr": 3.0}
    opt.param_groups[0]["lr_scale"] = 1.0
    opt.load_state_dict(saved)
    assert (opt.lr, opt.optimizers[0].hyper["weight_decay"]) == (0.25, 0.5)
    (group,) = opt.param_groups
    assert (group["lr_scale"], group["initial_lr"], group["lrcore"]) == (2.0, 3.0, "")


def text(saved: Any, **changes: Any) -> None:
    """Change the entries that PyTorch's dictionaries do not have."""
    saved["param_groups"][0]["lrcore"] = json.dumps(own(saved) | changes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda saved: text(saved, rule="sgd"), "^rule: expected adam, got sgd"),
        (lambda saved: text(saved, step_count=3), r"^state\[0\]: step: expected 3, got 2"),
        (lambda saved: text(saved, step_count=-1), "step_count: expected an integer >= 0, got -1"),
        (lambda saved: text(saved, more=1), "lrcore: expected the entries"),
        (lambda saved: set_group(saved, lrcore="{}}"), "param_groups: lrcore: Extra data"),
        (lambda saved: set_group(saved, lrcore="[" * 100_000), "lrcore: "),
        (lambda saved: set_group(saved, lrcore="[]"), "lrcore: "),
        (lambda saved: set_group(saved, eps=float("nan")), "eps: expected a finite number"),
        (lambda saved: set_group(saved, maximize=True), "options: expected"),
        (lambda saved: set_group(saved, decay="l2"), "^param_groups: expected the entries .*got .*'decay'"),
        (lambda saved: set_group(saved, params=[*range(6)]), "param_groups: expected 7 parameters, got 6"),
        (lambda saved: saved["param_groups"].append({}), "param_groups: expected one group, got 2"),
        (
            lambda saved: set_state(saved, 0, exp_avg=torch.zeros(2, 2)),
            r"state\[0\]: exp_avg: expected shape \(5, 3, 3, 3\), got \(2, 2\)",
        ),
        (lambda saved: saved["state"][1].pop("exp_avg_sq"), r"state\[1\]: expected the entries"),
        (lambda saved: saved["state"].clear(), r"state\[0\]: expected the entries \['exp_avg',.* got \[\]"),
        (lambda saved: set_state(saved, 2, step=torch.tensor(3.0)), r"state\[2\]: step: expected 2, got 3"),
        (lambda saved: set_state(saved, 2, more=torch.zeros(3)), r"state\[2\]: expected the entries"),
    ],
)
def test_wrong_dictionaries_change_nothing(spoil: Callable[[Any], object], message: str) -> None:
    model, opt = built("Adam", lr=0.01)
    train(model, opt, range(2))
    saved = opt.state_dict()
    train(model, opt, range(2, 3))
    before = opt.state_dict()
    spoil(saved)
    with pytest.raises((TypeError, ValueError), match=message):
        opt.load_state_dict(saved)
    with pytest.raises(ValueError, match="^step_count: .*leave it out"):
        opt.load_state_dict(before, step_count=3)
    assert_same_dictionary(opt.state_dict(), before)


@pytest.mark.parametrize("device", [None, "meta"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_defaults(dtype: Any, device: Any) -> None:
    """State dictionaries are in float32 on the CPU and can be loaded under any default dtype and device."""
    (model, opt), (_, other) = built("NAdam"), built("NAdam")
    train(model, opt, range(2))
    opt.optimizers[0].step_count = 70_001  # more than float16 can represent
    expected = opt.state_dict()
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        saved = opt.state_dict()
        for each in (opt, other):
            each.load_state_dict(saved)
            each.step()
        opt.state.clear()
        opt.state = {each: dict(entries) for each, entries in opt.state.items()}
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert_same_dictionary(saved, expected)
    for values in saved["state"][0].values():
        assert (values.dtype, values.device.type) == (torch.float32, "cpu")
    assert other.step_count == 70_002


@pytest.mark.parametrize("count", [2**24 - 1, 2**24 + 1, 2**40 + 1])
def test_counts_that_float32_has_not(count: int) -> None:
    """The dictionary has the exact count in addition to PyTorch's rounded count."""
    opt, other = adam(ones(3)), adam(ones(3))
    opt.optimizers[0].step_count = count
    other.load_state_dict(opt.state_dict())
    assert other.step_count == count
