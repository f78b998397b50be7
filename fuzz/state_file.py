"""Fuzz the file of an optimizer's state: ``python fuzz/state_file.py -runs=100000``.

For any bytes, `Optimizer.load` and `lrcore.load` must either accept them, or raise a documented exception and change
nothing. An accepted optimizer must be the same after saving and loading it again, and must step, or reject the step
and change nothing.
"""

from __future__ import annotations

import atheris

with atheris.instrument_imports(include=["lrcore", "json"]):
    import json.decoder
    import json.scanner  # noqa: F401

    import lrcore
    from lrcore import optimizers, schedules

from collections.abc import Iterator
from typing import Any

import numpy as np

from _harness import AGAIN, PATH, fuzz, guarded, mutator, put
from _mutations import ODD, checksum, parts, rebuilt

N = 3


def params() -> Any:
    """Return the initial parameters."""
    return np.linspace(-1, 1, N, dtype=np.float32)


def everything(opt: Any) -> Any:
    """Return all data that a load could change. The rate is not included, because equal schedules have equal rates."""
    states = {name: state.tobytes() for name, state in opt.state.items()}
    plateaus = [each.state_dict() for each in schedules.plateaus(opt.schedule)]
    return opt.params.tobytes(), states, opt.step_count, dict(opt.hyper), opt.schedule, plateaus


def target(data: bytes) -> None:
    """Load the file in every possible way."""
    put(data)
    opt = lrcore.Adam(params(), lr=0.25)
    before = everything(opt)
    with guarded():
        try:
            opt.load(PATH)
        except ValueError as error:
            assert str(error).startswith(PATH), error
            assert everything(opt) == before
        made = load(None) or load(0.5)
    if made is not None:
        header, tensors = parts(data)
        assert checksum(header, tensors) == header["__metadata__"]["lrcore.crc32"]
    for each in [opt] if made is None else [made, remade(made), opt]:
        step(each)


def load(lr: float | None) -> Any:
    """Return the optimizer in the file, or None if the file is rejected."""
    own = params()
    try:
        return lrcore.load(PATH, own, lr=lr)
    except (TypeError, ValueError) as error:
        assert PATH in str(error), error
        assert own.tobytes() == params().tobytes()
        return None


def remade(opt: Any) -> Any:
    """Save a loaded optimizer, load it again, check that it is the same, and return it."""
    stored = "schedule" in opt.state_dict()
    opt.save(AGAIN)
    again = lrcore.load(AGAIN, params(), lr=None if stored else 0.5)
    AGAIN.unlink()
    assert repr(everything(again)) == repr(everything(opt))  # repr, because NaN != NaN
    assert again.rule == opt.rule
    return again


def step(opt: Any) -> None:
    """Take a step; if it is rejected because of the rate or the count, check that nothing has changed."""
    before = everything(opt)
    try:
        opt.step(np.ones(N, np.float32))
    except (ValueError, OverflowError, RecursionError) as error:
        assert everything(opt) == before, error
    else:
        assert opt.step_count == before[2] + 1


# ---- the corpus


def rates() -> Iterator[Any]:
    """Yield learning rates of all kinds."""
    yield from (0.1, schedules.Cosine(0.1, steps=9).warmup(3), schedules.Plateau(0.1, patience=1) * 0.5)
    yield schedules.Sequence(
        [(schedules.OneCycle(0.1, 20), 20), schedules.PiecewiseConstant([2], [0.1, 0.2])]
    )
    yield schedules.CyclicStages([(0.1, 3), (0.2, 1)]).clip(0.05, 0.15).per_epoch(2)
    yield lambda t: 0.1 / (1 + t)


def seeds() -> Iterator[bytes]:
    """Yield files of all classes, and of several rates and options."""
    for name in optimizers.__all__:
        if name != "Optimizer":
            yield from saved(getattr(optimizers, name)(params()))
    for rate in rates():
        yield from saved(lrcore.Adam(params(), lr=rate, amsgrad=True))
    yield from saved(lrcore.SGD(params(), lr=0.1, momentum=0.9, nesterov=True, maximize=True))
    yield from saved(lrcore.RMSprop(params(), momentum=0.9, centered=True, eps_inside_sqrt=True))


def saved(opt: Any) -> Iterator[bytes]:
    """Yield the file of an optimizer after two steps."""
    for _ in range(2):
        opt.step(np.ones(N, np.float32))
    for each in schedules.plateaus(opt.schedule):
        each.observe(2.0)
    opt.save(AGAIN)
    yield AGAIN.read_bytes()
    AGAIN.unlink()


if __name__ == "__main__":
    fuzz(target, mutator(lambda random, data: rebuilt(random, data, ODD)), list(seeds()))
