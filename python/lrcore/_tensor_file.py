"""Files in the format safetensors that are replaced as a whole and checked when they are read.

Beside the tensors, which are F32, stands the JSON text of the header's metadata `lrcore`, with the number of the format,
the class and the version that wrote it. The metadata `lrcore.crc32` is the CRC-32 of that text and of the tensors in the
order of their names, 8 hexadecimal digits: it finds what the other checks cannot, such as a digit that has changed.
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

from lrcore._extras import needs
from lrcore._lrcore_core import build_info
from lrcore._replace import replace_file

TEXT = "lrcore"
_SUM = "lrcore.crc32"
OWN = ("format", "version", "class")
"""What each text has."""
_LONGEST = 99_000_000
"""Of the header, in bytes: safetensors reads none beyond 100 MB, and some versions write one."""


def write(
    path: str | os.PathLike[str],
    form: int,
    class_name: str,
    entries: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
) -> None:
    """Write contiguous arrays of NumPy, and a text of these entries and those of its own."""
    with needs("io"):
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

    own = dict(zip(OWN, (form, build_info()["version"], class_name), strict=True))
    text = json.dumps(own | dict(entries), allow_nan=False)
    metadata = {TEXT: text, _SUM: _checksum(text, arrays)}
    tensors = {
        name: {"dtype": "F32", "shape": a.shape, "data_offsets": [2**63] * 2} for name, a in arrays.items()
    }
    if len(json.dumps(tensors | {"__metadata__": metadata})) > _LONGEST:
        longest = max(entries, key=lambda name: len(json.dumps(entries[name])))
        raise ValueError(f"{path}: the {longest} is too long for the file's header, which ends at 100 MB")

    def write_to(temporary: Path) -> None:
        try:
            save_file(dict(arrays), temporary, metadata)
        except SafetensorError as error:
            _raise_as_the_systems(error, path)

    replace_file(path, write_to)


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a file, its form checked, as safetensors' `safe_open` does. What is found wrong in the block is blamed on it."""
    with needs("io"):
        from safetensors import SafetensorError, safe_open

    with (
        blaming(path, SafetensorError),
        Path(path).open("rb") as file,
        safe_open(os.fspath(path), framework="np") as tensors,  # checks sizes and offsets
    ):
        _parse(file.read(int.from_bytes(file.read(8), "little")))  # finds names that stand twice
        yield tensors


@contextmanager
def blaming(path: str | os.PathLike[str], *errors: type[Exception]) -> Iterator[None]:
    """Turn what is found wrong in a file into a ValueError that names it."""
    wrong: tuple[type[Exception], ...] = (TypeError, ValueError, OverflowError, RecursionError, *errors)
    try:
        yield
    except wrong as error:
        raise ValueError(f"{path}: {error}") from error


def entries_of(text: str, form: int) -> dict[str, Any]:
    """Give the entries of a text, when it is of this format."""
    entries = _parse(text)
    if not isinstance(entries, dict):
        raise TypeError(f"{TEXT}: expected a JSON object, got {type(entries).__name__}")
    number = entries.get("format")
    if type(number) is int and number > form:
        raise ValueError(
            f"format {number}, written by lrcore {entries.get('version')}; this is lrcore {build_info()['version']}, which "
            f"reads {form}: install a later one"
        )
    if type(number) is not int or number != form:
        raise ValueError(f"format: expected {form}, got {number!r}")
    return entries


def tensor(tensors: Any, name: str, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """Give a tensor, when it is of F32 and, where one is given, of the right shape: before its bytes are read."""
    found = tensors.get_slice(name)
    dtype, extents = found.get_dtype(), [*found.get_shape()]
    if dtype != "F32" or shape not in (None, tuple(extents)):
        expected = "F32" if shape is None else f"F32 of shape {[*shape]}"
        raise ValueError(f"{name}: expected {expected}, got {dtype} of shape {extents}")
    array: NDArray[Any] = tensors.get_tensor(name)
    return array


def require_checksum(metadata: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """ValueError where a text and the arrays beside it are not those that were written."""
    if metadata.get(_SUM) != _checksum(metadata[TEXT], arrays):
        raise ValueError("damaged: it does not have the checksum that it was written with")


def _checksum(text: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    checksum = zlib.crc32(text.encode())
    for name in sorted(arrays):
        checksum = zlib.crc32(arrays[name].data, checksum)
    return f"{checksum:08x}"


def _parse(text: str | bytes) -> Any:
    """Parse strict JSON, in which no name stands twice."""
    return json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the entry {name!r} stands twice")
        found[name] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"expected finite numbers, got {name}")


def _raise_as_the_systems(error: Exception, path: str | os.PathLike[str]) -> NoReturn:
    """Raise the OSError that safetensors tells of in its message."""
    number = re.search(r"(?:os error |code: )(\d+)", str(error))
    if number is None:
        raise OSError(f"{path}: {error}") from error
    code = int(number[1])
    raise OSError(code, os.strerror(code), os.fspath(path)) from error
