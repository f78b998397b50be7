"""The states of a FusedOptimizer in `opt.state`: shown as in PyTorch, assigned, removed, copied."""

from __future__ import annotations

import copy
import pickle
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from pytorch.modules import (
    ARGUMENTS,
    NAMES,
    FusedOptimizer,
    Separate,
    assert_unchanged,
    build,
    each_of_torch,
    each_optimizer,
    everything,
    give,
    grouped,
    in_groups,
    ones,
    sgd,
    torch,
    weights,
    zeros,
)
from support import run_in_threads

State = Callable[[Any, Any], Any]
"""A change to the state of an optimizer, or of one parameter."""


def adam(*weights: Any) -> Any:
    """Return an Adam optimizer with a group for each weight, after a step with gradients of 1."""
    opt = FusedOptimizer([{"params": [each]} for each in weights], lrcore.Adam)
    for group in opt.param_groups:
        for each in group["params"]:
            each.grad = torch.ones_like(each)
    opt.step()
    return opt


@each_of_torch
def test_states_are_pytorchs(name: str) -> None:
    """Names, shapes, dtypes, layouts and step counts are those of PyTorch's optimizer, from before the first step on.

    NAdam's product of the momenta is a state of PyTorch's optimizer; here it may be in dictionaries alone.
    """
    ours, theirs = weights(), weights()
    arguments = ARGUMENTS.get(name, {})
    opt = build(name, torch.nn.ParameterList(ours))
    twin = getattr(torch.optim, name)(theirs, **arguments)
    for t in range(4):
        for one, other in zip(ours, theirs, strict=True):
            found, expected = (
                {key: value for key, value in its.items() if key != "mu_product"}
                for its in (opt.state[one], twin.state[other])
            )
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                assert isinstance(found[key], torch.Tensor)
                for its in ("shape", "dtype", "device", "layout"):
                    assert getattr(found[key], its) == getattr(value, its), key
                assert found[key].stride() == value.stride(), key
            assert found.get("step") == expected.get("step")
        give(ours, (11, t), 0.5)
        for one, other in zip(ours, theirs, strict=True):
            other.grad = one.grad
        opt.step()
        twin.step()


@pytest.mark.parametrize("count", [0, 7, 2**24])
@pytest.mark.parametrize(
    "name", [each for each in NAMES if each != "SGD"]
)  # whose parameters have no step count
def test_a_step_count_that_is_assigned(name: str, count: int) -> None:
    """It acts on the bias corrections of that parameter alone, at the next step."""
    for way in ("fill", "replace"):
        params = weights()
        opt, separate = grouped(name, params), Separate(name, in_groups(name, params))
        give(params, (12,))
        for each in (opt, separate):
            each.step()
        if way == "fill":
            opt.state[params[1]]["step"].fill_(count)
        else:
            opt.state[params[1]]["step"] = torch.tensor(float(count))
        separate.of(params[1]).step_count = count
        for t in range(2):
            give(params, (12, t))
            for each in (opt, separate):
                each.step()
            if count < 2**24:  # PyTorch's float32 count would stay there
                separate.assert_same(opt)
            else:
                assert np.isfinite(params[1].tolist())


@pytest.mark.parametrize("value", [-1.0, 2.5, float("nan"), float("inf")])
def test_a_step_count_that_is_refused(value: float) -> None:
    params = [ones(3), ones(2)]
    opt = adam(*params)
    before = everything(opt)
    step = opt.state[params[1]]["step"]
    with pytest.raises(ValueError, match=r"param_groups\[1\]: params\[0\].*step"):
        opt.state[params[1]]["step"].fill_(value)
        opt.step()
    step.fill_(1.0)
    opt.state[params[1]]["step"] = torch.tensor(1.0)
    assert_unchanged(opt, before)
    opt.step()


# Removals.


def stepped(name: str, theirs: bool, change: State) -> list[Any]:
    """Return two parameters after two steps, a change, and two more steps of our optimizer or PyTorch's."""
    model = torch.nn.ParameterList([zeros(2), zeros(2)])
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
    "some": lambda opt, weight: setattr(opt, "state", defaultdict(dict, {weight: opt.state[weight]})),
    "defaultdict": lambda opt, _: setattr(opt, "state", defaultdict(dict)),
    "setstate": lambda opt, _: opt.__setstate__({"state": defaultdict(dict)}),
    "clear": lambda opt, _: opt.state.clear(),
    "swap": swap_in,
}
"""Removals of the states of one parameter or of all. `swap_in` undoes its removal after a step."""


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "NAdam"])
@pytest.mark.parametrize("way", REMOVALS)
def test_beginning_anew(way: str, name: str) -> None:
    """A parameter whose state was removed begins again, with its step count. The others go on, as in PyTorch.

    Both optimizers round numbers of about 10 with a relative error of 2^-24.
    """
    change = REMOVALS[way]
    ours = stepped(name, False, change)
    np.testing.assert_allclose(ours, stepped(name, True, change), rtol=0, atol=1e-5)
    changed = [found != kept for found, kept in zip(ours, stepped(name, False, lambda *_: None), strict=True)]
    alone = {"popitem": [False, True], "some": [False, True]}
    one = way in ("del", "pop", "empty", "clear one")
    assert changed == alone.get(way, [True, not one])


@pytest.mark.parametrize("all_of_them", [True, False])
@each_optimizer
def test_bits_after_a_removal(name: str, all_of_them: bool) -> None:
    """A removed state begins as in a new optimizer, with Adagrad's initial value."""
    initial: dict[str, Any] = {"initial_accumulator_value": 0.25} if name == "Adagrad" else {}
    params = weights()
    opt, separate = grouped(name, params, **initial), Separate(name, in_groups(name, params), **initial)
    for t in range(6):
        if t == 3:
            for each in params if all_of_them else params[3:4]:
                its = separate.of(each)
                its.step_count = 0
                for state in its.state.values():
                    state.fill_(initial.get("initial_accumulator_value", 0.0))
            if all_of_them:
                opt.state.clear()
            else:
                del opt.state[params[3]]
        give(params, (13, t))
        separate.step()
        opt.step()
        separate.assert_same(opt)


# Assignments.


def put(way: str, opt: Any, weight: Any, values: Any) -> None:
    """Assign one state of a parameter, `exp_avg`."""
    entries = opt.state[weight]
    if way == "copy":
        entries["exp_avg"].copy_(values)
    elif way == "an entry":
        entries["exp_avg"] = values
    elif way == "update of entries":
        entries.update(exp_avg=values)
    elif way == "|= of entries":
        entries |= {"exp_avg": values}
    elif way == "entries":
        opt.state[weight] = {**entries, "exp_avg": values}
    elif way == "update":
        opt.state.update({weight: {**entries, "exp_avg": values}})
    elif way == "|=":
        opt.state |= {weight: {**entries, "exp_avg": values}}
    else:
        opt.state = {**opt.state, weight: {**entries, "exp_avg": values}}


WAYS = ["copy", "an entry", "update of entries", "|= of entries", "entries", "update", "|=", "all"]


def test_removed_states_need_no_memory_for_each_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The initial values of a flat state are made once, however many parameters begin again."""
    params = weights()
    opt = grouped("Adam", params)
    give(params, (1,))
    opt.step()
    made: list[str] = []
    cls = type(opt._buffers[0])
    begun = cls.begun

    def counted(self: Any, name: str) -> Any:
        made.append(name)
        return begun(self, name)

    monkeypatch.setattr(cls, "begun", counted)
    opt.state.clear()
    opt.step()
    assert sorted(made) == ["exp_avg", "exp_avg_sq"]


@pytest.mark.parametrize("way", WAYS)
def test_states_that_are_assigned(way: str) -> None:
    """Assigned states are shown, used and saved. The other states and step counts stay."""
    one, two = ones(3), ones(2, 2)
    opt, separate = adam(one, two), Separate("Adam", [{"params": [one, two]}], lr=1e-3)
    for each in (one, two):
        its = separate.of(each)
        its.params.fill_(1.0)
        its.step(torch.ones(each.numel()))
    given = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    put(way, opt, two, given)
    separate.of(two).state["exp_avg"].copy_(given.view(-1))
    assert torch.equal(opt.state[two]["exp_avg"], given)
    assert torch.equal(opt.state_dict()["state"][1]["exp_avg"], given)
    separate.step()
    opt.step()
    separate.assert_same(opt)


@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (torch.zeros(4), ValueError),
        (torch.zeros(2, 2).double(), TypeError),
        (torch.zeros(2, 2).to_sparse(), TypeError),
        (torch.zeros(2, 2, device="meta"), (TypeError, ValueError)),
        (None, TypeError),
        (0.0, TypeError),
    ],
    ids=["shape", "dtype", "sparse", "meta", "None", "number"],
)
def test_states_that_are_refused(way: str, wrong: Any, error: Any) -> None:
    """Values that do not fit are refused, when they are assigned or at the next step, and no parameter changes."""
    one, two = ones(3), ones(2, 2)
    opt = adam(one, two)
    before = everything(opt)
    with pytest.raises(error, match=r"param_groups\[1\]: params\[0\].*exp_avg"):
        put(way, opt, two, wrong)
        opt.step()
    put("an entry", opt, two, before[1]["state"][1]["exp_avg"])
    assert_unchanged(opt, before)
    opt.step()
    assert opt.step_count == 2


INCOMPLETE: dict[str, State] = {
    "del entry": lambda opt, weight: opt.state[weight].__delitem__("exp_avg"),
    "pop entry": lambda opt, weight: opt.state[weight].pop("exp_avg"),
    "step": lambda opt, weight: opt.state[weight].pop("step"),
    "lacking": lambda opt, weight: opt.state.__setitem__(weight, {"exp_avg": opt.state[weight]["exp_avg"]}),
    "no entries": lambda opt, weight: opt.state.__setitem__(weight, 3),
    "no dictionary": lambda opt, _: setattr(opt, "state", 3),
    "name": lambda opt, weight: opt.state[weight].setdefault("velocity", torch.zeros(3)),
}


@pytest.mark.parametrize("way", INCOMPLETE)
def test_states_that_are_incomplete(way: str) -> None:
    """They are refused when they are assigned or at the next step, and no parameter changes."""
    params = [ones(3), ones(3)]
    opt = adam(*params)
    before, entries = everything(opt), {each: dict(opt.state[each]) for each in params}
    with pytest.raises((KeyError, TypeError, ValueError), match="state|exp_avg|step|velocity"):
        INCOMPLETE[way](opt, params[0])
        opt.step()
    opt.state = defaultdict(dict, entries)
    assert_unchanged(opt, before)
    opt.step()
    assert opt.step_count == 2


def test_states_that_are_exchanged() -> None:
    """Two states that are exchanged in one statement are exchanged, or refused: none is lost."""
    one, two = ones(2), ones(2)
    opt = adam(one, two)
    for each, value in ((one, 1.0), (two, 3.0)):
        opt.state[each]["exp_avg"].fill_(value)
    refused = None
    try:
        opt.state[one], opt.state[two] = opt.state[two], opt.state[one]
    except ValueError as error:
        refused = str(error)
    expected = [3.0, 1.0] if refused is None else [1.0, 3.0]
    assert refused is None or "clone" in refused
    assert [opt.state[each]["exp_avg"].tolist() for each in (one, two)] == [[each] * 2 for each in expected]
    one.grad, two.grad = torch.zeros(2), torch.zeros(2)
    opt.step()
    for each, value in zip((one, two), expected, strict=True):
        # the decayed value, rounded once to float32 like the factor
        np.testing.assert_allclose(opt.state[each]["exp_avg"], 0.9 * value, rtol=2e-7)


def test_states_are_views_of_the_flat_states() -> None:
    """Steps write to the tensors of `opt.state`, and flat states that are changed as a whole act."""
    weight, other = ones(3), ones(2)
    opt = adam(weight, other)
    taken = opt.state[weight]["exp_avg"]
    opt.step()
    assert taken is opt.state[weight]["exp_avg"]
    assert taken.tolist() == pytest.approx([0.19] * 3)
    opt.optimizers[0].state["exp_avg"].zero_()
    assert not taken.any()
    assert not opt.state[other]["exp_avg"].any()


def test_reading_all_states_takes_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read of `opt.state[parameter]` does not compare the states of all parameters."""
    compared = []

    def are_same(entries: Any, known: Any) -> bool:
        compared.append(entries)
        return bool(entries.keys() == known.keys())

    monkeypatch.setattr("lrcore.torch._state._are_same", are_same)
    params = [ones(1) for _ in range(20)]
    opt = adam(*params)
    for _ in range(3):
        opt.step()
        compared.clear()
        assert all("exp_avg" in opt.state[each] for each in params)
        assert len(compared) <= len(params)


def test_reading_states_while_other_threads_step() -> None:
    """The steps of other threads are not mistaken for step counts that were assigned."""
    params = [ones(1) for _ in range(20)]
    opt = adam(*params)

    def work(index: int) -> None:
        for _ in range(100):
            if index:
                opt.step()
            else:
                assert opt.state[params[0]]["step"] >= 1

    run_in_threads(4, work)
    assert {float(opt.state[each]["step"]) for each in params} == {opt.step_count} == {301}


def test_copies_are_plain() -> None:
    """Copies and pickles of the mapping, and of its entries, are independent of the optimizer."""
    params = [ones(3), ones(2)]
    opt = adam(*params)
    opt.state[params[0]]["exp_avg"].fill_(7.0)
    loaded = pickle.loads(pickle.dumps(dict(opt.state)))
    for copied in (copy.deepcopy(opt.state), copy.copy(opt.state), loaded):
        assert type(copied) in (dict, defaultdict)
        assert {type(each) for each in copied.values()} == {dict}
        assert next(iter(copied.values()))["exp_avg"].tolist() == [7.0] * 3
    deep = copy.deepcopy(opt.state)
    before = everything(opt)
    for entries in deep.values():
        entries["exp_avg"].zero_()
        entries.clear()
    deep.clear()
    assert_unchanged(opt, before)
    former = opt.state
    opt.state = {}
    assert not opt.state.get(params[0])
    opt.state = former
    assert_unchanged(opt, before)


def test_an_optimizer_without_states() -> None:
    """An SGD optimizer without momentum has no state, and none can be assigned."""
    weight = ones(3)
    opt = sgd(weight)
    weight.grad = torch.ones(3)
    opt.step()
    assert not opt.state[weight]
    with pytest.raises(ValueError, match="momentum_buffer"):
        opt.state[weight]["momentum_buffer"] = torch.zeros(3)
        opt.step()
    assert weight.tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (lambda opt, each: opt.state[each]["exp_avg"], r"param_groups\[1\]: params\[0\]: .*exp_avg"),
        (lambda opt, _: opt.optimizers[0].state["exp_avg"], "exp_avg"),
    ],
)
def test_states_whose_storage_was_replaced(values: State, name: str) -> None:
    params = [ones(3), ones(2)]
    opt = adam(*params)
    before = [each.tolist() for each in params]
    view = values(opt, params[1])
    view.data = torch.zeros_like(view)
    with pytest.raises(RuntimeError, match=name):
        opt.step()
    assert [each.tolist() for each in params] == before
    assert opt.step_count == 1


def test_entries_that_are_kept_across_steps() -> None:
    """A dictionary that was taken from `opt.state` earlier still acts, and leaves the counts of all parameters."""
    params = [ones(3), ones(2)]
    opt, separate = FusedOptimizer(params, lrcore.Adam), Separate("Adam", [{"params": params}], lr=1e-3)
    give(params, (30, 0))
    for each in (opt, separate):
        each.step()
    kept = opt.state[params[1]]
    for t in range(1, 6):
        give(params, (30, t))
        if t == 4:
            kept["exp_avg"] = torch.full((2,), 0.25)
            separate.of(params[1]).state["exp_avg"].fill_(0.25)
        for each in (opt, separate):
            each.step()
    separate.assert_same(opt)
    assert [opt.state[each]["step"].item() for each in params] == [6.0, 6.0]
