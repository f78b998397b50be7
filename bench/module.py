"""Time training steps of a GPT in PyTorch, and optimizer steps over its parameters in groups.

    python bench/module.py                         # training, gpt and iteration
    python bench/module.py --tables training --gpt 3 64 88 --json bench/results/module.json
    python bench/module.py --tables gpt iteration --gpt 12 512 5000
    python bench/module.py --tables iteration --gpt 16 72 65            # 1,000,000 parameters in 196 tensors
    python bench/module.py --tables floor

training: a whole training step of examples/gpt_with_torch.py, with AdamW of torch.optim and of lrcore.torch: forward and
backward pass of two micro-batches, clipping, the step, and setting the gradients to None. The row "no optimizer" leaves
out the step alone.

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
import functools
import importlib.metadata
import importlib.util
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lrcore
from against import limit_threads
from lrcore.bench import Row, Variant, interleave, save
from lrcore.bench._timing import quartiles

sys.path.append(str(Path(__file__).parents[1] / "examples"))

try:
    import torch

    import _floor as floor
    import _gpt as gpt
    import gpt_with_torch as program
except ImportError as error:
    raise SystemExit(f"bench/module.py: {error}") from None


class NoOptimizer:
    """What the training loop needs of an optimizer, without a step."""

    def __init__(self, module: Any) -> None:
        self.param_groups: list[dict[str, Any]] = []
        self.zero_grad = module.zero_grad

    def step(self) -> None:
        """Leave the parameters as they are."""


def training_variants(layers: int, width: int, vocabulary: int) -> tuple[list[Variant], int]:
    """Return the training steps to time, and the number of parameters."""
    sizes = program.Sizes(vocabulary, layers, width=width)
    text = torch.randint(vocabulary, (10_000,))
    batches = [program.batch(text, sizes.context) for _ in range(program.MICRO_BATCHES)]
    makers: dict[str, Callable[[Any], Any]] = {
        "torch fused": lambda module: program.make_optimizer(module, "torch"),
        "FusedOptimizer": program.make_optimizer,
        "no optimizer": NoOptimizer,
    }
    timed, size = [], 0
    for name, make in makers.items():
        module = program.GPT(sizes)
        size = sum(each.numel() for each in module.parameters())
        step = functools.partial(program.train_step, module, make(module), 0, batches)
        timed.append(Variant(f"{name}, training", step))
    return timed, size


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
    tables = ("training", "gpt", "iteration", "floor")
    parser.add_argument(
        "--tables", nargs="+", choices=tables, default=tables[:3], help="default: all except floor"
    )
    for name, default, meaning in (
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
    if "training" in arguments.tables:
        timed, size = training_variants(*arguments.gpt)
        print(f"training a GPT of {size:,} parameters")
        rows += measured(timed, size, arguments.rounds, ("FusedOptimizer, training", "torch fused, training"))
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
            floored = floor.variants(arguments.tensors, threads, Path(directory))
            rows += measured(floored, arguments.tensors, arguments.rounds, ("FusedOptimizer", "floor"))
    installed = [name for name in ("torch", "jax", "optax") if importlib.util.find_spec(name)]
    peers = {name: importlib.metadata.version(name) for name in installed}
    print(f"threads {threads}, " + ", ".join(f"{name} {version}" for name, version in peers.items()))
    if arguments.json is not None:
        chosen = {name: getattr(arguments, name) for name in ("gpt", "tensors")}
        save(arguments.json, rows, {"peers": peers, **chosen})


if __name__ == "__main__":
    main()
