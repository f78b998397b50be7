"""Fuzz the file of an optimizer's state: ``python fuzz/state_file.py -runs=100000``.

Whatever the bytes are, `Optimizer.load` and `lrcore.load` take them or raise what their documentation says, and then
nothing has changed. What is taken goes out to a file again, and steps.
"""

from __future__ import annotations

import atheris

with atheris.instrument_imports(include=["lrcore", "json", "safetensors"]):
    import json.decoder
    import json.scanner

    import lrcore
    from lrcore import optimizers, schedules

import contextlib
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from _harness import fuzz, guarded
from _mutations import ODD, changed, spliced

N = 3
FILE = os.memfd_create("state")
PATH = f"/proc/self/fd/{FILE}"
AGAIN = (
    Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()) / f"lrcore-fuzz-{os.getpid()}"
)
"""A file in memory, where there is such a place: a million saves wait for no disk."""


def params() -> Any:
    """Give parameters."""
    return np.linspace(-1, 1, N, dtype=np.float32)


def everything(opt: Any) -> Any:
    """Give all that a load could change; the rate with an equal schedule is equal."""
    states = {name: state.tobytes() for name, state in opt.state.items()}
    plateaus = [each.state_dict() for each in schedules.plateaus(opt.schedule)]
    return opt.params.tobytes(), states, opt.step_count, dict(opt.hyper), opt.schedule, plateaus


def target(data: bytes) -> None:
    """Load the file in all ways."""
    os.ftruncate(FILE, 0)
    os.pwrite(FILE, data, 0)
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
        assert checksum(data) == json.loads(text_of(data))["__metadata__"]["lrcore.crc32"]
    for each in [opt] if made is None else [made, remade(made), opt]:
        step(each)


def text_of(data: bytes) -> bytes:
    """Give the header of a file that was taken."""
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def checksum(data: bytes) -> str:
    """Give the checksum that is due, from the bytes alone."""
    header, tensors = json.loads(text_of(data)), data[8 + len(text_of(data)) :]
    found = zlib.crc32(header.pop("__metadata__")["lrcore"].encode())
    for name in sorted(header):
        begin, end = header[name]["data_offsets"]
        found = zlib.crc32(tensors[begin:end], found)
    return f"{found:08x}"


def load(lr: float | None) -> Any:
    """Give the optimizer that the file makes, or None where it is refused."""
    own = params()
    try:
        return lrcore.load(PATH, own, lr=lr)
    except (TypeError, ValueError) as error:
        assert PATH in str(error), error
        assert own.tobytes() == params().tobytes()
        return None


def remade(opt: Any) -> Any:
    """Write what was loaded, and give what comes back: the same."""
    stored = "schedule" in opt.state_dict()
    opt.save(AGAIN)
    again = lrcore.load(AGAIN, params(), lr=None if stored else 0.5)
    AGAIN.unlink()
    assert repr(everything(again)) == repr(everything(opt))  # NaN in a state is its bytes; other ones print
    assert again.rule == opt.rule
    return again


def step(opt: Any) -> None:
    """Take a step, or be refused for the rate or the count and change nothing."""
    before = everything(opt)
    try:
        opt.step(np.ones(N, np.float32))
    except (ValueError, OverflowError, RecursionError) as error:
        assert everything(opt) == before, error
    else:
        assert opt.step_count == before[2] + 1


# ---- the corpus


def rates() -> Iterator[Any]:
    """Give rates of all kinds."""
    yield from (0.1, schedules.Cosine(0.1, steps=9).warmup(3), schedules.Plateau(0.1, patience=1) * 0.5)
    yield schedules.Sequence(
        [(schedules.OneCycle(0.1, 20), 20), schedules.PiecewiseConstant([2], [0.1, 0.2])]
    )
    yield schedules.CyclicStages([(0.1, 3), (0.2, 1)]).clip(0.05, 0.15).per_epoch(2)
    yield lambda t: 0.1 / (1 + t)


def seeds() -> Iterator[bytes]:
    """Give the files of all classes, and of several rates and options."""
    for name in optimizers.__all__:
        if name != "Optimizer":
            yield from saved(getattr(optimizers, name)(params()))
    for rate in rates():
        yield from saved(lrcore.Adam(params(), lr=rate, amsgrad=True))
    yield from saved(lrcore.SGD(params(), lr=0.1, momentum=0.9, nesterov=True, maximize=True))
    yield from saved(lrcore.RMSprop(params(), momentum=0.9, centered=True, eps_inside_sqrt=True))


def saved(opt: Any) -> Iterator[bytes]:
    """Give the file of an optimizer after two steps."""
    for _ in range(2):
        opt.step(np.ones(N, np.float32))
    for each in schedules.plateaus(opt.schedule):
        each.observe(2.0)
    opt.save(AGAIN)
    yield AGAIN.read_bytes()
    AGAIN.unlink()


# ---- mutations that keep the form of the file


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Change bytes; or the header, its text or the tensors, with the lengths and the checksum that belong to them."""
    random = Random(seed)
    if random.random() < 0.8:
        with contextlib.suppress(
            ValueError, TypeError, AttributeError, KeyError, RecursionError, struct.error
        ):
            return rebuilt(random, data)[:max_size]
    return bytes(atheris.Mutate(data, max_size))


def rebuilt(random: Random, data: bytes) -> bytes:
    """Give the file with one thing changed, and what depends on it made right most of the time."""
    (length,) = struct.unpack("<Q", data[:8])
    header, tensors = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    metadata = header["__metadata__"]
    choice = random.random()
    if choice < 0.6:
        metadata["lrcore"] = json.dumps(changed(random, json.loads(metadata["lrcore"]), ODD))
    elif choice < 0.7:
        metadata["lrcore"] = spliced(
            random, metadata["lrcore"], ['"', "{", "}", "[" * 999, "NaN", "1e999", ", ", "9" * 99]
        )
    elif choice < 0.9:
        header = changed(random, header, ODD)
    else:
        tensors[random.randint(0, len(tensors)) :] = random.randbytes(random.choice([0, 4, 12]))
    if random.random() < 0.95:
        checksum = zlib.crc32(tensors, zlib.crc32(metadata["lrcore"].encode()))
        metadata["lrcore.crc32"] = f"{checksum:08x}"
    text = json.dumps(header)
    if random.random() < 0.05:
        text = spliced(random, text, ['"', "{", "}", '"exp_avg": 1, ', " "])
    length = len(text.encode()) if random.random() < 0.95 else random.choice([0, 1, length, 2**63, 2**64 - 1])
    return struct.pack("<Q", length) + text.encode() + tensors


if __name__ == "__main__":
    fuzz(target, mutate, list(seeds()))
