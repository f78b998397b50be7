"""The file of an optimizer's state: its state dictionary in the format safetensors.

Each state is a tensor, F32 and flat. All other entries are the JSON text of the header's metadata `lrcore`, beside the
number of this format and the optimizer's class and the version that wrote it. The metadata `lrcore.crc32` is the CRC-32
of that text and of the tensors in the order of their names, 8 hexadecimal digits: it finds what the other checks cannot,
such as a digit that has changed.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from numpy.typing import NDArray

from lrcore._arguments import require_entries
from lrcore._extras import needs
from lrcore._lrcore_core import build_info
from lrcore._replace import replace_file

FORMAT = 1

_TEXT, _SUM = "lrcore", "lrcore.crc32"
_OWN = ("format", "version", "class")
"""What the text has beside the entries of the dictionary."""
_LONGEST = 99_000_000
"""Of the metadata, in bytes: safetensors reads no header beyond 100 MB, and some versions write one."""


def write(path: str | os.PathLike[str], class_name: str, dictionary: Mapping[str, Any]) -> None:
    """Write a state dictionary whose states are arrays of NumPy."""
    with needs("io"):
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

    state = dictionary["state"]
    others = {name: value for name, value in dictionary.items() if name != "state"}
    own = dict(zip(_OWN, (FORMAT, build_info()["version"], class_name), strict=True))
    text = json.dumps(own | others, allow_nan=False)
    metadata = {_TEXT: text, _SUM: _checksum(text, state)}
    if len(json.dumps(metadata)) > _LONGEST:
        raise ValueError(f"{path}: the schedule is too long for the file's header, which ends at 100 MB")

    def write_to(temporary: Path) -> None:
        try:
            save_file(state, temporary, metadata)
        except SafetensorError as error:
            _raise_as_the_systems(error, path)

    replace_file(path, write_to)


def read(path: str | os.PathLike[str], size: int) -> tuple[Any, dict[str, Any]]:
    """Give the name of the class that a file is of, and its state dictionary, for parameters of `size` elements.

    The name and the entries are as they were found: `Optimizer.load_state_dict` checks them.
    """
    with needs("io"):
        from safetensors import SafetensorError, safe_open

    with (
        blaming(path, SafetensorError),
        Path(path).open("rb") as file,
        safe_open(os.fspath(path), framework="np") as tensors,  # checks sizes and offsets
    ):
        _parse(file.read(int.from_bytes(file.read(8), "little")))  # finds names that stand twice
        metadata = tensors.metadata() or {}
        if _TEXT not in metadata:
            raise ValueError(f"not a state of lrcore: its metadata has no {_TEXT!r}")
        entries = _entries(metadata[_TEXT])
        state = {name: _tensor(tensors, name, size) for name in tensors.keys()}  # noqa: SIM118
        if metadata.get(_SUM) != _checksum(metadata[_TEXT], state):
            raise ValueError("damaged: it does not have the checksum that it was written with")
    dictionary = {name: value for name, value in entries.items() if name not in _OWN}
    return entries["class"], dictionary | {"state": state}


@contextmanager
def blaming(path: str | os.PathLike[str], *errors: type[Exception]) -> Iterator[None]:
    """Turn what is found wrong in a file into a ValueError that names it."""
    wrong: tuple[type[Exception], ...] = (TypeError, ValueError, OverflowError, RecursionError, *errors)
    try:
        yield
    except wrong as error:
        raise ValueError(f"{path}: {error}") from error


def _checksum(text: str, state: Mapping[str, NDArray[Any]]) -> str:
    checksum = zlib.crc32(text.encode())
    for name in sorted(state):
        checksum = zlib.crc32(state[name].data, checksum)
    return f"{checksum:08x}"


def _parse(text: str | bytes) -> Any:
    """Parse strict JSON, in which no name stands twice."""
    return json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the entry {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"expected finite numbers, got {name}")


def _entries(text: str) -> dict[str, Any]:
    """Give the entries of the text, when it is of this format."""
    entries = _parse(text)
    if not isinstance(entries, dict):
        raise TypeError(f"{_TEXT}: expected a JSON object, got {type(entries).__name__}")
    number = entries.get("format")
    if type(number) is int and number > FORMAT:
        raise ValueError(
            f"format {number}, written by lrcore {entries.get('version')}; this is lrcore {build_info()['version']}, which "
            f"reads {FORMAT}: install a later one"
        )
    if type(number) is not int or number != FORMAT:
        raise ValueError(f"format: expected {FORMAT}, got {number!r}")
    require_entries(_TEXT, entries, _OWN, *({*entries} - {*_OWN, "state"}))
    return entries


def _tensor(tensors: Any, name: str, size: int) -> NDArray[Any]:
    """Give a state, when it is of the right kind: before its bytes are read."""
    found = tensors.get_slice(name)
    dtype, shape = found.get_dtype(), [*found.get_shape()]
    if dtype != "F32" or shape != [size]:
        raise ValueError(f"{name}: expected F32 of shape {[size]}, got {dtype} of shape {shape}")
    array: NDArray[Any] = tensors.get_tensor(name)
    return array


def _raise_as_the_systems(error: Exception, path: str | os.PathLike[str]) -> NoReturn:
    """Raise the OSError that safetensors tells of in its message."""
    number = re.search(r"(?:os error |code: )(\d+)", str(error))
    if number is None:
        raise OSError(f"{path}: {error}") from error
    code = int(number[1])
    raise OSError(code, os.strerror(code), os.fspath(path)) from error
