"""CUDA graphs: replays of one captured step equal eager steps to the last bit, while the rate changes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.devices import CuPy, Imitated, Torch, assert_equal
from support import Array, assert_bits, gradients, make

N = 1003


def warm_cosine(t: int) -> float:
    """Return a rate that rises for 100 steps and falls along a cosine to step 800."""
    return 0.01 * t / 100 if t < 100 else lrcore.schedules.Cosine(0.01, steps=700)(t - 100)


def start() -> tuple[Array, Array]:
    """Return parameters and gradients."""
    rng = np.random.default_rng(14)
    return rng.standard_normal(N).astype(np.float32), gradients(rng, N)


def captured(
    xp: CuPy | Torch, rule: str = "adam", lr: Any = warm_cosine, max_steps: int = 1000, **more: Any
) -> Any:
    """Return a capturable optimizer with its gradients."""
    p, g = start()
    return make(rule, xp.array(p), lr, grads=xp.array(g), capturable=True, max_steps=max_steps, **more)


def eager(rule: str = "adam", lr: Any = warm_cosine, **more: Any) -> Any:
    """Return the same optimizer on the CPU, which steps eagerly."""
    p, g = start()
    return make(rule, p, lr, grads=g, **more)


def test_a_thousand_replays(xp: CuPy | Torch, rule: str) -> None:
    """The bits equal those of a thousand eager steps. The host does nothing except launch the replays."""
    opt, reference = captured(xp, rule, weight_decay=0.01), eager(rule, weight_decay=0.01)
    replay = xp.capture(opt.step)
    assert opt.step_count == 0
    if isinstance(xp, Imitated):
        xp.fake.clear()
    for _ in range(1000):
        replay()
        reference.step()
    if isinstance(xp, Imitated):
        assert xp.fake.calls() == []
    assert_equal(xp, opt, reference, rule)


def test_eager_steps_and_replays_share_the_count(xp: CuPy | Torch) -> None:
    """Graphs continue after eager steps of the same optimizer, and read the gradients at each replay."""
    opt, reference = captured(xp), eager()
    for _ in range(3):
        opt.step()
        reference.step()
    replay = xp.capture(opt.step)
    for k in range(5):
        new = gradients(np.random.default_rng(k), N)
        xp.write(opt.grads, new)
        reference.grads[...] = new
        xp.numpy(opt.grads)
        replay()
        reference.step()
    assert_equal(xp, opt, reference)
    opt.step_count = reference.step_count = 500
    replay()
    reference.step()
    assert_equal(xp, opt, reference, "after the count was set")


def test_several_steps_in_one_graph(xp: CuPy | Torch) -> None:
    """Each step has its own gradient scale."""
    opt, reference = captured(xp, maximize=True), eager(maximize=True)

    def thrice(opt: Any) -> None:
        for scale in (0.25, 0.5, 1.0):
            opt.step(grad_scale=scale)

    thrice(opt)
    replay = xp.capture(lambda: thrice(opt))
    thrice(reference)
    for _ in range(4):
        replay()
        thrice(reference)
    assert_equal(xp, opt, reference)


def test_past_the_table_its_last_constants_hold(xp: CuPy | Torch) -> None:
    opt, reference = captured(xp, max_steps=5), eager()
    replay = xp.capture(opt.step)
    for t in range(8):
        replay()
        reference.step_count = min(t, 4)
        reference.step()
    assert opt.step_count == 8
    assert opt.lr == warm_cosine(4)
    assert_bits(xp.numpy(opt.params), reference.params)


def test_no_parameters(xp: CuPy | Torch) -> None:
    empty = np.zeros(0, np.float32)
    opt = lrcore.Adam(xp.array(empty), grads=xp.array(empty), capturable=True, max_steps=3)
    xp.capture(opt.step)()
    assert opt.step_count == 1


@pytest.mark.parametrize("captured_first", [True, False])
def test_loading_fills_the_table_anew(xp: CuPy | Torch, captured_first: bool) -> None:
    """Graphs that were captured before the load also use the new table and the new count."""
    source = eager(lr=lrcore.schedules.Cosine(0.5, steps=30), weight_decay=0.3, betas=(0.5, 0.6))
    for _ in range(7):
        source.step()
    opt = captured(xp, max_steps=30, weight_decay=0.1)
    replay = xp.capture(opt.step) if captured_first else None
    opt.load_state_dict(source.state_dict())
    xp.write(opt.params, source.params)
    xp.numpy(opt.params)
    replay = replay or xp.capture(opt.step)
    for _ in range(5):
        replay()
        source.step()
    assert_equal(xp, opt, source)


def test_loading_switches_the_decay_of_a_captured_graph(xp: CuPy | Torch) -> None:
    """A graph reads whether decay is coupled from the constants of the step."""
    opt = captured(xp, max_steps=30)
    replay = xp.capture(opt.step)
    for decay in (0.1, 0.0, 0.3):
        source = eager(weight_decay=decay)
        opt.load_state_dict(source.state_dict())
        xp.write(opt.params, source.params)
        for _ in range(3):
            replay()
            source.step()
        assert_equal(xp, opt, source)


def test_what_is_fixed(xp: CuPy | Torch) -> None:
    opt = captured(xp)
    reason = "fixed at construction: this optimizer is capturable"
    with pytest.raises(AttributeError, match=f"^lr: {reason}"):
        opt.lr = 0.5
    with pytest.raises(AttributeError, match=f"^hyper: {reason}"):
        opt.hyper["eps"] = 0.5
    with pytest.raises(TypeError, match="^grads: a capturable optimizer steps with the gradients that were"):
        opt.step(opt.grads)
    with pytest.raises(ValueError, match="^grads: a capturable optimizer needs gradients bound at"):
        lrcore.Adam(opt.params, capturable=True, max_steps=3)
    with pytest.raises(ValueError, match="^lr: expected a number >= 0.* from the schedule at t = 7"):
        captured(xp, lr=lambda t: 1.0 if t < 7 else -1.0)


def test_other_optimizers_cannot_be_captured(xp: CuPy | Torch) -> None:
    """`lrcore.functional` cannot be captured either: a graph would repeat the constants of one step."""
    p, g = start()
    params, grads = xp.array(p), xp.array(g)
    opt, other = lrcore.SGD(params, grads=grads), captured(xp)

    def step() -> None:
        other.step()
        with pytest.raises(RuntimeError, match="captured.*capturable=True"):
            opt.step()
        with pytest.raises(RuntimeError, match="captured.*capturable=True"):
            lrcore.functional.sgd(params, grads, step=1, lr=0.1)

    xp.capture(step)
    assert opt.step_count == 0
    assert_bits(xp.numpy(params), p)


def test_copies_have_tables_of_their_own(xp: CuPy | Torch) -> None:
    opt, reference = captured(xp), eager()
    opt.step()
    reference.step()
    other, kept = copy.copy(opt), copy.copy(reference)
    reference.step()
    xp.capture(other.step)()
    assert_equal(xp, other, reference)
    assert opt.step_count == 1
    for name, state in opt.state.items():
        assert_bits(xp.numpy(state), kept.state[name])
