"""Steps of a module by `lrcore.torch.FusedOptimizer`: bits, buffers, calls, closures, autograd, GradScaler and hooks."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

import pytest

import lrcore
from lrcore import _lrcore_core
from pytorch.modules import (
    LINEAR,
    FusedOptimizer,
    Separate,
    assert_equal,
    built,
    each_optimizer,
    grouped,
    in_groups,
    loss_of,
    network,
    ones,
    parameters,
    sgd,
    torch,
    train,
    zeros,
)


@pytest.mark.parametrize(("set_to_none", "channels_last"), [(True, False), (False, True)])
@each_optimizer
def test_bits_of_a_trained_network(name: str, set_to_none: bool, channels_last: bool) -> None:
    """Stepping a module in groups gives the bits of a separate optimizer for each parameter."""
    model = network(channels_last=channels_last)
    params = [*model.parameters()]
    opt, separate = grouped(name, params), Separate(name, in_groups(name, params))
    for t in range(4):
        train(model, opt, range(t, t + 1), set_to_none)
        separate.step()
        separate.assert_same(opt)
    assert opt.step_count == 4


def test_one_buffer() -> None:
    """Parameters and states are views of flat buffers, at multiples of 64 bytes. Gradients are not.

    Each view has the memory format of its parameter, and its own storage, so that it can be saved separately.
    The same holds for the tensors of a state dictionary.
    """
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last),
        torch.nn.Linear(7, 1),
        torch.nn.ParameterList([torch.zeros(()), torch.zeros(0, 3), torch.zeros(2, 1, 4)]),
    )
    before = parameters(model)
    opt = FusedOptimizer([{"params": each.parameters()} for each in model], lrcore.Adam)
    assert_equal(model, before)
    (flat,) = opt.optimizers
    assert flat.grads is None
    starts = [each.data_ptr() for each in (flat.params, *flat.state.values())]
    sum(each.sum() for each in model.parameters()).backward()
    opt.step()
    saved = opt.state_dict()["state"]
    for i, each in enumerate(model.parameters()):
        views = [each, *(opt.state[each][name] for name in flat.state)]
        if each.numel():
            (offset,) = {view.data_ptr() - start for view, start in zip(views, starts, strict=True)}
            assert offset % 64 == 0
            assert 0 <= offset < 4 * flat.size
        assert saved[i].keys() == {"step", "exp_avg", "exp_avg_sq"}
        for view in (*views, saved[i]["exp_avg"], saved[i]["exp_avg_sq"]):
            assert view.untyped_storage().nbytes() == 4 * each.numel()
            assert view.shape == each.shape
            assert view.stride() == torch.empty_like(each).stride()
    assert not model[0].weight.is_contiguous()
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


class Trace:
    """Counts, during a call, the opcodes that Python runs and the functions that it calls."""

    def __init__(self) -> None:
        self.opcodes = 0
        self.calls: Counter[str] = Counter()
        self.core: Counter[str] = Counter()
        """The functions of the compiled core."""

    def of(self, call: Callable[[], object]) -> Self:
        before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # Python 3.12 needs it in a frame that exists already
        sys.settrace(self._trace)
        sys.setprofile(self._profile)
        try:
            call()
        finally:
            sys.setprofile(None)
            sys.settrace(before)
        return self

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        frame.f_trace = self._trace  # Python 3.13 traces opcodes only in a frame that is already traced
        self.opcodes += event == "opcode"
        return self._trace

    def _profile(self, frame: FrameType, event: str, called: Any) -> None:
        if event == "call":
            self.calls[frame.f_code.co_name] += 1
        elif event == "c_call":
            self.calls[called.__name__] += 1
            owner = getattr(called, "__self__", None)
            if getattr(called, "__module__", None) == CORE or isinstance(owner, _lrcore_core.Stepper):
                self.core[called.__name__] += 1


CORE = _lrcore_core.__name__


@pytest.mark.parametrize("set_to_none", [True, False])
def test_one_call_of_the_core(set_to_none: bool) -> None:
    """A step is one call of the core, and what Python does besides does not depend on the number of parameters."""
    traces = []
    for count in (4, 50):
        params = [zeros(2, 3) for _ in range(count)]
        opt = FusedOptimizer([{"params": params[:2]}, {"params": params[2:], "lr": 0.5}], lrcore.AdamW)
        for t in range(4):
            opt.zero_grad(set_to_none)
            sum(each.sum() for each in params[t % 2 :]).backward()  # one has no gradient in every other step
            gc.disable()
            try:
                trace = Trace().of(opt.step)
            finally:
                gc.enable()
        traces.append(trace)
    few, many = traces
    assert few.calls == many.calls
    assert few.core == many.core
    assert few.opcodes == many.opcodes > 0
    assert sum(count for name, count in few.core.items() if "step" in name) == 1


def test_parameters_that_lie_between_one_another() -> None:
    """Views of one tensor that share no element are treated like any other parameters."""
    memory = torch.arange(24.0).view(4, 6)
    whole = memory.clone()
    parts = [torch.nn.Parameter(each) for each in (whole[:, ::2], whole[:, 1::2])]
    opt = sgd(*parts, lr=0.5)
    for part in parts:
        part.grad = part.detach().clone()
    opt.step()
    for part, begun in zip(parts, (memory[:, ::2], memory[:, 1::2]), strict=True):
        assert torch.equal(part, begun / 2)


def test_a_closure() -> None:
    (model, opt), (twin, other) = built("Adam"), built("Adam")

    def closure() -> Any:
        opt.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    assert opt.step(closure).item() == train(twin, other, range(1))[0]
    assert_equal(model, parameters(twin))


def test_a_changed_parameter_is_noticed_by_autograd() -> None:
    """A stepped parameter counts as modified, even if a hook raises after the step. Others do not."""
    stepped, other = ones(3), ones(3)
    opt = sgd(stepped, other)
    losses = [(each * each).sum() for each in (stepped, other)]
    stepped.grad = torch.ones(3)
    opt.register_step_post_hook(fail)
    with pytest.raises(ValueError, match="a hook"):
        opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses[0].backward()
    losses[1].backward()
    assert other.grad.tolist() == [2.0] * 3
    assert opt.step_count == 1


def fail(*_: Any) -> None:
    raise ValueError("a hook")


FAULTS: dict[str, Callable[[Any, Any], object]] = {
    "a number": lambda opt, _: opt.param_groups[0].update(weight_decay=-1),
    "a rate that fails": lambda opt, _: setattr(opt, "lr", fail),
    "a rate below 0": lambda opt, _: setattr(opt, "lr", lambda _: -1.0),
    "a gradient": lambda _, weight: setattr(weight, "grad", torch.ones(3).to_sparse()),
    "a hook": lambda opt, _: opt.register_step_pre_hook(fail),
    "a hook after the step": lambda opt, _: opt.register_step_post_hook(fail),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_step_that_raises_leaves_no_scale(fault: str) -> None:
    """The attributes that GradScaler sets for one step do not affect the next step."""
    weight = ones(3)
    opt = sgd(weight)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(weight.sum()).backward()
    FAULTS[fault](opt, weight)
    with pytest.raises((ValueError, TypeError, NotImplementedError)):
        scaler.step(opt)
    assert not {"grad_scale", "found_inf"} & {*vars(opt)}


def test_a_scale_that_is_set_by_hand() -> None:
    """A scale applies until it is removed, as in PyTorch's fused optimizers. None means no scale."""
    weight = ones(3)
    opt = sgd(weight)
    weight.grad = torch.ones(3)
    opt.grad_scale, opt.found_inf = None, None
    opt.step()
    assert not weight.any()
    del opt.found_inf
    opt.grad_scale = torch.tensor(2.0)
    with pytest.raises(ValueError, match="^grad_scale: "):
        opt.step(grad_scale=float("inf"))
    opt.step()
    assert (weight == -0.5).all()


@pytest.mark.parametrize("fused", [None, True, False])
def test_a_skipped_step_does_not_count(fused: bool | None) -> None:
    """GradScaler skips a step with infinite gradients: neither the optimizer nor a parameter counts it.

    With fused=False, GradScaler divides the scale out of the gradients, as for PyTorch's optimizers.
    """
    first, second = ones(2), ones(2)
    groups = [{"params": first}, {"params": second, "lr": 0.5}]
    opt = FusedOptimizer(groups, lrcore.Adam, lr=LINEAR, fused=fused)
    separate = Separate("Adam", [{"params": [first]}, {"params": [second], "lr": 0.5}])
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for t, factor in enumerate((1.0, float("inf"), 3.0, 1.0)):
        opt.zero_grad()
        loss = (factor * first).sum() + ((2 * second).sum() if t % 2 == 0 else 0.0)
        scaler.scale(loss).backward()
        if t != 1:
            separate.change(0, lr=LINEAR(t - (t > 1)))
            separate.step(grad_scale=1 / scaler.get_scale())
        scale = scaler.get_scale()
        scaler.step(opt)
        assert float(first.grad[0]) == factor * (1.0 if fused is False else scale)
        scaler.update()
        separate.assert_same(opt)
    assert opt.step_count == 3


def test_hooks_of_steps_and_state_dictionaries() -> None:
    """The hooks of the optimizer and those of all optimizers run as for PyTorch's optimizers."""
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    opt = sgd(zeros(3))
    seen: list[str] = []
    opt.register_step_pre_hook(lambda *_: seen.append("before the step"))
    opt.register_step_post_hook(lambda *_: seen.append("after the step"))
    opt.register_state_dict_pre_hook(lambda _: seen.append("before state_dict"))
    opt.register_state_dict_post_hook(lambda _, saved: saved | {"more": 7})
    opt.register_load_state_dict_pre_hook(
        lambda _, saved: {key: saved[key] for key in saved if key != "more"}
    )
    opt.register_load_state_dict_pre_hook(lambda *_: seen.append("before load_state_dict"))
    opt.register_load_state_dict_post_hook(lambda _: seen.append("after load_state_dict"))
    handles = [
        register_optimizer_step_pre_hook(lambda *_: seen.append("before every step")),
        register_optimizer_step_post_hook(lambda *_: seen.append("after every step")),
    ]
    try:
        opt.step()
    finally:
        for handle in handles:
            handle.remove()
    saved = opt.state_dict()
    assert saved["more"] == 7
    opt.load_state_dict(saved)
    assert seen == [
        *("before every step", "before the step", "after the step", "after every step"),
        *("before state_dict", "before load_state_dict", "after load_state_dict"),
    ]


def test_a_step_in_a_compiled_function() -> None:
    """A graph of `torch.compile` ends before the step, whose code is not compiled, so new numbers recompile nothing."""
    params = [ones(3), ones(3)]
    opt, other = (FusedOptimizer([each], lrcore.AdamW, lr=LINEAR) for each in params)
    opt.register_step_post_hook(lambda *_: None)

    def function(x: Any) -> Any:
        y = 2 * x
        opt.step(lambda: None)
        return y + 1

    torch.compiler.reset()
    compiled = torch.compile(function, backend="eager")
    for t in range(5):
        params[0].grad = params[1].grad = torch.ones(3) * (t + 1)
        with torch.compiler.set_stance("fail_on_recompile" if t else "default"):
            assert compiled(torch.ones(3)).tolist() == [3.0] * 3
        other.step()
        assert torch.equal(*params)
        for each in (opt, other):
            each.param_groups[0]["weight_decay"] = 0.1 * t
    whole = torch.compile(opt.step, backend="eager", fullgraph=True)
    with pytest.raises(
        torch._dynamo.exc.Unsupported, match="leave out fullgraph=True, or compile only the module"
    ):
        whole()
    assert opt.step_count == 5


def test_ranges_of_the_profiler() -> None:
    weight = zeros(3)
    opt = sgd(weight)
    weight.grad = torch.ones(3)
    with torch.profiler.profile() as profile:
        opt.step()
        opt.zero_grad()
    names = {each.name for each in profile.events()}
    assert {"Optimizer.step#FusedOptimizer.step", "Optimizer.zero_grad#FusedOptimizer.zero_grad"} <= names
