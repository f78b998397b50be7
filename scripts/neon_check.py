"""Check that every loop of the portable backend was compiled to NEON vector instructions.

    python scripts/neon_check.py portable.cpp.o     # requires aarch64-linux-gnu-objdump

Each sweep processes its last elements one by one. Every operation in this remainder must also occur on vectors of four.
"""

from __future__ import annotations

import re
import subprocess
import sys

ARITHMETIC = r"\t(fadd|fsub|fmul|fdiv|fsqrt)\t"


def functions(listing: str) -> dict[str, str]:
    """Return the instructions of each `sweep` and `stream_bound` function, by name."""
    parts = re.split(r"^[0-9a-f]+ <(.*)>:$", listing, flags=re.MULTILINE)
    return {
        name: body
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
        if re.search(r"::(sweep|stream_bound)<", name)
    }


def missing(body: str) -> set[str]:
    """Return the operations that a function has for single elements but not for vectors of four."""
    single = set(re.findall(ARITHMETIC + r"s\d", body))
    return single - set(re.findall(ARITHMETIC + r"v\d+\.4s", body)) if single else {"arithmetic"}


def main(path: str) -> int:
    """Check an object file, and return the exit status."""
    listing = subprocess.run(
        ["aarch64-linux-gnu-objdump", "--disassemble", "--demangle", "--no-show-raw-insn", path],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    found = functions(listing)
    faults = [
        f"{name}: not vectorized: {', '.join(sorted(lost))}"
        for name, body in found.items()
        if (lost := missing(body))
    ]
    print(*(faults or [f"{len(found)} functions, all vectorized"]), sep="\n")
    return 1 if faults or not found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
