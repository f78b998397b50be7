"""The variants that `gpu.py` times: how each is made and sampled. All of them run on one torch stream."""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import _report as report
import lrcore
from _classes import CLASSES
from lrcore._lrcore_core import run_stream_bound
from lrcore.bench import stepper_for

try:
    import torch
except ImportError:
    torch = None

SECONDS_PER_SAMPLE = 5e-3
HOST_CALLS = 50
"""Number of calls per sample that are timed on the host: fewer launches than fit in the device's queue."""
PADDING = 8
"""Number of additional elements that shifted and odd variants may use."""
SMALL = 10**7
"""Size above which the time on the device hides the host's cost per call."""

Call = Callable[[], object]


@dataclass(frozen=True)
class Recipe:
    """How a variant is made: `make` takes parameters and gradients, and returns the call to time."""

    name: str
    make: Callable[[Any, Any], Call]
    bytes_per_element: int
    extra: int = 0
    offsets: tuple[int, int] = (0, 0)
    graph: bool = False
    largest: float = math.inf


class Variant:
    """A recipe applied to sets of arrays of one size, and its samples in seconds per call."""

    def __init__(self, recipe: Recipe, size: int, sets: Sequence[tuple[Any, Any]]) -> None:
        self.name, self.elements = recipe.name, size + recipe.extra
        self._bytes_per_element = recipe.bytes_per_element
        self.samples: list[float] = []
        self.host: list[float] = []
        p, g = recipe.offsets
        made = [
            recipe.make(params[p : p + self.elements], grads[g : g + self.elements]) for params, grads in sets
        ]
        calls = [captured(call) for call in made] if recipe.graph else made
        self._captured = made  # a graph does not keep its memory alive
        self._calls = itertools.cycle(calls)
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for call in calls:  # the first call allocates, compiles and loads
            call()
        torch.cuda.synchronize()
        self.calls = 8
        self.calls = report.calls_for(self.time()[0], SECONDS_PER_SAMPLE)
        self.time()

    def time(self) -> tuple[float, float]:
        """Return the seconds per call on the device, and the seconds until a call returns on the host.

        The call before the first event keeps the device busy until the host is ahead of it.
        """
        next(self._calls)()
        self._start.record()
        first = min(self.calls, HOST_CALLS)
        begin = time.perf_counter()
        for call in itertools.islice(self._calls, first):
            call()
        host = (time.perf_counter() - begin) / first
        for call in itertools.islice(self._calls, self.calls - first):
            call()
        self._end.record()
        self._end.synchronize()
        return self._start.elapsed_time(self._end) * 1e-3 / self.calls, host

    def sample(self) -> bool:
        """Take one sample."""
        device, host = self.time()
        self.samples.append(device)
        self.host.append(host)
        return True

    def row(self, rule: str, size: int, sets: int) -> report.Row:
        """Return the samples as a row."""
        return report.Row(
            rule,
            self.name,
            size,
            self._bytes_per_element,
            elements=self.elements,
            samples=self.samples,
            host=self.host,
            calls=self.calls,
            sets=sets,
        )


def captured(call: Call) -> Call:
    """Capture the launches of `call` on the current stream, and return the graph's replay method."""
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin(capture_error_mode="thread_local")
    try:
        call()
    finally:
        graph.capture_end()
    replay: Call = graph.replay
    return replay


def optimizer(rule: str, params: Any, **arguments: Any) -> Any:
    """Return an optimizer or a stepper for `rule`, with a cosine schedule."""
    if rule in CLASSES:
        name, chosen, _ = CLASSES[rule]
        rate = lrcore.schedules.Cosine(1e-3, steps=10**9)
        return getattr(lrcore, name)(params, lr=rate, **chosen, **arguments)
    return stepper_for(rule, params, [torch.zeros_like(params) for _ in lrcore.rules()[rule].states])


def step_of(rule: str, zero_grads: bool = False, **arguments: Any) -> Callable[[Any, Any], Call]:
    """Return a factory of steps that are passed their gradients."""
    of_step = {"zero_grads": True} if zero_grads else {}
    return lambda params, grads: functools.partial(
        optimizer(rule, params, **arguments).step, grads, **of_step
    )


def bound_step_of(rule: str, **arguments: Any) -> Callable[[Any, Any], Call]:
    """Return a factory of steps on bound gradients."""
    return lambda params, grads: optimizer(rule, params, grads=grads, **arguments).step


def stream_bound_of(rule: str) -> Callable[[Any, Any], Call]:
    """Return a factory of calls that launch the stream bound of a rule, with separate states."""
    count = len(lrcore.rules()[rule].states)
    return lambda params, grads: functools.partial(
        run_stream_bound, params, grads, [torch.randn_like(params) for _ in range(count)]
    )


def copy_of(_: Any, grads: Any) -> Call:
    """Return a call that copies the gradients."""
    return functools.partial(torch.empty_like(grads).copy_, grads)


def torch_step_of(rule: str, way: str, clips: bool = False, **arguments: Any) -> Callable[[Any, Any], Call]:
    """Return a factory of torch steps on one tensor, whose state is created by a first step.

    If it `clips`, each step clips the norm of the gradients first.
    """
    name, chosen, _ = CLASSES[rule]

    def make(params: Any, grads: Any) -> Call:
        tensor = params.detach()
        tensor.grad = grads
        step: Call = getattr(torch.optim, name)([tensor], lr=1e-3, **{way: True}, **chosen, **arguments).step
        step()

        def clipped_step() -> None:
            torch.nn.utils.clip_grad_norm_([tensor], 1.0)
            step()

        return clipped_step if clips else step

    return make


def cupy_adam(cupy: Any) -> Callable[[Any, Any], Call]:
    """Return a factory of Adam steps in one CuPy kernel, with constants computed on the host."""
    kernel = cupy.ElementwiseKernel(
        "float32 g, float32 rest1, float32 rest2, float32 rate, float32 root, float32 eps",
        "float32 p, float32 m, float32 v",
        "m += rest1 * (g - m); v += rest2 * (g * g - v); p -= rate * m / (sqrt(v) * root + eps)",
        "adam",
    )

    def make(params: Any, grads: Any) -> Call:
        p, g, m, v = (
            cupy.from_dlpack(each)
            for each in (params, grads, torch.zeros_like(params), torch.zeros_like(params))
        )
        steps = itertools.count(1)

        def step() -> None:
            t = next(steps)
            kernel(g, 0.1, 0.001, 1e-3 / (1 - 0.9**t), 1 / math.sqrt(1 - 0.999**t), 1e-8, p, m, v)

        return step

    return make


def recipes(rule: str, cupy: Any) -> list[Recipe]:
    """Return the variants of a rule, the most important first."""
    need = lrcore.rules()[rule].bytes_per_element
    wanted = [
        Recipe("copy", copy_of, 8),
        Recipe("stream bound", stream_bound_of(rule), need),
        Recipe("lrcore", step_of(rule), need),
    ]
    _, _, ways = CLASSES.get(rule, ("", {}, ()))
    if rule in CLASSES:
        graph = bound_step_of(rule, capturable=True, max_steps=1000)
        wanted.append(Recipe("lrcore graph", graph, need, graph=True))
    wanted += [Recipe(f"torch {way}", torch_step_of(rule, way), need) for way in ways]
    if rule == "adam":
        wanted += [
            Recipe("lrcore clipped", step_of(rule, max_norm=1.0), need),
            Recipe("lrcore averaged", step_of(rule, ema=0.999), need),
            Recipe("lrcore zeroing", step_of(rule, zero_grads=True), need),
            Recipe("torch fused clipped", torch_step_of(rule, "fused", clips=True), need),
            Recipe("lrcore n+1", step_of(rule), need, extra=1),
            Recipe("lrcore n+3", step_of(rule), need, extra=3),
            Recipe("lrcore shifted", step_of(rule), need, offsets=(1, 1)),
            Recipe("lrcore shifted apart", step_of(rule), need, offsets=(1, 2)),
            Recipe("lrcore bound", bound_step_of(rule), need, largest=SMALL),
        ]
        fused_graph = torch_step_of(rule, "fused", capturable=True)
        wanted.append(Recipe("torch fused graph", fused_graph, need, graph=True, largest=SMALL))
        if cupy is not None:
            wanted.append(Recipe("CuPy ElementwiseKernel", cupy_adam(cupy), need))
            step = step_of(rule)
            wanted.append(
                Recipe(
                    "lrcore on CuPy",
                    lambda params, grads: step(cupy.from_dlpack(params), cupy.from_dlpack(grads)),
                    need,
                    largest=SMALL,
                )
            )
    wanted.append(Recipe("copy graph", copy_of, 8, graph=True, largest=SMALL))
    wanted.append(Recipe("stream bound graph", stream_bound_of(rule), need, graph=True, largest=SMALL))
    return wanted
