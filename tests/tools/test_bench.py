"""The machinery of the microbenchmark. No measured time is asserted, because speed is not tested here."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import re
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import bench
from lrcore.__main__ import main
from lrcore._lrcore_core import run_arithmetic_bound
from lrcore.bench import _cases, _command, _records
from support import BACKENDS

ROW = bench.Row("adam", "step", "avx2", 2, 1000, 28_000, ns=1000.0, low=900.0, high=1200.0, rounds=9)


def changed(**changes: Any) -> bench.Row:
    return dataclasses.replace(ROW, **changes)


def test_row() -> None:
    assert (ROW.gb_per_s, ROW.spread) == (28, 0.15)


def test_variants_take_turns() -> None:
    """Every variant is called once and calibrated. Then each round takes one sample of every variant.

    Each sample is prepared before its timing starts.
    """
    seen: list[str] = []
    variants = [
        bench.Variant(name, lambda: None, prepare=functools.partial(seen.append, name)) for name in ("a", "b")
    ]
    *_, samples = bench.interleave(variants, 10)
    assert seen[:4] == ["a", "b"] * 2
    assert {(*seen[k : k + 2],) for k in range(4, 24, 2)} == {("a", "b"), ("b", "a")}
    assert [len(each) for each in samples] == [10, 10]
    assert all(sample > 0 for each in samples for sample in each)


def test_a_call_before_the_time_fills_the_caches() -> None:
    seen: list[str] = []
    call, prepare = (functools.partial(seen.append, name) for name in ("call", "prepare"))
    bench.Variant("a", call, prepare=prepare).time(3)
    assert seen == ["prepare", *["call"] * 4]


@pytest.mark.parametrize("rule", lrcore.rules())
def test_every_rule_can_be_timed(rule: str) -> None:
    """Parameters and states stay finite and free of subnormal numbers over many steps."""
    facts, before = lrcore.rules()[rule], lrcore.info()
    names = ("step", "bound step", *(["decayed step"] if facts.states else []))
    backends = [name for name in lrcore.backends() if name in ("portable", "avx2")]
    (rows,) = bench.measure([(rule, 100)], lambda rule, size: bench.variants(rule, size, backends, [1]), 1)
    assert [row.key for row in rows] == [
        (rule, name, backend, 1, 100) for backend in backends for name in names
    ]
    assert {(row.rounds, row.bytes) for row in rows} == {(1, 100 * facts.bytes_per_element)}
    assert lrcore.info() == before
    params, grads = bench.aligned_full(7, 1.0), bench.aligned_full(7, 0.5)
    states = [bench.aligned_full(7, 0.0) for _ in facts.states]
    opt = bench.stepper_for(rule, params, states)
    for _ in range(2000):
        opt.step(grads)
    for array in (params, *states):
        assert all(value == 0 or 1e-30 < abs(value) < math.inf for value in array.tolist())


@pytest.mark.parametrize(("rule", "last"), [("sgd", "stream bound"), ("adam", "arithmetic bound")])
def test_the_slower_loop_is_the_bound(rule: str, last: str) -> None:
    """The arithmetic bound is measured only for rules that contain a division or a square root."""
    (rows,) = bench.measure(
        [(rule, 10_000)], lambda rule, size: bench.variants(rule, size, ["portable"], [1]), 1
    )
    step, loops = rows[0], [row for row in rows if row.variant in bench.LOOPS]
    assert loops[0].variant == "stream bound"
    assert loops[-1].variant == last
    assert bench.share_of_bound(rows, dataclasses.replace(step, threads=3)) is None
    for ns in (0.5 * loops[0].ns, 2.0 * loops[0].ns):
        loops[-1] = dataclasses.replace(loops[-1], ns=ns)
        assert bench.share_of_bound(loops, step) == max(row.ns for row in loops) / step.ns


@pytest.mark.parametrize("segments", [1, 7, 2000])
def test_segments(segments: int) -> None:
    """The segments cover all elements, and each of up to 28 groups has a rate of its own."""
    params, grads = bench.aligned_full(1000, 1.0), bench.aligned_full(1000, 0.5)
    ends = bench.boundaries(1000, segments)
    assert (ends[0], ends[-1]) == (0, 1000)
    assert len(ends) - 1 == segments or segments > 100
    opt = bench.stepper_for("sgd", params, [], grads, ends)
    opt.step()
    steps = 1 - params.astype(np.float64)
    for i, (begin, end) in enumerate(itertools.pairwise(ends)):
        scale = 0.9 ** (i % min(28, len(ends) - 1))
        # Below 1, the parameters are multiples of 2^-24.
        assert steps[begin:end] == pytest.approx(0.5e-3 * scale, rel=0, abs=2**-24)


def test_decayed_states() -> None:
    """Averages decay to 0, but sums and maxima keep their values."""
    left = {rule: _cases.decayed_states(rule) for rule in lrcore.rules()}
    assert left["adam"] == left["adadelta"] == [0, 0]
    assert left["lion"] == left["sgd_momentum"] == [0]
    momentum, squares, largest = left["adam_amsgrad"]
    assert momentum == squares == 0 < largest
    assert left["adagrad"][0] == 2.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_loop_of_divisions(backend: str) -> None:
    """The loop sets p to g / sqrt(p), with as many divisions and roots as the rule has.

    If the rule has neither, the loop sets p to p + g. It adds g to each state.
    """
    for rule, result in {"adam": 0.5, "adadelta": 0.25**0.25, "adamax": 0.25, "lion": 5.0}.items():
        params, grads = bench.aligned_full(32, 4.0), bench.aligned_full(32, 1.0)
        states = [bench.aligned_full(32, 2.0) for _ in lrcore.rules()[rule].states]
        with lrcore.use_backend(backend):
            run_arithmetic_bound(rule, params, grads, states)
        assert params == pytest.approx(np.full(32, result), rel=2**-22), rule  # three roundings
        assert all((state == 3).all() for state in states)
        assert (grads == 1).all()


@pytest.mark.parametrize(
    ("then", "now", "verdict"),
    [
        (ROW, ROW, "same"),
        # each median has a standard error of 1.253 * 0.15 / 0.674 / 3 = 0.093, and three times the standard
        # error of the difference is 0.39
        (ROW, changed(ns=1300.0), "same"),
        (ROW, changed(ns=1700.0, low=1600.0, high=1900.0), "slower"),
        (changed(ns=1700.0, low=1600.0, high=1900.0), ROW, "faster"),
        # without a spread, a difference of less than 3 % is not significant
        (changed(low=1000.0, high=1000.0), changed(ns=1020.0, low=1020.0, high=1020.0), "same"),
        (changed(low=1000.0, high=1000.0), changed(ns=1040.0, low=1040.0, high=1040.0), "slower"),
    ],
)
def test_verdicts(then: bench.Row, now: bench.Row, verdict: str) -> None:
    other = changed(size=7)
    assert bench.compare([other, then], [now, changed(size=8)]) == [(now, now.ns / then.ns, verdict)]


def test_results_are_saved_and_loaded(tmp_path: Path) -> None:
    """Results of earlier versions, which had other names for the loops, can be loaded too."""
    path = tmp_path / "results.json"
    bench.save(path, [changed(variant=name) for name in ("step", "limit", "divisions")], {"peers": "torch"})
    assert bench.load(path) == [changed(variant=name) for name in ("step", *bench.LOOPS)]
    contents = json.loads(path.read_text())
    assert contents["peers"] == "torch"
    assert {"cpu", "cores", "caches", "clock", "lrcore", "compiler", "numpy"} <= {*contents["machine"]}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"lrcore_bench": 2, "rows": []}', '{"lrcore_bench": 1, "rows": [{}]}']
)
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected a file that lrcore bench --json wrote: "):
        bench.load(path)


def run(*options: str) -> int:
    return main(["bench", "--rules", "sgd", "--sizes", "100", "1e4", "--rounds", "2", *options])


def test_steps_that_do_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.json"
    options = ("--max-norm", "1", "--gradients", "1", "3", "--ema", "0.9", "--zero-grads")
    assert run(*options, "--json", str(results)) == 0
    variants = [row.variant for row in bench.load(results) if row.size == 100]
    extras = ["clipped step", "averaged step", "zeroing step", "1 gradients", "3 gradients"]
    assert variants == ["step", "bound step", *extras]
    ranges = {"--max-norm": ("a number > 0", "0"), "--ema": ("a number >= 0 and < 1", "1")}
    for option, (expected, outside) in ranges.items():
        for wrong in (outside, "-1", "nan", "much"):
            with pytest.raises(SystemExit):
                run(option, wrong)
            message = f"lrcore bench: {option}: expected {expected}, got {wrong}"
            assert capsys.readouterr().err.startswith(message)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints a table, writes a file and a picture, and --compare gives a verdict for each row."""
    pytest.importorskip("matplotlib")
    results, picture = tmp_path / "results.json", tmp_path / "picture.png"
    written = ("--json", str(results), "--plot", str(picture))
    assert run("--backends", "all", "--threads", "1", "2", "--segments", "5", *written) == 0
    rows = bench.load(results)
    assert {row.key for row in rows} == {
        ("sgd", variant, backend, threads, size)
        for backend in lrcore._runtime.cpu_backends()
        for threads in (1, 2)
        for size in (100, 10_000)
        for variant in ("step", "bound step", "5 segments", "stream bound")
        if (variant, size) != ("stream bound", 100)
    }
    printed = capsys.readouterr().out.splitlines()
    assert printed[2 + len(rows)] == ""
    assert re.match(r"sgd +step +\S+ +1 +100 +[\d,]+ +[\d.]+ +- +\d+%$", printed[2])
    assert printed[-2:] == [str(results), str(picture)]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run("--threads", "1", "--compare", str(results)) == 0
    *_, last = capsys.readouterr().out.splitlines()
    counts = re.fullmatch(r"(\d+) faster, (\d+) same, (\d+) slower", last)
    assert counts is not None
    assert sum(int(each) for each in counts.groups()) == 5


def test_what_does_not_fit_in_memory_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_command, "free_bytes", lambda: 50_000)
    assert run() == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("sgd at 10,000 elements is skipped: its arrays do not fit in memory")
    assert " 10,000 " not in captured.out
    assert " 100 " in captured.out
    monkeypatch.setattr(_command, "free_bytes", lambda: 0)
    assert run() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("lrcore bench: --sizes: nothing is left to measure; choose smaller sizes\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sizes", "0"], "--sizes: expected an integer >= 1, got 0"),
        (["--rounds", "0"], "--rounds: expected an integer >= 1, got 0"),
        (["--threads", "0"], "--threads: expected an integer >= 1, got 0"),
        (["--json", "/nowhere/results.json"], "--json: there is no directory /nowhere"),
        (["--json", "/"], "--json: expected the name of a file, got the directory /"),
        (["--plot", "/nowhere/picture.png"], "--plot: there is no directory /nowhere"),
        (["--compare", "/nowhere/results.json"], "--compare: there is no file /nowhere/results.json"),
        (["--plot", "throughput.png"], r'matplotlib is not installed: pip install "lrcore\[bench\]"'),
    ],
)
def test_refusals_before_anything_is_timed(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(*options) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(f"lrcore bench: {message}\n", captured.err)
    assert not captured.out


def test_a_progress_bar_is_shown_on_terminals_if_tqdm_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tqdm")
    assert run() == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(_command, "stderr_is_terminal", lambda: True)
    assert run() == 0
    assert "/4" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert run() == 0
    assert capsys.readouterr().err == ""


def test_an_interrupted_measurement_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows of finished cases are written, drawn and compared, and the former settings are restored."""
    pytest.importorskip("matplotlib")

    def interrupted(cases: Any, make: Any, rounds: int) -> Any:
        yield from bench.measure(cases[:1], make, rounds)
        yield from itertools.islice(bench.measure(cases[1:], make, rounds), 1)
        signal.raise_signal(signal.SIGINT)

    before = lrcore.info()
    results, picture = tmp_path / "results.json", tmp_path / "picture.png"
    monkeypatch.setattr(_command, "measure", interrupted)
    assert run("--threads", "1", "--json", str(results), "--plot", str(picture)) == 130
    captured = capsys.readouterr()
    assert captured.err == "lrcore bench: interrupted after 1 of 2 cases\n"
    assert captured.out.endswith(f"{results}\n{picture}\n")
    assert [(row.variant, row.size) for row in bench.load(results)] == [("step", 100), ("bound step", 100)]
    assert picture.stat().st_size > 0
    assert lrcore.info() == before


def test_rows_that_mean_nothing_are_warned_of() -> None:
    quiet, loud = changed(low=880.0, high=1120.0), changed(low=500.0, high=1000.0)  # spreads of 12 % and 25 %
    assert _records.warning([quiet]) is None
    assert str(_records.warning([quiet, loud])).startswith(
        "warning: 1 of 2 rows have a spread of 25% or more"
    )
