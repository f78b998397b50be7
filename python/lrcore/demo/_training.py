"""Train the network on the digits with any optimizer of lrcore, and find a learning rate for it."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

import lrcore
from lrcore._checks import integer, one_of
from lrcore._extras import optional_dependency, progress_bar
from lrcore._names import explain_keywords, nearest
from lrcore.demo._network import Digits, accuracy, batches, initialize, load, loss_and_gradient
from lrcore.plot._figures import label_of, rates_of

RATES = {
    "Adadelta": 10.0,
    "Adagrad": 0.05,
    "Adam": 0.01,
    "AdamW": 0.01,
    "Adamax": 0.02,
    "Lion": 0.002,
    "NAdam": 0.01,
    "RAdam": 0.02,
    "RMSprop": 0.005,
    "SGD": 1.0,
}
"""Initial learning rates of the demo. An optimizer that is not listed starts at the default of its class."""


def initial_rate(name: str) -> float:
    """Return the learning rate at which an optimizer starts if the caller passes none."""
    default: float = inspect.signature(getattr(lrcore.optimizers, name)).parameters["lr"].default
    return RATES.get(name, default)


Device: TypeAlias = Literal["cpu", "cuda"]

DEVICES: tuple[Device, ...] = get_args(Device)

Groups: TypeAlias = Sequence[Mapping[str, Any]] | None
"""The argument `groups` of the optimizers."""


@explain_keywords
@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """The result of a training run.

    Attributes
    ----------
    optimizer, backend : str
        Names of the optimizer and of the backend.
    schedule : str
        The learning-rate schedule, as code. If groups have different rates, there is a line for each distinct rate, after
        the groups that have it.
    threads : int
        Number of threads that lrcore could use on the CPU.
    parameters : int
        Number of trained parameters.
    steps_per_epoch : int
        Number of steps in one pass over the training images.
    accuracy : float
        Fraction of the test images that were classified correctly after training.
    losses : array of float64, (steps,)
        Loss of each step's batch in nats before the step.
    rates : array of float64, (steps,) or (steps, groups)
        Learning rate of each step. If groups were passed, column i has the rates of ``opt.groups[i]``, or NaN if the
        group takes no steps, because it is frozen or has no elements.
    step_seconds, optimizer_seconds : array of float64, (steps,)
        Duration of each step, including the forward and backward passes, and the optimizer's part of it. On a GPU,
        these times end when the device has finished its work.
    """

    optimizer: str
    backend: str
    schedule: str
    threads: int
    parameters: int
    steps_per_epoch: int
    accuracy: float
    losses: NDArray[np.float64]
    rates: NDArray[np.float64]
    step_seconds: NDArray[np.float64]
    optimizer_seconds: NDArray[np.float64]


def optimizer_name(name: str) -> str:
    """Return the name of an optimizer's class; case does not matter."""
    names = {each.lower(): each for each in lrcore.optimizers.__all__ if each != "Optimizer"}
    if name.lower() not in names:
        meant = nearest(name, names.values())
        hint = f"; did you mean {meant}?" if meant else ""
        raise ValueError(f"optimizer: expected one of {', '.join(names.values())}, got {name!r}{hint}")
    return names[name.lower()]


def _array_module(device: Device) -> tuple[ModuleType, Callable[[], None]]:
    """Return the array module for a device, and a function that waits until the work on its arrays is done."""
    if device == "cpu":
        return np, lambda: None
    try:
        with optional_dependency("cuda"):
            import cupy
    except ImportError as error:
        if "cuda" in lrcore.backends():
            raise
        raise RuntimeError(f"device: no GPU can be used here: {lrcore.info()['cuda_error']}") from error
    try:
        ones = cupy.ones((2, 2), dtype=cupy.float32)
        float((ones @ ones).sum())
    except Exception as error:  # driver, compiler, libraries and allocator raise different exceptions
        raise RuntimeError(f"device: CuPy cannot use a GPU here: {error}") from error
    return cupy, cupy.cuda.get_current_stream().synchronize


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A training task: the data, the network's parameters and gradients, and an optimizer for them."""

    xp: ModuleType
    device: Device
    wait: Callable[[], None]
    data: Digits
    rng: np.random.Generator
    params: lrcore.Pack
    grads: lrcore.Pack
    opt: lrcore.optimizers.Optimizer

    def loss_and_gradient(self, batch: NDArray[np.int64]) -> float:
        """Compute the gradients on a batch, and return its loss."""
        rows = self.xp.asarray(batch)
        return loss_and_gradient(
            self.params, self.grads, self.data.train_x[rows], self.data.train_y[rows], self.xp
        )


@contextmanager
def task_of(
    optimizer: str,
    *,
    hidden: int = 128,
    seed: int,
    device: Device,
    backend: str | None,
    groups: Groups = None,
) -> Iterator[Task]:
    """Check the arguments, and yield the task that they describe, with its backend in use."""
    name = optimizer_name(optimizer)
    hidden, seed = integer("hidden", hidden), integer("seed", seed, least=0)
    one_of(*DEVICES)("device", device)
    if device == "cuda" and backend is not None:
        raise ValueError(f"backend: device arrays always use cuda, got {backend!r}; leave it out")
    xp, wait = _array_module(device)

    data = load(seed)
    rng = np.random.default_rng(seed)
    pixels, classes = data.train_x.shape[1], int(data.train_y.max()) + 1
    data = data.to(xp)
    params = initialize(pixels, hidden, classes, rng, xp)
    grads = params.like()
    opt = getattr(lrcore.optimizers, name)(params, initial_rate(name), grads=grads, groups=groups)
    with (
        lrcore.use_backend(lrcore.info()["backend"] if backend is None else backend),
        np.errstate(over="ignore", invalid="ignore"),
    ):
        yield Task(xp, device, wait, data, rng, params, grads, opt)


def steps_per_epoch(data: Digits, batch_size: int) -> int:
    """Return the number of batches in one pass over the training images."""
    return -(-len(data.train_y) // batch_size)


@explain_keywords
def find_lr(
    optimizer: str = "Adam",
    *,
    batch_size: int = 64,
    hidden: int = 128,
    seed: int = 0,
    device: Device = "cpu",
    backend: str | None = None,
    progress: bool = False,
) -> lrcore.tune.RangeTest:
    """Run a learning-rate range test from 1e-6 to 100, on the network that `train` starts with.

    The arguments and errors are documented in `train`.
    """
    batch_size = integer("batch_size", batch_size)
    with task_of(optimizer, hidden=hidden, seed=seed, device=device, backend=backend) as task:
        every = batches(len(task.data.train_y), batch_size, 100, task.rng)
        return lrcore.tune.range_test(
            task.opt, lambda: task.loss_and_gradient(next(every)), 1e-6, 100.0, progress=progress
        )


class _Step(NamedTuple):
    """A step that was taken."""

    loss: float
    seconds: float
    optimizer_seconds: float
    rates: list[float]
    """The rate of each group, or NaN if the group took no step."""


@explain_keywords
def train(
    optimizer: str = "Adam",
    lr: lrcore.schedules.Rate | None = None,
    *,
    groups: Groups = None,
    epochs: int = 30,
    batch_size: int = 64,
    hidden: int = 128,
    seed: int = 0,
    device: Device = "cpu",
    backend: str | None = None,
    progress: bool = False,
) -> Result:
    """Train the network on the digits.

    Equal arguments give bitwise identical losses on every CPU backend and with any number of lrcore's threads. The
    remaining work is done by NumPy, whose rounding may differ on other machines or with other numbers of BLAS threads.
    On a GPU, the initial parameters, the batches and, for equal gradients, the steps are bitwise identical to those on
    the CPU. The losses differ, because CuPy's matrix products and sums round differently from NumPy's.

    Parameters
    ----------
    optimizer : str
        The name of a class in `lrcore.optimizers`; case does not matter.
    lr : float, schedule or callable, optional
        A number is the rate of the first step, and the rate then falls to 0 along a cosine. Default: the optimizer's
        rate in `RATES`, or else the default of its class. A `Plateau`, here or in a group, observes the mean loss of each
        epoch.
    groups : list of dict, optional
        Parameter groups, as in the constructor of the optimizer. The arrays are w1 (64, hidden), b1 (hidden,),
        w2 (hidden, 10) and b2 (10,). A number as the `lr` of a group is constant.
    epochs : int
        Number of passes over the training images.
    batch_size : int
        Number of images per step.
    hidden : int
        Number of hidden units.
    seed : int
        Seed of the data split, the initial parameters and the order of the images.
    device : str
        "cpu", or "cuda" for CuPy arrays on CuPy's current device and stream. On "cuda", each step waits for its
        gradient and again for the optimizer, so that both can be timed.
    backend : str, optional
        One of `lrcore.backends()` that steps CPU arrays. Default: the one in use.
    progress : bool
        Show a progress bar on stderr.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, or if the rate is so large that the loss becomes non-finite.
    RuntimeError
        If this CPU cannot run the backend, no GPU can be used, or lrcore was built without CUDA.
    ImportError
        If a package that the demo needs is not installed.
    """
    with task_of(optimizer, hidden=hidden, seed=seed, device=device, backend=backend, groups=groups) as task:
        result, ended_by = attempt(task, lr, epochs, batch_size, progress)
    if ended_by is not None:
        raise ended_by
    return result


def attempt(
    task: Task, lr: lrcore.schedules.Rate | None, epochs: int, batch_size: int, progress: bool
) -> tuple[Result, ValueError | KeyboardInterrupt | None]:
    """Train as `train` does; return the result of the steps taken, and the exception that ended them early, if any."""
    epochs, batch_size = integer("epochs", epochs), integer("batch_size", batch_size)
    opt, data = task.opt, task.data
    name = type(opt).__name__
    per_epoch = steps_per_epoch(data, batch_size)
    steps = epochs * per_epoch
    if lr is None:
        lr = initial_rate(name)
    opt.lr = lr if callable(lr) else lrcore.schedules.Cosine(lr, steps=steps)

    taken: list[_Step] = []
    ended_by: ValueError | KeyboardInterrupt | None = None
    try:
        with progress_bar("demo", steps, "step", shown=progress, title=name) as bar:
            for batch in batches(len(data.train_y), batch_size, epochs, task.rng):
                rates = [group.lr if group.size and not group.frozen else math.nan for group in opt.groups]
                begin = perf_counter()
                loss = task.loss_and_gradient(batch)
                middle = perf_counter()
                opt.step()
                task.wait()
                end = perf_counter()
                taken.append(_Step(loss, end - begin, end - middle, rates))
                if not np.isfinite(loss):
                    highest = np.nanmax([each.rates for each in taken])
                    problem = f"the loss became {loss} at step {len(taken) - 1}"
                    raise ValueError(f"lr: {highest:g} is too large; {problem}")
                if len(taken) % per_epoch == 0:
                    for plateau in lrcore.schedules.plateaus(opt):
                        plateau.observe(float(np.mean([each.loss for each in taken[-per_epoch:]])))
                bar.update()
    except KeyboardInterrupt:
        ended_by = KeyboardInterrupt(f"after {len(taken)} of {steps} steps")
    except ValueError as error:
        ended_by = error
    return _result(task, taken, per_epoch), ended_by


def _result(task: Task, taken: Sequence[_Step], per_epoch: int) -> Result:
    """Return the result of the steps taken."""
    info, opt, data = lrcore.info(), task.opt, task.data
    rates = np.array([each.rates for each in taken], np.float64).reshape(-1, len(opt.groups))
    return Result(
        optimizer=type(opt).__name__,
        backend=info["backend"] if task.device == "cpu" else task.device,
        schedule="\n".join(label_of(*each) for each in rates_of(opt)),
        threads=info["threads"],
        parameters=opt.size,
        steps_per_epoch=per_epoch,
        accuracy=accuracy(task.params, data.test_x, data.test_y, task.xp),
        losses=np.array([each.loss for each in taken], np.float64),
        rates=rates if len(opt.groups) > 1 else rates[:, 0],
        step_seconds=np.array([each.seconds for each in taken], np.float64),
        optimizer_seconds=np.array([each.optimizer_seconds for each in taken], np.float64),
    )
