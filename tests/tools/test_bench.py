"""The microbenchmark's machinery. No time is asserted: speed itself is measured by it, and not tested."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import bench
from lrcore.__main__ import main
from lrcore._lrcore_core import run_arithmetic_bound
from lrcore.bench import _cases, _command, _timing
from support import BACKENDS

ROW = bench.Row("adam", "step", "avx2", 2, 1000, 28_000, ns=1000.0, low=900.0, high=1200.0, rounds=9)


def changed(**changes: Any) -> bench.Row:
    return dataclasses.replace(ROW, **changes)


def test_row() -> None:
    assert ROW.key == ("adam", "step", "avx2", 2, 1000)
    assert ROW.gb_per_s == 28
    assert ROW.spread == 0.15


def test_variants_take_turns() -> None:
    """After one call of each and the calibration, a sample of each in every round, prepared outside of the time."""
    rounds_of_two = [["a", "b"], ["b", "a"]]
    seen: list[str] = []
    variants = [
        bench.Variant(name, lambda: None, prepare=functools.partial(seen.append, name)) for name in ("a", "b")
    ]
    rounds = list(bench.interleave(variants, 10))
    assert seen[:4] == ["a", "b"] * 2
    orders = [seen[k : k + 2] for k in range(4, 24, 2)]
    assert all(order in rounds_of_two for order in orders)
    assert len({*map(tuple, orders)}) == 2
    assert [len(each) for each in rounds[-1]] == [10, 10]
    assert all(sample > 0 for each in rounds[-1] for sample in each)


def test_a_call_before_the_time_fills_the_caches() -> None:
    seen: list[str] = []
    variant = bench.Variant(
        "a", functools.partial(seen.append, "call"), prepare=functools.partial(seen.append, "prepare")
    )
    variant.time(3)
    assert seen == ["prepare", *["call"] * 4]


def test_quartiles() -> None:
    assert _timing.quartiles([5.0]) == (5.0, 5.0, 5.0)
    assert _timing.quartiles([3.0, 1.0, 2.0, 5.0, 4.0]) == (2.0, 3.0, 4.0)


@pytest.mark.parametrize("rule", lrcore.rules())
def test_every_rule_can_be_timed(rule: str) -> None:
    """Its states stay free of NaN and of subnormal numbers over many steps."""
    before = lrcore.info()["backend"], lrcore.info()["threads"]
    backends = [name for name in lrcore.backends() if name in ("portable", "avx2")]
    for rows in bench.measure([(rule, 100)], lambda rule, size: bench.variants(rule, size, backends, [1]), 1):
        assert {(row.rule, row.size, row.threads, row.rounds) for row in rows} == {(rule, 100, 1, 1)}
        assert [(row.backend, row.variant) for row in rows] == [
            (backend, name)
            for backend in backends
            for name in ("step", "bound step", *(["decayed step"] if lrcore.rules()[rule].states else []))
        ]
        assert {row.bytes for row in rows} == {100 * lrcore.rules()[rule].bytes_per_element}
    assert (lrcore.info()["backend"], lrcore.info()["threads"]) == before
    params, grads = bench.aligned_full(7, 1.0), bench.aligned_full(7, 0.5)
    states = [bench.aligned_full(7, 0.0) for _ in lrcore.rules()[rule].states]
    opt = bench.stepper_for(rule, params, states)
    for _ in range(2000):
        opt.step(grads)
    for array in (params, *states):
        assert all(value == 0 or 1e-30 < abs(value) < math.inf for value in array.tolist())


@pytest.mark.parametrize(
    ("rule", "variants"),
    [
        ("sgd", ["step", "bound step", "stream bound"]),
        ("adam", ["step", "bound step", "decayed step", "stream bound", "arithmetic bound"]),
    ],
)
def test_the_slower_loop_is_the_bound(rule: str, variants: list[str]) -> None:
    """Bounds are measured where they say something."""
    (rows,) = bench.measure(
        [(rule, 10_000)], lambda rule, size: bench.variants(rule, size, ["portable"], [1]), 1
    )
    assert [row.variant for row in rows] == variants
    assert bench.share_of_bound(rows, dataclasses.replace(rows[0], threads=3)) is None
    stream = next(row for row in rows if row.variant == "stream bound")
    for slower in (0.5, 2.0) if rule == "adam" else ():
        rows[4] = dataclasses.replace(stream, variant="arithmetic bound", ns=slower * stream.ns)
        assert bench.share_of_bound(rows, rows[0]) == max(1, slower) * stream.ns / rows[0].ns
    if rule == "sgd":
        assert bench.share_of_bound(rows, rows[0]) == stream.ns / rows[0].ns


def test_decayed_states() -> None:
    """Averages have decayed to 0; sums and maxima have kept their values."""
    left = {rule: _cases.decayed_states(rule) for rule in lrcore.rules()}
    assert left["adam"] == left["adadelta"] == [0, 0]
    assert left["lion"] == left["sgd_momentum"] == [0]
    momentum, squares, largest = left["adam_amsgrad"]
    assert momentum == squares == 0 < largest
    assert left["adagrad"][0] == 2.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_loop_of_divisions(backend: str) -> None:
    """In p is g / sqrt(p), with as many of both as the rule has, or p + g where it has none; g is added to the states."""
    for rule, result in {"adam": 0.5, "adadelta": 0.25**0.25, "adamax": 0.25, "lion": 5.0}.items():
        params, grads = bench.aligned_full(32, 4.0), bench.aligned_full(32, 1.0)
        states = [bench.aligned_full(32, 2.0) for _ in lrcore.rules()[rule].states]
        with lrcore.use_backend(backend):
            run_arithmetic_bound(rule, params, grads, states)
        assert params == pytest.approx(np.full(32, result), rel=2**-22), rule  # of three roundings
        assert all((state == 3).all() for state in states)
        assert (grads == 1).all()


@pytest.mark.parametrize(
    ("then", "now", "verdict"),
    [
        (ROW, ROW, "same"),
        # 1.253 * 0.15 / 0.674 / 3 = 0.093 each, 0.39 together for three of them
        (ROW, changed(ns=1300.0), "same"),
        (ROW, changed(ns=1700.0, low=1600.0, high=1900.0), "slower"),
        (changed(ns=1700.0, low=1600.0, high=1900.0), ROW, "faster"),
        # less than 3 %
        (changed(low=1000.0, high=1000.0), changed(ns=1020.0, low=1020.0, high=1020.0), "same"),
        (changed(low=1000.0, high=1000.0), changed(ns=1040.0, low=1040.0, high=1040.0), "slower"),
    ],
)
def test_verdicts(then: bench.Row, now: bench.Row, verdict: str) -> None:
    other = changed(size=7)
    assert bench.compare([other, then], [now, changed(size=8)]) == [(now, now.ns / then.ns, verdict)]


def test_results_are_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    bench.save(path, [ROW, changed(size=3)], {"peers": {"torch": "2"}})
    assert bench.load(path) == [ROW, changed(size=3)]
    contents = json.loads(path.read_text())
    assert contents["peers"] == {"torch": "2"}
    assert {"cpu", "cores", "caches", "clock", "clock_source", "lrcore", "compiler", "numpy"} <= {
        *contents["machine"]
    }
    bench.save(
        path, [changed(variant=name) for name in ("step", "limit", "divisions")], {}
    )  # as they were called
    assert [row.variant for row in bench.load(path)] == ["step", *bench.LOOPS]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"lrcore_bench": 2, "rows": []}', '{"lrcore_bench": 1, "rows": [{}]}']
)
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is no result of this benchmark"):
        bench.load(path)


def run(*options: str) -> int:
    return main(["bench", "--rules", "sgd", "--sizes", "100", "1e4", "--rounds", "2", *options])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table, a file, a picture; and against its own file a verdict for each row."""
    pytest.importorskip("matplotlib")
    results, picture = tmp_path / "results.json", tmp_path / "picture.png"
    assert run("--threads", "1", "2", "--json", str(results), "--plot", str(picture)) == 0
    rows = bench.load(results)
    assert {row.key for row in rows} == {
        ("sgd", variant, lrcore.info()["backend"], threads, size)
        for threads in (1, 2)
        for size in (100, 10_000)
        for variant in ("step", "bound step", "stream bound")
        if (variant, size) != ("stream bound", 100)
    }
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + len(rows)
    assert re.match(r"sgd +step +\S+ +1 +100 +[\d,]+ +[\d.]+ +- +\d+%$", printed[2])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run("--threads", "1", "--compare", str(results)) == 0
    *_, last = capsys.readouterr().out.splitlines()
    counts = re.fullmatch(r"(\d+) faster, (\d+) same, (\d+) slower", last)
    assert counts is not None
    assert sum(int(each) for each in counts.groups()) == 5


def test_all_backends(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--rules", "sgd", "--sizes", "100", "--rounds", "1", "--backends", "all"]) == 0
    backends = {line.split()[-7] for line in capsys.readouterr().out.splitlines()[2:]}
    assert backends == {*lrcore._runtime.cpu_backends()}


def test_what_does_not_fit_in_memory_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_command, "free_bytes", lambda: 50_000)
    assert run() == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("sgd at 10,000 elements is left out: its arrays do not fit in memory")
    assert " 10,000 " not in captured.out
    assert " 100 " in captured.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sizes", "1.5"], "--sizes: expected whole numbers >= 1, got 1.5"),
        (["--sizes", "inf"], "--sizes: expected whole numbers >= 1, got inf"),
        (["--rounds", "0"], "--rounds: expected an integer >= 1, got 0"),
        (["--threads", "0"], "--threads: expected an integer >= 1, got 0"),
        (["--json", "/nowhere/results.json"], "--json: there is no directory /nowhere"),
        (["--plot", "/nowhere/picture.png"], "--plot: there is no directory /nowhere"),
        (
            ["--compare", "/nowhere/results.json"],
            r"\[Errno 2\] No such file or directory: '/nowhere/results.json'",
        ),
    ],
)
def test_refusals(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*options) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(f"lrcore bench: {message}\n", captured.err)
    assert not captured.out


def test_a_progress_bar_is_shown_if_tqdm_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tqdm")
    options = ["bench", "--rules", "sgd", "--sizes", "100", "--rounds", "2"]
    assert main(options) == 0
    assert "/2" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert main(options) == 0
    captured = capsys.readouterr()
    assert "sgd" in captured.out
    assert captured.err == ""


def test_a_missing_package_is_named_before_anything_is_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "--sizes", "8", "--rounds", "1", "--plot", str(tmp_path / "throughput.png")]) == 2
    message = 'lrcore bench: matplotlib is not installed: pip install "lrcore[bench]"\n'
    assert capsys.readouterr() == ("", message)
