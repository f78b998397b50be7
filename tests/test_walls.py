"""The walls between the rooms of csrc/, as a search over the sources.

Skipped by name where the sources are not there, as beside an installed wheel.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lrcore

SOURCES = Path(__file__).resolve().parent.parent / "csrc"
PYTHON = Path(__file__).resolve().parent.parent / "python" / "lrcore"

pytestmark = pytest.mark.skipif(not SOURCES.is_dir(), reason="the C++ sources are not here")


def code(path: Path) -> str:
    """Give a file without its comments."""
    return re.sub(r"//[^\n]*", "", path.read_text())


def files(*patterns: str) -> list[Path]:
    """Give the sources that match; at least one for every pattern."""
    found = [sorted(SOURCES.glob(pattern)) for pattern in patterns]
    assert all(found), patterns
    return [path for each in found for path in each]


INTRINSICS = r"\b_mm\d*_\w+|\b__m(128|256|512)|immintrin|\b__builtin_ia32_(?!stmxcsr|ldmxcsr|pause)"
STANDARD_LIBRARY = r"#include <(?!stdint\.h|math\.h)[a-z_]+>|\bstd::"
BUFFERS = r"\[[^\]]*\bi\b[^\]]*\]|\bfloat\s*\*|\bfor\b|\bwhile\b"
CUDA = r"__(global|device|host|shared)__|cuda|blockIdx|threadIdx"
RULE_NAMES = "|".join(sorted({name.split("_")[0] for name in lrcore.rules()}))

WALLS: list[tuple[str, list[str], str]] = [
    ("rules touch no intrinsics", ["rules/*.h"], INTRINSICS),
    ("rules use nothing of the standard library but scalar maths", ["rules/*.h"], STANDARD_LIBRARY),
    ("rules know no CUDA", ["rules/*.h"], CUDA),
    ("intrinsics stand in the lanes", ["*.cpp", "*.h", "bind/*", "cpu/*.cpp", "cpu/[!l]*.h"], INTRINSICS),
    ("lanes and sweeps use no standard library", ["cpu/lane_*.h", "cpu/sweep.h", "cpu/bounds.h"], r"#include <(?!immintrin)|\bstd::"),
    ("lanes and sweeps know no rule", ["cpu/lane_*.h", "cpu/sweep.h", "cpu/bounds.h", "update.h", "cuda/*"], rf"(?i)\b({RULE_NAMES})\b"),
    ("what a GPU runs uses no standard library", ["update.h", "cuda/job.h", "cuda/thread.h", "cuda/kernels.h", "cuda/cuda.cu"], STANDARD_LIBRARY),
    ("words of CUDA stand in the files that nvcc sees alone", ["*.h", "*.cpp", "cpu/*", "bind/*", "cuda/*.h", "cuda/emulated.cpp"], r"__(global|device|host|shared|launch_bounds|grid_constant)__|cuda_runtime|cuda[A-Z](?!rror)\w+\(|blockIdx|threadIdx"),
    ("files of one instruction set hold no logic", ["cpu/avx2.cpp", "cpu/avx512.cpp", "cpu/portable.cpp"], r"\b(if|for|while|switch|return|inline)\b|std::"),
    ("dispatch does no maths and knows no Python", ["dispatch.*"], r"pybind11|Python\.h|<cmath>|\bsqrt\b|\bpow\b"),
    ("the binding does no maths and knows no instruction set", ["bind/*"], r"\b(sqrt|pow|exp|cos)\b|avx|AVX"),
]  # fmt: skip


@pytest.mark.parametrize(("wall", "patterns", "forbidden"), WALLS, ids=[wall for wall, *_ in WALLS])
def test_wall(wall: str, patterns: list[str], forbidden: str) -> None:
    breaches = [
        f"{path.relative_to(SOURCES)}: {match.group()}"
        for path in files(*patterns)
        for match in re.finditer(forbidden, code(path))
    ]
    assert not breaches, wall


def test_rules_hold_no_loops_over_buffers() -> None:
    """Only NAdam's step constants loop, over step numbers."""
    for path in files("rules/*.h"):
        if path.name in ("vocab.h", "registry.h"):
            continue
        text = code(path)
        assert "float*" not in text.replace(" *", "*"), path
        assert not re.search(r"\bfor\b", text), path
        assert bool(re.search(r"\bwhile\b", text)) == (path.name == "nadam.h"), path


def test_every_rule_file_is_in_the_registry() -> None:
    registry = (SOURCES / "rules" / "registry.h").read_text()
    shared = {"registry.h", "entry.h", "vocab.h", "root.h", "moments.h"}
    for path in files("rules/*.h"):
        if path.name not in shared:
            assert f'#include "{path.name}"' in registry


def test_thin_python() -> None:
    """Nothing in the package computes on parameters, or imports an array library other than NumPy at import time."""
    for path in PYTHON.rglob("*.py"):
        text = path.read_text()
        assert not re.search(
            r"^(import|from) (torch|cupy|jax|sklearn|scipy|matplotlib|optuna|safetensors|tqdm)\b",
            text,
            re.MULTILINE,
        ), path
        if path.name != "_network.py":  # a user's program
            assert not re.search(r"np\.(sqrt|add|subtract|multiply|divide|maximum|sign)\(", text), path
