"""The optimizer steps that `module.py` times over a GPT: how each is made, and how their results are compared."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch

import lrcore
import lrcore.torch
from against import LR, wake
from lrcore.bench import Variant

DECAY = 0.1
CONTEXT = 256
MAX_NORM = 1.0
"""The norm to which an iteration clips the gradients."""


class Made(NamedTuple):
    """An optimizer step on separate copies of the parameters and gradients."""

    call: Callable[[], object]
    params: Callable[[], Sequence[Any]]
    """Returns the current parameters as NumPy arrays, in the order of the pack."""


@dataclasses.dataclass(eq=False)
class Iteration(Variant):
    """What a training loop does with an optimizer: `zero_grad`, then `backward`, which is not timed, then `call`.

    The gradients of each iteration are therefore new tensors in the state in which a backward pass leaves them.
    """

    zero_grad: Callable[[], object] = lambda: None
    backward: Callable[[], object] = lambda: None

    def time(self, calls: int) -> float:
        """Return the mean time of `calls` iterations without their backward passes, in seconds."""
        self.prepare()
        self.once()
        return sum(self.once() for _ in range(calls)) / calls

    def once(self) -> float:
        """Do one iteration, and return the seconds that it took without the backward pass."""
        start = perf_counter()
        self.zero_grad()
        spent = perf_counter() - start
        self.backward()
        start = perf_counter()
        self.call()
        return spent + perf_counter() - start


def shapes(layers: int, width: int, vocabulary: int) -> dict[str, Any]:
    """Return the shapes of a GPT-2 whose output layer is tied to its embedding."""

    def linear(inputs: int, outputs: int) -> dict[str, Any]:
        return {"weight": (outputs, inputs), "bias": outputs}

    norm = {"weight": width, "bias": width}
    layer = {
        "ln_1": norm,
        "attn": {"c_attn": linear(width, 3 * width), "c_proj": linear(width, width)},
        "ln_2": norm,
        "mlp": {"c_fc": linear(width, 4 * width), "c_proj": linear(4 * width, width)},
    }
    return {"wte": (vocabulary, width), "wpe": (CONTEXT, width), "h": [layer] * layers, "ln_f": norm}


def make_lrcore(pack: lrcore.Pack, gradients: lrcore.Pack, grouped: bool = True) -> Made:
    """Return lrcore's step on a pack with bound gradients, with two groups or with decay everywhere."""
    params, grads = pack.like(), pack.like()
    params.flat, grads.flat = pack.flat, gradients.flat
    groups = lrcore.decay_groups(params, DECAY) if grouped else None
    opt = lrcore.AdamW(params, lr=LR, weight_decay=DECAY, grads=grads, groups=groups)
    return Made(opt.step, lambda: [*params.named_arrays().values()])


def make_torch(pack: lrcore.Pack, gradients: lrcore.Pack, way: str) -> Made:
    """Return torch's step on separate tensors in two groups."""
    params = [torch.nn.Parameter(each) for each in tensors(pack)]
    for param, gradient in zip(params, tensors(gradients), strict=True):
        param.grad = gradient
    opt = torch.optim.AdamW(two_groups(params), lr=LR, **{way: True})
    return Made(opt.step, functools.partial(arrays_of, params))


def tensors(arrays: lrcore.Pack) -> list[Any]:
    """Return copies of the arrays of a pack as tensors."""
    return [torch.tensor(each) for each in arrays.named_arrays().values()]


def two_groups(params: Sequence[Any]) -> list[dict[str, Any]]:
    """Return two groups of parameters: with decay if they have two or more dimensions, and without."""
    return [
        {"params": [each for each in params if each.ndim >= 2], "weight_decay": DECAY},
        {"params": [each for each in params if each.ndim < 2], "weight_decay": 0.0},
    ]


def make_optax(pack: lrcore.Pack, gradients: lrcore.Pack) -> Made:
    """Return one jitted function that computes and applies the update, with a mask and with donated buffers."""
    import jax
    import optax

    def copied(arrays: lrcore.Pack) -> dict[str, Any]:
        return {name: jax.numpy.array(array) for name, array in arrays.named_arrays().items()}

    params, grads = copied(pack), copied(gradients)
    mask = {name: array.ndim >= 2 for name, array in params.items()}
    transform = optax.adamw(LR, weight_decay=DECAY, mask=mask)
    state = transform.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def call() -> None:
        nonlocal params, state
        params, state = jax.block_until_ready(step(params, state, grads))

    return Made(call, lambda: [np.asarray(params[name]) for name in pack.named_arrays()])


def random(pack: lrcore.Pack) -> lrcore.Pack:
    """Set the parameters to random numbers, and return random gradients."""
    rng = np.random.default_rng(0)
    grads = pack.like()
    for each in (pack, grads):
        each.flat = rng.standard_normal(pack.flat.size, dtype=np.float32)
    return grads


def require_same(made: Mapping[str, Made], pack: lrcore.Pack) -> None:
    """Take three steps with each, and raise RuntimeError unless all parameters are the same up to rounding."""
    allowed = 8 * 2.0**-23 * float(np.abs(pack.flat).max())  # a few rounding errors of p per step
    first = next(iter(made))
    for name, (call, params) in made.items():
        for _ in range(3):
            call()
        pairs = zip(made[first].params(), params(), strict=True)
        difference = max(float(np.abs(p - q).max()) for p, q in pairs)
        if difference > allowed:
            raise RuntimeError(
                f"{name}: expected parameters within {allowed:.2g} of those of {first}, got a difference of {difference:.2g}"
            )


def variants(pack: lrcore.Pack, threads: int) -> list[Variant]:
    """Return the steps to time, after a comparison of the parameters after three steps.

    Raises
    ------
    RuntimeError
        If the parameters of a package are not equal to those of lrcore up to rounding.
    """
    grads = random(pack)
    made = {"lrcore": make_lrcore(pack, grads)}
    for way in ("fused", "foreach"):
        made[f"torch {way}"] = make_torch(pack, grads, way)
    if importlib.util.find_spec("optax") is None:
        print("skipping optax: optax is not installed", file=sys.stderr)
    else:
        made["optax"] = make_optax(pack, grads)
    require_same(made, pack)
    made["lrcore, no groups"] = make_lrcore(pack, grads, grouped=False)
    backend = lrcore.info()["backend"]
    return [
        Variant(
            name,
            call,
            backend if name.startswith("lrcore") else "",
            threads,
            prepare=functools.partial(wake, call),
        )
        for name, (call, _) in made.items()
    ]


def iterations(pack: lrcore.Pack, threads: int) -> list[Iteration]:
    """Return the iterations to time, after a comparison of the parameters as in `variants`.

    Each sets the gradients to None, and clips the new gradients and takes a step in two groups.
    """
    given = tensors(random(pack))
    makers: dict[str, Callable[[Any], Any]] = {
        "torch fused": lambda groups: torch.optim.AdamW(groups, lr=LR, fused=True),
        "FusedOptimizer": lambda groups: lrcore.torch.FusedOptimizer(groups, lrcore.AdamW, lr=LR),
    }
    timed, made = [], {}
    for name, make in makers.items():
        params = [torch.nn.Parameter(each) for each in tensors(pack)]
        opt = make(two_groups(params))
        each = Iteration(
            f"{name}, clipped",
            functools.partial(clip_and_step, params, opt),
            "" if name.startswith("torch") else lrcore.info()["backend"],
            threads,
            zero_grad=opt.zero_grad,
            backward=functools.partial(torch.autograd.backward, params, given),
        )
        each.prepare = functools.partial(wake, each.once)
        timed.append(each)
        made[each.name] = Made(each.once, functools.partial(arrays_of, params))
    require_same(made, pack)
    return timed


def clip_and_step(params: Sequence[Any], opt: Any) -> None:
    """Clip the norm of the gradients, and take a step."""
    torch.nn.utils.clip_grad_norm_(params, MAX_NORM)
    opt.step()


def arrays_of(params: Sequence[Any]) -> list[Any]:
    """Return the parameters as NumPy arrays."""
    return [each.detach().numpy() for each in params]
