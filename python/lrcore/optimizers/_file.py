"""The file of an optimizer's state: its state dictionary in the format safetensors.

Each state is a tensor, F32 and flat. All other entries are in the text, as `lrcore._files.format` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrcore._files import safetensors
from lrcore._files.format import OWN, TEXT, entries_of, require_known

ENTRIES = ("rule", "options", "hyper", "step_count", "schedule", "schedule_state")
"""The entries of a state dictionary beside the states. Former versions wrote two of the options alone."""


def write(path: str, class_name: str, dictionary: Mapping[str, Any]) -> None:
    """Write a state dictionary whose states are arrays of NumPy."""
    others = {name: value for name, value in dictionary.items() if name != "state"}
    safetensors.write(path, class_name, others, dictionary["state"])


def read(path: str, size: int) -> tuple[Any, dict[str, Any]]:
    """Return the name of the class that a file is of, and its state dictionary, for parameters of `size` elements.

    The name and the entries are as they were found: `Optimizer.load_state_dict` checks them.
    """
    with safetensors.reading(path) as opened:
        if TEXT not in opened.metadata:
            raise ValueError(f"not a state of lrcore: its metadata has no {TEXT!r}")
        entries = entries_of(opened.metadata[TEXT])
        if entries["class"] == "Pack" and "rule" not in entries:
            raise ValueError(
                "class: expected the name of an optimizer, got 'Pack'; lrcore.Pack.from_file reads it"
            )
        require_known(entries, ENTRIES)
        state = safetensors.read_arrays(opened, dict.fromkeys(opened.tensors, (size,)))
    dictionary = {name: value for name, value in entries.items() if name not in OWN}
    return entries["class"], dictionary | {"state": state}
