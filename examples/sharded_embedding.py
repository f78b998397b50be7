"""A table of embeddings, stepped in slices by several threads, as the server of a distributed training would.

Shows `lrcore.functional`: the caller keeps the table, the states, and a step count for each shard of rows. A request
brings a gradient for the slice of one shard, or for scattered rows, which are gathered, stepped and put back. A step
treats each element by itself, so the table has the bits of one that is stepped as a whole.

    python examples/sharded_embedding.py
"""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

import lrcore

Array = NDArray[np.float32]

ROWS, WIDTH, SHARDS, STEPS, THREADS = 4000, 16, 8, 50, 4


@dataclasses.dataclass
class Shard:
    """Rows of the table, how many steps they have taken, and the lock of who takes the next."""

    rows: slice
    steps: int = 0
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


def take_step(arrays: list[Array], observed: Array, number: int) -> None:
    """Take step `number`, from 1, on embeddings and Adam's two states, each (n, WIDTH), in place.

    The loss is half the squared difference between the embeddings and what was observed (n, WIDTH).
    """
    embeddings, exp_avg, exp_avg_sq = arrays
    lrcore.functional.adam(embeddings, embeddings - observed, exp_avg, exp_avg_sq, step=number, lr=0.05)


def equal_bits(a: list[Array], b: list[Array]) -> bool:
    """Say whether arrays are equal to the last bit."""
    return np.array_equal(np.stack(a).view(np.uint32), np.stack(b).view(np.uint32))


def main() -> tuple[bool, bool]:
    """Serve requests in random order; say whether slices and scattered rows have the bits of the whole table."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(ROWS, WIDTH))
    noise = rng.normal(scale=0.1, size=(STEPS + 1, ROWS, WIDTH))
    observed = (true + noise).astype(np.float32)  # by what a row is stepped, in each of its steps

    server = [np.zeros((ROWS, WIDTH), np.float32) for _ in range(3)]  # the table, exp_avg, exp_avg_sq
    bounds = np.linspace(0, ROWS, SHARDS + 1, dtype=int)
    shards = [Shard(slice(begin, end)) for begin, end in pairwise(bounds)]

    def serve(shard: Shard) -> None:
        with shard.lock:  # other threads step other shards meanwhile
            views = [array[shard.rows] for array in server]
            take_step(views, observed[shard.steps, shard.rows], shard.steps + 1)
            shard.steps += 1

    requests = rng.permutation(np.repeat(np.arange(SHARDS), STEPS))
    with ThreadPoolExecutor(THREADS) as pool:
        for half in np.split(requests, 2):
            list(pool.map(serve, (shards[i] for i in half)))  # as a list, which raises what a thread raised
            print("steps of each shard:", *(shard.steps for shard in shards))

    whole = [np.zeros((ROWS, WIDTH), np.float32) for _ in range(3)]
    for t in range(STEPS):
        take_step(whole, observed[t], t + 1)
    slices_equal = equal_bits(server, whole)
    print(f"{len(requests)} slices have the bits of steps on the whole table: {slices_equal}")

    rows = rng.choice(ROWS, size=100, replace=False)
    copies = [array[rows] for array in server]
    take_step(copies, observed[STEPS, rows], STEPS + 1)
    for array, stepped in zip(server, copies, strict=True):
        array[rows] = stepped

    take_step(whole, observed[STEPS], STEPS + 1)
    rows_equal = equal_bits([array[rows] for array in server], [array[rows] for array in whole])
    print(f"{len(rows)} scattered rows have the bits of a step on the whole table: {rows_equal}")
    return slices_equal, rows_equal


if __name__ == "__main__":
    main()
