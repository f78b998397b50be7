"""Time a whole training step of a PyTorch module with many small tensors, with torch.optim and with lrcore.torch.

    python bench/module.py                         # 200 tensors with 105,600 parameters in total
    python bench/module.py --layers 50 --width 128 --json bench/results/module.json

The module is a chain of linear layers, each with a weight and a bias. A training step zeroes the gradients, computes
them and calls the optimizer; the row "no optimizer" leaves out the optimizer's step. Zeroing is timed in both forms:
setting the gradients to None, and setting them to zero.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lrcore
from lrcore.bench import Row, Variant, interleave, save
from lrcore.bench._timing import quartiles

try:
    import torch

    import lrcore.torch
except ImportError as error:
    raise SystemExit(f"bench/module.py: {error}") from None

BATCH = 64


def computation(layers: int, width: int) -> tuple[Any, Callable[[], None]]:
    """Return a module, and a function that computes its gradients."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(*[torch.nn.Linear(width, width) for _ in range(layers)])
    x = torch.randn(BATCH, width)
    return module, lambda: module(x).square().mean().backward()


def variants(layers: int, width: int) -> list[Variant]:
    """Return the variants to time."""
    makers: dict[str, Callable[[Any], Any]] = {
        "torch fused": lambda module: torch.optim.AdamW(module.parameters(), fused=True),
        "torch foreach": lambda module: torch.optim.AdamW(module.parameters(), foreach=True),
        "lrcore.torch": lambda module: lrcore.torch.FusedOptimizer(module.parameters(), lrcore.AdamW),
    }
    module, compute = computation(layers, width)

    def compute_only() -> None:
        module.zero_grad()
        compute()

    timed = [Variant("no optimizer", compute_only)]
    for name, make in makers.items():
        for none in (True, False):
            timed.append(Variant(f"{name}, {'None' if none else 'zero'}", step_of(make, layers, width, none)))
    return timed


def step_of(make: Callable[[Any], Any], layers: int, width: int, none: bool) -> Callable[[], None]:
    """Return a training step on a separate module."""
    module, compute = computation(layers, width)
    opt = make(module)

    def step() -> None:
        opt.zero_grad(set_to_none=none)
        compute()
        opt.step()

    return step


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, default in (("layers", 100), ("width", 32), ("rounds", 25)):
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args()
    timed = variants(arguments.layers, arguments.width)
    *_, samples = interleave(timed, arguments.rounds)
    size = arguments.layers * arguments.width * (arguments.width + 1)
    print(f"{2 * arguments.layers} tensors, {size:,} parameters, torch {torch.__version__}")
    rows = []
    for variant, each in zip(timed, samples, strict=True):
        low, middle, high = (second * 1e9 for second in quartiles(each))
        rows.append(Row("adam", variant.name, "", 0, size, 0, middle, low, high, len(each)))
        print(f"{variant.name:20} {middle / 1e3:>9,.0f} us  {rows[-1].spread:.0%}")
    if arguments.json is not None:
        chosen = {name: getattr(arguments, name) for name in ("layers", "width")}
        save(arguments.json, rows, {"peers": {"torch": torch.__version__}, **chosen})


if __name__ == "__main__":
    main()
