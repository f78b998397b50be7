"""Search the sources of both languages for modules and features that a module must not use.

The tests are skipped if the sources are missing, as with an installed wheel.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

import lrcore

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "csrc"
PYTHON = ROOT / "python" / "lrcore"
PAGE = ROOT / "docs" / "architecture.md"

pytestmark = pytest.mark.skipif(not SOURCES.is_dir(), reason="csrc/ is missing")


def code(path: Path) -> str:
    """Return the text of a file without its comments."""
    return re.sub(r"//[^\n]*", "", path.read_text())


def files(*patterns: str) -> list[Path]:
    """Return the sources that match the patterns, and check that every pattern matches at least one."""
    found = [sorted(SOURCES.glob(pattern)) for pattern in patterns]
    assert all(found), patterns
    return [path for each in found for path in each]


@pytest.fixture
def layout(script: Callable[[str], Any]) -> Any:
    """Return the script that reads imports and includes."""
    return script("layout")


@pytest.mark.parametrize("language", ["python", "csrc"])
def test_modules_use_only_what_is_below_them(layout: Any, language: str) -> None:
    """No two files use each other, not even for types, so that each can be read without the other.

    Each module is on a floor, and uses no module on a higher floor. If a new module is on no floor, the error
    says where to add it.
    """
    files = getattr(layout, f"{language}_files")()
    modules = layout.modules(files)
    assert layout.circle(files) == layout.circle(modules) == []
    assert layout.upward(modules, getattr(layout, f"{language.upper()}_FLOORS")) == []


def test_sources_include_what_the_page_allows(layout: Any) -> None:
    """docs/architecture.md has a row for each module of csrc, with the other files that it may include."""
    rows = re.findall(
        r"^\| `([^`]+)` \|((?: `[^`]+`,?)*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    allowed = {layout.module(name): re.findall(r"`(.+?)`", files) for name, files in rows}
    graph = layout.csrc_files()
    assert sorted(layout.module(name) for name, _ in rows) == sorted(layout.modules(graph))
    for file, targets in graph.items():
        own = layout.module(file)
        for each in targets:
            assert layout.module(each) == own or any(fnmatch(each, one) for one in allowed[own]), (file, each)


def test_every_python_module_has_a_line() -> None:
    """docs/architecture.md lists each file of the package, with a folder in place of its `__init__.py`."""
    listing = PAGE.read_text(encoding="utf-8").partition("python/lrcore/\n")[2].partition("\n\n")[0]
    listed, folder = [], ""
    for indent, name in re.findall(r"^( +)(\S+)  +\S", listing, re.MULTILINE):
        folder = "" if len(indent) == 2 else folder
        listed.append(folder + name)
        folder = name if name.endswith("/") else folder
    files = [
        path.relative_to(PYTHON).as_posix()
        for path in PYTHON.rglob("*.py*")
        if path.suffix in (".py", ".pyi")
    ]
    found = {
        re.sub(r"^optimizers/[a-z]\w*\.py$", "optimizers/<name>.py", file.replace("/__init__.py", "/"))
        for file in files
    }
    assert sorted(listed) == sorted(found)


def test_what_breaks_the_order_is_found(layout: Any) -> None:
    graph = {"top": {"middle", "bottom"}, "middle": {"bottom"}, "bottom": set()}
    floors = (("top",), ("middle",), ("bottom",))
    assert layout.circle(graph) == layout.upward(graph, floors) == []
    assert layout.reduced(graph) == {"top": {"middle"}, "middle": {"bottom"}, "bottom": set()}
    back = graph | {"bottom": {"middle"}}
    assert {*layout.circle(back)} == {"middle", "bottom"}
    assert layout.upward(back, floors) == [("bottom", "middle")]
    with pytest.raises(ValueError, match=r"^newest: .* scripts/layout.py$"):
        layout.upward(graph | {"newest": {"bottom"}}, floors)
    with pytest.raises(ValueError, match=r"^gone: .* scripts/layout.py$"):
        layout.upward(graph, (*floors, ("gone",)))


INTRINSICS = r"\b_mm\d*_\w+|\b__m(128|256|512)|immintrin|\b__builtin_ia32_(?!stmxcsr|ldmxcsr|pause)"
STANDARD_LIBRARY = r"#include <(?!stdint\.h|math\.h)[a-z_]+>|\bstd::"
CUDA = r"__(global|device|host|shared)__|cuda|blockIdx|threadIdx"
RULE_NAMES = "|".join(sorted({name.split("_")[0] for name in lrcore.rules()}))

RULES: list[tuple[str, list[str], str]] = [
    ("rules use no intrinsics", ["rules/*.h"], INTRINSICS),
    ("rules use only scalar maths of the standard library", ["rules/*.h"], STANDARD_LIBRARY),
    ("rules do not use CUDA", ["rules/*.h"], CUDA),
    ("only lanes use intrinsics", ["*.cpp", "*.h", "bind/*", "cpu/*.cpp", "cpu/[!l]*.h", "cpu/bounds.h"], INTRINSICS),
    ("lanes and sweeps do not use the standard library", ["cpu/lane_*.h", "cpu/sweep.h", "cpu/bounds.h", "cost.h"], r"#include <(?!immintrin)|\bstd::"),
    ("lanes and sweeps do not name rules", ["cpu/lane_*.h", "cpu/sweep.h", "cpu/bounds.h", "update.h", "cuda/*"], rf"(?i)\b({RULE_NAMES})\b"),
    ("GPU code does not use the standard library", ["update.h", "cuda/job.h", "cuda/thread.h", "cuda/kernels.h", "cuda/launch.cu"], STANDARD_LIBRARY),
    ("only files that nvcc compiles use keywords and functions of CUDA", ["*.h", "*.cpp", "cpu/*", "bind/*", "cuda/*.h", "cuda/emulated.cpp"], r"__(global|device|host|shared|launch_bounds|grid_constant)__|cuda_runtime|cuda[A-Z](?!rror)\w+\(|blockIdx|threadIdx"),
    ("files for a single instruction set contain no logic", ["cpu/avx2.cpp", "cpu/avx512.cpp", "cpu/avx512_pair.cpp", "cpu/portable.cpp"], r"\b(if|for|while|switch|return|inline)\b|std::"),
    ("dispatch does no maths and does not use Python", ["dispatch.*"], r"pybind11|Python\.h|<cmath>|\bsqrt\b|\bpow\b"),
    ("the binding does no maths and names no instruction set", ["bind/*"], r"\b(sqrt|pow|exp|cos)\b|avx|AVX"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "patterns", "forbidden"), RULES, ids=[rule for rule, *_ in RULES])
def test_what_a_part_may_not_touch(rule: str, patterns: list[str], forbidden: str) -> None:
    breaches = [
        f"{path.relative_to(SOURCES)}: {match.group()}"
        for path in files(*patterns)
        for match in re.finditer(forbidden, code(path))
    ]
    assert not breaches, rule


def test_rules_hold_no_loops_over_buffers() -> None:
    """The only loop is the product over step numbers in NAdam."""
    for path in files("rules/*.h"):
        if path.name in ("vocab.h", "registry.h"):
            continue
        text = code(path)
        assert "float*" not in text.replace(" *", "*"), path
        assert not re.search(r"\bfor\b", text), path
        assert bool(re.search(r"\bwhile\b", text)) == (path.name == "nadam.h"), path


def test_thin_python() -> None:
    """No Python code in the package does arithmetic on parameters."""
    for path in PYTHON.rglob("*.py"):
        if path.name != "_network.py":  # stands in for a user's program
            text = path.read_text()
            assert not re.search(r"np\.(sqrt|add|subtract|multiply|divide|maximum|sign)\(", text), path
