"""Compare lrcore's step with other packages, in one run and on the same cores: ``lrcore bench`` with peers.

    python bench/against.py --rules adam --sizes 1e3 1e5 1e7 --json bench/results/against.json --plot against.png

Accepts --peers, --tensors and all options of ``lrcore bench`` except --backends, --segments and --gradients. Packages that are not installed are
skipped with a message. Before anything is timed, each peer takes three steps on the same numbers and with the same
hyperparameters as lrcore, and must produce the same parameters up to float32 rounding. NumPy's parameters are not
compared, because its loop omits the bias corrections.

numpy         twelve passes with preallocated temporaries, without Adam's bias corrections
numba         one parallel loop, compiled beforehand
torch         torch.optim, fused and foreach
lrcore.torch  lrcore.torch.FusedOptimizer
optax         update and application in one jitted function, with donated buffers
deepspeed     DeepSpeedCPUAdam
thinc         the fused kernel of thinc's Adam, without its gradient clipping and zeroing

With --max-norm 1, each step clips the norm of the gradients first: torch by clip_grad_norm_, optax by
clip_by_global_norm, and lrcore by max_norm. The other packages are skipped.

With --tensors 200, torch and lrcore.torch step 200 tensors, alternating between weights and small biases as in a
module. The other packages are skipped.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import lrcore
from _classes import CLASSES
from lrcore import bench
from lrcore._command_line import Parser, run

Array = NDArray[np.float32]
LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8


class Made(NamedTuple):
    """A peer's step on a set of arrays."""

    call: Callable[[], object]
    params: Callable[[], Any]
    """Returns the current parameters."""


class Peer(NamedTuple):
    """Another package, and how to step with it."""

    name: str
    package: str
    """Name of the module that must be importable."""
    rules: tuple[str, ...]
    make: Callable[[str, Array, Array], Made]
    exact: bool = True
    """Whether it applies Adam's bias corrections, so that its results match those of lrcore."""
    many: bool = False
    """Whether it accepts several tensors."""
    serial: bool = False
    """Whether it computes on one thread."""
    clips: bool = False
    """Whether it can clip the norm of the gradients."""


def make_numpy(_: str, p: Array, g: Array) -> Made:
    """Return Adam as a careful user would write it in NumPy."""
    m, v, x, y = np.zeros_like(p), np.zeros_like(p), np.empty_like(p), np.empty_like(p)
    lr, beta1, beta2, eps = map(np.float32, (LR, BETA1, BETA2, EPS))

    def step() -> None:
        np.multiply(m, beta1, out=m)
        np.multiply(g, 1 - beta1, out=x)
        np.add(m, x, out=m)
        np.multiply(v, beta2, out=v)
        np.multiply(g, g, out=x)
        np.multiply(x, 1 - beta2, out=x)
        np.add(v, x, out=v)
        np.sqrt(v, out=x)
        np.add(x, eps, out=x)
        np.divide(m, x, out=y)
        np.multiply(y, lr, out=y)
        np.subtract(p, y, out=p)

    return Made(step, lambda: p)


@functools.cache
def numba_adam() -> Any:
    """Return the loop, which numba compiles at its first call."""
    import numba

    @numba.njit(parallel=True)  # type: ignore[untyped-decorator]
    def adam(p: Any, g: Any, m: Any, v: Any, lr: Any, b1: Any, b2: Any, c1: Any, c2: Any, eps: Any) -> None:
        one = np.float32(1)
        for i in numba.prange(p.size):
            m[i] = b1 * m[i] + (one - b1) * g[i]
            v[i] = b2 * v[i] + (one - b2) * g[i] * g[i]
            p[i] -= lr * (m[i] * c1) / (np.sqrt(v[i] * c2) + eps)

    return adam


def make_numba(_: str, p: Array, g: Array) -> Made:
    """Return the bare loop with the bias corrections of each step, without a schedule."""
    adam, m, v, t = numba_adam(), np.zeros_like(p), np.zeros_like(p), 0
    lr, beta1, beta2, eps = map(np.float32, (LR, BETA1, BETA2, EPS))

    def step() -> None:
        nonlocal t
        t += 1
        adam(
            p, g, m, v, lr, beta1, beta2, np.float32(1 / (1 - BETA1**t)), np.float32(1 / (1 - BETA2**t)), eps
        )

    return Made(step, lambda: p)


def parameters(p: Array, tensors: int) -> list[Any]:
    """Return `tensors` torch parameters that share the memory of `p`; their sizes alternate in the ratio 100 to 1."""
    import torch

    weights = np.resize([1.0, 0.01], tensors).cumsum()
    cuts = (p.size * weights[:-1] / weights[-1]).astype(int).tolist()
    return [torch.nn.Parameter(part) for part in torch.from_numpy(p).tensor_split(cuts)]


def with_gradients(params: list[Any], g: Array) -> list[Any]:
    """Return the parameters after setting their gradients to consecutive slices of `g`, which share its memory."""
    import torch

    parts = torch.from_numpy(g).split([each.numel() for each in params])
    for each, part in zip(params, parts, strict=True):
        each.grad = part
    return params


def make_torch(rule: str, p: Array, g: Array, way: str, tensors: int, max_norm: float | None) -> Made:
    """Return torch's optimizer on tensors that share the memory of `p` and `g`."""
    import torch

    name, options, _ = CLASSES[rule]
    params = with_gradients(parameters(p, tensors), g)
    step = getattr(torch.optim, name)(params, lr=LR, **options, **{way: True}).step

    def clipped_step() -> None:
        torch.nn.utils.clip_grad_norm_(params, max_norm)
        step()

    return Made(step if max_norm is None else clipped_step, lambda: p)


def make_fused(rule: str, p: Array, g: Array, tensors: int, max_norm: float | None) -> Made:
    """Return the optimizer of `lrcore.torch` on parameters like those of `make_torch`."""
    import torch

    from lrcore.torch import FusedOptimizer

    name, options, _ = CLASSES[rule]
    params = with_gradients(parameters(p, tensors), g)
    rate = lrcore.schedules.Cosine(LR, steps=10**9)
    step = FusedOptimizer(params, getattr(lrcore, name), lr=rate, max_norm=max_norm, **options).step
    return Made(step, lambda: torch.cat([each.detach() for each in params]).numpy())


def make_optax(_: str, p: Array, g: Array, max_norm: float | None) -> Made:
    """Return one jitted function that computes and applies the update."""
    import jax
    import optax

    transform = optax.adam(LR, BETA1, BETA2, EPS)
    if max_norm is not None:
        transform = optax.chain(optax.clip_by_global_norm(max_norm), transform)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    grads = jax.numpy.array(g)
    params = jax.numpy.array(p)
    state = transform.init(params)

    def call() -> None:
        nonlocal params, state
        params, state = step(params, state, grads)
        params.block_until_ready()

    return Made(call, lambda: np.asarray(params))


def make_deepspeed(_: str, p: Array, g: Array) -> Made:
    """Return DeepSpeed's Adam for parameters offloaded to the CPU."""
    import torch
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    tensor = torch.from_numpy(p)
    tensor.grad = torch.from_numpy(g)
    opt = DeepSpeedCPUAdam([tensor], lr=LR, betas=(BETA1, BETA2), eps=EPS, adamw_mode=False)
    return Made(opt.step, lambda: p)


def make_thinc(_: str, p: Array, g: Array) -> Made:
    """Return thinc's kernel, with the bias corrections in the rate as in its Adam.

    Epsilon is therefore added to the uncorrected root.
    """
    from thinc.backends import get_array_ops

    ops, m, v, t = get_array_ops(p), np.zeros_like(p), np.zeros_like(p), 0

    def step() -> None:
        nonlocal t
        t += 1
        lr = LR * math.sqrt(1 - BETA2**t) / (1 - BETA1**t)
        ops.adam(p, g, m, v, BETA1, BETA2, EPS, lr)

    return Made(step, lambda: p)


def torch_peers(tensors: int, max_norm: float | None) -> Iterator[Peer]:
    """Yield the peers that step torch tensors, each with the rules that it supports."""
    for way in ("fused", "foreach"):
        rules = tuple(rule for rule, (*_, ways) in CLASSES.items() if way in ways)
        make = functools.partial(make_torch, way=way, tensors=tensors, max_norm=max_norm)
        yield Peer(f"torch {way}", "torch", rules, make, many=True, clips=True)
    make = functools.partial(make_fused, tensors=tensors, max_norm=max_norm)
    yield Peer("lrcore.torch", "torch", tuple(CLASSES), make, many=True, clips=True)


def peers_of(tensors: int, max_norm: float | None) -> list[Peer]:
    """Return the peers that can step this number of tensors, and can clip if there is a `max_norm`."""
    every = (
        Peer("numpy", "numpy", ("adam",), make_numpy, exact=False, serial=True),
        Peer("numba", "numba", ("adam",), make_numba),
        *torch_peers(tensors, max_norm),
        Peer("optax", "optax", ("adam",), functools.partial(make_optax, max_norm=max_norm), clips=True),
        Peer("deepspeed", "deepspeed", ("adam",), make_deepspeed),
        Peer("thinc", "thinc", ("adam",), make_thinc, serial=True),
    )
    return [peer for peer in every if (peer.many or tensors == 1) and (peer.clips or max_norm is None)]


def ours(rule: str, p: Array, g: Array, max_norm: float | None, lr: Any = LR) -> lrcore.optimizers.Optimizer:
    """Return lrcore's optimizer."""
    name, options, _ = CLASSES[rule]
    cls = getattr(lrcore, name)
    made: lrcore.optimizers.Optimizer = cls(p, lr=lr, grads=g, max_norm=max_norm, **options)
    return made


def problem(size: int) -> tuple[Array, Array]:
    """Return normally distributed parameters and gradients."""
    values = np.random.default_rng(0).normal(size=(2, size)).astype(np.float32)
    return values[0].copy(), values[1].copy()


def check(peer: Peer, rule: str, max_norm: float | None) -> None:
    """Take three steps with a peer and with lrcore; raise RuntimeError if the parameters are not equal up to rounding."""
    (p, g), (q, h) = problem(1000), problem(1000)
    opt, made = ours(rule, p, g, max_norm), peer.make(rule, q, h)
    for _ in range(3):
        opt.step()
        h[...] = g  # torch's clipping, and its foreach SGD with Nesterov momentum, write into the gradients
        made.call()
    if peer.exact:
        difference = float(np.abs(p - made.params()).max())
        allowed = 8 * 2.0**-23 * float(np.abs(p).max())  # a few rounding errors of p per step
        if difference > allowed:
            raise RuntimeError(
                f"{peer.name}: {rule}: expected parameters within {allowed:.2g} of lrcore's, "
                f"got a difference of {difference:.2g}"
            )


IDLE_SECONDS, AWAKE_SECONDS = 0.03, 0.05
"""Seconds after which idle OpenMP threads have stopped spinning and no longer occupy cores, and seconds after which the
system has given each woken thread its own core."""


def settle(call: Callable[[], object], grads: Array) -> None:
    """Refill the gradients, and `wake` the threads of `call`."""
    grads.fill(0.5)
    wake(call)


def wake(call: Callable[[], object]) -> None:
    """Let the threads of other packages fall asleep, and wake the threads of `call`."""
    time.sleep(IDLE_SECONDS)
    awake = time.perf_counter() + AWAKE_SECONDS
    call()
    while time.perf_counter() < awake:
        call()


def variants(
    rule: str, size: int, threads: int, peers: list[Peer], max_norm: float | None
) -> list[bench.Variant]:
    """Return lrcore's step with a cosine schedule, the loops that bound it, and the peers' steps on separate arrays."""
    backend = lrcore.info()["backend"]
    params, grads = bench.aligned_full(size, 1.0), bench.aligned_full(size, 0.5)
    opt = ours(rule, params, grads, max_norm, lrcore.schedules.Cosine(LR, steps=10**9))
    timed = [bench.Variant("lrcore", functools.partial(opt.step, grads), backend, threads)]
    loops = bench.variants(rule, size, [backend], [threads])
    timed += [each for each in loops if each.name in bench.LOOPS]
    for peer in peers:
        if rule in peer.rules:
            theirs = bench.aligned_full(size, 0.5)
            made = peer.make(rule, bench.aligned_full(size, 1.0), theirs)
            timed.append(bench.Variant(peer.name, made.call, threads=1 if peer.serial else threads))
            timed[-1].prepare = functools.partial(settle, made.call, theirs)
    for own in timed:
        if own.backend:
            own.prepare = functools.partial(settle, own.call, grads)
    return timed


def present(chosen: list[str], tensors: int, max_norm: float | None) -> list[Peer]:
    """Return the chosen peers that are installed, after comparing their steps with lrcore's; report missing packages."""
    found = []
    for peer in peers_of(tensors, max_norm):
        if peer.name.split()[0] not in chosen:
            continue
        if importlib.util.find_spec(peer.package) is None:
            print(f"skipping {peer.name}: {peer.package} is not installed", file=sys.stderr)
            continue
        for rule in peer.rules:
            check(peer, rule, max_norm)
        found.append(peer)
    return found


def limit_threads(threads: int) -> None:
    """Set the number of threads of every package. Some read it from the environment when they are imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.set_num_threads(threads)
    lrcore.set_num_threads(threads)


def main() -> int:
    """Run the comparison, and return the exit status."""
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    bench.add_arguments(parser)
    names = list(dict.fromkeys(peer.name.split()[0] for peer in peers_of(1, None)))
    parser.add_argument(
        "--peers", nargs="+", default=names, choices=names, metavar="PEER", help=", ".join(names)
    )
    parser.add_argument(
        "--tensors", type=int, default=1, help="number of torch tensors (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if arguments.tensors < 1:
        parser.error(f"--tensors: expected a number >= 1, got {arguments.tensors}")
    for name in ("segments", "gradients"):
        if getattr(arguments, name):
            parser.error(f"--{name}: the peers have no such step; use lrcore bench")
    max_norm = arguments.max_norm
    if arguments.backends:
        parser.error(
            "--backends: the peers are compared with the backend in use; select it with LRCORE_BACKEND"
        )
    threads = arguments.threads or [lrcore.info()["threads"]]
    if len(threads) > 1:
        parser.error(
            "--threads: expected one number, because some peers cannot change their number of threads"
        )
    limit_threads(threads[0])
    peers = present(arguments.peers, arguments.tensors, max_norm)
    versions = {peer.package: importlib.metadata.version(peer.package) for peer in peers}
    return run(
        "bench/against.py",
        lambda: bench.execute(
            arguments,
            lambda rule, size: variants(rule, size, threads[0], peers, max_norm),
            lambda rule, size: 4 * size * (3 + len(peers)) * (2 + len(lrcore.rules()[rule].states)),
            peers=versions,
            tensors=arguments.tensors,
            max_norm=max_norm,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
