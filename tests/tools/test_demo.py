"""The demo and the command line, which newcomers run first.

The losses of two runs count as equal if all their float64 values are equal.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lrcore.__main__
from lrcore import demo
from lrcore.__main__ import COMMANDS, main
from lrcore.demo import _network, _training
from support import python, slow_but_first

OPTIMIZERS = [name for name in lrcore.optimizers.__all__ if name != "Optimizer"]
LARGE = 1024  # hidden units; enough parameters for the thread pool to split


@pytest.fixture
def sklearn() -> None:
    """Skip the test if a package that training needs is missing."""
    pytest.importorskip("sklearn")
    pytest.importorskip("tqdm")


@pytest.fixture
def matplotlib(sklearn: None) -> None:  # noqa: ARG001
    """Skip the test if a package that training or plotting needs is missing."""
    pytest.importorskip("matplotlib")


class StandInArray(np.ndarray[Any, Any]):
    """CPU memory that behaves like GPU memory: NumPy arrays and NumPy functions do not work with it."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method == "__call__" and ufunc in (np.exp, np.log, np.maximum):
            raise TypeError(f"numpy.{ufunc.__name__} was called with a device array")
        if "out" in options:
            options["out"] = tuple(map(from_device, options["out"]))
        return to_device(getattr(ufunc, method)(*map(from_device, inputs), **options))

    def __array_function__(self, function: Any, *_: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was called with a device array")


def from_device(value: Any) -> Any:
    """Return a device array's memory as a NumPy array. Raise TypeError if it already is a NumPy array."""
    if type(value) is np.ndarray:
        raise TypeError("a NumPy array was mixed with a device array")
    return value.view(np.ndarray) if isinstance(value, StandInArray) else value


def to_device(value: Any) -> Any:
    return value.view(StandInArray) if isinstance(value, np.ndarray) else value


class StandInModule(ModuleType):
    """A stand-in for CuPy, with the functions that the demo uses."""

    float32 = np.float32

    def __init__(self) -> None:
        super().__init__("cupy")
        self.waits = 0
        self.cuda = SimpleNamespace(get_current_stream=lambda: SimpleNamespace(synchronize=self._wait))
        for name in ("arange", "asarray", "ones", "zeros"):
            setattr(self, name, self._on_device(getattr(np, name)))
        for name in ("exp", "log", "maximum", "may_share_memory"):
            setattr(self, name, self._on_device(getattr(np, name), from_device))

    def _wait(self) -> None:
        self.waits += 1

    @staticmethod
    def _on_device(function: Any, take: Callable[[Any], Any] = lambda value: value) -> Callable[..., Any]:
        return lambda *inputs, **options: to_device(function(*map(take, inputs), **options))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> StandInModule:
    """Make ``import cupy`` return a stand-in."""
    module = StandInModule()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def png_size(path: Path) -> tuple[int, int]:
    """Return the width and height in pixels from the header of a PNG file."""
    header = path.read_bytes()[:24]
    assert header.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", header[16:24])
    return width, height


@pytest.mark.usefixtures("sklearn")
def test_defaults() -> None:
    trained = demo.train()
    steps = 30 * 23  # 30 epochs of 1437 images, 64 per step
    assert trained.accuracy >= 0.95
    assert trained.optimizer == "Adam"
    assert trained.parameters == 64 * 128 + 128 + 128 * 10 + 10
    assert trained.steps_per_epoch == 23
    cosine = lrcore.schedules.Cosine(demo.RATES["Adam"], steps=steps)
    np.testing.assert_array_equal(trained.rates, cosine(np.arange(steps)))
    assert trained.losses.shape == (steps,)
    assert abs(trained.losses[0] - np.log(10)) < 1  # ten classes, and nothing has been learned yet
    assert_times(trained)


def assert_times(trained: demo.Result) -> None:
    """Check that each step has a time, and that the optimizer's time is only a part of it."""
    assert trained.step_seconds.shape == trained.optimizer_seconds.shape == trained.losses.shape
    assert np.all(trained.optimizer_seconds > 0)
    assert np.all(trained.optimizer_seconds < trained.step_seconds)


def test_an_optimizer_without_a_rate_starts_at_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {*demo.RATES} <= {*OPTIMIZERS}
    monkeypatch.delitem(demo.RATES, "Lion")
    assert [_training.initial_rate(name) for name in ("Lion", "Adam")] == [1e-4, demo.RATES["Adam"]]


@pytest.mark.usefixtures("sklearn")
@pytest.mark.parametrize("name", slow_but_first(demo.RATES))
def test_every_optimizer_learns(name: str) -> None:
    trained = demo.train(name.upper())
    assert trained.optimizer == name
    assert trained.rates[0] == demo.RATES[name]
    assert trained.accuracy >= 0.95


@pytest.mark.usefixtures("sklearn", "threads")
def test_losses_depend_on_the_seed_and_not_on_backend_and_threads() -> None:
    before = lrcore.info()["backend"]
    lrcore.set_num_threads(1)
    arguments: dict[str, Any] = {"epochs": 2, "batch_size": 256, "hidden": LARGE}
    expected = demo.train(**arguments, backend="portable")
    lrcore.set_num_threads(2)
    for backend in lrcore._runtime.cpu_backends():
        trained = demo.train(**arguments, backend=backend)
        assert (trained.backend, trained.threads) == (backend, 2)
        np.testing.assert_array_equal(trained.losses, expected.losses)
    assert lrcore.info()["backend"] == before
    assert not np.array_equal(demo.train(**arguments, seed=1).losses, expected.losses)


@pytest.mark.usefixtures("sklearn")
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_network_is_written_for_any_array_module(name: str, device: StandInModule) -> None:
    """Training on the stand-in gives the same bits as with NumPy. NumPy and device arrays are never mixed."""
    expected = demo.train(name, epochs=2)
    trained = demo.train(name, epochs=2, device="cuda")
    np.testing.assert_array_equal(trained.losses, expected.losses)
    assert trained.accuracy == expected.accuracy
    assert (trained.backend, trained.optimizer) == ("cuda", name)
    assert device.waits == len(trained.losses)  # each step is timed until the device has finished


@pytest.mark.gpu
@pytest.mark.usefixtures("sklearn")
def test_gpu() -> None:
    """The first losses differ by the rounding errors of sums of at most 128 products, 2^-24 = 6e-8 each.

    Later losses differ more.
    """
    pytest.importorskip("cupy")
    expected = demo.train(epochs=3)
    trained = demo.train(epochs=3, device="cuda")
    assert trained.backend == "cuda"
    assert trained.losses[0] == pytest.approx(expected.losses[0], rel=1e-5)
    assert trained.accuracy >= 0.9
    assert_times(trained)


@pytest.mark.usefixtures("sklearn")
def test_digits() -> None:
    digits = demo.load(seed=0)
    assert digits.train_x.shape == (1437, 64)
    assert digits.test_x.shape == (360, 64)
    for x, y in ((digits.train_x, digits.train_y), (digits.test_x, digits.test_y)):
        assert x.dtype == np.float32
        assert x.min() == 0
        assert x.max() == 1
        shares = np.bincount(y, minlength=10) / len(y)
        # stratified; the 1797 images contain 174 to 183 of each digit
        np.testing.assert_allclose(shares, 0.1, atol=0.005)


def test_batches_see_every_image_once_an_epoch() -> None:
    sizes, seen = [], []
    for batch in _network.batches(10, 4, 2, np.random.default_rng(0)):
        sizes.append(len(batch))
        seen += batch.tolist()
    assert sizes == [4, 4, 2] * 2
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))


def test_gradient_is_that_of_the_loss() -> None:
    """The gradient equals central differences in float64.

    Their truncation error is h^2, and their rounding error is 1e-16 / h.
    """
    rng = np.random.default_rng(1)
    shapes = {"w1": (5, 7), "b1": (7,), "w2": (7, 3), "b2": (3,)}  # D = 5, H = 7, C = 3, and n = 11
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    x, y = rng.normal(size=(11, 5)), rng.integers(3, size=11)
    grads = {name: np.full_like(array, np.nan) for name, array in params.items()}
    _network.loss_and_gradient(params, grads, x, y)

    spare = {name: np.empty_like(array) for name, array in params.items()}
    h = 1e-5
    for name, array in params.items():
        for index in np.ndindex(array.shape):
            middle, losses = array[index], []
            for array[index] in (middle + h, middle - h):
                losses.append(_network.loss_and_gradient(params, spare, x, y))
            array[index] = middle
            assert grads[name][index] == pytest.approx((losses[0] - losses[1]) / (2 * h), rel=0, abs=1e-8)


def test_large_logits_do_not_overflow() -> None:
    log_p = _network.log_softmax(np.array([[1e4, 0, -1e4]], np.float32))
    np.testing.assert_array_equal(log_p, [[0, -1e4, -2e4]])


@pytest.mark.usefixtures("sklearn")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": "Sofia"}, "optimizer: expected one of .*SGD.*, got 'Sofia'"),
        ({"epochs": 0}, "epochs: expected an integer >= 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected an integer >= 1, got 0"),
        ({"seed": -1}, "seed: expected an integer >= 0, got -1"),
        ({"epochs": "3"}, "epochs: expected an integer, got str$"),
        ({"device": "tpu"}, "device: expected one of cpu, cuda, got 'tpu'"),
        (
            {"device": "cuda", "backend": "portable"},
            "backend: device arrays always use cuda, got 'portable'; leave it out",
        ),
        (
            {"optimizer": "SGD", "lr": 1e30, "epochs": 1},
            r"lr: 1e\+30 is too large; the loss became nan at step 1$",
        ),
        (  # at the end of an epoch, which a Plateau observes
            {"optimizer": "SGD", "lr": lrcore.schedules.Plateau(1e30), "epochs": 1, "batch_size": 1000},
            r"lr: 1e\+30 is too large; the loss became nan at step 1$",
        ),
        (
            {"optimizer": "SGD", "groups": [{"params": "w1", "lr": 1e30}], "epochs": 1},
            r"lr: 1e\+30 is too large; the loss became nan at step 2$",
        ),
        (
            {"groups": [{"params": "W2"}]},
            r"groups\[0\]: params: 'W2' matches none of .*; did you mean 'w2'\?",
        ),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    error = TypeError if "got str" in message else ValueError
    with pytest.raises(error, match=f"^{message}"):
        demo.train(**arguments)


@pytest.mark.usefixtures("sklearn")
def test_progress_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    demo.train(epochs=1)
    assert capsys.readouterr() == ("", "")
    demo.train(epochs=1, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Adam: 100%" in captured.err
    assert "23/23" in captured.err


def test_report() -> None:
    text = ("SGD", "portable", "Cosine(lr=0.5, steps=60)")
    result = demo.Result(*text, 3, 9610, 20, 0.9728, *np.full((4, 60), [[1.0], [0.5], [100e-6], [25e-6]]))
    assert dict(re.split(r"\s{2,}", line) for line in demo.report(result).splitlines()) == {
        "test accuracy": "0.9728",
        "parameters": "9610",
        "steps": "60",
        "time per step": "100.0 us (median)",
        "in the optimizer": "25.0 us, 25.0% of it",
        "optimizer": "SGD",
        "learning rate": "Cosine(lr=0.5, steps=60)",
        "backend": "portable",
        "threads": "3",
    }


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("sklearn", "scikit-learn", "demo"),
        ("tqdm", "tqdm", "demo"),
        ("matplotlib", "matplotlib", "demo"),
        ("cupy", "cupy", "cuda"),
    ],
)
@pytest.mark.usefixtures("matplotlib")
def test_missing_package(
    module: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == module:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo", "--epochs", "1", *(["--device", "cuda"] if module == "cupy" else [])]) == 2
    message = f'lrcore demo: {package} is not installed: pip install "lrcore[{extra}]"\n'
    if module == "cupy" and "cuda" not in lrcore.backends():
        message = f"lrcore demo: device: no GPU can be used here: {lrcore.info()['cuda_error']}\n"
    assert capsys.readouterr() == ("", message)  # before any training


@pytest.mark.usefixtures("sklearn")
def test_cupy_without_a_gpu(
    device: StandInModule, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ones(*_: Any, **__: Any) -> None:
        raise Exception("cudaErrorNoDevice:\nno CUDA-capable device is detected")  # noqa: TRY002  as in CuPy

    monkeypatch.setattr(device, "ones", ones)
    assert main(["demo", "--device", "cuda"]) == 2
    message = "device: CuPy cannot use a GPU here: cudaErrorNoDevice: no CUDA-capable device is detected"
    assert capsys.readouterr() == ("", f"lrcore demo: {message}\n")


def command_demo(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, str]:
    """Return the values that the command printed, by name."""
    assert main(["demo", *options]) == 0
    return dict(re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines())


@pytest.mark.usefixtures("matplotlib", "device")
def test_command_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "demo.png"
    options = ["--optimizer", "lion", "--lr", "1e-3", "--epochs", "2", "--batch-size", "100", "--seed", "7"]
    printed = command_demo(capsys, *options, "--backend", "portable", "--out", str(path))
    assert printed["optimizer"] == "Lion"
    assert printed["learning rate"] == "Cosine(lr=0.001, steps=30)"
    assert printed["steps"] == "30"
    assert printed["backend"] == "portable"
    assert printed["picture"] == str(path)
    assert png_size(path) == (1200, 900)
    printed = command_demo(capsys, "--epochs", "1", "--device", "cuda", "--out", str(path))
    assert printed["backend"] == "cuda"
    assert "threads" not in printed


@pytest.mark.usefixtures("matplotlib")
def test_command_demo_finds_a_rate_for_a_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, other = tmp_path / "demo.png", tmp_path / "demo-find-lr.png"
    options = ["--find-lr", "--schedule", "Constant(lr).then(Linear(lr, 0, steps=steps), at=10)"]
    printed = command_demo(capsys, "--epochs", "1", *options, "--out", str(path))
    found = float(printed["found rate"])
    assert f"{found:.3g}" == f"{demo.find_lr().suggest():.3g}"
    first, second = lrcore.schedules.Constant(found), lrcore.schedules.Linear(found, 0, steps=23)
    assert printed["learning rate"] == repr(first.then(second, at=10))
    assert printed["range test"] == str(other)
    assert (png_size(path), png_size(other)) == ((1200, 900), (1200, 675))


@pytest.mark.usefixtures("sklearn")
def test_a_plateau_is_told_the_loss_of_each_epoch() -> None:
    """Neither the second nor the third epoch improves the loss by 99 %, so the rate is reduced twice.

    Each epoch has 23 steps. The second reduction comes after the last step.
    """
    plateau = lrcore.schedules.Plateau(0.01, factor=0.5, patience=0, threshold=0.99)
    trained = demo.train(lr=plateau * 1, epochs=3)
    assert plateau.reductions == 2
    assert [*trained.rates] == [0.01] * 46 + [0.005] * 23
    assert plateau.state_dict()["best"] == trained.losses[:23].mean()


@pytest.mark.usefixtures("matplotlib")
def test_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The rates of all groups are recorded, reported and drawn, and a Plateau of a group observes.

    The rest, which is empty, and a frozen group take no steps.
    """
    plateau = lrcore.schedules.Plateau(0.01, factor=0.5, patience=0, threshold=0.99)
    settings: list[dict[str, Any]] = [{"lr_scale": 0.5}, {"lr": plateau}, {"lr_scale": 0.5}, {"frozen": True}]
    groups = [{"params": name, **own} for name, own in zip(("w1", "b1", "w2", "b2"), settings, strict=True)]
    trained = demo.train(groups=groups, epochs=3)
    cosine = lrcore.schedules.Cosine(demo.RATES["Adam"], steps=69)
    half, own = 0.5 * cosine(np.arange(69)), [0.01] * 46 + [0.005] * 23
    none = np.full(69, np.nan)
    np.testing.assert_array_equal(trained.rates.T, [none, half, own, half, none])
    assert plateau.reductions == 2
    lines = demo.report(trained).splitlines()
    begin = lines.index(f"learning rate     groups[1], groups[3]: {cosine!r} * 0.5")
    assert lines[begin + 1] == f"{'':18}groups[2]: {plateau!r}"

    def training(*given: Any) -> Any:
        axes = draw(*given)
        legend: Any = axes.figure.axes[-1].get_legend()
        assert [each.get_text() for each in legend.get_texts()] == ["groups[1], groups[3]", "groups[2]"]
        return axes

    draw = lrcore.plot.training
    monkeypatch.setattr(lrcore.plot, "training", training)
    demo.plot(trained, tmp_path / "demo.png")
    assert png_size(tmp_path / "demo.png") == (1200, 900)


@pytest.mark.usefixtures("sklearn")
def test_groups_act_in_the_training() -> None:
    """A group without settings changes no bit, and a frozen one learns as little as at a rate of 0."""
    everything: dict[str, Any] = {"params": slice(None)}
    pairs: list[tuple[dict[str, Any], list[Any]]] = [
        ({}, []),
        ({}, [everything]),
        ({"lr": 0.0}, [everything | {"frozen": True}]),
    ]
    for arguments, groups in pairs:
        expected, trained = demo.train(epochs=1, **arguments), demo.train(epochs=1, groups=groups)
        np.testing.assert_array_equal(trained.losses, expected.losses)
        assert trained.schedule.count("\n") == 0
        assert trained.rates.shape == ((23, 2) if groups else (23,))


@pytest.mark.usefixtures("sklearn")
@pytest.mark.parametrize("optimizer", demo.RATES)
def test_a_range_test_has_a_suggestion_for_every_optimizer(optimizer: str) -> None:
    for seed, batch_size in enumerate((16, 64, 64)):
        found = demo.find_lr(optimizer, batch_size=batch_size, seed=seed)
        assert 1e-6 < found.suggest() < 100


@pytest.mark.usefixtures("matplotlib")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lr", "-1"], "lr: expected a finite number >= 0, got -1.0"),
        (["--backend", "sse2"], "backend: expected one of .*, got 'sse2'"),
        (["--out", "/nowhere/demo.png"], "--out: there is no directory /nowhere"),
        (["--out", "demo.pdf"], r"--out: expected a name that ends in \.png, got demo\.pdf"),
        (["--schedule", "Cosine(lr)"], r"schedule: Cosine\(\) missing .* 'steps', at column 1 near .*"),
        (["--lr", "1", "--schedule", "Constant(lr=0.1)"], "--schedule: does not use lr, so --lr or .*"),
        (["--find-lr", "--schedule", "Constant(0.1)"], "--schedule: does not use lr, so --lr or .*"),
        (["--optimizer", "Lionn"], r"optimizer: expected one of .*, got 'Lionn'; did you mean Lion\?"),
        (["--find-lr", "--epochs", "0"], "--epochs: expected an integer >= 1, got 0"),
        (["--find-lr", "--lr", "1"], "--find-lr: cannot be combined with --lr; leave one of them out"),
    ],
)
def test_command_demo_refuses(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "demo.png"
    assert main(["demo", "--epochs", "1", "--out", str(path), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(f"lrcore demo: {message}\n", captured.err)
    assert not path.exists()


def test_command_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    printed = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(printed) == list(lrcore.info())
    assert printed["version"] == lrcore.__version__
    assert printed["backends"] == ", ".join(lrcore.backends())
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == lrcore.info()


def test_command_info_without_a_driver(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a driver, the output says that there is no GPU, and does not advise updating the driver."""
    error = "CUDA: looking for devices: cudaErrorInsufficientDriver: ...; install or update the NVIDIA driver"
    monkeypatch.setattr(lrcore, "info", lambda: {"cuda": True, "cuda_error": error})
    for loaded, printed in (
        (False, "no NVIDIA driver is installed, so there is no GPU to use"),
        (True, error),
    ):
        monkeypatch.setattr(lrcore.__main__, "_has_driver", lambda loaded=loaded: loaded)
        assert main(["info"]) == 0
        assert capsys.readouterr().out.splitlines()[1] == f"{'cuda_error':<20}{printed}"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([command.name, "--help"])
        assert stop.value.code == 0
        assert command.help in capsys.readouterr().out


def test_module_runs_and_imports_no_extra() -> None:
    command = [sys.executable, "-m", "lrcore", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"lrcore {lrcore.__version__}\n"), done.stderr
    extras = ("sklearn", "scipy", "matplotlib", "tqdm", "cupy", "optuna")
    done = python(f"import sys, lrcore.__main__\nprint({{*{extras}}} & {{*sys.modules}})")
    assert done.stdout == "set()\n", done.stderr
