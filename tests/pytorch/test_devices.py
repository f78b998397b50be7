"""A FusedOptimizer on several simulated devices, which stay in step and are consistent after an interrupt."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

import lrcore
from opcodes import at_each_opcode, interrupt
from pytorch.modules import (
    FusedOptimizer,
    Separate,
    assert_equal,
    assert_same_dictionary,
    built,
    each_optimizer,
    give,
    grouped,
    in_groups,
    ones,
    own,
    parameters,
    sgd,
    torch,
    train,
    weights,
    zeros,
)
from support import slow_but_first


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that parameters with different numbers of dimensions are on different devices."""
    monkeypatch.setattr("lrcore.torch._fused.place_of", lambda tensor: tensor.ndim)


@pytest.mark.usefixtures("apart")
@each_optimizer
def test_bits_of_separate_optimizers(name: str) -> None:
    """Groups that are spread over several devices have the bits of separate optimizers, also if one is added."""
    params, later = weights(), [zeros(3), zeros(2, 1, 2)]  # with a device that is new
    opt, separate = grouped(name, params), Separate(name, in_groups(name, params))
    for t in range(12):
        if t == 6:
            added = {"params": later, "lr": 0.5}
            opt.add_param_group(dict(added))
            separate.add(added)
            params += later
            separate.assert_same(opt)
        give(params, (16, t), 0.6)
        separate.step()
        opt.step()
        separate.assert_same(opt)
    # The parameter without elements, which has two dimensions, takes one.
    sizes = {0: [0, 1, 0, 0], 1: [17, 0, 1, 3], 2: [15, 0, 1, 0], 3: [0, 0, 0, 4], 4: [0, 24, 0, 0]}
    for each in params:
        if each.numel():
            (inner,) = (inner for inner in opt.optimizers if is_in(each, inner))
            assert [part.size for part in inner.groups[1:]] == sizes[each.ndim]
    assert len(opt.optimizers) == 5
    assert {inner.step_count for inner in opt.optimizers} == {opt.step_count} == {12}


def is_in(parameter: Any, inner: Any) -> bool:
    """Return whether a parameter lies in the flat buffer of an inner optimizer."""
    return bool(0 <= parameter.data_ptr() - inner.params.data_ptr() < 4 * inner.size)


def test_dictionaries_of_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """They equal those of a single device, and each can load the other's."""
    rate = lrcore.schedules.Cosine(0.01, steps=20)
    (twin, together) = whole = built("NAdam", lr=rate)
    monkeypatch.setattr("lrcore.torch._fused.place_of", lambda tensor: tensor.ndim)
    (model, apart) = parted = built("NAdam", lr=rate)
    assert len(apart.optimizers) == 3
    for steps in (range(3), range(3, 6)):
        train(*whole, steps)
        train(*parted, steps)
        assert_equal(model, parameters(twin))
        saved, other = apart.state_dict(), together.state_dict()
        assert_same_dictionary(saved, other)
        assert [*saved["state"]] == [*range(7)]
        apart.load_state_dict(other)
        together.load_state_dict(saved)


@pytest.mark.usefixtures("apart")
def test_what_is_set_is_set_on_every_device() -> None:
    """Rates and numbers of a group, set there or by `lr`, apply to its part on each device. So does a Plateau."""
    params, others = weights(), weights()
    plateau = lrcore.schedules.Plateau(0.5, patience=0)
    opt = FusedOptimizer(
        [{"params": params[:4]}, {"params": params[4:], "lr": 0.125}], lrcore.Adam, lr=plateau
    )
    other = FusedOptimizer([{"params": others[:4]}, {"params": others[4:]}], lrcore.Adam, lr=0.1)
    other.load_state_dict(opt.state_dict())
    for each in (opt, other):
        (found,) = lrcore.schedules.plateaus(each)
        for metric in (1.0, 2.0):
            found.observe(metric)
        assert [group["lr"] for group in each.param_groups] == [0.05, 0.125]
        for inner in each.optimizers:
            assert [part.lr for part in inner.groups[1:]] == [0.05, 0.125]
    other.lr = 0.25
    other.param_groups[1].update(eps=0.5, lr=0.75)
    give(others, (17,))
    other.step()
    for inner in other.optimizers:
        assert [(part.lr, part.hyper["eps"]) for part in inner.groups[1:]] == [(0.25, 1e-8), (0.75, 0.5)]


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("given", [lambda fn: fn, lrcore.schedules.Function])
def test_a_callable_is_called_once_and_at_the_step(given: Any) -> None:
    """The callable is called once for all devices and groups, and again when a refused step is repeated.

    A skipped step does not call it. The group contains the rate of the last step.
    """
    rates: dict[int, float] = {0: 1.0, 1: 2.0}
    asked = []

    def rate(t: int) -> float:
        asked.append(t)
        return rates[t]

    first, second, third = zeros(3), zeros(1, 1), zeros(2)
    opt = FusedOptimizer([{"params": [first, second]}, {"params": third}], lrcore.SGD, lr=given(rate))
    for each in (first, second, third):
        each.grad = torch.ones_like(each)
    assert math.isnan(opt.param_groups[0]["lr"])
    assert not asked
    for t in range(2):
        opt.step()
        assert [group["lr"] for group in opt.param_groups] == [rates[t]] * 2
    for _ in range(2):
        with pytest.raises(KeyError):
            opt.step()
    opt.found_inf = torch.tensor(1.0)
    opt.step()
    del opt.found_inf
    assert opt.step_count == 2
    assert opt.param_groups[1]["lr"] == opt.state_dict()["param_groups"][0]["lr"] == 2.0
    rates[2] = 4.0
    opt.step()
    assert [each.tolist() for each in (first, second, third)] == [[-7.0] * 3, [[-7.0]], [-7.0] * 2]
    assert asked == [0, 1, 2, 2, 2]
    assert [each.step_count for each in opt.optimizers] == [3, 3]


def sparse(_: Any, weight: Any) -> None:
    weight.grad = weight.grad.to_sparse()


def without_memory(_: Any, weight: Any) -> None:
    weight.grad.untyped_storage().resize_(0)


def moved(_: Any, weight: Any) -> None:
    weight.data = weight.data.clone()


def moved_state(opt: Any, weight: Any) -> None:
    opt.state[weight]["exp_avg"].data = torch.zeros_like(weight)


FAULTS: dict[str, Callable[[Any, Any], object]] = {
    "a sparse gradient": sparse,
    "a gradient without memory": without_memory,
    "a parameter that moved": moved,
    "a state that moved": moved_state,
    "a step count": lambda opt, weight: opt.state[weight]["step"].fill_(-1.0),
    "a state": lambda opt, weight: opt.state[weight].update(exp_avg=torch.zeros(7)),
    "a rate": lambda opt, _: opt.param_groups[1].update(lr=-1.0),
    "a callable": lambda opt, _: opt.param_groups[1].update(lr=lambda _: float("nan")),
    "an option": lambda opt, _: opt.param_groups[1].update(amsgrad=True),
}


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_step_that_raises_changes_nothing(fault: str, devices: int, request: pytest.FixtureRequest) -> None:
    """The fault is in the last parameter, on the last device. The message names its group."""
    if devices == 2:
        request.getfixturevalue("apart")
    params = [ones(3), ones(2), ones(1, 2), ones(2, 2)]
    opt = FusedOptimizer([{"params": params[:3]}, {"params": params[3:]}], lrcore.Adam, lr=0.25)
    for t in range(2):
        give(params, (18, t))
        opt.step()
    give(params, (18, 2))

    def seen() -> list[Any]:
        kept = [*params[:3]] if fault == "a parameter that moved" else params
        states = [opt.state[each][name] for each in params[:3] for name in ("step", "exp_avg", "exp_avg_sq")]
        flats = [each for inner in opt.optimizers for each in (inner.params, inner.state["exp_avg"])]
        counts = [inner.step_count for inner in opt.optimizers]
        versions = [each._version for each in params]
        return [[each.tolist() for each in (*kept, *states, *flats)], counts, versions, opt.step_count]

    before = seen()
    with pytest.raises((TypeError, ValueError, RuntimeError), match=r"param_groups\[1\]"):
        FAULTS[fault](opt, params[3])
        before[2] = [each._version for each in params]
        opt.step()
    assert seen() == before


@pytest.mark.usefixtures("apart")
def test_states_of_several_devices() -> None:
    """A removed state begins again on its device alone."""
    params = [ones(1, 1), ones(3), ones(2, 2)]
    opt, separate = FusedOptimizer(params, lrcore.Adam), Separate("Adam", [{"params": params}], lr=1e-3)
    for t in range(6):
        if t == 2:
            opt.state = {
                each: {**opt.state[each], "exp_avg": each.detach() * i} for i, each in enumerate(params)
            }
            for i, each in enumerate(params):
                separate.of(each).state["exp_avg"].copy_(each.detach().reshape(-1) * i)
        if t == 4:
            opt.state.pop(params[1])
            its = separate.of(params[1])
            its.step_count = 0
            for state in its.state.values():
                state.zero_()
        give(params, (19, t))
        separate.step()
        opt.step()
        separate.assert_same(opt)
    assert opt.step_count == 6


CALLS: dict[str, Callable[[Any, Any], object]] = {
    "step": lambda opt, _: opt.step(),
    "clear": lambda opt, _: opt.state.clear(),
    "state": lambda opt, _: setattr(
        opt,
        "state",
        {each: {"momentum_buffer": torch.full_like(each, 7.0)} for each in opt.param_groups[0]["params"]},
    ),
    "lr": lambda opt, _: setattr(opt, "lr", 0.125),
    "load": lambda opt, later: opt.load_state_dict(later),
}
RATES: dict[str, Callable[[], Any]] = {
    "number": lambda: 0.5,
    "schedule": lambda: lrcore.schedules.Rex(0.5, 100_000),
    "callable": lambda: lambda t: 0.5 / (1 + t),
}


@pytest.mark.parametrize(
    ("rate", "devices"),
    slow_but_first([("number", 2), ("schedule", 1), ("callable", 1)]),
)
@pytest.mark.parametrize(
    "call",
    ["step", "clear", "lr", *(pytest.param(each, marks=pytest.mark.slow) for each in ("load", "state"))],
)
def test_an_interrupt_at_any_moment_leaves_all_or_nothing(
    call: str, rate: str, devices: int, request: pytest.FixtureRequest
) -> None:
    """After an interrupt, all devices and the group are consistent, and the next step succeeds."""
    if devices == 2:
        request.getfixturevalue("apart")
    lr = RATES[rate]()
    params = [zeros(3), zeros(1, 2)]
    opt = sgd(*params, lr=lr, momentum=0.5)
    for each in params:
        each.grad = torch.ones_like(each)
    opt.step()
    begun, values = opt.state_dict(), [each.detach().clone() for each in params]
    if rate == "number":
        opt.lr = 0.25
    for _ in range(2):
        opt.step()
    later = opt.state_dict()

    def back() -> None:
        opt.lr = lr
        opt.load_state_dict(begun)
        for each, value in zip(params, values, strict=True):
            each.data.copy_(value)
        if rate == "number" and call == "step":
            opt.param_groups[0]["lr"] = 0.125  # the step applies it

    def seen() -> Any:
        rates = {part.lr for inner in opt.optimizers for part in inner.groups[1:] if part.size}
        assert len({inner.step_count for inner in opt.optimizers}) == len(rates) == 1
        if rate == "number":
            assert rates == {opt.param_groups[0]["lr"]}
        states = [{name: each.tolist() for name, each in opt.state[weight].items()} for weight in params]
        return repr((opt.step_count, [each.tolist() for each in params], states, rates))

    back()
    before = seen()
    back()
    CALLS[call](opt, later)
    after = seen()
    moments = 0
    back()
    for _ in at_each_opcode(lambda: CALLS[call](opt, later), interrupt):
        assert seen() in (before, after)
        count = opt.step_count
        opt.step()
        assert opt.step_count == count + 1
        back()
        moments += 1
    assert moments > 10


@pytest.mark.slow
@pytest.mark.usefixtures("apart")
def test_an_interrupt_while_a_group_is_added() -> None:
    """The group is added on all devices, or on none and can be added again."""

    def made() -> tuple[list[Any], Any]:
        params = [zeros(3), zeros(1, 2), zeros(2), zeros(2, 2)]
        for each in params:
            each.grad = torch.ones_like(each)
        opt = sgd(*params[:2], momentum=0.5)
        opt.step()
        return params, opt

    params, opt = made()

    def add() -> None:
        opt.add_param_group({"params": params[2:]})

    moments = 0
    for _ in at_each_opcode(add, interrupt):
        assert len(opt.param_groups) in (1, 2)
        if len(opt.param_groups) == 1:
            opt.step()
            assert [each.unique().tolist() for each in params] == [[-2.5], [-2.5], [0.0], [0.0]]
            add()
        opt.step()
        assert len({each.unique().item() for each in params[:2]}) == 1
        assert [each.unique().tolist() for each in params[2:]] == [[-1.0], [-1.0]]
        params, opt = made()
        moments += 1
    assert moments > 10


@pytest.mark.parametrize("rate", ["number", "schedule"])
def test_a_handler_that_looks_and_steps_at_any_moment(rate: str) -> None:
    """The interrupted call does not mistake the rate of the handler's step for an assignment."""
    weight = zeros(3)
    weight.grad = torch.ones(3)
    opt = sgd(weight, lr=RATES[rate](), momentum=0.5)
    stepped = 0

    def handle() -> None:
        nonlocal stepped
        try:
            opt.step()
        except RuntimeError as error:  # the handler ran inside a call of the schedule
            if "a schedule must not step" not in str(error):
                raise
        else:
            stepped += 1
        assert opt.param_groups[0]["lr"] == opt.lr
        assert own(opt.state_dict())["step_count"] == opt.step_count

    moments = 0
    for _ in at_each_opcode(opt.step, handle):
        opt.step()
        moments += 1
    assert moments > 10
    assert opt.step_count == 2 * moments + stepped + 1
