"""What PyTorch and optax call the same step: one table of calls, and the functions that run the peer's side.

A row says that a class here follows a peer's class or function: called so, the parameters agree element by
element, within the row's tolerance, after each of the `CHECKED` steps, under a learning rate that changes at
every step.

The peer runs in float64, from the float32 start and on the float32 gradients that lrcore gets. The gradients
are given in advance and do not depend on the parameters: both sides see the same ones, and no difference feeds
back through a loss. A float32 sign is the float64 one: in every row of Lion, each element of the mix whose sign
is taken is 0 or at least 2e-4 of the sum of its two terms' sizes.

No row, since no call here gives it: optax ``amsgrad`` (the maximum of the corrected second moment, or no
correction of it at all), ``radam`` (epsilon is added to the corrected root), ``eps_root``, and ``rmsprop`` with
``nesterov`` or ``initial_scale``. No row, since neither peer has it: ``eps_placement="hat"``, SGD's
``lr_in_velocity``, and decoupled decay for SGD, Adagrad, RMSprop and Adadelta.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "CHECKED",
    "COUNT",
    "PACKAGES",
    "ROWS",
    "STEPS",
    "Call",
    "Row",
    "Tolerance",
    "call",
    "check",
    "deviation",
    "problem",
    "rate",
    "run_lrcore",
    "run_optax",
    "run_peer",
    "run_torch",
    "versions",
]

STEPS = 60
"""Steps taken on each side."""

CHECKED = (1, 2, 10, 60)
"""Numbers of the steps after which the parameters are compared."""

COUNT = 18
"""Elements."""

PACKAGES = {"torch": ("torch",), "optax": ("optax", "jax")}
"""Distributions whose versions decide what a peer gives."""


@dataclass(frozen=True)
class Call:
    """A class or function by name, and its arguments other than parameters and learning rate."""

    name: str
    kwargs: Mapping[str, Any]

    def __str__(self) -> str:
        """Return the call as it is written."""
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.kwargs.items())})"


def call(name: str, /, **kwargs: Any) -> Call:
    """Return the `Call` that is written ``name(**kwargs)``."""
    return Call(name, kwargs)


@dataclass(frozen=True)
class Tolerance:
    """The largest allowed ``|difference| / (1 + |p|)`` of one element, and why it is this number."""

    limit: float
    reason: str


ROUNDING = Tolerance(
    1e-6,
    "float32 against a float64 peer: each of 60 steps rounds p (twice where decay is decoupled), the states and "
    "the step's constants, by up to 2^-24 = 6e-8 of their size; the largest found, in NumPy float32, is 6.8e-7",
)
CANCELLING = Tolerance(
    5e-6,
    "as for ROUNDING, and where gradients are small, L2 makes them nearly constant: v - a * a then keeps only the "
    "last digits of v, and with them its roundings; found, in NumPy float32: 2.1e-6",
)


@dataclass(frozen=True)
class Row:
    """A peer's call beside ours: the same step."""

    name: str
    """Name in test reports and in the stored results."""
    peer: str
    """Package: ``torch`` (the call names a class of ``torch.optim``) or ``optax`` (a function)."""
    lr: float
    """Scale of the learning rates, see `rate`."""
    theirs: Call
    ours: Call
    tolerance: Tolerance


def _torch(name: str, lr: float, both: Call, tolerance: Tolerance = ROUNDING) -> Row:
    """Return a row of PyTorch, where names, arguments and defaults are the same as here."""
    return Row(f"torch-{name}", "torch", lr, both, both, tolerance)


def _optax(name: str, lr: float, theirs: Call, ours: Call, tolerance: Tolerance = ROUNDING) -> Row:
    """Return a row of optax, which has names and defaults of its own."""
    return Row(f"optax-{name}", "optax", lr, theirs, ours, tolerance)


_B = (0.8, 0.95)  # forgets within the run, so that the maximum of AMSGrad differs from the last second moment

ROWS: tuple[Row, ...] = (
    _torch("sgd", 0.5, call("SGD")),
    _torch("sgd-l2", 0.5, call("SGD", weight_decay=0.1)),
    _torch("sgd-maximize", 0.5, call("SGD", weight_decay=0.1, maximize=True)),
    _torch("sgd-momentum", 0.2, call("SGD", momentum=0.9)),
    _torch("sgd-momentum-l2", 0.2, call("SGD", momentum=0.9, weight_decay=0.1)),
    _torch("sgd-momentum-maximize", 0.2, call("SGD", momentum=0.9, weight_decay=0.1, maximize=True)),
    _torch("sgd-dampening", 0.5, call("SGD", momentum=0.9, dampening=0.4)),
    _torch("sgd-dampening-l2", 0.2, call("SGD", momentum=0.9, dampening=0.4, weight_decay=0.1)),
    _torch("sgd-nesterov", 0.2, call("SGD", momentum=0.9, nesterov=True)),
    _torch("sgd-nesterov-l2", 0.2, call("SGD", momentum=0.9, nesterov=True, weight_decay=0.1)),
    _torch("adagrad", 0.2, call("Adagrad")),
    _torch("adagrad-l2", 0.2, call("Adagrad", eps=1e-3, weight_decay=0.1)),
    _torch("adagrad-maximize", 0.2, call("Adagrad", weight_decay=0.1, maximize=True)),
    _torch("adagrad-initial", 0.2, call("Adagrad", eps=1e-3, initial_accumulator_value=0.1)),
    _torch("adagrad-lr-decay", 0.2, call("Adagrad", lr_decay=0.1)),
    _torch("adagrad-lr-decay-l2", 0.2, call("Adagrad", lr_decay=0.1, weight_decay=0.1)),
    _torch("rmsprop", 0.02, call("RMSprop")),
    _torch("rmsprop-l2", 0.02, call("RMSprop", alpha=0.9, eps=1e-3, weight_decay=0.1)),
    _torch("rmsprop-maximize", 0.02, call("RMSprop", weight_decay=0.1, maximize=True)),
    _torch("rmsprop-momentum", 0.01, call("RMSprop", momentum=0.8)),
    _torch("rmsprop-momentum-l2", 0.01, call("RMSprop", momentum=0.8, weight_decay=0.1)),
    _torch("rmsprop-centered", 0.02, call("RMSprop", centered=True)),
    _torch(
        "rmsprop-centered-l2",
        0.02,
        call("RMSprop", alpha=0.9, eps=1e-3, centered=True, weight_decay=0.1),
        CANCELLING,
    ),
    _torch("rmsprop-centered-momentum", 0.01, call("RMSprop", alpha=0.9, centered=True, momentum=0.8)),
    _torch("adadelta", 10.0, call("Adadelta")),
    _torch("adadelta-l2", 10.0, call("Adadelta", rho=0.8, eps=1e-4, weight_decay=0.1)),
    _torch("adadelta-maximize", 10.0, call("Adadelta", weight_decay=0.1, maximize=True)),
    _torch("adam", 0.05, call("Adam")),
    _torch("adam-betas-eps", 0.05, call("Adam", betas=_B, eps=1e-3)),
    _torch("adam-l2", 0.05, call("Adam", weight_decay=0.1)),
    _torch("adam-decoupled", 0.05, call("Adam", weight_decay=0.1, decoupled_weight_decay=True)),
    _torch("adam-maximize", 0.05, call("Adam", weight_decay=0.1, maximize=True)),
    _torch("adam-amsgrad", 0.05, call("Adam", betas=_B, amsgrad=True)),
    _torch("adam-amsgrad-l2", 0.05, call("Adam", betas=_B, amsgrad=True, weight_decay=0.1)),
    _torch("adamw", 0.05, call("AdamW")),
    _torch("adamw-decay", 0.05, call("AdamW", betas=_B, eps=1e-3, weight_decay=0.1)),
    _torch("adamw-no-decay", 0.05, call("AdamW", weight_decay=0)),
    _torch("adamw-maximize", 0.05, call("AdamW", maximize=True)),
    _torch("adamw-amsgrad", 0.05, call("AdamW", betas=_B, amsgrad=True)),
    _torch("nadam", 0.05, call("NAdam")),
    _torch("nadam-momentum-decay", 0.05, call("NAdam", betas=_B, eps=1e-3, momentum_decay=0.1)),
    _torch("nadam-l2", 0.05, call("NAdam", weight_decay=0.1)),
    _torch("nadam-decoupled", 0.05, call("NAdam", weight_decay=0.1, decoupled_weight_decay=True)),
    _torch("nadam-maximize", 0.05, call("NAdam", weight_decay=0.1, maximize=True)),
    _torch("radam", 0.5, call("RAdam")),
    _torch("radam-betas-eps", 0.5, call("RAdam", betas=_B, eps=1e-3)),
    _torch("radam-unrectified", 0.5, call("RAdam", betas=(0.8, 0.5))),
    _torch("radam-l2", 0.5, call("RAdam", weight_decay=0.1)),
    _torch("radam-decoupled", 0.5, call("RAdam", weight_decay=0.1, decoupled_weight_decay=True)),
    _torch("radam-maximize", 0.5, call("RAdam", weight_decay=0.1, maximize=True)),
    _torch("adamax", 0.05, call("Adamax")),
    _torch("adamax-l2", 0.05, call("Adamax", betas=_B, eps=1e-3, weight_decay=0.1)),
    _torch("adamax-maximize", 0.05, call("Adamax", weight_decay=0.1, maximize=True)),
    _optax("sgd", 0.5, call("sgd"), call("SGD")),
    _optax("sgd-momentum", 0.2, call("sgd", momentum=0.9), call("SGD", momentum=0.9)),
    _optax(
        "sgd-nesterov",
        0.2,
        call("sgd", momentum=0.9, nesterov=True),
        call("SGD", momentum=0.9, nesterov=True),
    ),
    _optax(
        "adagrad",
        0.2,
        call("adagrad"),
        call("Adagrad", eps=1e-7, initial_accumulator_value=0.1, eps_inside_sqrt=True),
    ),
    _optax(
        "adagrad-initial-eps",
        0.2,
        call("adagrad", initial_accumulator_value=0.0, eps=1e-3),
        call("Adagrad", eps=1e-3, eps_inside_sqrt=True),
    ),
    _optax("rmsprop", 0.02, call("rmsprop"), call("RMSprop", alpha=0.9, eps_inside_sqrt=True)),
    _optax(
        "rmsprop-eps-outside",
        0.02,
        call("rmsprop", decay=0.8, eps=1e-3, eps_in_sqrt=False),
        call("RMSprop", alpha=0.8, eps=1e-3),
    ),
    _optax(
        "rmsprop-momentum",
        0.01,
        call("rmsprop", momentum=0.8),
        call("RMSprop", alpha=0.9, eps_inside_sqrt=True, momentum=0.8, lr_in_velocity=True),
    ),
    _optax(
        "rmsprop-momentum-eps-outside",
        0.01,
        call("rmsprop", eps_in_sqrt=False, momentum=0.8),
        call("RMSprop", alpha=0.9, momentum=0.8, lr_in_velocity=True),
    ),
    _optax(
        "rmsprop-centered",
        0.02,
        call("rmsprop", centered=True),
        call("RMSprop", alpha=0.9, centered=True, eps_inside_sqrt=True),
    ),
    _optax(
        "rmsprop-centered-eps-outside",
        0.02,
        call("rmsprop", centered=True, eps_in_sqrt=False),
        call("RMSprop", alpha=0.9, centered=True),
    ),
    _optax(
        "rmsprop-centered-momentum",
        0.01,
        call("rmsprop", centered=True, momentum=0.8),
        call("RMSprop", alpha=0.9, centered=True, eps_inside_sqrt=True, momentum=0.8, lr_in_velocity=True),
    ),
    _optax(
        "rmsprop-centered-momentum-eps-outside",
        0.01,
        call("rmsprop", centered=True, eps_in_sqrt=False, momentum=0.8),
        call("RMSprop", alpha=0.9, centered=True, momentum=0.8, lr_in_velocity=True),
    ),
    _optax(
        "rmsprop-bias-correction",
        0.05,
        call("rmsprop", eps_in_sqrt=False, bias_correction=True),
        call("Adam", betas=(0.0, 0.9)),
    ),
    _optax("adadelta", 10.0, call("adadelta"), call("Adadelta")),
    _optax(
        "adadelta-l2",
        10.0,
        call("adadelta", rho=0.8, eps=1e-4, weight_decay=0.1),
        call("Adadelta", rho=0.8, eps=1e-4, weight_decay=0.1),
    ),
    _optax("adam", 0.05, call("adam"), call("Adam")),
    _optax("adam-betas-eps", 0.05, call("adam", b1=0.8, b2=0.95, eps=1e-3), call("Adam", betas=_B, eps=1e-3)),
    _optax("adam-nesterov", 0.05, call("adam", nesterov=True), call("NAdam", momentum_decay=1e3)),
    _optax("adamw", 0.05, call("adamw"), call("AdamW", weight_decay=1e-4)),
    _optax(
        "adamw-decay",
        0.05,
        call("adamw", b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.1),
        call("AdamW", betas=_B, eps=1e-3, weight_decay=0.1),
    ),
    _optax("nadam", 0.05, call("nadam"), call("NAdam", momentum_decay=1e3)),
    _optax(
        "nadam-betas-eps",
        0.05,
        call("nadam", b1=0.8, b2=0.95, eps=1e-3),
        call("NAdam", betas=_B, eps=1e-3, momentum_decay=1e3),
    ),
    _optax(
        "nadamw",
        0.05,
        call("nadamw"),
        call("NAdam", momentum_decay=1e3, weight_decay=1e-4, decoupled_weight_decay=True),
    ),
    _optax("adamax", 0.05, call("adamax"), call("Adamax")),
    _optax(
        "adamax-betas-eps",
        0.05,
        call("adamax", b1=0.8, b2=0.95, eps=1e-3),
        call("Adamax", betas=_B, eps=1e-3),
    ),
    _optax(
        "adamaxw",
        0.05,
        call("adamaxw"),
        call("Adamax", weight_decay=1e-4, decoupled_weight_decay=True),
    ),
    _optax("lion", 0.02, call("lion"), call("Lion", weight_decay=1e-3)),
    _optax(
        "lion-betas-decay",
        0.02,
        call("lion", b1=0.8, b2=0.95, weight_decay=0.1),
        call("Lion", betas=_B, weight_decay=0.1),
    ),
    _optax("sign-sgd", 0.02, call("sign_sgd"), call("Lion", betas=(0.0, 0.9))),
    _optax("signum", 0.02, call("signum"), call("Lion", betas=(0.9, 0.9))),
    _optax("signum-beta", 0.02, call("signum", beta=0.5), call("Lion", betas=(0.5, 0.5))),
)
"""Every call of a peer that has a form here, and that form."""


def rate(lr: float, index: int) -> float:
    """Return the learning rate of step ``index + 1``: a sawtooth under a decay, another one at every step."""
    return lr * (1 + (3 * index) % 8) / (8 + index)


def problem() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the start, shape ``(COUNT,)``, and the gradients, shape ``(STEPS, COUNT)``, of every row.

    The gradients' magnitudes run from 1e-4 to 3 over the elements, and fall to a quarter after a third of the
    steps. Element 0 never has a gradient, 1 has none at first, 2 has none at every third step, 3 has one only
    once; elements 4 and 5 start at zero, 6 at 1000, and every fourth one has gradients of one sign.
    `random.Random.random` is the one generator of the standard library that is promised to stay the same.
    """
    uniform = random.Random(20150101).random
    start = [_digits(3 * (2 * uniform() - 1)) for _ in range(COUNT)]
    start[4:7] = 0.0, 0.0, 1000.0
    gradients = np.zeros((STEPS, COUNT))
    for index in range(STEPS):
        for element in range(COUNT):
            shape = uniform() + uniform() - 1
            if element % 4 == 3:
                shape = abs(shape)
            scale = 3 * 10 ** (-4.5 * (7 * element % COUNT) / (COUNT - 1))
            gradients[index, element] = _digits(scale * shape * (1 if index < STEPS // 3 else 0.25))
    gradients[:, 0] = 0
    gradients[:7, 1] = 0
    gradients[2::3, 2] = 0
    gradients[np.arange(STEPS) != 2, 3] = 0
    return np.array(start, np.float32), gradients.astype(np.float32)


def _digits(value: float) -> float:
    """Return the value to four significant digits, so that it is short when stored."""
    return float(f"{value:.4g}")


def deviation(actual: ArrayLike, expected: ArrayLike) -> NDArray[np.float64]:
    """Return ``|difference| / (1 + |expected|)``, element by element, in float64."""
    expected = np.asarray(expected, np.float64)
    result: NDArray[np.float64] = np.abs(np.asarray(actual, np.float64) - expected) / (1 + np.abs(expected))
    return result


def check(
    actual: Mapping[int, ArrayLike], expected: Mapping[int, ArrayLike], tolerance: Tolerance, what: str
) -> None:
    """Raise AssertionError unless the parameters agree at each of the `CHECKED` steps, element by element."""
    for step in CHECKED:
        found = deviation(actual[step], expected[step])
        worst = int(np.argmax(found))  # the first NaN, if there is one
        assert found[worst] <= tolerance.limit, (
            f"{what}: after step {step}, element {worst} is {np.asarray(actual[step])[worst]!r} "
            f"for {np.asarray(expected[step])[worst]!r}: off by {found[worst]:.2e}, "
            f"where {tolerance.limit:.0e} is allowed ({tolerance.reason})"
        )


def run_lrcore(
    row: Row, start: NDArray[np.float32], gradients: NDArray[np.float32]
) -> dict[int, NDArray[np.float32]]:
    """Take the steps of a row with lrcore: as `run_torch`, in float32."""
    lrcore = importlib.import_module("lrcore")
    seen = {}
    params = start.copy()
    schedule = functools.partial(rate, row.lr)
    optimizer = getattr(lrcore, row.ours.name)(params, lr=schedule, **row.ours.kwargs)
    for step, gradient in enumerate(gradients, 1):
        optimizer.step(gradient)
        if step in CHECKED:
            seen[step] = params.copy()
    return seen


def run_peer(
    row: Row, start: NDArray[np.float32], gradients: NDArray[np.float32]
) -> dict[int, NDArray[np.float64]]:
    """Run the peer's side of a row.

    Parameters
    ----------
    row : Row
        The peer's call, and the rate.
    start : ndarray of float32, shape (n,)
        Parameters before the first step; not written.
    gradients : ndarray of float32, shape (steps, n)
        One gradient a step.

    Returns
    -------
    dict of int to ndarray of float64, shape (n,)
        Parameters after each of the `CHECKED` steps.

    Raises
    ------
    ImportError
        The peer is not installed.
    """
    return {"torch": run_torch, "optax": run_optax}[row.peer](row, start, gradients)


def run_torch(
    row: Row, start: NDArray[np.float32], gradients: NDArray[np.float32]
) -> dict[int, NDArray[np.float64]]:
    """Take the steps of a row with PyTorch, in float64; see `run_peer`."""
    torch = importlib.import_module("torch")
    seen = {}
    with _torch_float64(torch):
        param = torch.nn.Parameter(torch.from_numpy(start.astype(np.float64)))
        optimizer = getattr(torch.optim, row.theirs.name)([param], lr=row.lr, **row.theirs.kwargs)
        for index, gradient in enumerate(gradients):
            for group in optimizer.param_groups:
                group["lr"] = rate(row.lr, index)
            param.grad = torch.from_numpy(gradient.astype(np.float64))
            optimizer.step()
            if index + 1 in CHECKED:
                seen[index + 1] = param.detach().numpy().copy()
    return seen


@contextlib.contextmanager
def _torch_float64(torch: Any) -> Iterator[None]:
    """Make float64 the default dtype: PyTorch keeps step counts and NAdam's product of momenta in it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def run_optax(
    row: Row, start: NDArray[np.float32], gradients: NDArray[np.float32]
) -> dict[int, NDArray[np.float64]]:
    """Take the steps of a row with optax, in float64 and on the CPU.

    The schedule looks its rates up in an array, so that they are to the last bit those of `rate`.
    See `run_peer`.
    """
    jax = importlib.import_module("jax")
    optax = importlib.import_module("optax")
    seen = {}
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        rates = jax.numpy.asarray([rate(row.lr, index) for index in range(len(gradients))])
        optimizer = getattr(optax, row.theirs.name)(lambda count: rates[count], **row.theirs.kwargs)
        params = jax.numpy.asarray(start.astype(np.float64))
        state = optimizer.init(params)
        for index, gradient in enumerate(gradients):
            updates, state = optimizer.update(jax.numpy.asarray(gradient.astype(np.float64)), state, params)
            params = optax.apply_updates(params, updates)
            if index + 1 in CHECKED:
                seen[index + 1] = np.array(params)
    return seen


def versions(peer: str) -> dict[str, str]:
    """Return the installed versions of a peer and of what it computes with."""
    return {name: importlib.metadata.version(name) for name in PACKAGES[peer]}
