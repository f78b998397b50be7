"""Parameter groups on a device: one launch over all segments, with the bits of the same optimizer on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpu.devices import CuPy, Torch, assert_equal, imitated, problem
from lrcore import schedules
from lrcore._lrcore_core import step_together
from rules.test_groups import deal, draw_lengths, draw_own
from support import Array, make

N = 5003


def groups_of(rule: str, n: int, segments: int, groups: int = 5) -> list[dict[str, Any]]:
    """Return groups of random segments, whose boundaries are unaligned, with random settings."""
    rng = np.random.default_rng(segments)
    lengths = np.array(draw_lengths(rng, segments, 300))
    lengths = np.maximum(1, lengths * n // lengths.sum())[: n - segments]
    _, *ranges = deal(rng, lengths.tolist(), groups)
    return [{"params": each, **draw_own(rng, rule)} for each in ranges if each]


def pair(
    xp: CuPy | Torch, rule: str, groups: list[dict[str, Any]], decay: str | None = None, **more: Any
) -> tuple[Any, Any, list[Array]]:
    """Return an optimizer on a device, the same one on the CPU, and gradients."""
    p, grads = problem(N, 6)
    rate = schedules.Cosine(0.1, steps=20)
    alike: dict[str, Any] = {"groups": groups, "weight_decay": 0.1} | ({"decay": decay} if decay else {})
    found = make(rule, xp.array(p), rate, grads=xp.array(grads[0]), **alike, **more)
    return found, make(rule, p.copy(), rate, **alike), grads


@pytest.mark.parametrize("segments", [1, 7, 300])
def test_bits_of_the_cpu(xp: CuPy | Torch, rule: str, segments: int) -> None:
    """Groups are frozen and thawed, and numbers change, between steps."""
    opt, expected, grads = pair(xp, rule, groups_of(rule, N, segments))
    for t, g in enumerate(grads):
        for each in (opt, expected):
            last = each.groups[-1]
            last.frozen = t % 3 == 1
            each.groups[0].hyper["weight_decay"] = 0.0 if t % 2 else 0.3
            each.groups[0].maximize = t > 3
        opt.step(xp.array(g), grad_scale=0.5)
        expected.step(g, grad_scale=0.5)
        assert_equal(xp, opt, expected, f"{rule} after step {t + 1}")


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_alignment_of_the_gradients(xp: CuPy | Torch, shift: int) -> None:
    """Each step uses the widest accesses that its own gradients permit."""
    opt, expected, grads = pair(xp, "adam", groups_of("adam", N, 40))
    for g in grads[:2]:
        for offset in (0, shift, 0):
            opt.step(shifted(xp, g, offset))
            expected.step(g)
    assert_equal(xp, opt, expected)


def shifted(xp: CuPy | Torch, g: Array, offset: int) -> Any:
    """Return gradients on a device that begin `offset` elements after an aligned address."""
    return xp.array(np.concatenate([np.zeros(offset, np.float32), g]))[offset:]


def test_a_step_is_one_launch() -> None:
    """It queues the rows of constants and the launch, and nothing else: the constructor has written the segments."""
    with imitated() as xp:
        opt, _, _ = pair(xp, "adam", groups_of("adam", N, 40))
        xp.fake.clear()
        opt.step()
        assert [call.name for call in xp.fake.calls()] == ["is_capturing", "write", "launch"]
        opt.groups[1].frozen = not opt.groups[1].frozen
        opt.step()  # copies the new segments
        assert len(xp.fake.calls("launch")) == 2


def test_more_rows_than_fit_into_one_launch(xp: CuPy | Torch) -> None:
    groups = [{"params": (i, i + 2), "lr_scale": 1 / (1 + i)} for i in range(0, 400, 2)]
    opt, expected, grads = pair(xp, "adam", groups)
    for g in grads:
        opt.step(xp.array(g))
        expected.step(g)
    assert_equal(xp, opt, expected)


def test_everything_frozen(xp: CuPy | Torch) -> None:
    opt, expected, grads = pair(xp, "adam", [{"params": (3, 50), "frozen": True}])
    for each in (opt, expected):
        each.groups[0].frozen = True
    opt.step(xp.array(grads[0]))
    expected.step(grads[0])
    assert_equal(xp, opt, expected)
    assert [group.step_count for group in opt.groups] == [0, 0]


@pytest.mark.parametrize(
    ("rule", "decay"), [("adam", "independent"), ("nadam", "decoupled"), ("sgd_momentum", "l2")]
)
def test_captured_groups(xp: CuPy | Torch, rule: str, decay: str) -> None:
    """Replays have the bits of eager steps. A state with other step counts can be loaded, also after the capture."""
    groups = [
        {name: value for name, value in each.items() if name != "frozen"} for each in groups_of(rule, N, 60)
    ]
    groups[1]["frozen"] = True
    opt, expected, grads = pair(xp, rule, groups, decay, capturable=True, max_steps=20)
    replay = xp.capture(opt.step)
    for _ in range(4):
        replay()
        expected.step(grads[0])
    assert_equal(xp, opt, expected, rule)

    expected.groups[3].frozen = True
    expected.step(grads[0])
    expected.groups[3].frozen = False
    opt.load_state_dict(expected.state_dict())
    xp.write(opt.params, expected.params)
    for _ in range(4):
        replay()
        expected.step(grads[0])
    assert_equal(xp, opt, expected, rule)
    assert [group.step_count for group in opt.groups] == [9, 9, 0, 8, 9, 9]
    opt.step_count = expected.step_count = 0
    replay()
    expected.step(grads[0])
    assert_equal(xp, opt, expected, "after the count was set")


def test_rows_that_only_frozen_elements_have(xp: CuPy | Torch) -> None:
    """A loaded state may have more step counts than before, although the segments are the same."""
    groups = [{"params": (16, 32), "lr_scale": 0.5}, {"params": (32, N), "frozen": True}]
    opt, expected, grads = pair(xp, "adam", groups)
    for each, g in ((opt, xp.array(grads[0])), (expected, grads[0])):
        each.step(g)
        dictionary = each.state_dict() | {"step_count": 50}
        dictionary["groups"][2]["step_counts"] = [[32 + i, 33 + i, i] for i in range(40)]
        each.load_state_dict(dictionary)
        each.step(g)
    assert_equal(xp, opt, expected)


def test_constants_that_fit_in_no_memory(xp: CuPy | Torch) -> None:
    p = xp.zeros(4096)
    groups = [{"params": (i, i + 1), "lr_scale": 0.5} for i in range(4096)]
    with pytest.raises(MemoryError):
        make("sgd", p, groups=groups, grads=xp.zeros(4096), capturable=True, max_steps=2**52)


def test_captured_groups_stay_frozen(xp: CuPy | Torch) -> None:
    opt, expected, _ = pair(xp, "adam", [{"params": (3, 50)}], capturable=True, max_steps=20)
    expected.groups[1].frozen = True
    before = opt.state_dict()["groups"]
    with pytest.raises(ValueError, match="^groups: a capturable optimizer keeps the frozen groups"):
        opt.load_state_dict(expected.state_dict())
    assert opt.state_dict()["groups"] == before
    for name, value in {"frozen": True, "lr": 0.1, "lr_scale": 2, "maximize": True}.items():
        with pytest.raises(AttributeError, match=rf"^opt\.groups\[1\]\.{name}: fixed at construction"):
            setattr(opt.groups[1], name, value)


def test_optimizers_that_step_together(xp: CuPy | Torch) -> None:
    """Each continues from its own step counts, which may differ among its elements."""
    p, (g, *_) = problem(N, 1)
    expected = [make("adam", p.copy(), 0.1, grads=g) for _ in range(2)]
    expected[0].step_count = 5
    state = expected[1].state_dict()
    ranges, counts = [[0, N]], [[3, 70, 2], [100, 101, 0]]
    group: dict[str, object] = {
        "ranges": ranges,
        "hyper": {},
        "maximize": None,
        "lr_scale": 1.0,
        "frozen": False,
        "step_counts": counts,
    }
    expected[1].load_state_dict(state | {"step_count": 4, "groups": [group]})
    found = [make("adam", xp.array(p), 0.1, grads=xp.array(g)) for _ in range(2)]
    for each, other in zip(found, expected, strict=True):
        each.load_state_dict(other.state_dict())
    step_together(found)
    for each, other in zip(found, expected, strict=True):
        other.step()
        assert_equal(xp, each, other)
