"""Step an embedding table in slices from several threads, like the parameter server of a distributed training run.

This example uses `lrcore.functional`: the caller keeps the table, the optimizer states, and a step count for each
shard of rows. A request updates either the slice of one shard or scattered rows, which are gathered, stepped and
written back. A step is elementwise, so the result is bitwise identical to stepping the whole table at once.

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
    """Rows of the table, the number of steps that they have taken, and a lock that is held during a step."""

    rows: slice
    steps: int = 0
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


def take_step(arrays: list[Array], observed: Array, number: int) -> None:
    """Take step `number`, counted from 1, on the embeddings and Adam's two states, each (n, WIDTH), in place.

    The loss is half the squared difference between the embeddings and the observed values (n, WIDTH).
    """
    embeddings, exp_avg, exp_avg_sq = arrays
    lrcore.functional.adam(embeddings, embeddings - observed, exp_avg, exp_avg_sq, step=number, lr=0.05)


def equal_bits(a: list[Array], b: list[Array]) -> bool:
    """Return whether the arrays are bitwise identical."""
    return np.array_equal(np.stack(a).view(np.uint32), np.stack(b).view(np.uint32))


def main() -> tuple[bool, bool]:
    """Serve requests in random order, and return whether slices and scattered rows match the whole table bitwise."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(ROWS, WIDTH))
    noise = rng.normal(scale=0.1, size=(STEPS + 1, ROWS, WIDTH))
    observed = (true + noise).astype(np.float32)  # the target of each row in each of its steps

    server = [np.zeros((ROWS, WIDTH), np.float32) for _ in range(3)]  # the table, exp_avg, exp_avg_sq
    bounds = np.linspace(0, ROWS, SHARDS + 1, dtype=int)
    shards = [Shard(slice(begin, end)) for begin, end in pairwise(bounds)]

    def serve(shard: Shard) -> None:
        with shard.lock:  # other threads can step other shards at the same time
            views = [array[shard.rows] for array in server]
            take_step(views, observed[shard.steps, shard.rows], shard.steps + 1)
            shard.steps += 1

    requests = rng.permutation(np.repeat(np.arange(SHARDS), STEPS))
    with ThreadPoolExecutor(THREADS) as pool:
        for half in np.split(requests, 2):
            list(pool.map(serve, (shards[i] for i in half)))  # list() re-raises exceptions from the threads
            print("steps per shard:", *(shard.steps for shard in shards))

    whole = [np.zeros((ROWS, WIDTH), np.float32) for _ in range(3)]
    for t in range(STEPS):
        take_step(whole, observed[t], t + 1)
    slices_equal = equal_bits(server, whole)
    print(f"{len(requests)} slice updates match updates of the whole table bitwise: {slices_equal}")

    rows = rng.choice(ROWS, size=100, replace=False)
    copies = [array[rows] for array in server]
    take_step(copies, observed[STEPS, rows], STEPS + 1)
    for array, stepped in zip(server, copies, strict=True):
        array[rows] = stepped

    take_step(whole, observed[STEPS], STEPS + 1)
    rows_equal = equal_bits([array[rows] for array in server], [array[rows] for array in whole])
    print(f"{len(rows)} scattered rows match an update of the whole table bitwise: {rows_equal}")
    return slices_equal, rows_equal


if __name__ == "__main__":
    main()
