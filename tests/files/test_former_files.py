"""Files and pickles of earlier versions load with exactly the saved bits.

In ``golden/format_1`` is a file for each rule, after three steps, and a pack; ``expected.json`` has the saved values,
the parameters after three more steps of that version, and pickles. In ``golden/format_2`` are optimizers with groups,
after four steps: one over a plain array, and one over a pack. All bytes are written as hexadecimal digits.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from support import Array

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FILES, GROUPED = GOLDEN / "format_1", GOLDEN / "format_2"
EXPECTED: dict[str, Any] = json.loads((FILES / "expected.json").read_text())
EXPECTED_OF_GROUPS: dict[str, Any] = json.loads((GROUPED / "expected.json").read_text())
PICKLES = {name: bytes.fromhex(text) for name, text in EXPECTED["pickles"].items()}
RULES = [name for name in EXPECTED if name in lrcore.rules()]
SIZE = 5


def decoded(digits: str) -> Array:
    """Return the array with these bytes."""
    return np.frombuffer(bytes.fromhex(digits), np.float32).copy()


def grads(t: int, size: int = SIZE) -> Array:
    """Return the gradient of step t + 1."""
    return np.random.default_rng([7, t]).standard_normal(size).astype(np.float32)


def names_in(pickled: bytes) -> set[bytes]:
    """Return the names of lrcore's modules in a pickle, which stores the length of each name before it."""
    parts = (part for part in pickled.split(b"\x8c") if part[1:].startswith(b"lrcore"))
    return {part[1 : 1 + part[0]] for part in parts}


def assert_held(opt: Any, expected: Any) -> None:
    """Assert that an optimizer has the values of the former version."""
    options = dict(expected["arguments"])
    options["decay"] = "decoupled" if options.pop("decoupled_weight_decay") else "l2"
    held = json.loads(json.dumps(dict(opt.hyper) | dict(opt.options)))
    assert held == options
    assert (type(opt).__name__, opt.step_count) == (expected["class"], expected["step_count"])
    assert opt.lr.hex() == expected["rate"]
    assert {name: each.tobytes().hex() for name, each in opt.state.items()} == expected["state"]


@pytest.mark.parametrize("rule", RULES)
def test_a_state(rule: str, tmp_path: Path) -> None:
    """A state loads into new and existing optimizers, and still does after a save in the current format."""
    assert len(RULES) == 28
    expected, file = EXPECTED[rule], FILES / f"{rule}.safetensors"
    cls: Any = getattr(lrcore, expected["class"])

    def params() -> Array:
        return decoded(expected["params"])

    former = lrcore.load(file, params())
    former.save(tmp_path / "state.safetensors")
    anew = lrcore.load(tmp_path / "state.safetensors", params())
    own = cls(params(), 0.5, **expected["arguments"])
    own.load(file)
    for opt in (former, anew, own):
        assert opt.rule == rule
        assert opt.schedule == former.schedule
        assert_held(opt, expected)
        for t in range(3, 6):
            opt.step(grads(t))
        assert opt.params.tobytes().hex() == expected["gone_on"]
    other = cls(params(), **expected["arguments"] | {"maximize": not own.options["maximize"]})
    with pytest.raises(ValueError, match="options: expected"):
        other.load(file)
    assert other.step_count == 0


def test_groups_of_a_plain_array() -> None:
    file, expected = GROUPED / "groups.safetensors", EXPECTED_OF_GROUPS["groups"]
    params = decoded(expected["params"])
    opt = lrcore.load(file, params)
    assert (opt.step_count, [group.step_count for group in opt.groups]) == (4, expected["counts"])
    assert {name: each.tobytes().hex() for name, each in opt.state.items()} == expected["state"]
    again = lrcore.AdamW(params.copy(), groups=[{"params": [*group.ranges]} for group in opt.groups[1:]])
    again.load(file)
    for each in (opt, again):
        for t in range(4, 7):
            each.step(grads(t, 12))
        assert [group.lr.hex() for group in each.groups] == expected["rates"]
        assert each.params.tobytes().hex() == expected["gone_on"]


@pytest.mark.parametrize(
    ("order", "pad"),
    [("embed b layers head", False), ("embed b layers head", True), ("head layers b embed", False)],
)
def test_groups_of_a_pack(order: str, pad: bool) -> None:
    """The arrays match by name. The values of this pack are stored in the order of the first case."""
    table = np.zeros((2, 2), np.float32)
    entries: dict[str, Any] = {
        "embed": table,
        "b": 2,
        "layers": [{"w": (1, 3), "none": (0, 2)}],
        "head": {"w": table, "b": 3},
    }

    def packed(values: Array) -> lrcore.Pack:
        stored = lrcore.Pack(entries)
        stored.flat = values
        pack = lrcore.Pack({name: entries[name] for name in order.split()}, pad=pad)
        pack.assign(stored)
        return pack

    file, expected = GROUPED / "names.safetensors", EXPECTED_OF_GROUPS["names"]
    opt = lrcore.load(file, packed(decoded(expected["params"])))
    groups = [{"params": name} for name in ("b", "head.b", "layers.*")]
    again = lrcore.AdamW(packed(decoded(expected["params"])), groups=groups)
    again.load(file)
    for each in (opt, again):
        assert (each.step_count, [group.step_count for group in each.groups]) == (4, expected["counts"])
        for name, digits in expected["state"].items():
            assert each.state[name].flat.tobytes() == packed(decoded(digits)).flat.tobytes()
        for t in range(4, 7):
            each.step(packed(grads(t, 12)))
        assert [group.lr.hex() for group in each.groups] == expected["rates"]
        assert each.params.flat.tobytes() == packed(decoded(expected["gone_on"])).flat.tobytes()


def test_a_pack() -> None:
    pack = lrcore.Pack.from_file(FILES / "pack.safetensors")
    arrays = pack.named_arrays()
    found = {path: [[*array.shape], array.tobytes().hex()] for path, array in arrays.items()}
    assert found == EXPECTED["pack"]["paths"]
    assert np.shares_memory(arrays["embed"], arrays["head"])


def test_pickles() -> None:
    opt = pickle.loads(PICKLES["optimizer"])
    expected = EXPECTED["optimizer"]
    assert repr(opt) == expected["repr"]
    assert (type(opt), opt.rule, opt.options["decay"]) == (lrcore.AdamW, "adam_amsgrad", "decoupled")
    assert opt.params.tobytes().hex() == expected["params"]
    assert {name: each.tobytes().hex() for name, each in opt.state.items()} == expected["state"]
    assert type(pickle.loads(PICKLES["sgd"])) is lrcore.SGD
    assert type(pickle.loads(PICKLES["pack"])) is lrcore.Pack


def test_pickled_schedules() -> None:
    for schedule, (text, rates) in zip(
        pickle.loads(PICKLES["schedules"]), EXPECTED["schedules"].items(), strict=True
    ):
        assert [schedule(t).hex() for t in range(12)] == rates
        again = schedules.parse(text.replace("warmup=", "warmup_steps="))
        assert schedule == again
        assert hash(schedule) == hash(again)


@pytest.mark.parametrize("name", PICKLES)
def test_the_names_in_pickles_stay(name: str) -> None:
    """The former version can read new pickles.

    Optimizers, packs and simple schedules keep their class paths.
    """
    now = pickle.dumps(pickle.loads(PICKLES[name]), protocol=4)
    assert names_in(now) == names_in(PICKLES[name])
