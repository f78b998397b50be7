"""`lrcore demo`: train, report and draw."""

from __future__ import annotations

import argparse
from pathlib import Path

import lrcore
from lrcore._checks import integer
from lrcore._command_line import check_output, stderr_is_terminal, whole_number
from lrcore._extras import require_installed
from lrcore._runtime import cpu_backends
from lrcore.demo._network import load
from lrcore.demo._report import plot, plot_range_test, report
from lrcore.demo._training import (
    DEVICES,
    RATES,
    Result,
    attempt,
    find_lr,
    initial_rate,
    optimizer_name,
    steps_per_epoch,
    task_of,
)

GUESSING = 0.2
"""An accuracy below this, twice that of guessing one of ten digits, means that the training failed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that `run` reads."""
    parser.add_argument(
        "--optimizer",
        default="Adam",
        metavar="NAME",
        help=f"{', '.join(RATES)} (case-insensitive; default: Adam)",
    )
    parser.add_argument(
        "--lr",
        type=float,
        metavar="RATE",
        help="learning rate of the first step, falling to 0 along a cosine (default: one that suits the optimizer)",
    )
    parser.add_argument(
        "--find-lr",
        action="store_true",
        help="find the learning rate with a range test, and draw the test",
    )
    parser.add_argument(
        "--schedule",
        help='learning-rate schedule, such as "OneCycle(lr, steps)"; lr stands for the learning rate and steps for the '
        "number of steps; lrcore plot --list lists the schedules",
    )
    parser.add_argument(
        "--epochs",
        type=whole_number,
        metavar="N",
        default=30,
        help="passes over the images (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=whole_number,
        metavar="N",
        default=64,
        help="images per step (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=whole_number,
        metavar="N",
        default=0,
        help="seed of all random numbers (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="cpu",
        help="cuda trains on a GPU, with CuPy (default: %(default)s)",
    )
    parser.add_argument(
        "--backend", metavar="NAME", help=f"{', '.join(cpu_backends())} (default: the one in use)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("lrcore-demo.png"),
        metavar="FILE",
        help="picture of the training run, a .png file (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Train, print a report and a diagnosis, and draw the picture, even if the training ends early."""
    out: Path = arguments.out
    check_output("--out", out)
    if out.suffix != ".png":
        raise ValueError(f"--out: expected a name that ends in .png, got {out}")
    picture = out.with_name(f"{out.stem}-find-lr{out.suffix}")
    if arguments.find_lr:
        check_output("--out", picture)
    require_installed("demo", "sklearn", "tqdm", "matplotlib")
    integer("--epochs", arguments.epochs)
    name = optimizer_name(arguments.optimizer)
    options = {each: getattr(arguments, each) for each in ("seed", "device", "backend")}
    lr: float = initial_rate(name) if arguments.lr is None else arguments.lr
    if arguments.schedule is not None:  # reject a wrong schedule before anything slow
        _parse(arguments, lr)
    if arguments.find_lr:
        if arguments.lr is not None:
            raise ValueError("--find-lr: cannot be combined with --lr; leave one of them out")
        found = find_lr(name, batch_size=arguments.batch_size, progress=stderr_is_terminal(), **options)
        lr = float(f"{found.suggest():.3g}")
        plot_range_test(found, picture)
        print(f"{'found rate':<18}{lr}")
        print(f"{'range test':<18}{picture}")
    rate: lrcore.schedules.Rate = lr if arguments.schedule is None else _parse(arguments, lr)
    with task_of(name, **options) as task:
        result, ended_by = attempt(
            task, rate, arguments.epochs, arguments.batch_size, progress=stderr_is_terminal()
        )
    if len(result.losses):
        print(report(result))
        print(_judgement(result))
        plot(result, out)
        print(f"{'picture':<18}{out}")
    if ended_by is not None:
        raise ended_by
    if result.accuracy < GUESSING:
        raise RuntimeError(
            f"the training failed: an accuracy of {result.accuracy:.1%} is hardly better than guessing"
        )


def _judgement(result: Result) -> str:
    """Return the verdict of `lrcore.tune.diagnose` on a training run, with reason and advice unless it is "sound"."""
    try:
        diagnosis = lrcore.tune.diagnose(result.losses, result.rates)
    except ValueError as error:  # too few steps
        return f"{'diagnosis':<18}none; {error}"
    lines = [
        diagnosis.verdict,
        *([] if diagnosis.verdict == "sound" else [diagnosis.reason, diagnosis.advice]),
    ]
    return "\n".join(
        f"{name:<18}{line}" for name, line in zip(("diagnosis", "reason", "advice"), lines, strict=False)
    )


def _parse(arguments: argparse.Namespace, lr: float) -> lrcore.schedules.Schedule:
    """Return the schedule that the arguments describe."""
    integer("--batch-size", arguments.batch_size)
    integer("--seed", arguments.seed, least=0)
    steps = arguments.epochs * steps_per_epoch(load(arguments.seed), arguments.batch_size)
    schedule = lrcore.schedules.parse(arguments.schedule, lr=lr, steps=steps)
    named = schedule != lrcore.schedules.parse(arguments.schedule, lr=lr / 2, steps=steps)
    if not named and (arguments.find_lr or arguments.lr is not None):
        raise ValueError("--schedule: does not use lr, so --lr or --find-lr would have no effect")
    return schedule
