"""Print the number of registers that the CUDA kernels use, as the table in docs/cuda.md.

    python scripts/registers.py build/*/ptx/*

The arguments are the directories in which a build writes the PTX of its architectures. Requires ptxas, which comes
with nvcc.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "cmake"))
import check_ptx

FORMS = {"FormE0E": "", "FormE1E": ", guarded", "FormE2E": ", full"}
"""Parts of the mangled names of kernels, and what they mean."""


def target(path: Path) -> str:
    """Return the target architecture of a PTX file."""
    found: str = re.findall(r"\.target (sm_\w+)", path.read_text())[0]
    return found


def registers(path: Path) -> dict[tuple[str, int], list[int]]:
    """Return the register counts of the kernels in a PTX file, by kind of sweep and number of states."""
    ptx = path.read_text()
    report = subprocess.run(
        ["ptxas", "-v", "-arch", target(path), "-o", "/dev/null", str(path)],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    used = dict(re.findall(r"entry function '(\w+)'.*\n(?:.*\n)*?.*Used (\d+) registers", report))
    counted: dict[tuple[str, int], list[int]] = defaultdict(list)
    kernels = check_ptx.kernels(ptx)
    for name in kernels:
        if "sweep" in name:
            # A kernel for vectors of four has one branch for single elements, which stores p and each state once.
            (form,) = (each for each in FORMS if each in name)
            by_vectors = name.replace("ChunkILi1E", "ChunkILi4E").replace(form, next(iter(FORMS)))
            states = check_ptx.accesses(kernels[by_vectors])["st"] - 1
            kind = "vectors of four" if "ChunkILi4E" in name else "single elements"
            kind += FORMS[form]
            counted[kind, states].append(int(used[name]))
    return counted


def main(directories: list[str]) -> None:
    """Print the table."""
    paths = sorted(
        (path for each in directories for path in Path(each).glob("*.ptx")),
        key=lambda path: (len(path.name), path),
    )
    columns = {target(path): registers(path) for path in paths}
    print("| access | states | kernels |", " | ".join(columns), "|")
    print("|---|---|---|" + "---|" * len(columns))
    for kind, states in sorted(next(iter(columns.values())), key=lambda key: (key[0], key[1])):
        found = [column[kind, states] for column in columns.values()]
        ranges = [" to ".join(map(str, sorted({min(each), max(each)}))) for each in found]
        print(f"| {kind} | {states} | {len(found[0])} |", " | ".join(ranges), "|")


if __name__ == "__main__":
    main(sys.argv[1:])
