"""The file of an optimizer's state: its state dictionary in safetensors format.

Each state is a flat tensor of dtype F32. All other entries are in the metadata that `lrcore._files.format` describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrcore._files import safetensors
from lrcore._files.format import OWN, TEXT, entries_of, require_known
from lrcore.optimizers._places import parsed_places

ENTRIES = (
    "rule", "options", "hyper", "step_count", "schedule", "schedule_state", "groups", "names", "max_norm", "ema",
    "skip_nonfinite", "skipped_steps",
)  # fmt: skip
"""The entries of a state dictionary other than the states. Earlier versions wrote only two of the options."""


def write(path: str, class_name: str, dictionary: Mapping[str, Any]) -> None:
    """Write a state dictionary whose states are NumPy arrays."""
    others = {name: value for name, value in dictionary.items() if name != "state"}
    safetensors.write(path, class_name, others, dictionary["state"])


def read(path: str, size: int) -> tuple[Any, dict[str, Any]]:
    """Return the class name and the state dictionary in a file, for parameters of `size` elements.

    If the file names arrays, their padding may differ, so the states may have another size. The caller checks the name,
    and `Optimizer.load_state_dict` checks the entries.
    """
    with safetensors.reading(path) as opened:
        if TEXT not in opened.metadata:
            raise ValueError(f"not an lrcore optimizer state: its metadata has no entry {TEXT!r}")
        entries = entries_of(opened.metadata[TEXT])
        if entries["class"] == "Pack" and "rule" not in entries:
            raise ValueError(
                "class: expected the name of an optimizer, got 'Pack'; read this file with lrcore.Pack.from_file"
            )
        require_known(entries, ENTRIES)
        if "names" in entries:
            size = parsed_places(entries["names"]).size
        state = safetensors.read_arrays(opened, dict.fromkeys(opened.tensors, (size,)))
    dictionary = {name: value for name, value in entries.items() if name not in OWN}
    return entries["class"], dictionary | {"state": state}
