"""Square roots: those by products in the backend avx512_pair, and special values in each element of a lane."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import lrcore
from support import BACKENDS, Array, assert_bits

LEAST = 2.0**-78
"""The smallest number whose root is computed by products."""
SPECIAL = [
    0.0, -0.0, 2.0**-149, 2.0**-127, 2.0**-126, np.nextafter(np.float32(LEAST), np.float32(0)), LEAST,
    np.nextafter(np.float32(LEAST), np.float32(1)), np.finfo(np.float32).max, np.inf, np.nan, -1.0, -np.inf,
]  # fmt: skip
LANE = 32


@pytest.mark.slow
@pytest.mark.skipif("avx512_pair" not in BACKENDS, reason="this CPU has no AVX-512")
def test_roots_by_products_are_correctly_rounded(tmp_path: Path) -> None:
    """Of every float, and from every approximation that the definition of the instruction VRSQRT14PS allows."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    source, program = Path(__file__).with_name("roots_avx512.cpp"), tmp_path / "roots"
    flags = ("-std=c++20", "-O3", "-mavx512f", "-ffp-contract=off")
    subprocess.run([compiler, *flags, source, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    roots, approximations, wrong = (int(each.split()[0]) for each in done.stdout.splitlines()[-1].split(", "))
    assert (done.returncode, wrong) == (0, 0), done.stdout
    assert roots > 3 * 2**32
    assert approximations > 2.4e10


def stepped(backend: str, sums: Array) -> tuple[Array, Array]:
    """Return parameters and states after a step of Adagrad, whose denominators are the roots of these sums."""
    opt = lrcore.Adagrad(np.ones_like(sums), lr=0.5, eps=0.0)
    opt.state["sum"][:] = sums
    with lrcore.use_backend(backend):
        opt.step(np.full_like(sums, 2.0**-90))  # its square is 0
    return opt.params, opt.state["sum"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", SPECIAL)
def test_special_values_in_each_element(backend: str, value: float) -> None:
    """In a whole lane of 32 elements, and in a remainder, among ordinary numbers."""
    count = 160
    for element in range(count if value == LEAST else LANE):
        sums = np.linspace(1, 4, count, dtype=np.float32)
        sums[element] = sums[128 + element % LANE] = value
        for size in (count, count - 1):
            for found, expected in zip(
                stepped(backend, sums[:size]), stepped("portable", sums[:size]), strict=True
            ):
                assert_bits(found, expected)
