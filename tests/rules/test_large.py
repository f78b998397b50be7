"""Arrays with more elements than 32 bits can count. Most of their memory is one file, mapped repeatedly."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

import lrcore
from support import Array, assert_bits

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="os.memfd_create needs Linux")

SHARED = 2**24
"""Size in bytes of the file that is mapped again and again."""
ISLAND = 2**16
"""Size in bytes of the separate memory around each element that is checked."""
MAP_FIXED, MAP_NORESERVE, MAP_POPULATE, PROT_NONE = 0x10, 0x4000, 0x8000, 0

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_ssize_t
]  # fmt: skip
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def map_at(address: int | None, size: int, protection: int, flags: int, file: int = -1) -> int:
    """Return the address of a new mapping."""
    mapped = libc.mmap(address, size, protection, flags, file, 0)
    if mapped in (None, 2**64 - 1):
        raise OSError(ctypes.get_errno(), "mmap")
    return int(mapped)


@contextmanager
def sparse(n: int, places: list[int], file: int) -> Iterator[Array]:
    """Yield n zeros; those around `places` have separate memory."""
    whole = -(-4 * n // ISLAND) * ISLAND
    writable = mmap.PROT_READ | mmap.PROT_WRITE
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    base = map_at(None, whole, PROT_NONE, private)
    try:
        for start in range(0, whole, SHARED):
            size = min(SHARED, whole - start)
            map_at(base + start, size, writable, mmap.MAP_SHARED | MAP_FIXED | MAP_POPULATE, file)
        for island in {4 * place // ISLAND for place in places}:
            map_at(base + island * ISLAND, ISLAND, writable, private | MAP_FIXED)
        yield np.ctypeslib.as_array((ctypes.c_float * n).from_address(base))
    finally:
        libc.munmap(base, whole)


BACKENDS = [name for name in lrcore.backends() if name != "cuda"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "n"), [(BACKENDS[0], 2**32 + 1), *((name, 2**31 + 5) for name in BACKENDS[1:])]
)
def test_more_elements_than_32_bits_count(backend: str, n: int) -> None:
    """Elements at both ends and around 2^31 and 2^32 are updated, with the default number of threads."""
    around = (place + k for place in (0, 2**31, 2**32, n - 1) for k in range(-3, 4))
    places = sorted({place for place in around if 0 <= place < n})
    start = np.arange(1, len(places) + 1, dtype=np.float32)
    file = os.memfd_create("everything between")
    try:
        os.ftruncate(file, SHARED)
        with sparse(n, places, file) as p, sparse(n, places, file) as g:
            p[places], g[places] = start, 4 * start
            with lrcore.use_backend(backend):
                lrcore.functional.sgd(p, g, step=1, lr=0.5)
            found = p[places], g[places]
    finally:
        os.close(file)
    assert_bits(found[0], -start)
    assert_bits(found[1], 4 * start)
