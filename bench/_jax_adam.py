"""Time optax's Adam on JAX, jitted and with donated buffers; `gpu.py` runs this script in a separate process.

Prints one line of JSON with the versions, then one line per size with its samples or an error. JAX runs on its own
stream, so the host's clock measures the time from the first of many calls until the last result is ready.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

SECONDS_PER_SAMPLE = 20e-3


def say(**content: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(content), flush=True)


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def measure(size: int, sets: int, rounds: int, device: Any) -> dict[str, Any]:
    """Time Adam on `size` elements, rotating through `sets` sets of arrays."""
    import jax
    import jax.numpy as jnp
    import optax

    rule = optax.adam(optax.cosine_decay_schedule(1e-3, 10**6))

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = rule.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    stepped = jax.jit(step, donate_argnums=(0, 1))
    arrays: list[list[Any]] = []
    with jax.default_device(device):
        for key in jax.random.split(jax.random.key(0), sets):
            params, grads = (jax.random.normal(each, (size,), jnp.float32) for each in jax.random.split(key))
            arrays.append([params, rule.init(params), grads])

    position = 0

    def run(calls: int) -> tuple[float, float]:
        """Return the seconds until the results of `calls` calls are ready, and until the last call returns."""
        nonlocal position
        start = time.perf_counter()
        for _ in range(calls):
            each = arrays[position]
            each[0], each[1] = stepped(*each)
            position = (position + 1) % sets
        returned = time.perf_counter()
        jax.block_until_ready(arrays[position - 1][0])
        return time.perf_counter() - start, returned - start

    run(sets)
    calls = max(3, min(5000, int(SECONDS_PER_SAMPLE / (run(8)[0] / 8))))
    run(calls)
    times = [run(calls) for _ in range(rounds)]
    samples, host = ([seconds / calls for seconds in each] for each in zip(*times, strict=True))
    return {"size": size, "samples": samples, "host": host, "calls": calls, "sets": sets, "clock": "host"}


def main() -> None:
    """Measure the requested sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", nargs="+", required=True, metavar="SIZE:SETS")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--platform", default="gpu")
    options = parser.parse_args()

    try:
        import jax
        import optax

        device = jax.devices(options.platform)[0]
    except Exception as error:  # noqa: BLE001  # any reason why JAX cannot use the device
        say(error=first_line(error))
        return
    say(versions={"jax": jax.__version__, "optax": optax.__version__})
    for case in options.cases:
        size, sets = map(int, case.split(":"))
        try:
            say(**measure(size, sets, options.rounds, device))
        except Exception as error:  # noqa: BLE001  # the next size may still work
            say(size=size, error=first_line(error))


if __name__ == "__main__":
    main()
