"""The step of a FusedOptimizer over tiny parameters, and the floor below it, which `module.py` times."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import lrcore.torch
from _gpt import two_groups
from against import LR, wake
from lrcore.bench import Variant

SOURCE = Path(__file__).with_name("gradients_floor.cpp")
GOAL = 1.3
"""The largest time of a step that is accepted, divided by the time of the floor."""


def built(directory: Path) -> ModuleType:
    """Compile the module `gradients_floor` in a directory, and return it.

    Raises
    ------
    SystemExit
        If there is no compiler, or if the compiler fails.
    """
    compiler = shlex.split(os.environ.get("CXX", "")) or [shutil.which("c++") or "g++"]
    library = directory / f"gradients_floor{sysconfig.get_config_var('EXT_SUFFIX')}"
    includes = [sysconfig.get_paths()["include"], *_dlpack_includes()]
    options = [
        "-std=c++20",
        "-O2",
        "-Wall",
        "-Wextra",
        "-shared",
        "-fPIC",
        *(f"-I{each}" for each in includes),
    ]
    try:
        ended = subprocess.run(
            [*compiler, *options, SOURCE, "-o", library], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise SystemExit(f"bench/module.py: the floor needs a C++ compiler: {error}") from None
    if ended.returncode:
        raise SystemExit(f"{ended.stderr}\nbench/module.py: {SOURCE.name} could not be compiled")
    loader = importlib.machinery.ExtensionFileLoader("gradients_floor", str(library))
    spec = importlib.util.spec_from_loader("gradients_floor", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _dlpack_includes() -> list[str]:
    """Return the directories in which cmake/dlpack.cmake looks for dlpack.h."""
    specs = [importlib.util.find_spec(name) for name in ("tvm_ffi", "torch")]
    return [
        f"{place}/include" for spec in specs if spec for place in (spec.submodule_search_locations or [])[:1]
    ]


def parameters(count: int) -> list[Any]:
    """Return parameters of one element each, of two dimensions and of one in turn, with gradients."""
    found = [torch.nn.Parameter(torch.zeros((1,) * (2 - i % 2))) for i in range(count)]
    for each in found:
        each.grad = torch.ones_like(each)
    return found


def variants(count: int, threads: int, directory: Path) -> list[Variant]:
    """Return the floor and the steps to time, each on its own parameters.

    Raises
    ------
    RuntimeError
        If the floor does not find the addresses of the parameters and gradients.
    """
    floor = built(directory)
    floor.use(torch.nn.Parameter)
    bare, fused, torchs = (parameters(count) for _ in range(3))
    addresses = sum(each.data_ptr() + each.grad.data_ptr() for each in bare)
    if (found := floor.visit(bare)) != addresses % 2**64:
        raise RuntimeError(f"floor: expected addresses with the sum {addresses % 2**64}, got {found}")
    step = lrcore.torch.FusedOptimizer(two_groups(fused), lrcore.AdamW, lr=LR).step
    theirs = torch.optim.AdamW(two_groups(torchs), lr=LR, fused=True).step
    timed = [
        Variant("floor", functools.partial(floor.visit, bare), threads=1),
        Variant("FusedOptimizer", step, lrcore.info()["backend"], threads),
        Variant("torch fused", theirs, threads=threads),
    ]
    for each in timed:
        each.prepare = functools.partial(wake, each.call)
    return timed
