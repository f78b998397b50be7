"""Load files while a thread changes them at any moment: ``PYTHONPATH=tests python fuzz/changing_file.py -runs=100000 -seed=1``.

The file of an optimizer and that of a pack are truncated, extended, rewritten in place and replaced. `load` takes contents
that were once written whole or raises what its documentation says, and then nothing has changed. A run is one load. Other
options are those of libFuzzer, and have no effect here.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from files.changing_files import hammer
from files.kinds import KINDS

SECONDS = 5


def main() -> None:
    """Load as often as the command line says, with a new seed every few seconds."""
    options = dict(each.split("=", 1) for each in sys.argv[1:] if each[0] == "-" and "=" in each)
    runs, seed = int(options.get("-runs", 20_000)), int(options.get("-seed", 1))
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in KINDS.items():
            taken = refused = 0
            while taken + refused < runs:
                more_taken, more_refused = hammer(kind, Path(folder, name), seed, SECONDS)
                taken, refused, seed = taken + more_taken, refused + more_refused, seed + 1
            assert taken, name
            assert refused, name
            print(f"{name}: {taken} loads were taken, {refused} refused")


if __name__ == "__main__":
    main()
