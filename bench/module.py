"""Time training steps of a PyTorch module with many tensors, and optimizer steps over a GPT with parameter groups.

    python bench/module.py                         # chain, gpt and iteration
    python bench/module.py --tables chain --layers 50 --width 128 --json bench/results/module.json
    python bench/module.py --tables gpt iteration --gpt 12 512 5000
    python bench/module.py --tables iteration --gpt 16 72 65            # 1,000,000 parameters in 196 tensors
    python bench/module.py --tables floor

chain: a whole training step of a module, with torch.optim and with lrcore.torch. The module is a chain of linear
layers, each with a weight and a bias. A training step zeroes the gradients, computes them and calls the optimizer; the
row "no optimizer" leaves out the optimizer's step. Zeroing is timed in both forms: setting the gradients to None, and
setting them to zero.

gpt: a step of AdamW alone, on arrays with the shapes of a GPT-2. Matrices have a weight decay of 0.1, and vectors have
none. lrcore steps a `Pack` in groups from `decay_groups`, PyTorch two groups of separate tensors, and optax a
dictionary of arrays with a mask. In the row "lrcore, no groups", everything decays. The gradients are the same. Before
anything is timed, each package takes three steps, and must produce the same parameters as lrcore up to float32
rounding. There is no row for a padded pack, because padding changes nothing if the width is a multiple of 16.

iteration: what a training loop does with AdamW, on the parameters of the same GPT in two groups: `zero_grad`, which
sets the gradients to None, `clip_grad_norm_` and the step. Between the first two, autograd copies the same gradients
into new tensors, as a backward pass creates them; this is not timed. Before anything is timed, the parameters must be
the same up to rounding after three iterations.

floor: a step of AdamW on tiny parameters, which is Python and the binding alone, divided by the least work by which a
step can find the gradients: reading each `grad` and the addresses of parameter and gradient in C. The module that does
this is compiled from bench/gradients_floor.cpp, which needs a C++ compiler.

The last line of these two tables is the median over the rounds of a ratio of times.

All packages use as many threads as the process may use CPUs. ``taskset -c 0 python bench/module.py`` uses one.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lrcore
from against import limit_threads
from lrcore.bench import Row, Variant, interleave, save
from lrcore.bench._timing import quartiles

try:
    import torch

    import _floor as floor
    import _gpt as gpt
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


def chain_variants(layers: int, width: int) -> list[Variant]:
    """Return the training steps to time."""
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


def measured(
    timed: Sequence[Variant], size: int, rounds: int, ratio: tuple[str, str] | None = None
) -> list[Row]:
    """Time the variants, print their times, and return them as rows.

    Print the `ratio` of two variants too, which is the median of the ratios of the samples of one round.
    """
    *_, samples = interleave(timed, rounds)
    rows = []
    for variant, each in zip(timed, samples, strict=True):
        low, middle, high = (second * 1e9 for second in quartiles(each))
        name, backend, threads = variant.name, variant.backend, variant.threads
        rows.append(Row("adam", name, backend, threads, size, 0, middle, low, high, len(each)))
        print(f"{name:24} {middle / 1e3:>9,.{1 if middle < 1e5 else 0}f} us  {rows[-1].spread:.0%}")
    if ratio is not None:
        one, other = (samples[[each.name for each in timed].index(name)] for name in ratio)
        middle = statistics.median(p / q for p, q in zip(one, other, strict=True))
        print(f"{' / '.join(ratio)}: {middle:.2f}")
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    tables = ("chain", "gpt", "iteration", "floor")
    parser.add_argument(
        "--tables", nargs="+", choices=tables, default=tables[:3], help="default: all except floor"
    )
    for name, default, meaning in (
        ("layers", 100, "layers of the chain"),
        ("width", 32, "width of the chain"),
        ("tensors", 200, "parameters of the floor"),
        ("rounds", 25, "samples of each variant"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning}; default: %(default)s")
    sizes = ("LAYERS", "WIDTH", "VOCABULARY")
    parser.add_argument(
        "--gpt",
        nargs=3,
        type=int,
        default=[6, 384, 65],
        metavar=sizes,
        help="sizes of the GPT; default: 6 384 65",
    )
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args()
    threads = lrcore.info()["threads"]
    limit_threads(threads)
    rows = []
    if "chain" in arguments.tables:
        layers, width = arguments.layers, arguments.width
        size = layers * width * (width + 1)
        print(f"{2 * layers} tensors, {size:,} parameters")
        rows += measured(chain_variants(layers, width), size, arguments.rounds)
    pack = lrcore.Pack(gpt.shapes(*arguments.gpt))
    if {"gpt", "iteration"} & {*arguments.tables}:
        print(f"GPT of {len(pack.named_arrays())} tensors, {pack.flat.size:,} parameters")
    if "gpt" in arguments.tables:
        rows += measured(gpt.variants(pack, threads), pack.flat.size, arguments.rounds)
    if "iteration" in arguments.tables:
        pair = ("FusedOptimizer, clipped", "torch fused, clipped")
        rows += measured(gpt.iterations(pack, threads), pack.flat.size, arguments.rounds, pair)
    if "floor" in arguments.tables:
        print(f"{arguments.tensors} parameters of one element; the goal is a ratio of at most {floor.GOAL}")
        with tempfile.TemporaryDirectory() as directory:
            timed = floor.variants(arguments.tensors, threads, Path(directory))
            rows += measured(timed, arguments.tensors, arguments.rounds, ("FusedOptimizer", "floor"))
    installed = [name for name in ("torch", "jax", "optax") if importlib.util.find_spec(name)]
    peers = {name: importlib.metadata.version(name) for name in installed}
    print(f"threads {threads}, " + ", ".join(f"{name} {version}" for name, version in peers.items()))
    if arguments.json is not None:
        chosen = {name: getattr(arguments, name) for name in ("layers", "width", "gpt", "tensors")}
        save(arguments.json, rows, {"peers": peers, **chosen})


if __name__ == "__main__":
    main()
