"""Files in safetensors format that are replaced atomically and checked when they are read.

A file consists of 8 bytes with the length of the header, the header, and the data of the tensors. The header is a
JSON object that maps the name of each tensor to its dtype, shape and position, and ``__metadata__`` to a
dictionary of strings. The format is specified at https://github.com/huggingface/safetensors#format; here,
each tensor is F32.

The metadata entry `lrcore` is the JSON text described in `lrcore._files.format`. The entry `lrcore.crc32` is the
CRC-32 of that text and of the tensors in the order of their names, as 8 hexadecimal digits. It detects errors
that the other checks cannot find, such as a changed digit. Files from other programs have neither entry.

A file is read into memory and never memory-mapped: if another process truncated a mapped file, the next access to the
mapping would kill the reader.
"""

from __future__ import annotations

import json
import math
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lrcore._files.atomic import os_errors_naming, replace_file
from lrcore._files.format import TEXT, text_of
from lrcore._files.strict_json import MOST_MARKS, marks, parse

_SUM = "lrcore.crc32"
_LONGEST = 99_000_000
"""Largest length of a header to write, in bytes; safetensors reads up to 100 MB."""
_LONGEST_READ = 100_000_000
_BLOCK = 2**20
"""Number of bytes to read at once; few enough to still be in the cache when their checksum is computed."""


class Tensor(NamedTuple):
    """The entry of a tensor in a header. The tensor's data begins at byte `begin` of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int


class TensorFile(NamedTuple):
    """An open file whose header has been checked. The tensors are in the order of their names."""

    file: FileIO
    state: os.stat_result
    metadata: dict[str, str]
    tensors: dict[str, Tensor]


# ---- writing


def write(path: str, class_name: str, entries: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write contiguous float32 NumPy arrays, and metadata with `entries` and the entries that every file has."""
    text = text_of(class_name, entries)
    header = _header({TEXT: text, _SUM: _checksum(text, arrays)}, arrays)
    if len(header) > _LONGEST or marks(header.decode()) > MOST_MARKS:
        longest = max(entries, key=lambda name: len(json.dumps(entries[name])))
        raise ValueError(
            f"{path}: the {longest} is too long for the file's header, which may have at most {_LONGEST} bytes "
            f"and {MOST_MARKS} brackets, colons and commas"
        )

    def write_to(file: FileIO) -> None:
        _write_all(file, memoryview(len(header).to_bytes(8, "little") + header))
        for name in sorted(arrays):
            _write_all(file, _bytes_of(arrays[name]))

    replace_file(path, write_to)


def _header(metadata: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the header for arrays stored in the order of their names."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in sorted(arrays):
        begin, end = end, end + arrays[name].nbytes
        header[name] = {"dtype": "F32", "shape": arrays[name].shape, "data_offsets": (begin, end)}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8


def _checksum(text: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    checksum = zlib.crc32(text.encode())
    for name in sorted(arrays):
        checksum = zlib.crc32(_bytes_of(arrays[name]), checksum)
    return f"{checksum:08x}"


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """Return a view of the bytes of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data


def _write_all(file: FileIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


# ---- reading


@contextmanager
def reading(path: str) -> Iterator[TensorFile]:
    """Open a file and check its header. A ValueError or TypeError in the block becomes a ValueError that names the file."""
    with os_errors_naming(path), naming_file(path), open(path, "rb", buffering=0, opener=_open) as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("expected a file, got a device or a pipe")
        yield TensorFile(file, state, *_read_header(file, state.st_size))


@contextmanager
def naming_file(what: str) -> Iterator[None]:
    """Convert errors about the contents of a file, or of a part of a file, to a ValueError that names `what`."""
    try:
        yield
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{what}: {error}") from error


def read_arrays(
    opened: TensorFile, shapes: Mapping[str, tuple[int, ...] | None]
) -> dict[str, NDArray[np.float32]]:
    """Return the tensors after checking that they are F32 and have these shapes, and that the checksum is right.

    A shape of None is not checked. Shapes and dtypes are checked before memory is allocated.
    """
    for name, found in opened.tensors.items():
        shape = shapes[name]
        if found.dtype != "F32" or shape not in (None, found.shape):
            expected = "F32" if shape is None else f"F32 of shape {[*shape]}"
            raise ValueError(f"{name}: expected {expected}, got {found.dtype} of shape {[*found.shape]}")
    text = opened.metadata.get(TEXT)
    checksum = zlib.crc32((text or "").encode())
    arrays: dict[str, NDArray[np.float32]] = {}
    for name, found in opened.tensors.items():
        arrays[name] = np.empty(found.shape, np.float32)
        data = _bytes_of(arrays[name])
        for first in range(0, len(data), _BLOCK):
            block = data[first : first + _BLOCK]
            _read(opened.file, found.begin + first, block)
            checksum = zlib.crc32(block, checksum)
    now = os.fstat(opened.file.fileno())
    if (now.st_size, now.st_mtime_ns) != (opened.state.st_size, opened.state.st_mtime_ns):
        raise ValueError("changed while it was being read")
    if text is not None and opened.metadata.get(_SUM) != f"{checksum:08x}":
        raise ValueError("damaged: the checksum does not match the contents")
    return arrays


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # otherwise, opening a pipe would block until it has a writer


def _read(file: FileIO, begin: int, into: memoryview) -> None:
    """Fill a buffer with the bytes of a file from `begin` on."""
    while into:
        count = os.preadv(file.fileno(), [into], begin)
        if count == 0:
            raise ValueError("truncated while it was being read")
        into, begin = into[count:], begin + count


def _read_header(file: FileIO, size: int) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors in the header of a file of `size` bytes."""
    with naming_file("header"):
        if size < 8:
            raise ValueError(f"expected 8 bytes with its length, got a file of {size} bytes")
        _read(file, 0, memoryview(start := bytearray(8)))
        length = int.from_bytes(start, "little")
        if length > (most := min(size - 8, _LONGEST_READ)):
            problem = f"expected at most {most} bytes, got a length of {length}"
            raise ValueError(f"{problem}; the file is damaged, or is not a safetensors file")
        _read(file, 8, memoryview(data := bytearray(length)))
        if not data.startswith(b"{"):
            raise ValueError("expected a JSON object; the file is damaged, or is not a safetensors file")
        header = parse(data.decode())
        metadata = header.pop("__metadata__", {})
        if type(metadata) is not dict or not all(type(text) is str for text in metadata.values()):
            raise TypeError("__metadata__: expected a dictionary of strings")
        return metadata, _tensors(header, 8 + length, size)


def _tensors(header: Mapping[str, Any], first: int, size: int) -> dict[str, Tensor]:
    """Return the tensors of a header after checking that they fill the file from `first` to `size` exactly."""
    places = {name: _place(name, entry) for name, entry in header.items()}
    found, end = {}, first
    for name in sorted(places, key=places.__getitem__):
        begin, after = (first + offset for offset in places[name])
        tensor = Tensor(header[name]["dtype"], tuple(header[name]["shape"]), begin)
        if begin != end:
            raise ValueError(f"{name}: expected data_offsets from {end - first}, got {[*places[name]]}")
        if tensor.dtype == "F32" and after - begin != 4 * math.prod(tensor.shape):
            raise ValueError(f"{name}: {after - begin} bytes of data do not match shape {[*tensor.shape]}")
        found[name], end = tensor, after
    if end != size:
        raise ValueError(f"expected {end - first} bytes of data after it, got {size - first}")
    return dict(sorted(found.items()))


def _place(name: str, entry: Any) -> tuple[int, int]:
    """Return the offsets of a tensor after checking that its entry conforms to the format."""
    name.encode()  # raises UnicodeEncodeError, a ValueError, if UTF-8 cannot encode the name
    with naming_file(name):
        if type(entry) is not dict or {*entry} != {"dtype", "shape", "data_offsets"}:
            raise ValueError("expected the entries dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if type(dtype) is not str or len(dtype) > 20:
            raise ValueError("dtype: expected the name of a dtype")
        for what, values, most in (("shape", shape, 64), ("data_offsets", offsets, 2)):
            if type(values) is not list or len(values) > most:
                raise ValueError(f"{what}: expected a list of at most {most} integers")
            if not all(type(value) is int and value >= 0 for value in values):
                raise ValueError(f"{what}: expected integers >= 0")
        begin, end = offsets
    return begin, end
