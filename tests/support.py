"""Shared helpers: the class that chooses each rule, test problems, and the definition of "equal bits"."""

from __future__ import annotations

import inspect
import itertools
import os
import subprocess
import sys
import textwrap
import threading
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import lrcore
from lrcore import _lrcore_core
from lrcore.optimizers import Optimizer
from lrcore.optimizers._shared import Shared
from rules import oracle

Array = NDArray[np.float32]

CLASSES: dict[str, type[Any]] = {
    name: getattr(lrcore, name) for name in lrcore.optimizers.__all__ if name != "Optimizer"
}

BACKENDS = [*_lrcore_core.backends(), "emulated"]
"""The backends that step CPU arrays here, best first, then "emulated", which runs the CUDA kernels' code."""

STAGES = (*typing.get_type_hints(Shared),)
"""Arguments that every class has and that do not affect the choice of a rule."""

NUMBERS = {"momentum": (0.0, 0.9), "dampening": (0.3, 0.0), "lr_decay": (0.1,)}
"""Numbers that are 0 by default and then have no effect, with the values to try, in order of preference."""


def slow_but_first(cases: Iterable[Any]) -> list[Any]:
    """Return the cases of a test, all except the first marked as slow."""
    import pytest  # imported here because the scripts that make pages run without it

    first, *others = (each if isinstance(each, tuple) else (each,) for each in cases)
    return [pytest.param(*first), *(pytest.param(*each, marks=pytest.mark.slow) for each in others)]


class Configuration(NamedTuple):
    """A class and the arguments that make it choose a rule."""

    cls: type[Any]
    arguments: dict[str, Any]


def choices(cls: type[Any]) -> dict[str, Sequence[Any]]:
    """Return the values to try for each argument that chooses a rule or is 0 by default."""
    hints = typing.get_type_hints(cls.__init__)
    tried: dict[str, Sequence[Any]] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if name in STAGES:
            continue
        if isinstance(parameter.default, bool):
            tried[name] = (False, True)
        elif typing.get_origin(hints[name]) is typing.Literal:
            tried[name] = typing.get_args(hints[name])
        elif name in NUMBERS:
            tried[name] = NUMBERS[name]
    return tried


def all_configurations() -> Iterator[tuple[str, Configuration]]:
    """Yield a rule and its configuration for each valid combination of the classes' options."""
    for cls in CLASSES.values():
        tried = choices(cls)
        for values in itertools.product(*tried.values()):
            arguments = dict(zip(tried, values, strict=True))
            try:
                opt = cls(np.zeros(0, np.float32), **arguments)
            except ValueError:
                continue  # an invalid combination
            yield opt.rule, Configuration(cls, arguments)


CONFIGURATIONS: dict[str, Configuration] = dict(reversed(list(all_configurations())))
"""The first class and arguments that choose each rule."""


def make(rule: str, params: Any, lr: Any = 0.01, **arguments: Any) -> Optimizer:
    """Return an optimizer that steps with `rule`."""
    cls, chosen = CONFIGURATIONS[rule]
    optimizer: Optimizer = cls(params, lr, **chosen | arguments)
    return optimizer


def flat_hyper(optimizer: Optimizer) -> dict[str, float]:
    """Return an optimizer's hyperparameters under the oracle's names."""
    flat: dict[str, float] = {}
    for name, value in optimizer.hyper.items():
        if isinstance(value, tuple):
            flat["beta1"], flat["beta2"] = value
        else:
            flat[name] = value
    return flat


def oracle_step(
    optimizer: Optimizer, p: Array, g: Array, states: Sequence[Array], *, t: int, lr: float, **stages: Any
) -> tuple[Array, list[Array]]:
    """Return the oracle's parameters and states after step t with the options of `optimizer`."""
    hyper = flat_hyper(optimizer)
    decay = hyper.pop("weight_decay")
    return oracle.step32(optimizer.rule, p, g, states, t=t, lr=lr, hyper=hyper, weight_decay=decay, **stages)


def gradients(rng: np.random.Generator, n: int) -> Array:
    """Return gradients that span nine decades; some are 0."""
    g = rng.standard_normal(n) * 10.0 ** rng.uniform(-6, 3, n)
    g[rng.random(n) < 0.05] = 0
    return g.astype(np.float32)


def assert_bits(actual: Any, expected: Any, what: str = "") -> None:
    """Assert that the bits are equal, including the sign of zero, and that NaNs are at the same positions."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype == np.float32
    assert actual.shape == expected.shape
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan, err_msg=f"{what}: positions of NaN")
    differ = np.flatnonzero((actual.view(np.uint32) != expected.view(np.uint32)) & ~nan)
    assert not differ.size, (
        f"{what}: {differ.size} of {actual.size} elements differ, first at {differ[0]}: "
        f"{actual.flat[differ[0]]!r}, expected {expected.flat[differ[0]]!r}"
    )


def assert_same(optimizer: Optimizer, p: Array, states: Sequence[Array], what: str = "") -> None:
    """Assert that parameters and states have the expected bits."""
    assert_bits(optimizer.params, p, f"{what} params")
    for (name, state), expected in zip(optimizer.state.items(), states, strict=True):
        assert_bits(state, expected, f"{what} {name}")


N = 21
"""Number of elements of the problem below: one AVX-512 vector and a remainder."""


ONES = np.ones(N, np.float32)
"""Gradients for the problem below."""


def start() -> Array:
    """Return the initial parameters, which are always the same."""
    return np.random.default_rng(1).standard_normal(N).astype(np.float32)


def run(optimizer: Any, steps: int) -> Array:
    """Step on gradients that depend only on the step number, and return a copy of the parameters."""
    for _ in range(steps):
        optimizer.step(gradients(np.random.default_rng([2, optimizer.step_count]), optimizer.size))
    return np.array(optimizer.params)


def assert_goes_on(resumed: Any, uninterrupted: Any, steps: int) -> None:
    """Assert that `resumed`, after more steps, equals `uninterrupted` in bits, rate and hyperparameters."""
    run(resumed, steps)
    assert_same(resumed, uninterrupted.params, [np.array(state) for state in uninterrupted.state.values()])
    assert resumed.lr == uninterrupted.lr
    assert dict(resumed.hyper) == dict(uninterrupted.hyper)


LARGE = 300_000
"""Number of elements of a problem that is large enough for the thread pool to divide."""


def run_in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run `work` in `count` threads at once; fail if a thread has not ended within a minute."""
    gate = threading.Barrier(count)
    failures: list[BaseException] = []

    def run(index: int) -> None:
        gate.wait()
        try:
            work(index)
        except BaseException as error:
            failures.append(error)

    all_threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(count)]
    for thread in all_threads:
        thread.start()
    for thread in all_threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not failures, failures


def python(program: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Return the result of a program run in a new interpreter, with `env` added to the environment."""
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
    environment = os.environ | env
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def assert_runs(program: str, **env: str) -> str:
    """Run a program in a new process with np and lrcore imported, assert success, and return its output."""
    done = python("import numpy as np, lrcore\n" + textwrap.dedent(program), **env)
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done.stdout
