"""`ema`: every rule on every backend has the bits of the definition, and those of a step without an average."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lrcore
from rules import oracle
from rules.stepping import Averaged, rate
from rules.test_groups import deal, draw_lengths, draw_own
from rules.test_rules import OF_EACH_KIND, aligned
from support import Array, assert_bits, gradients, make

LENGTHS = (0, 1, 3, 7, 8, 15, 16, 17, 31, 33, 65, 1000)
DECAYS = (0.9, 0.0, 0.999, 0.5, 1e-9, 1 - 2.0**-53)
"""The decays of successive steps. The last one is the largest number below 1 in float64, and 1 in float32."""
GUARD = np.float32(1e30)


def decay(t: int) -> float:
    """Return the decay of the step after t steps."""
    return DECAYS[t % len(DECAYS)]


def pair(rule: str, p: Array, ema: Any = decay, **arguments: Any) -> Averaged:
    """Return an optimizer that steps `p` and averages it, with what is expected of it."""
    alike: dict[str, Any] = {"lr": rate, "weight_decay": 0.1} | arguments
    plain = make(rule, p.copy(), **alike)
    return Averaged(make(rule, p, ema=ema, **alike), plain, ema if callable(ema) else lambda _: ema)


def test_bits_of_the_definition(rule: str, backend: str) -> None:
    """For any length and alignment of parameters and gradients. Nothing outside of them is written."""
    rng = np.random.default_rng(31)
    for k, n in enumerate(LENGTHS):
        memories = [aligned(n + 48, GUARD) for _ in range(2)]
        places = [slice(16 + offset, 16 + offset + n) for offset in (5 * k % 16, 3 * k % 16)]
        p, g = (memory[place] for memory, place in zip(memories, places, strict=True))
        p[:] = rng.standard_normal(n)
        followed = pair(rule, p, decay="decoupled" if k % 2 else "l2", maximize=k % 3 == 0)
        for _ in DECAYS:
            g[:] = new = gradients(rng, n)
            followed.step(g, f"{rule}, {backend}, n = {n},", grad_scale=0.3)
            assert_bits(g, new, "grads")
        for memory, place in zip(memories, places, strict=True):
            assert (np.delete(memory, np.r_[place]) == GUARD).all()


@pytest.mark.usefixtures("backend")
def test_each_operation_is_rounded() -> None:
    """A fused operation, another form of the average or 1 - ema in float32 would give other bits."""
    e, p = np.random.default_rng(32).standard_normal((2, 1000)).astype(np.float32)
    opt = lrcore.SGD(p, 0.0, ema=0.999)
    opt.state["ema"][:] = e
    opt.step(np.zeros_like(p))
    found = opt.state["ema"]
    assert_bits(found, oracle.averaged(e, p, 0.999))
    d, single = np.float32(1 - 0.999), np.float32(1) - np.float32(0.999)
    fused = (e + np.float64(d) * (p - e)).astype(np.float32)
    for other in (fused, e + single * (p - e), (1 - d) * e + d * p, np.float32(0.999) * e + d * p):
        assert (other != found).any()


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("ema", DECAYS)
def test_special_values(ema: float) -> None:
    """Every combination of an average and a parameter has the bits of the arithmetic: nothing is clamped or flushed."""
    least, most = float(np.finfo(np.float32).smallest_subnormal), float(np.finfo(np.float32).max)
    positive = [0.0, least, 2.0**-126, 1.0, 1 + 2.0**-23, most, np.inf, np.nan]
    values = np.array([*positive, *(-each for each in positive)], np.float32)
    e, p = np.repeat(values, values.size), np.tile(values, values.size)
    opt = lrcore.SGD(p.copy(), 0.0, ema=ema)
    opt.state["ema"][:] = e
    opt.step(np.zeros_like(p))
    assert_bits(opt.params, p)
    assert_bits(opt.state["ema"], oracle.averaged(e, p, ema))


def test_subnormal_averages_are_kept(rule: str, backend: str) -> None:
    """Also in rules that flush their states, and if PyTorch has told this thread to flush subnormal numbers."""
    e, p = (np.random.default_rng(33).standard_normal((2, 37)) * 1e-40).astype(np.float32)
    followed = pair(rule, p, ema=0.75, lr=0.0, weight_decay=0.0)
    followed.opt.state["ema"][:] = followed.average = e
    zeros = np.zeros_like(p)
    for _ in range(2):
        followed.step(zeros, f"{rule}, {backend},")
    assert np.count_nonzero(followed.average) == 37
    assert (np.abs(followed.average) < 2.0**-126).all()
    torch = pytest.importorskip("torch")
    try:
        torch.set_flush_denormal(True)
        followed.opt.step(zeros)
    finally:
        torch.set_flush_denormal(False)
    assert_bits(followed.opt.state["ema"], oracle.averaged(followed.average, p, 0.75))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", OF_EACH_KIND)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_bits_do_not_depend_on_threads(name: str, backend: str, count: int) -> None:
    """The sizes are around the smallest ones that the pool divides among two, three and seven threads."""
    rng = np.random.default_rng(34)
    lrcore.set_num_threads(count)
    for n in (65_535, 65_536, 98_305, 7 * 32_768 + 5):
        followed = pair(name, rng.standard_normal(n).astype(np.float32))
        for _ in range(2):
            followed.step(gradients(rng, n), f"{name}, {backend}, {count} threads, n = {n},")


@pytest.mark.parametrize(("segments", "groups"), [(2, 1), (60, 6)])
def test_groups(rule: str, backend: str, segments: int, groups: int) -> None:
    """Groups are frozen and thawed. What is always frozen has signaling NaNs, which arithmetic would change and spread."""
    rng = np.random.default_rng([segments, *rule.encode()])
    ranges = deal(rng, draw_lengths(rng, segments, 150), groups)
    given = [{"params": each, **draw_own(rng, rule), "frozen": False} for each in ranges[1:]]
    given[-1]["frozen"] = True
    p = rng.standard_normal(max(end for each in ranges for _, end in each) + 3).astype(np.float32)[3:]
    followed = pair(rule, p, groups=given)
    frozen = np.zeros(p.size, bool)
    for begin, end in ranges[-1]:
        frozen[begin:end] = True
    words = (0x7F80_0001 + np.flatnonzero(frozen)).astype(np.uint32)
    for array in (p, followed.opt.state["ema"], followed.plain.params, followed.average):
        array.view(np.uint32)[frozen] = words
    for t in range(6):
        for opt in (followed.opt, followed.plain):
            opt.groups[t % groups].frozen = not opt.groups[t % groups].frozen
        g = gradients(rng, p.size)
        g[frozen] = np.nan
        followed.step(g, f"{rule}, {backend},", grad_scale=-0.5)
    for array in (p, followed.opt.state["ema"]):
        np.testing.assert_array_equal(array.view(np.uint32)[frozen], words)
