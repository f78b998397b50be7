"""The two kinds of files, states and packs: objects made from a number, and small files written by hand."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import lrcore

SIZE = 3
"""Number of elements of small files."""
LARGE = 90_000


class Kind(NamedTuple):
    """A kind of file: functions that make and load its objects, and the text and tensors of a small file."""

    make: Callable[..., Any]
    from_file: Callable[[Any], Any]
    text: dict[str, Any]
    tensors: dict[str, Any]

    def uses(self, path: Any) -> list[Callable[[], Any]]:
        """Return all operations that take the path of a file, beginning with a save."""
        made = self.make(1)
        return [lambda: made.save(path), lambda: made.load(path), lambda: self.from_file(path)]


def optimizer(number: int, size: int = SIZE) -> Any:
    """Return an optimizer whose step count and states are `number`."""
    opt = lrcore.Adam(np.zeros(size, np.float32), 0.5, betas=(0.8, 0.9))
    opt.step_count = number
    for state in opt.state.values():
        state[:] = number
    return opt


def pack(number: int, size: int = SIZE) -> Any:
    """Return a pack whose values are `number`."""
    made = lrcore.Pack({"a": [{"w": size - 1}], "b": (), "zero": (0, 3)})
    made.flat[:] = number
    return made


def number_of(made: Any) -> int:
    """Return the number of an optimizer or a pack; assert that all of its contents have this number."""
    is_pack = isinstance(made, lrcore.Pack)
    arrays = [made.flat] if is_pack else made.state.values()
    numbers = {float(each) for array in arrays for each in (array.min(), array.max())}
    (number,) = numbers if is_pack else numbers | {made.step_count}
    return int(number)


def tensor(shape: list[int], first: int, last: int, dtype: str = "F32") -> dict[str, Any]:
    """Return a tensor's entry in a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


KINDS: dict[str, Kind] = {
    "optimizer": Kind(
        optimizer,
        lambda path: lrcore.load(path, np.zeros(SIZE, np.float32)),
        {
            "format": 2,
            "version": "0.1.0",
            "class": "Adam",
            "rule": "adam",
            "options": {"eps_placement": "corrected", "amsgrad": False, "decay": "l2", "maximize": False},
            "hyper": {"betas": [0.8, 0.9], "eps": 1e-8, "weight_decay": 0.0},
            "step_count": 2,
            "schedule": {"schedule": "Constant", "lr": 0.5},
        },
        {"exp_avg": tensor([3], 0, 12), "exp_avg_sq": tensor([3], 12, 24)},
    ),
    "pack": Kind(
        pack,
        lrcore.Pack.from_file,
        {
            "format": 2,
            "version": "0.1.0",
            "class": "Pack",
            "structure": {"a": [{"w": "[2]"}], "b": "[]", "zero": "[0, 3]"},
        },
        {"a.0.w": tensor([2], 0, 8), "b": tensor([], 8, 12), "zero": tensor([0, 3], 12, 12)},
    ),
}


def changed(former: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dictionary with some entries changed; ``...`` removes an entry."""
    return {name: value for name, value in {**former, **changes}.items() if value is not ...}


def put(path: Path, header: Any, data: bytes = b"") -> Path:
    """Write a file with this header; return its path."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def put_small(
    path: Path,
    kind: Kind,
    text: str | None = None,
    tensors: Mapping[str, Any] | None = None,
    metadata: Any = None,
) -> Path:
    """Write the small file for the number 2, or one with other text, tensors or metadata; return its path."""
    text = json.dumps(kind.text) if text is None else text
    tensors = kind.tensors if tensors is None else tensors
    end = max((each["data_offsets"][1] for each in tensors.values()), default=0)
    data = np.full(end // 4, 2, np.float32).tobytes()
    checksum = zlib.crc32(data, zlib.crc32(text.encode()))
    ours = {"lrcore": text, "lrcore.crc32": f"{checksum:08x}"}
    return put(path, {"__metadata__": ours if metadata is None else metadata, **tensors}, data)


def split(path: Path) -> tuple[bytes, bytes]:
    """Return the text of a file's header, and the data after it."""
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    return content[8:begin], content[begin:]


def header_of(path: Path) -> Any:
    """Return the header of a file."""
    return json.loads(split(path)[0])


def contents(made: Any) -> Any:
    """Return everything that a load could change."""
    if isinstance(made, lrcore.Pack):
        return made.flat.tobytes()
    states = {name: np.array(state).tobytes() for name, state in made.state.items()}
    return np.array(made.params).tobytes(), states, made.step_count, dict(made.hyper), made.schedule, made.lr


@contextmanager
def refusing(
    path: Path, match: str | None = None, error: type[Exception] = ValueError, into: Any = None
) -> Iterator[None]:
    """Assert that an error is raised that names the file and leaves `into` unchanged."""
    before = None if into is None else contents(into)
    with pytest.raises(error, match=match) as raised:
        yield
    assert str(path) in str(raised.value)
    assert into is None or contents(into) == before


def assert_refused(
    path: Path, kind: Kind, match: str | None = None, error: type[Exception] = ValueError
) -> None:
    """Assert that both ways of loading refuse the file and name it, and that nothing changes."""
    into = kind.make(3)
    with refusing(path, match, error, into):
        into.load(path)
    with refusing(path, match, error):
        kind.from_file(path)
