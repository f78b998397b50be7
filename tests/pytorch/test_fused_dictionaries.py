"""State dictionaries of a FusedOptimizer with groups, its own and those of `torch.optim`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from pytorch.modules import (
    ARGUMENTS,
    LINEAR,
    FusedOptimizer,
    Separate,
    assert_close,
    assert_same_dictionary,
    assert_unchanged,
    build,
    built,
    each_of_torch,
    each_optimizer,
    everything,
    give,
    grouped,
    in_groups,
    network,
    ones,
    own,
    own_numbers,
    set_group,
    set_state,
    torch,
    train,
    weights,
)


@each_of_torch
def test_from_and_for_torchs_optimizer(name: str) -> None:
    """A network learns in groups as with PyTorch's optimizer, and each continues from the other's dictionary.

    One parameter is frozen at first, so it has no state at the transfer. Both optimizers round every step in float32,
    by 2^-24 of p, but they round differently. Over 60 steps of a falling loss of about 1, the losses differ by far
    less than 1e-3.
    """

    def groups(model: Any) -> list[dict[str, Any]]:
        first, second, *others = model.parameters()
        return [{"params": others[:3]}, {"params": [second, *others[3:]], "lr": 1e-3}, {"params": [first]}]

    def ours(model: Any, **others: Any) -> Any:
        return FusedOptimizer(groups(model), getattr(lrcore, name), **ARGUMENTS.get(name, {}) | others)

    def theirs(model: Any, **others: Any) -> Any:
        return getattr(torch.optim, name)(groups(model), **ARGUMENTS.get(name, {}) | others)

    for k in (0, 3):
        models = [network() for _ in range(2)]
        for each in models:
            each[0].bias.requires_grad_(False)
        opts = [ours(models[0]), theirs(models[1])]
        for model, opt in zip(models, opts, strict=True):
            train(model, opt, range(k))
        saved = [opt.state_dict() for opt in opts]
        if name != "Adagrad":  # which has states from the start
            assert saved[0]["state"].keys() == {*saved[1]["state"]}
            assert 3 not in saved[0]["state"]
        for i, entries in saved[1]["state"].items():
            assert saved[0]["state"][i].keys() == entries.keys()
        for group, its in zip(*(each["param_groups"] for each in saved), strict=True):
            assert {each: group[each] for each in its} == its
        swapped = copy.deepcopy(models)
        counted = {"step_count": k} if name == "SGD" else {}
        others = [theirs(swapped[0], lr=7.0), ours(swapped[1], lr=lrcore.schedules.Constant(7.0))]
        others[0].load_state_dict(copy.deepcopy(saved[0]))
        others[1].load_state_dict(saved[1], **counted)
        assert others[1].step_count == k
        for each in (*models, *swapped):
            each[0].bias.requires_grad_(True)
        expected = train(models[1], opts[1], range(k, 60))
        assert expected[-1] < expected[0]
        for model, opt in ((models[0], opts[0]), (swapped[0], others[0]), (swapped[1], others[1])):
            losses = train(model, opt, range(k, 30))
            np.testing.assert_allclose(losses, expected[: 30 - k], rtol=0, atol=1e-3)


@each_optimizer
def test_a_resumed_run(name: str) -> None:
    """Bits of a run that continues, with parameters that have taken different numbers of steps, or none."""
    params, others = weights(), weights(1)
    opt, separate = grouped(name, params), Separate(name, in_groups(name, params))
    resumed = grouped(name, others, lr=7.0, weight_decay=0.25)
    for t in range(12):
        if t == 6:
            saved = copy.deepcopy(opt.state_dict())
            if name not in ("Adagrad", "SGD"):
                assert saved["state"].keys() == {i for i, each in enumerate(order(opt)) if opt.state[each]}
            resumed.load_state_dict(saved)
            assert resumed.step_count == 6
            for each, its in zip(params, others, strict=True):
                its.data.copy_(each.detach())
        give(params if t >= 6 else params[:4], (14, t), 0.5)
        for each, its in zip(params, others, strict=True):
            its.grad = each.grad
        separate.step()
        opt.step()
        if t >= 6:
            resumed.step()
            assert all(map(torch.equal, params, others))
        separate.assert_same(opt)
    assert_same_dictionary(resumed.state_dict(), opt.state_dict())


def order(opt: Any) -> list[Any]:
    """Return the parameters in the order of the groups."""
    return [each for group in opt.param_groups for each in group["params"]]


@pytest.mark.parametrize("theirs", [False, True])
@each_of_torch
def test_parameters_match_by_name(name: str, theirs: bool) -> None:
    """If both sides have names, the order of the parameters in a group may differ, also in PyTorch's dictionary.

    Without names on one side, they match by position.
    """
    names = ["a", "b", "c", "d", "e", "f"]
    numbers = own_numbers(name)

    def groups(params: list[Any], backwards: bool) -> list[dict[str, Any]]:
        pairs = [*zip(names, params, strict=True)]
        found = [pairs[:2], pairs[2:]]
        return [
            {"params": each[::-1] if backwards else each, **own}
            for each, own in zip(found, ({}, numbers), strict=True)
        ]

    params, others = weights(), weights()
    arguments = ARGUMENTS.get(name, {}) | {"lr": 0.01}
    first = (
        getattr(torch.optim, name)(groups(params, True), **arguments)
        if theirs
        else FusedOptimizer(groups(params, True), getattr(lrcore, name), **arguments)
    )
    second = FusedOptimizer(groups(others, False), getattr(lrcore, name), **arguments | {"lr": 7.0})
    for t in range(6):
        if t == 3:
            counted = {"step_count": t} if theirs and name == "SGD" else {}
            second.load_state_dict(copy.deepcopy(first.state_dict()), **counted)
            assert [group["param_names"] for group in second.param_groups] == [names[:2], names[2:]]
            for each, its in zip(params, others, strict=True):
                its.data.copy_(each.detach())
        generator = torch.Generator().manual_seed(t)
        for each, its in zip(params, others, strict=True):
            each.grad = its.grad = torch.randn(each.shape, generator=generator)
        first.step()
        if t >= 3:
            second.step()
            # a few roundings of p by 2^-24 in each of three steps
            assert_close(params, others, 1e-6 if theirs else 0.0)
    ahead = [{"params": params[1::-1]}, {"params": params[:1:-1], **numbers}]
    unnamed = FusedOptimizer(ahead, getattr(lrcore, name), **arguments)
    saved = first.state_dict()
    unnamed.load_state_dict(copy.deepcopy(saved), **({"step_count": 6} if theirs and name == "SGD" else {}))
    found = unnamed.state_dict()["state"]
    for i, entries in saved["state"].items():
        assert all(torch.equal(value, found[i][key]) for key, value in entries.items() if key != "mu_product")


def test_independent_decay() -> None:
    """PyTorch lacks it. The group shows it in an entry that dictionaries of this optimizer must have.

    PyTorch's optimizer keeps the entry, but its own steps are not taken over.
    """
    numbers: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.25}
    model, opt = built("AdamW", decay="independent", **numbers)
    before = [each.detach().clone() for each in model.parameters()]
    for each in model.parameters():
        each.grad = torch.zeros_like(each)  # only the decay acts
    opt.step()
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
        (opt, decoupled.state_dict(), r"param_groups\[0\]: expected the entries .*'decay'.*got"),
        (decoupled, saved, r"param_groups\[0\]: expected the entries .*got .*'decay'"),
    ):
        with pytest.raises(ValueError, match=f"{message}"):
            loading.load_state_dict(dictionary)
    opt.param_groups[0]["decay"] = "l2"
    with pytest.raises(ValueError, match=r"^param_groups\[0\]: decay"):
        opt.step()


def test_entries_of_the_groups() -> None:
    """Loading applies the numbers of each group, and keeps the entries of other tools.

    Our own entry has a value only in dictionaries; in `param_groups`, it is empty.
    """
    params = [ones(3), ones(2)]
    opt = FusedOptimizer([{"params": each} for each in params], lrcore.Adam)
    opt.param_groups[1].update(lr_scale=2.0, name="head")
    saved = opt.state_dict()
    assert {*own(saved, 0)} >= {"rule", "step_count"}
    assert own(saved, 1)["rule"] == "adam"
    saved["param_groups"][1].update(
        {"lr": 0.25, "weight_decay": 0.5, "maximize": True, "initial_lr": 3.0, "more": [1]}
    )
    opt.param_groups[1]["lr_scale"] = 1.0
    opt.load_state_dict(saved)
    group = opt.param_groups[1]
    assert [group[each] for each in ("lr", "weight_decay", "maximize", "initial_lr")] == [
        0.25,
        0.5,
        True,
        3.0,
    ]
    assert (group["lr_scale"], group["name"], group["more"], group["lrcore"]) == (2.0, "head", [1], "")
    assert (opt.param_groups[0]["lr"], "more" in opt.param_groups[0]) == (1e-3, False)
    part = opt.optimizers[0].groups[2]
    assert (part.lr, part.hyper["weight_decay"], part.maximize) == (0.25, 0.5, True)


def text(saved: Any, i: int = 0, **changes: Any) -> None:
    """Change the entries that PyTorch's dictionaries do not have."""
    set_group(saved, i, lrcore=json.dumps(own(saved, i) | changes))


def both(saved: Any, **changes: Any) -> None:
    for i in range(2):
        text(saved, i, **changes)


SECOND, LAST = r"param_groups\[1\]: ", r"param_groups\[1\]: v: "


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda saved: both(saved, rule="sgd"), "rule: expected adam, got sgd"),
        (
            lambda saved: both(saved, step_count=-1),
            r"param_groups\[0\]: step_count: expected an integer >= 0",
        ),
        (lambda saved: text(saved, 1, more=1), f"{SECOND}lrcore: "),
        (lambda saved: set_group(saved, 1, lrcore="{}}"), f"{SECOND}lrcore: "),
        (lambda saved: set_group(saved, 1, lrcore="[" * 100_000), f"{SECOND}lrcore: "),
        (lambda saved: set_group(saved, 1, eps=float("nan")), f"{SECOND}eps: expected a finite number"),
        (lambda saved: set_group(saved, 1, lr=-1.0), f"{SECOND}lr: "),
        (lambda saved: set_group(saved, 1, amsgrad=True), f"{SECOND}.*amsgrad"),
        (lambda saved: saved["param_groups"][1].pop("betas"), f"{SECOND}.*betas"),
        (lambda saved: set_group(saved, 1, params=[2, 3]), SECOND),
        (lambda saved: set_group(saved, 1, params=[2, 3, 1]), "param"),
        (lambda saved: set_group(saved, 1, param_names=["u", "w", "v"]), f"{SECOND}.*w"),
        (lambda saved: set_group(saved, 1, param_names=["u", "u", "v"]), f"{SECOND}.*u"),
        (lambda saved: saved["param_groups"].pop(), "param_groups: expected 2 groups, got 1"),
        (lambda saved: saved["param_groups"].append({}), "param_groups: expected 2 groups, got 3"),
        (lambda saved: saved["param_groups"].reverse(), "param_groups"),
        (lambda saved: set_state(saved, 4, exp_avg=torch.zeros(2, 2)), f"{LAST}exp_avg: expected shape"),
        (
            lambda saved: set_state(saved, 4, exp_avg=torch.zeros(4).double()),
            f"{LAST}exp_avg: expected a float32",
        ),
        (
            lambda saved: set_state(saved, 4, exp_avg=torch.zeros(4).to_sparse()),
            f"{LAST}exp_avg: expected a dense",
        ),
        (lambda saved: set_state(saved, 4, exp_avg=None), f"{LAST}.*exp_avg"),
        (lambda saved: set_state(saved, 4, more=torch.zeros(3)), f"{LAST}.*more"),
        (lambda saved: set_state(saved, 4, step=torch.tensor(2.5)), f"{LAST}step: expected a whole number"),
        (lambda saved: set_state(saved, 4, step=torch.tensor(-1.0)), f"{LAST}step: "),
        (lambda saved: set_state(saved, 4, step="2"), f"{LAST}step: "),
        (lambda saved: saved["state"][4].pop("exp_avg_sq"), f"{LAST}.*exp_avg_sq"),
        (lambda saved: saved["state"][4].pop("step"), f"{LAST}.*step"),
        (lambda saved: saved["state"].update({9: saved["state"].pop(4)}), "state: .*9"),
        (lambda saved: saved.update(state=[]), "state: expected a dictionary"),
        (lambda saved: saved.pop("param_groups"), "param_groups: expected a list"),
    ],
)
def test_wrong_dictionaries_change_nothing(spoil: Callable[[Any], object], message: str) -> None:
    """The message names the group, the parameter and the entry."""
    params = [("s", ones(5)), ("t", ones(3)), ("u", ones(2)), ("w_", ones(1)), ("v", ones(4))]
    opt = FusedOptimizer([{"params": params[:2]}, {"params": params[2:], "lr": LINEAR}], lrcore.Adam, lr=0.01)
    tensors = [each for _, each in params]
    for t in range(3):
        if t == 2:
            saved = copy.deepcopy(opt.state_dict())
        give(tensors, (15, t))
        opt.step()
    opt.param_groups[0]["tag"] = 3
    before, groups = everything(opt), [dict(group) for group in opt.param_groups]
    spoil(saved)
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        opt.load_state_dict(saved)
    with pytest.raises(ValueError, match="^step_count: .*leave it out"):
        opt.load_state_dict(before[1], step_count=3)
    assert_unchanged(opt, before)
    assert [dict(group) for group in opt.param_groups] == groups


def test_a_dictionary_of_torch_of_other_options() -> None:
    """Options, numbers and states of PyTorch's optimizer that ours was not made for are refused by group."""
    params = [ones(3), ones(2)]
    opt = FusedOptimizer([{"params": each} for each in params], lrcore.Adam)
    for options in ({"amsgrad": True}, {"differentiable": True}):
        theirs = torch.optim.Adam([{"params": ones(3)}, {"params": ones(2), **options}])
        with pytest.raises(ValueError, match=rf"^param_groups\[1\]: .*{next(iter(options))}"):
            opt.load_state_dict(theirs.state_dict())
    with pytest.raises(ValueError, match=r"^param_groups\[0\]: "):
        opt.load_state_dict(torch.optim.SGD([{"params": ones(3)}, {"params": ones(2)}]).state_dict())
    assert opt.step_count == 0


@pytest.mark.parametrize("device", [None, "meta"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_defaults(dtype: Any, device: Any) -> None:
    """State dictionaries are in float32 on the CPU and can be loaded under any default dtype and device."""
    (model, opt), (model_2, other) = built("NAdam"), built("NAdam")
    train(model, opt, range(2))
    for entries in opt.state.values():
        entries["step"].fill_(70_001)  # more than float16 can represent
    for each, its in zip(model.parameters(), model_2.parameters(), strict=True):
        its.grad = each.grad
    expected = copy.deepcopy(opt.state_dict())
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        saved = opt.state_dict()
        for each in (opt, other):
            each.load_state_dict(saved)
            each.step()
            assert {float(entries["step"]) for entries in each.state.values()} == {70_002.0}
        opt.state = {each: dict(entries) for each, entries in opt.state.items()}
        opt.state.clear()
        opt.step()
        assert opt.state[model[0].weight]["step"].dtype == torch.float32
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert_same_dictionary(saved, expected)
    for values in saved["state"][0].values():
        assert (values.dtype, values.device.type) == (torch.float32, "cpu")


@pytest.mark.parametrize("count", [2**24 - 1, 2**24 + 1, 2**40 + 1])
def test_counts_that_float32_has_not(count: int) -> None:
    """The optimizer's own count, for its schedules, is exact."""
    weight = ones(3)
    opt = FusedOptimizer([weight], lrcore.Adam, lr=lambda t: 1.0 * t)
    weight.grad = torch.ones(3)
    opt.step()
    saved = opt.state_dict()
    text(saved, step_count=count)
    opt.load_state_dict(saved)
    assert opt.step_count == own(opt.state_dict())["step_count"] == count
    assert opt.lr == float(count)
    opt.step()
    assert (opt.step_count, float(opt.state[weight]["step"])) == (count + 1, 2.0)


def test_counts_that_exceed_that_of_the_optimizer() -> None:
    """The counts of all parameters were assigned. The dictionary is still ours, until PyTorch's optimizer goes on."""
    weight = ones(3)
    rate = lrcore.schedules.Cosine(0.5, steps=20)
    opt = FusedOptimizer([weight], lrcore.Adam, lr=rate)
    weight.grad = torch.ones(3)
    opt.step()
    opt.state[weight]["step"].fill_(100.0)
    saved = opt.state_dict()
    theirs = torch.optim.Adam([weight])
    theirs.load_state_dict(saved)
    opt.load_state_dict(theirs.state_dict())
    assert (opt.step_count, float(opt.state[weight]["step"])) == (1, 100.0)
    theirs.step()
    opt.load_state_dict(theirs.state_dict())
    assert (opt.step_count, float(opt.state[weight]["step"])) == (101, 101.0)
    assert opt.schedule is rate


@pytest.mark.parametrize("way", ["dictionary", "copy"])
def test_a_momentum_that_has_not_begun(way: str) -> None:
    """Without a buffer, the first gradient is not damped, although the optimizer has taken a step."""
    weight = torch.nn.ParameterList([ones(3)])
    opt = FusedOptimizer(weight, lrcore.SGD, lr=1.0, momentum=0.5, dampening=0.5)
    opt.step()
    if way == "copy":
        weight, opt = copy.deepcopy((weight, opt))
    else:
        opt.load_state_dict(opt.state_dict())
    assert opt.step_count == 1
    weight[0].grad = torch.ones(3)
    opt.step()
    assert weight[0].tolist() == [0.0] * 3


@pytest.mark.parametrize("valid", [True, False])
@pytest.mark.parametrize("moved", [slice(None), slice(1, 4)])
def test_loading_follows_a_module_that_moved(moved: slice, valid: bool) -> None:
    """Parameters whose storage was replaced, as by a move to a device, get new flat buffers, also in a refused call.

    Tools that move a module load the state of its optimizer afterwards, as they do for PyTorch's optimizers.
    """
    (one, opt), (other, its) = (
        (model := network(), grouped("AdamW", [*model.parameters()], lr=LINEAR)) for _ in range(2)
    )
    for each in ((one, opt), (other, its)):
        train(*each, range(3))
    assert its.state
    for parameter in [*other.parameters()][moved]:
        parameter.data = parameter.data.clone()
    saved = its.state_dict()
    if not valid:
        set_group(saved, lr=-1.0)
        with pytest.raises(ValueError, match=r"^param_groups\[0\]: "):
            its.load_state_dict(saved)
    else:
        its.load_state_dict(saved)
    assert_unchanged(its, everything(opt))
    for each in ((one, opt), (other, its)):
        train(*each, range(3, 6))
    assert_unchanged(its, everything(opt))
    (flat,) = its.optimizers
    ends = flat.params.data_ptr(), flat.params.data_ptr() + flat.params.nbytes
    assert all(ends[0] <= each.data_ptr() < ends[1] for each in other.parameters())
