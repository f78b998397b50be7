"""Microbenchmark of the step on one CUDA device: rule x variant x size, against the copy, the bound and the peers.

    python bench/gpu.py                                      # six rules at 10^5 to 10^9 elements
    python bench/gpu.py --rules adam --sizes 100000 --out .  # some of it; --help lists the options
    python bench/gpu.py --quick                              # what fits into a minute

Columns
    us        microseconds a call, the median over the rounds: many calls between two events of one stream
    GB/s      necessary bytes over that time: a step reads p, g and each state and writes p and each state
    of copy   that over the same of a device-to-device copy, which reads and writes every byte
    of bound  that over the same of a kernel on the step's streams with next to no arithmetic
    spread    half the distance between the quartiles over the median
    host us   microseconds until a call returned, before the device's queue is full

Variants
    copy, stream bound            what the memory takes; "graph" here and below: replays of a captured CUDA graph
    lrcore                        opt.step(grads) from Python, under a cosine rate
    lrcore bound                  opt.step() on gradients that were bound at construction
    lrcore graph                  one replay a step, the rate advancing inside of the graph
    lrcore n+1, n+3               a few elements more
    lrcore shifted                params[1:] and grads[1:] of larger buffers
    lrcore shifted apart          params[1:] and grads[2:], which no 16-byte access suits
    lrcore on CuPy                CuPy arrays in place of tensors
    torch fused, torch foreach    torch.optim on one tensor
    CuPy ElementwiseKernel        Adam as a careful user writes it
    optax on JAX                  jitted, with donated buffers, in a process of its own and by the host's clock

Each round times every variant of a rule and size once, so that a slow phase hits all alike. The calls of a sample rotate
among as many sets of arrays as it takes to exceed four times the L2 cache. What a budget leaves no time for is dropped
from the end, Adam being the first, and named. Needs PyTorch; exits with status 2 where no GPU works.
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
"""It starts a process and compiles; with less of the budget left it is dropped."""


class Session:
    """One run: the options, the clock, and what has been found so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.started = time.monotonic()
        self.date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.rows: list[report.Row] = []
        self.notes: dict[str, list[str]] = {"skipped": [], "dropped": []}
        self.costs: dict[int, float] = {}  # seconds of the longest part at each size
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
        """Seconds of the budget."""
        return float(self.options.budget - (time.monotonic() - self.started))

    def note(self, kind: str, what: str, why: str) -> None:
        """Print and keep one line about what is not measured."""
        first, *_ = why.strip().splitlines() or [""]
        self.notes[kind].append(f"{what}: {first}")
        print(f"{kind} {self.notes[kind][-1]}", flush=True)

    def tried(self, what: str, call: Callable[[], Result]) -> Result | None:
        """Return what `call` gives; where it fails, say so and give None."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001  # a peer fails as it likes, and the rest goes on
            self.note("skipped", what, f"{type(error).__name__}: {error}")
            return None

    def load_cupy(self) -> Any:
        """Return CuPy, working on the current stream of torch."""
        import cupy

        handle = torch.cuda.current_stream().cuda_stream

        class Current:
            def __cuda_stream__(self) -> tuple[int, int]:
                return 0, handle

        cupy.cuda.Stream.from_external(Current()).use()
        self.versions["cupy"] = cupy.__version__
        return cupy

    def run(self) -> int:
        """Measure all parts in order; give the exit status."""
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
            print(f"dropped for the budget of {self.options.budget:.0f} s: {'; '.join(dropped)}")
        print(f"wrote {self.path}", flush=True)
        return 0 if any(row.variant == "lrcore" for row in self.rows) else 1

    def part(self, rule: str, size: int) -> None:
        """Measure a rule at a size, or drop it where there is too little time."""
        what = f"{rule} at {size:,}"
        if self.left < self.costs.get(size, max(self.costs.values(), default=0.0)):
            self.note("dropped", what, f"{max(self.left, 0):.0f} s were left")
            return
        begin = time.monotonic()
        self.add(self.tried(what, lambda: self.measure(rule, size)) or [])
        self.tried(f"freeing memory after {what}", self.free)
        self.costs[size] = max(self.costs.get(size, 0.0), time.monotonic() - begin)

    def free(self) -> None:
        """Return back memory. Nothing is collected in between: neither in a sample nor in a capture."""
        gc.collect()
        torch.cuda.empty_cache()
        if self.cupy is not None:
            self.cupy.get_default_memory_pool().free_all_blocks()

    def measure(self, rule: str, size: int) -> list[report.Row]:
        """Return the rows of one rule and size; say what cannot be measured."""
        sets = report.sets_for(size, self.gpu.L2_cache_size)
        need = report.least_bytes(size + variants.PADDING, sets, len(lrcore.rules()[rule].states))
        free, _ = torch.cuda.mem_get_info()
        if need > free:
            raise MemoryError(f"needs at least {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")

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
        """Print and store rows."""
        self.rows += fresh
        for row in fresh:
            print(report.line(self.rows, row, self.width), flush=True)
        self.store()

    def jax(self) -> None:
        """Measure optax on JAX, in a process of its own."""
        what, seconds = "optax on JAX", min(self.left, 300.0)
        if seconds < SECONDS_FOR_JAX:
            self.note("dropped", what, f"{max(seconds, 0):.0f} s were left")
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
            output, why = expired.stdout or b"", f"not done within {seconds:.0f} s"
        else:
            errors = ended.stderr.decode(errors="replace").strip().splitlines() or [""]
            output = ended.stdout
            why = f"status {ended.returncode}: {errors[-1]}" if ended.returncode else ""
        for text in output.decode(errors="replace").splitlines():
            self.tried(f"{what}, a line of its output", functools.partial(self.take, what, text))
        if why:
            self.note("skipped", what, why)

    def take(self, what: str, text: str) -> None:
        """Take one line of the JAX process."""
        found = json.loads(text)
        self.versions |= found.get("versions", {})
        if "error" in found:
            self.note("skipped", f"{what} at {found['size']:,}" if "size" in found else what, found["error"])
        if "samples" in found:
            need = lrcore.rules()["adam"].bytes_per_element
            self.add([report.Row("adam", what, found["size"], need, elements=found.pop("size"), **found)])

    def store(self) -> None:
        """Write what there is."""
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
    """Say why nothing can be measured here, if so."""
    if torch is None:
        return "PyTorch is not installed; memory, events and graphs come from it"
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device that works"
    info = lrcore.info()
    if not info["cuda"]:
        return "this lrcore was built without CUDA: LRCORE_CUDA=ON pip install ."
    if "cuda" not in lrcore.backends():
        return f"lrcore finds no CUDA device that works: {info.get('cuda_error') or 'none is there'}"
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
    parser.add_argument("--rounds", type=int, default=15, help="times that each variant is sampled")
    parser.add_argument(
        "--budget", type=float, default=math.inf, metavar="SECONDS", help="drop what does not fit"
    )
    parser.add_argument("--quick", action="store_true", help="7 rounds and, unless given, a budget of 60 s")
    parser.add_argument("--out", type=Path, help="a .json file or a directory (default: bench/results)")
    options = parser.parse_args(arguments)
    if options.all_rules:
        options.rules = known
    if options.quick:
        options.rounds, options.budget = 7, min(options.budget, 60.0)
    if min(options.sizes) < 1 or options.rounds < FEWEST_ROUNDS:
        parser.error(f"sizes are at least 1, rounds at least {FEWEST_ROUNDS}")
    return options


def main() -> int:
    """Run the benchmark."""
    options = parse()
    why = obstacle()
    if why is not None:
        print(f"bench/gpu.py: {why}", file=sys.stderr)
        return 2
    gc.disable()
    # torch warns of the step that makes its state, before the capture.
    warnings.filterwarnings("ignore", message=".*capturable=True.*")
    with torch.cuda.stream(torch.cuda.Stream()):
        return Session(options).run()


if __name__ == "__main__":
    sys.exit(main())
