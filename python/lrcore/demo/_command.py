"""`lrcore demo`: train, report and draw."""

from __future__ import annotations

import argparse
from pathlib import Path

import lrcore
from lrcore._checks import integer
from lrcore._extras import require_installed
from lrcore._runtime import cpu_backends
from lrcore.demo._network import load
from lrcore.demo._report import plot, plot_range_test, report
from lrcore.demo._training import (
    DEVICES,
    RATES,
    find_lr,
    initial_rate,
    optimizer_name,
    steps_per_epoch,
    train,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `run` reads."""
    parser.add_argument(
        "--optimizer", default="Adam", help=f"{', '.join(RATES)}; in any case (default: Adam)"
    )
    parser.add_argument(
        "--lr",
        type=float,
        help="rate of the first step, falling to 0 (default: one that suits the optimizer)",
    )
    parser.add_argument(
        "--find-lr", action="store_true", help="find that rate with a learning-rate range test, and draw it"
    )
    parser.add_argument(
        "--schedule",
        help="in terms of lrcore.schedules, in which lr and steps stand for the above rate and the number of steps: "
        '"OneCycle(lr, steps)"',
    )
    parser.add_argument("--epochs", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="images a step (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--device", choices=DEVICES, default="cpu", help="cuda: on a GPU, with CuPy (default: %(default)s)"
    )
    parser.add_argument("--backend", help=f"{', '.join(cpu_backends())} (default: the one in use)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("lrcore-demo.png"),
        help="where the picture goes (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Train, print the report, and draw the picture."""
    out: Path = arguments.out
    folder = out.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"--out: there is no directory {folder}")
    if out.suffix != ".png" or out.is_dir():
        raise ValueError(f"--out: expected the name of a file that ends in .png, got {out}")
    require_installed("demo", "sklearn", "tqdm", "matplotlib")
    integer("epochs", arguments.epochs)
    name = optimizer_name(arguments.optimizer)
    options = {each: getattr(arguments, each) for each in ("batch_size", "seed", "device", "backend")}
    lr: float = initial_rate(name) if arguments.lr is None else arguments.lr
    if arguments.schedule is not None:  # refused before anything takes time
        _parse(arguments, lr)
    if arguments.find_lr:
        if arguments.lr is not None:
            raise ValueError("--find-lr: finds what --lr gives; leave one of them out")
        found = find_lr(name, progress=True, **options)
        lr = float(f"{found.suggest():.3g}")
        picture = out.with_name(f"{out.stem}-find-lr{out.suffix}")
        plot_range_test(found, picture)
        print(f"{'found rate':<18}{lr}")
        print(f"{'range test':<18}{picture}")
    rate: lrcore.schedules.Rate = lr if arguments.schedule is None else _parse(arguments, lr)
    result = train(name, rate, epochs=arguments.epochs, progress=True, **options)
    print(report(result))
    plot(result, out)
    print(f"{'picture':<18}{out}")


def _parse(arguments: argparse.Namespace, lr: float) -> lrcore.schedules.Schedule:
    """Return the schedule of the command line."""
    integer("batch_size", arguments.batch_size)
    integer("seed", arguments.seed, least=0)
    steps = arguments.epochs * steps_per_epoch(load(arguments.seed), arguments.batch_size)
    schedule = lrcore.schedules.parse(arguments.schedule, lr=lr, steps=steps)
    named = schedule != lrcore.schedules.parse(arguments.schedule, lr=lr / 2, steps=steps)
    if not named and (arguments.find_lr or arguments.lr is not None):
        raise ValueError("--schedule: does not name lr, and --lr or --find-lr would have no effect")
    return schedule
