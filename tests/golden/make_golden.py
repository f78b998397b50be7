"""Run the installed peers over every row of ``peers.ROWS`` and store what they give.

    python tests/golden/make_golden.py                        # all peers, writes peers.json beside this file
    python tests/golden/make_golden.py --peer torch --output -    # one peer, to standard output

Wants PyTorch, optax and Keras (``pip install torch optax keras``); lrcore is not used. The file holds the versions,
the start and the gradients as the shortest decimals that give the float32 back, and the parameters after the
checked steps as those that give the float64 back.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rules import peers

TARGET = Path(__file__).resolve().with_name("peers.json")


def collect(names: Iterable[str]) -> dict[str, Any]:
    """Run the rows of the named peers and return the contents of the file."""
    start, gradients = peers.problem()
    names = tuple(names)
    rows: dict[str, Any] = {}
    for row in peers.ROWS:
        if row.peer in names:
            after = peers.run_peer(row, start, gradients)
            if not all(np.isfinite(values).all() and values.dtype == np.float64 for values in after.values()):
                raise ValueError(f"{row.name}: not finite, or not float64")
            rows[row.name] = {
                "call": str(row.theirs),
                "lr": row.lr,
                "after": {str(step): values.tolist() for step, values in after.items()},
            }
    return {
        "versions": {key: value for name in names for key, value in peers.versions(name).items()},
        "start": _shortest(start),
        "gradients": [_shortest(gradient) for gradient in gradients],
        "rows": rows,
    }


def _shortest(values: NDArray[np.float32]) -> list[float]:
    """Return float64 numbers with the shortest decimals that round to the given float32 ones."""
    return [float(str(value)) for value in values]


def dump(contents: dict[str, Any]) -> str:
    """Return the contents as JSON, with each array on one line so that a change can be read."""
    lines = [
        f' "versions": {json.dumps(contents["versions"])}',
        f' "start": {json.dumps(contents["start"])}',
        ' "gradients": [\n  ' + ",\n  ".join(json.dumps(row) for row in contents["gradients"]) + "\n ]",
        ' "rows": {\n' + ",\n".join(_dump_row(*item) for item in contents["rows"].items()) + "\n }",
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _dump_row(name: str, row: dict[str, Any]) -> str:
    after = ",\n".join(f'   "{step}": {json.dumps(values)}' for step, values in row["after"].items())
    head = f'"call": {json.dumps(row["call"])}, "lr": {json.dumps(row["lr"])}'
    return f'  "{name}": {{{head}, "after": {{\n{after}}}}}'


def run(target: Path, packages: Iterable[str], make: Callable[[Iterable[str]], str]) -> None:
    """Parse the command line, have the contents made by the peers that it names, and write them."""
    parser = argparse.ArgumentParser(description="Store what the peers give.")
    parser.add_argument("--peer", choices=(*packages,), help="run this one only (default: all)")
    parser.add_argument("--output", default=str(target), help="file to write, - for standard output")
    arguments = parser.parse_args()
    if arguments.peer is not None and arguments.output == str(target):
        parser.error("the stored file holds all peers: name an --output for one")
    text = make([arguments.peer] if arguments.peer else packages)
    if arguments.output == "-":
        sys.stdout.write(text)
    else:
        Path(arguments.output).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(TARGET, peers.PACKAGES, lambda names: dump(collect(names)))
