"""Time the step on one CUDA device by rule, variant and size, and compare it with a copy, a bound and other packages.

    python bench/gpu.py                                      # six rules at 10^5 to 10^9 elements
    python bench/gpu.py --rules adam --sizes 100000 --out .  # a subset; --help lists the options
    python bench/gpu.py --quick                              # everything that fits into a minute

Columns
    us        microseconds per call, timed over many calls between two events on one stream; median over the rounds
    GB/s      necessary bytes divided by that time: a step reads p, g and each state, and writes p and each state
    of copy   GB/s relative to a device-to-device copy, which reads and writes every byte
    of bound  GB/s relative to a kernel with the memory accesses of the step and almost no arithmetic
    spread    half the distance between the quartiles, divided by the median
    host us   microseconds until a call returns, while the device's queue is not full

Variants
    copy, stream bound            the time of the memory accesses; "graph" variants replay a captured CUDA graph
    lrcore                        opt.step(grads) from Python, with a cosine schedule
    lrcore bound                  opt.step() on gradients that were bound at construction
    lrcore graph                  one replay per step; the rate advances inside the graph
    lrcore clipped                opt.step(grads) with max_norm; averaged: with ema; zeroing: with zero_grads=True
    lrcore n+1, n+3               one or three more elements
    lrcore shifted                params[1:] and grads[1:] of larger buffers
    lrcore shifted apart          params[1:] and grads[2:], which rule out 16-byte accesses to both
    lrcore on CuPy                CuPy arrays instead of tensors
    torch fused, torch foreach    torch.optim on one tensor; torch fused clipped: after clip_grad_norm_
    CuPy ElementwiseKernel        Adam as a careful user would write it
    optax on JAX                  jitted, with donated buffers, in a separate process and timed by the host's clock

Each round times every variant of a rule and size once, so a slow phase affects all variants alike. The calls of a
sample rotate through enough sets of arrays to exceed four times the L2 cache. Adam is measured first; cases that do
not fit in the rest of the time budget are dropped and listed. Requires PyTorch; exits with status 2 if no GPU works.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import gc
import itertools
import json
import math
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import _report as report
import _variants as variants
import lrcore

try:
    import torch
except ImportError:
    torch = None

Result = TypeVar("Result")

HERE = Path(__file__).resolve().parent
DEVICE = "cuda"
SIZES = (10**5, 10**6, 10**7, 10**8, 10**9)
RULES = ("adam", "sgd", "sgd_momentum", "rmsprop", "adam_amsgrad", "lion")
FEWEST_ROUNDS = 3
SECONDS_FOR_JAX = 30
"""Seconds of the budget that must remain to measure JAX, which starts a process and compiles."""


class Session:
    """One run: the options, the clock, and the results so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.started = time.monotonic()
        self.date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.rows: list[report.Row] = []
        self.notes: dict[str, list[str]] = {"skipped": [], "dropped": []}
        self.costs: dict[int, float] = {}  # size -> seconds of the longest part
        self.info = lrcore.info()
        self.versions = {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "lrcore": self.info["version"],
            "torch": str(torch.__version__),
            "cuda of torch": torch.version.cuda,
        }
        self.gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
        self.smi = {"start": report.smi(str(getattr(self.gpu, "uuid", "")))}
        self.width = max(len(rule) for rule in options.rules)
        self.path = report.out_path(options.out, HERE / "results", self.gpu.name, self.date[:10])
        self.cupy = self.tried("CuPy", self.load_cupy)

    @property
    def left(self) -> float:
        """Remaining seconds of the budget."""
        return float(self.options.budget - (time.monotonic() - self.started))

    def note(self, kind: str, what: str, why: str) -> None:
        """Print and store one line about a case that is not measured."""
        first, *_ = why.strip().splitlines() or [""]
        self.notes[kind].append(f"{what}: {first}")
        print(f"{kind} {self.notes[kind][-1]}", flush=True)

    def tried(self, what: str, call: Callable[[], Result]) -> Result | None:
        """Return the result of `call`; if it raises, note the exception and return None."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001  # a peer may raise anything; the run continues
            self.note("skipped", what, f"{type(error).__name__}: {error}")
            return None

    def load_cupy(self) -> Any:
        """Return CuPy, set to use torch's current stream."""
        import cupy

        handle = torch.cuda.current_stream().cuda_stream

        class Current:
            def __cuda_stream__(self) -> tuple[int, int]:
                return 0, handle

        cupy.cuda.Stream.from_external(Current()).use()
        self.versions["cupy"] = cupy.__version__
        return cupy

    def run(self) -> int:
        """Measure all parts in order, and return the exit status."""
        driver = self.smi["start"].get("driver_version", "unknown")
        print(
            f"lrcore {self.info['version']} on {self.gpu.name}, driver {driver}, "
            f"L2 cache {self.gpu.L2_cache_size / 1e6:.1f} MB, torch {torch.__version__}, "
            f"{self.options.rounds} rounds"
        )
        print(report.heading(self.width), flush=True)
        rules = sorted(self.options.rules, key=lambda rule: rule != "adam")
        for rule, size in itertools.product(rules, self.options.sizes):
            self.part(rule, size)
        self.smi["end"] = report.smi(str(getattr(self.gpu, "uuid", "")))
        if "adam" in rules:
            self.jax()
        self.store()
        print(*report.goals(self.rows), sep="\n")
        dropped = [each.partition(":")[0] for each in self.notes["dropped"]]
        if dropped:
            print(f"dropped because of the budget of {self.options.budget:.0f} s: {'; '.join(dropped)}")
        print(f"wrote {self.path}", flush=True)
        return 0 if any(row.variant == "lrcore" for row in self.rows) else 1

    def part(self, rule: str, size: int) -> None:
        """Measure a rule at a size, or drop it if too little time remains."""
        what = f"{rule} at {size:,}"
        if self.left < self.costs.get(size, max(self.costs.values(), default=0.0)):
            self.note("dropped", what, f"only {max(self.left, 0):.0f} s remained")
            return
        begin = time.monotonic()
        self.add(self.tried(what, lambda: self.measure(rule, size)) or [])
        self.tried(f"freeing memory after {what}", self.free)
        self.costs[size] = max(self.costs.get(size, 0.0), time.monotonic() - begin)

    def free(self) -> None:
        """Free memory. The garbage collector runs only here, so never during a sample or a capture."""
        gc.collect()
        torch.cuda.empty_cache()
        if self.cupy is not None:
            self.cupy.get_default_memory_pool().free_all_blocks()

    def measure(self, rule: str, size: int) -> list[report.Row]:
        """Return the rows of one rule and size, and note the variants that cannot be measured."""
        sets = report.sets_for(size, self.gpu.L2_cache_size)
        need = report.least_bytes(size + variants.PADDING, sets, len(lrcore.rules()[rule].states))
        free, _ = torch.cuda.mem_get_info()
        if need > free:
            raise MemoryError(f"needs at least {need / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free")

        arrays = [
            tuple(torch.randn(size + variants.PADDING, device=DEVICE) for _ in ("params", "grads"))
            for _ in range(sets)
        ]
        timed: list[variants.Variant] = []
        for recipe in variants.recipes(rule, self.cupy):
            if size > recipe.largest:
                continue
            what = f"{rule} at {size:,}, {recipe.name}"
            made = self.tried(what, functools.partial(variants.Variant, recipe, size, arrays))
            if made is None:
                self.tried(f"freeing memory after {what}", self.free)
            else:
                timed.append(made)
        for done in range(self.options.rounds):
            if done >= FEWEST_ROUNDS and self.left < 0:
                break
            for each in list(timed):
                if not self.tried(f"{rule} at {size:,}, {each.name}", each.sample):
                    timed.remove(each)
        return [each.row(rule, size, sets) for each in timed]

    def add(self, fresh: Sequence[report.Row]) -> None:
        """Print and store new rows."""
        self.rows += fresh
        for row in fresh:
            print(report.line(self.rows, row, self.width), flush=True)
        self.store()

    def jax(self) -> None:
        """Measure optax on JAX, in a separate process."""
        what, seconds = "optax on JAX", min(self.left, 300.0)
        if seconds < SECONDS_FOR_JAX:
            self.note("dropped", what, f"only {max(seconds, 0):.0f} s remained")
            return
        cases = [f"{size}:{report.sets_for(size, self.gpu.L2_cache_size)}" for size in self.options.sizes]
        command = [sys.executable, str(HERE / "_jax_adam.py"), "--rounds", str(self.options.rounds)]
        try:
            ended = subprocess.run(
                [*command, "--cases", *cases],
                env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
                timeout=seconds,
                capture_output=True,
                check=False,
            )
        except subprocess.TimeoutExpired as expired:
            output, why = expired.stdout or b"", f"not finished within {seconds:.0f} s"
        else:
            errors = ended.stderr.decode(errors="replace").strip().splitlines() or [""]
            output = ended.stdout
            why = f"status {ended.returncode}: {errors[-1]}" if ended.returncode else ""
        for text in output.decode(errors="replace").splitlines():
            self.tried(f"{what}, a line of its output", functools.partial(self.take, what, text))
        if why:
            self.note("skipped", what, why)

    def take(self, what: str, text: str) -> None:
        """Store the results of one output line of the JAX process."""
        found = json.loads(text)
        self.versions |= found.get("versions", {})
        if "error" in found:
            self.note("skipped", f"{what} at {found['size']:,}" if "size" in found else what, found["error"])
        if "samples" in found:
            need = lrcore.rules()["adam"].bytes_per_element
            self.add([report.Row("adam", what, found["size"], need, elements=found.pop("size"), **found)])

    def store(self) -> None:
        """Write the results so far."""
        options = {name: value for name, value in vars(self.options).items() if value != math.inf}
        machine = {
            "gpu": self.gpu.name,
            "compute_capability": f"{self.gpu.major}.{self.gpu.minor}",
            "multiprocessors": self.gpu.multi_processor_count,
            "memory_bytes": self.gpu.total_memory,
            "l2_bytes": self.gpu.L2_cache_size,
            "nvidia_smi": self.smi,
            "cpu": self.info["cpu"],
            "system": platform.platform(),
        }
        content = {
            "benchmark": "bench/gpu.py",
            "date": self.date,
            "commit": report.commit(),
            "seconds": round(time.monotonic() - self.started, 1),
            "options": options,
            "machine": machine,
            "versions": self.versions,
            "lrcore": self.info,
            "rows": [report.as_dict(self.rows, row) for row in self.rows],
            "goals": [vars(goal) for goal in report.goals(self.rows)],
            **self.notes,
        }
        report.write(self.path, content)


def obstacle() -> str | None:
    """Return why this machine or build cannot run the benchmark, or None if it can."""
    if torch is None:
        return "PyTorch is not installed; the benchmark needs its memory, events and graphs"
    if not torch.cuda.is_available():
        return "PyTorch finds no working CUDA device"
    info = lrcore.info()
    if not info["cuda"]:
        return "lrcore was built without CUDA; run LRCORE_CUDA=ON pip install ."
    if "cuda" not in lrcore.backends():
        return f"lrcore finds no working CUDA device: {info.get('cuda_error') or 'no device is present'}"
    return None


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    known = list(lrcore.rules())
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=known, metavar="RULE")
    parser.add_argument("--all-rules", action="store_true", help="every rule of lrcore.rules()")
    parser.add_argument(
        "--sizes", nargs="+", type=lambda text: int(float(text)), default=list(SIZES), metavar="N"
    )
    parser.add_argument(
        "--rounds", type=int, default=15, help="samples of each variant (default: %(default)s)"
    )
    parser.add_argument(
        "--budget", type=float, default=math.inf, metavar="SECONDS", help="drop cases beyond this time"
    )
    parser.add_argument("--quick", action="store_true", help="7 rounds and a budget of at most 60 s")
    parser.add_argument("--out", type=Path, help="a .json file or a directory (default: bench/results)")
    options = parser.parse_args(arguments)
    if options.all_rules:
        options.rules = known
    if options.quick:
        options.rounds, options.budget = 7, min(options.budget, 60.0)
    if min(options.sizes) < 1 or options.rounds < FEWEST_ROUNDS:
        parser.error(f"expected --sizes >= 1 and --rounds >= {FEWEST_ROUNDS}")
    return options


def main() -> int:
    """Run the benchmark."""
    options = parse()
    why = obstacle()
    if why is not None:
        print(f"bench/gpu.py: {why}", file=sys.stderr)
        return 2
    gc.disable()
    # torch warns about the step before the capture; that step creates the optimizer's state.
    warnings.filterwarnings("ignore", message=".*capturable=True.*")
    with torch.cuda.stream(torch.cuda.Stream()):
        return Session(options).run()


if __name__ == "__main__":
    sys.exit(main())
