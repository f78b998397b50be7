"""Sums of device arrays: the bits of the host, on imitated devices and on real ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

import lrcore
from gpu.devices import LIBRARIES, CuPy, Torch, imitated, library
from sums.oracle import LEAF, dot
from support import gradients

LENGTHS = [0, 1, 31, 32, 33, 200, LEAF - 1, LEAF, LEAF + 1, 9 * LEAF + 1001]


def check(xp: CuPy | Torch) -> None:
    rng = np.random.default_rng(0)
    for n in LENGTHS:
        x, y = gradients(rng, n), gradients(rng, n)
        on_device, other = xp.array(x), xp.array(y)
        assert lrcore.dot(on_device, other) == dot(x, y), n
        assert lrcore.norm(on_device) == math.sqrt(dot(x, x)), n
        if n:
            x[n // 2] = np.inf
            xp.write(on_device, x)
            assert lrcore.norm(on_device) == math.inf
            x[n // 3] = np.nan
            xp.write(on_device, x)
            assert math.isnan(lrcore.norm(on_device))


@pytest.mark.parametrize("name", LIBRARIES)
def test_bits_of_the_host(name: str) -> None:
    with library(name) as xp:
        check(xp)


def test_norms_of_a_pack_on_a_device() -> None:
    with imitated() as xp:
        pack = lrcore.Pack({"a": 3, "b": {"w": (LEAF, 3), "empty": 0}}, xp=xp.cupy)
        values = gradients(np.random.default_rng(1), pack.flat.size)
        xp.write(pack.flat, values)
        assert pack.norms() == {
            "a": math.sqrt(dot(values[:3], values[:3])),
            "b.w": math.sqrt(dot(values[3:], values[3:])),
            "b.empty": 0.0,
        }


def test_refusals_on_a_device() -> None:
    with imitated() as xp:
        x = xp.array(np.ones(5, np.float32))
        before = xp.fake.leaked()
        with pytest.raises(RuntimeError, match="^y: expected an array on cuda:0 like x, got one on cpu$"):
            lrcore.dot(x, np.ones(5, np.float32))
        with pytest.raises(
            RuntimeError, match="^the stream is being captured, but a sum waits for its result$"
        ):
            xp.capture(lambda: lrcore.norm(x))
        xp.fake.fail["leaf_sums"] = 209
        with pytest.raises(RuntimeError, match="launching the sum"):
            lrcore.norm(x)
        assert xp.fake.leaked() == before
