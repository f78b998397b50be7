"""The optimizer steps that `module.py` times over a GPT: how each is made, and how their results are compared."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

import lrcore
from against import LR, wake
from lrcore.bench import Variant

DECAY = 0.1
CONTEXT = 256


class Made(NamedTuple):
    """An optimizer step on separate copies of the parameters and gradients."""

    call: Callable[[], object]
    params: Callable[[], Sequence[Any]]
    """Returns the current parameters as NumPy arrays, in the order of the pack."""


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
    params = [torch.nn.Parameter(torch.tensor(each)) for each in pack.named_arrays().values()]
    for tensor, gradient in zip(params, gradients.named_arrays().values(), strict=True):
        tensor.grad = torch.tensor(gradient)
    groups = [
        {"params": [each for each in params if each.ndim >= 2], "weight_decay": DECAY},
        {"params": [each for each in params if each.ndim < 2], "weight_decay": 0.0},
    ]
    opt = torch.optim.AdamW(groups, lr=LR, **{way: True})
    return Made(opt.step, lambda: [each.detach().numpy() for each in params])


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


def variants(pack: lrcore.Pack, threads: int) -> list[Variant]:
    """Return the steps to time, after a comparison of the parameters after three steps.

    Raises
    ------
    RuntimeError
        If the parameters of a package are not equal to those of lrcore up to rounding.
    """
    rng = np.random.default_rng(0)
    grads = pack.like()
    for each in (pack, grads):
        each.flat = rng.standard_normal(pack.flat.size, dtype=np.float32)
    made = {"lrcore": make_lrcore(pack, grads)}
    for way in ("fused", "foreach"):
        made[f"torch {way}"] = make_torch(pack, grads, way)
    if importlib.util.find_spec("optax") is None:
        print("skipping optax: optax is not installed", file=sys.stderr)
    else:
        made["optax"] = make_optax(pack, grads)
    allowed = 8 * 2.0**-23 * float(np.abs(pack.flat).max())  # a few rounding errors of p per step
    for name, (call, params) in made.items():
        for _ in range(3):
            call()
        pairs = zip(made["lrcore"].params(), params(), strict=True)
        difference = max(float(np.abs(p - q).max()) for p, q in pairs)
        if difference > allowed:
            raise RuntimeError(
                f"{name}: expected parameters within {allowed:.2g} of lrcore's, got a difference of {difference:.2g}"
            )
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
