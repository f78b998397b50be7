"""`ema` of a FusedOptimizer: bits, PyTorch's AveragedModel, states, dictionaries, and parameters with averaged values."""

from __future__ import annotations

import copy
import json
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from opcodes import at_each_opcode, interrupt
from pytorch.modules import (
    ARGUMENTS,
    NAMES,
    FusedOptimizer,
    Separate,
    assert_close,
    assert_equal,
    assert_same_dictionary,
    assert_unchanged,
    built,
    each_of_torch,
    each_optimizer,
    everything,
    give,
    grouped,
    in_groups,
    loss_of,
    ones,
    own,
    parameters,
    set_group,
    sgd,
    torch,
    train,
    weights,
)
from pytorch.test_copies import TOGETHER
from rules.oracle import averaged
from support import assert_bits

RISING = schedules.Linear(0.25, end=0.875, steps=9)


def pair(name: str, params: Any, ema: Any = RISING, **others: Any) -> tuple[Any, Separate]:
    """Return an optimizer in groups, and the separate optimizers that define its steps and averages."""
    opt = grouped(name, params, ema=ema, **others)
    return opt, Separate(name, in_groups(name, params), ema=0.5, **others)


def step_both(opt: Any, separate: Separate, scale: float = 1.0) -> None:
    """Take a step; assert that parameters, states and averages are those of separate optimizers with the same decay."""
    for group in separate.groups:
        for _, its in group:
            its.ema = RISING(opt.step_count)
    separate.step(scale)
    opt.step(grad_scale=scale)
    separate.assert_same(opt)


def averages(opt: Any) -> list[Any]:
    """Return copies of the averages of all parameters, in the order of the groups: the flat ones have all of them."""
    with opt.averaged_parameters():
        return [each.detach().clone() for group in opt.param_groups for each in group["params"]]


# ---- steps


@each_optimizer
def test_bits_of_separate_optimizers(name: str) -> None:
    """Parameters without a gradient are not averaged. Schedules are called with the count of the optimizer."""
    params = weights()
    opt, separate = pair(name, params)
    for t in range(8):
        give(params, (41, t), 0.6)
        step_both(opt, separate, (1.0, -0.3)[t % 2])
    for each, found in zip(
        (p for group in opt.param_groups for p in group["params"]), averages(opt), strict=True
    ):
        assert_bits(found.reshape(-1).numpy(), separate.of(each).state["ema"].numpy())


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_averages_of_pytorch(decay: float) -> None:
    """The averages, and the outputs of a module with them, are those of AveragedModel, which makes a pass of its own.

    AveragedModel copies the parameters at its first update. Its form of the average rounds differently: each step adds
    an error of up to 3 * 2^-24 for parameters below 1, and the sum of the powers of the decay is at most 10.
    """
    swa = torch.optim.swa_utils
    model, opt = built("Adam", lr=0.01, ema=decay)
    theirs = swa.AveragedModel(model, multi_avg_fn=swa.get_ema_multi_avg_fn(decay))
    theirs.update_parameters(model)
    for step in range(20):
        train(model, opt, range(step, step + 1))
        theirs.update_parameters(model)
    x = torch.randn(4, 3, 5, 5)
    with torch.no_grad(), opt.averaged_parameters():
        assert_close(model.parameters(), theirs.module.parameters(), 2e-6)
        assert torch.allclose(model(x), theirs(x), rtol=1e-4, atol=1e-5)
    moved = zip(model.parameters(), theirs.module.parameters(), strict=True)
    assert decay == 0 or max(float((one - other).detach().abs().max()) for one, other in moved) > 1e-3


def test_skipped_steps_change_no_average() -> None:
    """Neither those of GradScaler nor those of `skip_nonfinite`. A clipped step averages the clipped parameters."""
    params = weights()
    opt, separate = pair("AdamW", params, max_norm=1e9, skip_nonfinite=9)
    for t in range(6):
        give(params, (42, t))
        before = everything(opt)[1]["state"]
        if t == 2:
            opt.found_inf = torch.tensor(1.0)
        elif t == 4:
            params[0].grad[0, 0] = math.inf
        if t in (2, 4):
            opt.step()
            opt.found_inf = None
            for i, entries in opt.state_dict()["state"].items():
                assert torch.equal(entries["ema"], before[i]["ema"])
        else:
            step_both(opt, separate)
    assert (opt.step_count, opt.skipped_steps) == (4, 2)
    weight = ones(4)
    opt = sgd(weight, max_norm=0.5, ema=0.25)
    weight.grad = torch.ones(4)
    opt.step()
    assert weight.tolist() == [0.75] * 4
    assert opt.state[weight]["ema"].tolist() == [1 - 0.75 * 0.25] * 4


def test_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each device has the averages of its parameters. The schedule of the decay is called once per step."""
    monkeypatch.setattr("lrcore.torch._fused.place_of", lambda tensor: tensor.ndim)
    asked: list[int] = []

    def decay(t: int) -> float:
        asked.append(t)
        return RISING(t)

    params = weights()
    opt, separate = pair("NAdam", params, decay)
    assert len(opt.optimizers) == 4
    for t in range(4):
        give(params, (43, t), 0.7)
        step_both(opt, separate)
    assert asked == [0, 1, 2, 3]
    former = [each.detach().clone() for each in params]
    with opt.averaged_parameters():
        for each in params:
            assert_bits(each.detach().reshape(-1).numpy(), separate.of(each).state["ema"].numpy())
    assert all(map(torch.equal, params, former))


# ---- the attribute


def test_the_attribute() -> None:
    """A number, schedule or callable acts from the next step on. What would add or remove the averages is refused."""
    weight = ones(3)
    opt, plain = sgd(weight, ema=0.5), sgd(ones(3))
    weight.grad = torch.ones(3)
    assert (opt.ema, plain.ema) == (0.5, None)
    expected = np.ones(3, np.float32)
    for value, decay in ((0.5, 0.5), (RISING, RISING(1)), (lambda t: t / 16, 2 / 16), (0, 0.0)):
        opt.ema = value
        assert opt.ema == decay
        opt.step()
        expected = averaged(expected, weight.detach().numpy(), decay)
        assert_bits(opt.state[weight]["ema"].numpy(), expected)
    before = everything(opt)
    with pytest.raises(ValueError, match="^ema: .*new"):
        opt.ema = None
    with pytest.raises(ValueError, match="^ema: .*new"):
        plain.ema = 0.5
    for wrong in (1.0, -0.5, math.nan, True, "0.5"):
        for call in (lambda: sgd(ones(3), ema=wrong), lambda: setattr(opt, "ema", wrong)):  # noqa: B023
            with pytest.raises((TypeError, ValueError), match="^ema: "):
                call()
    assert_unchanged(opt, before)
    opt.ema = lambda _: 1.0
    with pytest.raises(ValueError, match="^ema: .* from the schedule at t = 4$"):
        opt.step()
    opt.ema = 0
    assert_unchanged(opt, before)


def test_groups_have_none() -> None:
    """An entry of a group would have no effect. It may repeat the argument, as some tools copy all arguments."""
    entries: Any = {"params": [ones(3)], "ema": 0.5}
    with pytest.raises(TypeError, match=r"param_groups\[0\]: ema: an argument of the optimizer"):
        FusedOptimizer([entries], lrcore.Adam)
    assert FusedOptimizer([dict(entries)], lrcore.Adam, ema=0.5).ema == 0.5


# ---- states


@pytest.mark.parametrize("name", NAMES)
def test_states_have_the_averages(name: str) -> None:
    """Those of the parameters that have taken a step, in the shape and layout of the parameter, after the other states."""
    params = weights()
    opt, _ = pair(name, params)
    give(params[:5], (44, 0))
    opt.step()
    for k, each in enumerate(params):
        if k < 5:
            assert [*opt.state[each]][-1] == "ema"
            average = opt.state[each]["ema"]
            assert (average.shape, average.stride()) == (each.shape, each.stride())
        else:
            assert "ema" not in opt.state[each] or name == "Adagrad"


def test_an_average_that_is_assigned() -> None:
    """It is used at the next step, and as the value of the parameter, whether the tensor is replaced or written."""
    params = weights()
    opt, separate = pair("Adam", params)
    for t in range(4):
        give(params, (45, t))
        step_both(opt, separate)
        values = torch.full((3, 5), t / 4)
        if t % 2:
            opt.state[params[0]]["ema"] = values
        else:
            opt.state[params[0]]["ema"].copy_(values)
        separate.of(params[0]).state["ema"].copy_(values.view(-1))
        if t > 1:
            assert torch.equal(averages(opt)[0], values)


REMOVALS: dict[str, Callable[[Any, Any], Any]] = {
    "del": lambda opt, weight: opt.state.__delitem__(weight),
    "empty": lambda opt, weight: opt.state[weight].clear(),
    "all": lambda opt, _: setattr(opt, "state", defaultdict(dict)),
}


@pytest.mark.parametrize("way", REMOVALS)
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_the_average_of_a_parameter_whose_states_are_removed(name: str, way: str) -> None:
    """It begins again as a copy of the parameter. The others go on."""
    params = weights()
    opt, separate = pair(name, params)
    for t in range(6):
        if t == 3:
            for each in params if way == "all" else params[3:4]:
                its = separate.of(each)
                its.step_count = 0
                for key, state in its.state.items():
                    state.copy_(its.params) if key == "ema" else state.zero_()
            REMOVALS[way](opt, params[3])
            assert torch.equal(averages(opt)[1], params[3])
            if way == "all":  # the number of steps begins again
                opt.ema = lambda t: RISING(t + 3)
        give(params, (46, t))
        for group in separate.groups:
            for _, its in group:
                its.ema = RISING(t)
        separate.step()
        opt.step()
        separate.assert_same(opt)


@each_optimizer
def test_a_group_that_is_added(name: str) -> None:
    """The averages of its parameters begin as copies, and the others go on."""
    params, later = weights(), weights(1)
    opt, separate = pair(name, params)
    for t in range(6):
        if t == 3:
            opt.add_param_group({"params": later})
            separate.add({"params": later})
            for one, other in zip(averages(opt)[-len(later) :], later, strict=True):
                assert torch.equal(one, other)
            params = params + later
        give(params, (47, t), 0.7)
        step_both(opt, separate)


# ---- dictionaries and copies


def trained(name: str = "AdamW", ema: Any = RISING) -> tuple[Any, Any]:
    """Return parameters, one of which has taken no step, and an optimizer that has taken three."""
    module = torch.nn.ParameterList(weights())
    opt = grouped(name, [*module], ema=ema)
    for t in range(3):
        give([*module][:5], (48, t))
        opt.step()
    return module, opt


def assert_goes_on(copied: Any, its: Any, module: Any, opt: Any) -> None:
    """Assert that a copy goes on like the optimizer, with the same decays and averages."""
    for t in range(4):
        assert its.ema == opt.ema
        for params, each in ((copied, its), (module, opt)):
            give(params, (49, t), 0.8)
            each.step()
    for found, expected in zip((*copied, *averages(its)), (*module, *averages(opt)), strict=True):
        assert torch.equal(found, expected)
    assert_same_dictionary(its.state_dict(), opt.state_dict())


@pytest.mark.parametrize("ema", [0.75, RISING], ids=str)
@pytest.mark.parametrize("way", TOGETHER)
def test_copies(way: str, ema: Any) -> None:
    module, opt = trained(ema=ema)
    copied, its = TOGETHER[way]((module, opt))
    assert_goes_on(copied, its, module, opt)


@pytest.mark.parametrize("by_torch", [False, True])
@pytest.mark.parametrize("ema", [0.75, RISING], ids=str)
@each_of_torch
def test_a_run_is_resumed(name: str, ema: Any, by_torch: bool) -> None:
    """Also from a dictionary that PyTorch's optimizer has loaded. The decay is in the text of the first group."""
    module, opt = trained(name, ema)
    saved = opt.state_dict()
    assert "ema" in own(saved)
    assert "ema" not in own(saved, 1)
    copied = copy.deepcopy(module)
    if by_torch:
        groups = [{"params": each["params"]} for each in in_groups(name, [*copied])]
        theirs = getattr(torch.optim, name)(groups, **ARGUMENTS.get(name, {}) | {"lr": 0.01})
        theirs.load_state_dict(saved)
        saved = theirs.state_dict()
    its = grouped(name, [*copied], ema=0.125)
    its.load_state_dict(saved)
    assert_goes_on(copied, its, module, opt)


@each_of_torch
def test_a_dictionary_of_pytorch(name: str) -> None:
    """It has no averages, which begin as copies of the parameters. The decay stays."""
    module, opt = trained(name)
    theirs = getattr(torch.optim, name)(in_groups(name, weights(1)), **ARGUMENTS.get(name, {}) | {"lr": 0.01})
    for group in theirs.param_groups:
        give(group["params"], (50,))
    theirs.step()
    opt.load_state_dict(theirs.state_dict())
    assert opt.ema == RISING(opt.step_count)
    for one, other in zip(
        averages(opt), (p for group in opt.param_groups for p in group["params"]), strict=True
    ):
        assert torch.equal(one, other)
    before = [each.detach().clone() for each in module]
    give(module, (51,))
    decay = opt.ema
    opt.step()
    for each, former in zip(module, before, strict=True):
        expected = averaged(former.numpy(), each.detach().numpy(), decay)
        assert_bits(opt.state[each]["ema"].numpy(), expected)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("own_ema", [None, RISING])
def test_averages_on_one_side_alone_are_refused(own_ema: Any, steps: int) -> None:
    """Also in a dictionary without states, and in one of an earlier version. Nothing changes."""
    opt, other = (grouped("AdamW", weights(), ema=ema) for ema in (own_ema, 0.5 if own_ema is None else None))
    for each in (opt, other):
        for t in range(steps):
            for group in each.param_groups:
                give(group["params"], (52, t))
            each.step()
    before, saved = everything(opt), other.state_dict()
    with pytest.raises(ValueError, match="^ema: .+; .+"):
        opt.load_state_dict(saved)
    assert_unchanged(opt, before)
    if own_ema is not None:
        text = {key: value for key, value in own(saved).items() if key != "ema"}
        set_group(saved, lrcore=json.dumps(text))
        with pytest.raises(ValueError, match="^ema: .+; .+"):
            opt.load_state_dict(saved)
        assert_unchanged(opt, before)


@pytest.mark.parametrize("value", [1.0, "0.5", True, [0.5], {"schedule": 1, "schedule_state": []}])
def test_a_wrong_entry_is_refused(value: Any) -> None:
    _, opt = trained()
    saved, before = opt.state_dict(), everything(opt)
    set_group(saved, lrcore=json.dumps(own(saved) | {"ema": value}))
    with pytest.raises((TypeError, ValueError), match="ema|schedule"):
        opt.load_state_dict(saved)
    assert_unchanged(opt, before)


def test_states_without_their_averages_are_refused() -> None:
    """The message has the name of the parameter."""
    _, opt = trained()
    saved, before = opt.state_dict(), everything(opt)
    del saved["state"][1]["ema"]
    with pytest.raises(ValueError, match=r"param_groups\[0\]: params\[1\].*ema"):
        opt.load_state_dict(saved)
    assert_unchanged(opt, before)


# ---- parameters with averaged values


def test_parameters_have_the_averages_inside_alone() -> None:
    """In place: tensors and memory stay, and version counters go up. Afterwards, all former bits are back."""
    module, opt = trained()
    with torch.no_grad():  # a NaN with a payload, and -0
        module[3].view(torch.int32)[:2] = torch.tensor([0x7FC0_1234, -(2**31)], dtype=torch.int32)
    bits = [each.detach().clone().view(torch.int32) for each in module]
    saved, places = everything(opt)[1], [each.data_ptr() for each in module]
    expected = [each.detach().clone() for each in module]
    for each, its in zip(module, expected, strict=True):
        if "ema" in opt.state[each]:
            its.copy_(opt.state[each]["ema"])
    versions = [each._version for each in module]
    for _ in range(2):
        with opt.averaged_parameters():
            assert_equal(module, expected)
            inside = [each._version for each in module]
            assert [each.data_ptr() for each in module] == places
            assert_same_dictionary(opt.state_dict(), saved)
        for each, former in zip(module, bits, strict=True):
            assert torch.equal(each.detach().view(torch.int32), former)
        after = [each._version for each in module]
        for k, each in enumerate(module):
            assert not each.numel() or versions[k] < inside[k] < after[k]
        versions = after
        assert [each.data_ptr() for each in module] == places
    assert_same_dictionary(opt.state_dict(), saved)


def test_parameters_are_restored_after_an_exception() -> None:
    """Also if they were changed inside."""
    module, opt = trained()
    before = everything(opt)
    with pytest.raises(KeyError), opt.averaged_parameters():
        with torch.no_grad():
            module[0].fill_(7.0)
        raise KeyError
    assert_unchanged(opt, before)
    with opt.averaged_parameters():
        pass
    assert_unchanged(opt, before)


def test_what_is_refused_inside() -> None:
    """Steps, and a second use. The closure of a step is not called. Afterwards, training goes on."""
    module, opt = trained()
    before = everything(opt)
    called: list[int] = []
    with opt.averaged_parameters():
        expected = parameters(module)
        for step in (opt.step, lambda: opt.step(lambda: called.append(1))):
            with pytest.raises(RuntimeError, match="averag"):
                step()
        with pytest.raises(RuntimeError, match="averag"), opt.averaged_parameters():
            pass
        assert_equal(module, expected)
        with pytest.raises(RuntimeError, match="averag"):
            opt.step()
    assert not called
    assert_unchanged(opt, before)
    opt.step()
    assert opt.step_count == 4
    plain = grouped("Adam", weights())
    with pytest.raises(ValueError, match="ema"), plain.averaged_parameters():
        pass


def test_a_parameter_without_a_step_keeps_its_value_inside() -> None:
    """It has no average in a dictionary either, so a run that is resumed evaluates with the same parameters."""
    module, opt = trained()
    with torch.no_grad():
        module[5].fill_(7.0)  # for example, by loading the module
    expected = module[5].detach().clone()
    assert module[5] not in opt.state
    copied, its = copy.deepcopy((module, opt))
    for params, each in ((module, opt), (copied, its)):
        with each.averaged_parameters():
            assert torch.equal(params[5], expected)


def test_loading_inside_is_refused() -> None:
    _, opt = trained()
    saved, before = opt.state_dict(), everything(opt)
    with opt.averaged_parameters(), pytest.raises(RuntimeError, match="load_state_dict: .* averages"):
        opt.load_state_dict(saved)
    assert_unchanged(opt, before)
    opt.load_state_dict(saved)


def test_a_parameter_that_gets_another_shape_inside() -> None:
    """The others have their former values again, and the next step refuses this one."""
    module, opt = trained()
    before = parameters(module)
    with opt.averaged_parameters():
        module[0].data = torch.zeros(1)
    assert_equal(torch.nn.ParameterList([*module][1:]), before[1:])
    give([*module][:5], (48, 3))
    with pytest.raises(RuntimeError, match="moved"):
        opt.step()


def test_an_interrupt_at_any_moment() -> None:
    """No step is taken with averaged parameters: either all have their own values, or steps are refused."""
    model, opt = built("Adam", ema=0.5)
    train(model, opt, range(2))
    before = parameters(model)

    def evaluate() -> None:
        with opt.averaged_parameters():
            pass

    interrupts = 0
    for _ in at_each_opcode(evaluate, interrupt):
        interrupts += 1
        if opt._is_averaged:
            with pytest.raises(RuntimeError, match="averages"):
                opt.step()
            opt._set_parameters([former_of(opt, before)], [(opt, "_is_averaged", False)])
        assert_equal(model, before)
    assert interrupts > 100


def former_of(opt: Any, values: Any) -> Any:
    """Return a flat tensor with the values of the parameters."""
    (buffer,) = opt._buffers
    flat = torch.zeros_like(buffer.params)
    for slot, each in zip(buffer.slots, values, strict=True):
        slot.view(flat).copy_(each)
    return flat


@pytest.mark.parametrize("moves_inside", [False, True])
def test_parameters_whose_storage_has_moved(moves_inside: bool) -> None:
    """They do not get the averages, but their former values, so that no caller evaluates or trains others unnoticed."""
    model, opt = built("Adam", ema=0.5)
    train(model, opt, range(2))
    before = parameters(model)
    if moves_inside:
        with opt.averaged_parameters():
            model.double().float()
        assert_equal(model, before)
    else:
        model.double().float()
        with pytest.raises(RuntimeError, match="moved"), opt.averaged_parameters():
            pass
        assert_equal(model, before)
        opt.load_state_dict(opt.state_dict())
        with opt.averaged_parameters():
            assert not all(map(torch.equal, model.parameters(), before))
        assert_equal(model, before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_an_evaluation_between_training_steps(mode: Any) -> None:
    """It changes nothing, whatever mode it is in. A graph of before is refused, because its values have changed."""
    (model, opt), (other, its) = (built("AdamW", ema=0.9) for _ in range(2))
    for step in range(4):
        train(model, opt, range(step, step + 1))
        train(other, its, range(step, step + 1))
        stale = loss_of(model, 0)
        with mode(), opt.averaged_parameters():
            assert math.isfinite(loss_of(model, 0).item())
        with pytest.raises(RuntimeError, match="inplace operation"):
            stale.backward()
    assert_equal(model, parameters(other))
    assert_same_dictionary(opt.state_dict(), its.state_dict())


def test_averages_can_be_saved_with_the_module() -> None:
    """The dictionary of the module inside has the averages; a copy of it keeps them."""
    model, opt = built("AdamW", lr=0.01, ema=0.5)
    train(model, opt, range(3))
    with opt.averaged_parameters():
        saved = copy.deepcopy(model.state_dict())
    for name, each in model.named_parameters():
        assert torch.equal(saved[name], opt.state[each]["ema"])
        assert not torch.equal(saved[name], each)
