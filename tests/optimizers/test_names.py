"""Names from other libraries, and misspelt names: the error suggests the name in lrcore."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import pydoc
import re
import traceback
import typing
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import _names, demo, functional, optimizers, pack, plot, schedules, tune
from schedules.examples import EXAMPLES
from support import python

MODULES = (lrcore, functional, optimizers, plot, schedules, tune)
"""The modules that suggest names."""


def public() -> Iterator[tuple[str, Any]]:
    """Yield each public class, function and method of the modules, with its path."""
    for module in (*MODULES, demo, pack):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isroutine(value):
                yield f"{module.__name__}.{name}", value
            if inspect.isclass(value):
                for attribute in dir(value):
                    if not attribute.startswith("_") and hasattr(value, attribute):
                        yield f"{module.__name__}.{name}.{attribute}", getattr(value, attribute)


def keywords_of(value: Any) -> list[str]:
    """Return the names of the arguments that may be passed by name."""
    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    return [each.name for each in parameters_of(value) if each.kind in kinds and each.name != "self"]


def parameters_of(value: Any) -> list[inspect.Parameter]:
    """Return the parameters, or an empty list if there is no signature."""
    try:
        return [*inspect.signature(value).parameters.values()]
    except (TypeError, ValueError):
        return []


def test_the_table_names_what_is_there() -> None:
    """Each suggested name is public: a class, a function, a method, an attribute or an argument."""
    names = {path.rpartition(".")[2] for path, _ in public()}
    names |= {name for _, value in public() for name in keywords_of(value)} | {*dir(OPT.groups[0])}
    meant = {each for row in _names.FOREIGN.values() for each in row if _names.is_name(each)}
    assert len(meant) > 60
    assert meant <= names
    assert len(_names.FOREIGN) == len(
        " ".join(_names._MEANINGS.values()).split()
    )  # if a name were in two rows, the first would have no effect
    assert all({*row} != {name} for name, row in _names.FOREIGN.items())


def test_the_table_says_what_can_be_written() -> None:
    """The code in each remedy runs."""
    params, grads = np.ones(6, np.float32), np.ones(6, np.float32)
    known = vars(schedules) | {
        "alpha": 0.1, "copy": copy, "factor": 0.5, "grads": grads, "lr": 0.1, "lrcore": lrcore, "metric": 1.0, "n": 3,
        "opt": lrcore.SGD(params, lr=schedules.Plateau(0.1), momentum=0.5, grads=grads),
        "other": schedules.Constant(0.5), "pack": lrcore.Pack({"w": 3}), "plateau": schedules.Plateau(0.1), "rate": 0.5,
        "ratio": 0.1, "schedule": schedules.Constant(0.1), "steps": 10, "weight_decay": 0.1,
    }  # fmt: skip
    words = {each for row in _names.FOREIGN.values() for each in row if not _names.is_name(each)}
    assert len(words) > 20
    for each in words:
        if each.startswith(("leave it out; ", "pass groups= to the constructor; ")):
            continue
        match = re.match(
            r"(?:write|assign|see) (.+?)(?: between steps| for the available optimizers)?(?:; [^;]+)?$", each
        )
        assert match, each
        if match[1] != "lrcore.torch.FusedOptimizer" or find_spec("torch"):
            exec(match[1], dict(known))


@pytest.mark.parametrize("module", MODULES)
def test_modules_stay_what_they_were(module: Any) -> None:
    with pytest.raises(ImportError, match="cannot import name 'xyzzy'"):
        exec(f"from {module.__name__} import xyzzy")
    with pytest.raises(AttributeError, match=f"^module '{module.__name__}' has no attribute '__wrapped__'$"):
        _ = module.__wrapped__
    assert {*module.__all__} <= {*dir(module)}
    assert not {"annotations", "TYPE_CHECKING", "np", "inspect"} & {*dir(module)}
    assert not {each for each in dir(module) if each.startswith("_") and not each.startswith("__")}
    absent = {"torch"} if find_spec("torch") is None else set()
    assert all(hasattr(module, each) for each in {*dir(module)} - absent)
    assert module.__all__[0] in pydoc.render_doc(module)


def test_lrcore_torch_is_imported_on_access() -> None:
    pytest.importorskip("torch")
    done = python(
        """
        import sys
        import lrcore
        assert "torch" in dir(lrcore) and "torch" not in lrcore.__all__
        assert not {"torch", "lrcore.torch"} & {*sys.modules}
        opt = lrcore.torch.FusedOptimizer
        import lrcore.torch
        from lrcore import torch
        assert torch is lrcore.torch is sys.modules["lrcore.torch"] and opt is torch.FusedOptimizer
        """
    )
    assert done.returncode == 0, done.stderr


def test_lrcore_torch_says_what_to_install() -> None:
    """The attribute is then missing for hasattr and help."""
    done = python(
        """
        import pydoc, sys
        sys.modules["torch"] = None
        import lrcore
        assert not hasattr(lrcore, "torch")
        assert "lrcore.torch" in pydoc.render_doc(lrcore)
        for code in ("lrcore.torch", "from lrcore import torch", "import lrcore.torch"):
            try:
                exec(code)
            except (AttributeError, ImportError) as error:
                print(type(error).__name__, error)
        """
    )
    message = 'torch is not installed: pip install "lrcore[torch]"'
    assert done.stdout.splitlines() == [
        f"AttributeError lrcore.torch: {message}",
        f"ImportError {message}",
        f"ImportError {message}",
    ], done.stderr


class Own(schedules.Schedule):
    """A user-defined schedule."""

    def _value(self, t: int) -> float:
        return 0.5 / (t + 1)


COSINE = schedules.Cosine(0.1, steps=10)


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        (schedules.Cosine, {"lr": 0.1, "step": 3}, "step: Cosine _; did you mean steps?"),
        (schedules.Cosine, {"lr": 0.1, "num_warmup_steps": 3}, "num_warmup_steps: Cosine _; write schedule.warmup(steps)"),
        (schedules.Cosine, {"xyzzy": 0.1}, "xyzzy: Cosine _; expected lr, steps, end"),
    ],
)  # fmt: skip
def test_unknown_arguments_of_schedules(call: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message).replace('_;', 'takes no such argument;')}$"):
        call(**arguments)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ("Cosine(1e-3, T_max=9)", "T_max: Cosine takes no such argument, at column 14 near \"T_max=9)\"; did you mean steps?"),
        ("Cosine(1, 9).warmup(num_steps=9)", "num_steps: warmup takes no such argument, at column 21 near \"num_steps=9)\"; did you mean steps?"),
        ("Cosin(1, 9)", 'Cosin is not a schedule, at column 1 near "Cosin(1, 9)"; did you mean Cosine?'),
        ("Cosine(1, 9).warmpu(3)", 'unknown method warmpu, at column 14 near "warmpu(3)"; did you mean warmup?'),
        ("Cosine(rat, 9)", 'unknown name rat, at column 8 near "rat, 9)"; did you mean rate?'),
        ({"schedule": "CosineAnnealingLR"}, "got 'CosineAnnealingLR'; did you mean Cosine?"),
        ({"schedule": "Composed"}, "expected the name of a schedule, got 'Composed'"),
        ({"schedule": "_Around", "inner": COSINE.to_dict()}, "expected the name of a schedule, got '_Around'"),
        ({"schedule": "Cosine", "lr": 0.1, "T_max": 3}, "T_max: Cosine takes no such argument; did you mean steps?"),
    ],
)  # fmt: skip
def test_unknown_names_in_texts_and_dictionaries(stored: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^schedule: .*{re.escape(message)}$"):
        schedules.parse(stored, rate=0.1) if isinstance(stored, str) else schedules.from_dict(stored)


OPT = lrcore.Adam(np.ones(3, np.float32), lr=schedules.Plateau(0.1))
PACK = lrcore.Pack({"w": (3, 2), "layers": [{"b": 3}]})


@pytest.mark.parametrize(
    ("owner", "name", "meant"),
    [
        (schedules, "CosineAnnealingLR", "did you mean lrcore.schedules.Cosine?"),
        (schedules, "Warmup", "write schedule.warmup(steps)"),
        (schedules, "Cosin", "did you mean lrcore.schedules.Cosine?"),
        (schedules, "AdamW", "did you mean lrcore.AdamW?"),
        (optimizers, "AdaBelief", "see lrcore.optimizers.__all__ for the available optimizers"),
        (lrcore, "adam", "did you mean lrcore.Adam?"),
        (lrcore, "FusedOptimizer", "write lrcore.torch.FusedOptimizer"),
        (lrcore, "xyzzy", None),
        (plot, "schedulers", "did you mean lrcore.plot.schedules?"),
        (OPT, "zero_grad", "write opt.step(zero_grads=True)"),
        (OPT, "param_groups", "did you mean groups?"),
        (OPT, "add_param_group", "pass groups= to the constructor; freeze a group there and thaw it later"),
        (OPT.groups, "append", "pass groups= to the constructor; freeze a group there and thaw it later"),
        (OPT.groups[0], "params", "did you mean names?"),
        (OPT.groups[0], "param_names", "did you mean names?"),
        (OPT, "learning_rate", "did you mean lr?"),
        (OPT, "betas", 'did you mean opt.hyper["betas"]?'),
        (OPT, "beta1", 'did you mean opt.hyper["betas"]?'),
        (OPT, "observe", "write lrcore.schedules.plateaus(opt)[0].observe(metric)"),
        (OPT.schedule, "step", "did you mean observe?"),
        (COSINE, "step", "write opt.step(); a schedule has no counter"),
        (PACK, "parameters", "did you mean flat?"),
        (PACK["layers"], "parameters", "did you mean flat?"),
    ],
)  # fmt: skip
def test_unknown_attributes(owner: Any, name: str, meant: str | None) -> None:
    """The errors of modules and of objects suggest names."""
    with pytest.raises(AttributeError) as caught:
        getattr(owner, name)
    label = getattr(owner, "__name__", type(owner).__name__)
    expected = f"{name}: {label} has no such attribute" + (f"; {meant}" if meant else "")
    assert str(caught.value) == expected if meant else str(caught.value).startswith(expected)
    assert not hasattr(owner, name)
    assert "Did you mean" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("owner", [OPT, OPT.schedule, COSINE, PACK, PACK["layers"], Own()])
def test_objects_stay_what_they_were(owner: Any) -> None:
    """Copying, pickling and looking up special names work as usual, without suggestions."""
    for made in (copy.copy(owner), copy.deepcopy(owner), pickle.loads(pickle.dumps(owner))):
        assert type(made) is type(owner)
    for name in ("__array__", "__dlpack__", "_private"):
        with pytest.raises(AttributeError, match=f"object has no attribute '{name}'"):
            getattr(owner, name)
    assert not {"zero_grad", "betas", "last_epoch", "get_last_lr", "named_parameters"} & {*dir(owner)}
    assert {each for each in vars(owner) if each.isidentifier()} <= {*dir(owner)}
    cls: Any = type(owner)
    unfilled = cls.__new__(cls)
    for name in ("_params", "zero_grad"):
        assert not hasattr(unfilled, name)


def test_an_attribute_may_be_a_subclass_its_own() -> None:
    @dataclasses.dataclass(frozen=True)
    class Stepped(schedules.Schedule):
        step: int
        last_epoch: int = 3

        def _value(self, t: int) -> float:
            return 0.5 if t < self.step else 0.25

    assert (Stepped(2)(1), Stepped(2)(2), Stepped(2).last_epoch) == (0.5, 0.25, 3)
    assert {"step", "last_epoch"} <= {*dir(Stepped(2))}
    with pytest.raises(TypeError, match="step"):
        Stepped()  # type: ignore[call-arg]

    class Zeroing(lrcore.SGD):
        def zero_grad(self) -> int:
            return 3

    opt = Zeroing(np.ones(1, np.float32))
    assert opt.zero_grad() == 3
    assert not hasattr(lrcore.SGD, "zero_grad")
    with pytest.raises(AttributeError, match="^learning_rate: Zeroing has no such attribute"):
        _ = opt.learning_rate  # type: ignore[attr-defined]


OWN_MESSAGES = (
    "lrcore.functional.",
    "lrcore.schedules.as_schedule",
    "lrcore.Pack.assign",
    "lrcore.pack.Pack.assign",
    "lrcore.pack.PackList.assign",
)
"""Functions that may be called in every training step are not wrapped; they raise their own errors."""


def takes_keywords() -> Iterator[Any]:
    """Yield each callable with named arguments and no ``**kwargs``, except those called in every step."""
    met = set()
    for path, value in public():
        is_optimizer = any(name in optimizers.__all__ for name in path.split("."))
        if is_optimizer or path.startswith(OWN_MESSAGES) or id(value) in met:
            continue
        met.add(id(value))
        is_open = any(each.kind is each.VAR_KEYWORD for each in parameters_of(value))
        is_rule = isinstance(value, type) and issubclass(value, tuple)  # a named tuple, made by lrcore
        inherited = path.rpartition(".")[2] in vars(Mapping) or path.rpartition(".")[2] in vars(Sequence)
        if keywords_of(value) and not (is_open or is_rule or inherited):
            yield pytest.param(value, id=path)


@pytest.mark.parametrize("value", [*takes_keywords()])
def test_every_unknown_keyword_is_explained(value: Any) -> None:
    """The keyword is misspelt by one letter, or comes from another library."""
    known = keywords_of(value)
    wrong = {name + name[-1]: {name} for name in known}
    wrong |= {foreign: meant for foreign, row in _names.FOREIGN.items() if (meant := {*row} & {*known})}
    for name in wrong.keys() - {*known}:
        with pytest.raises(TypeError) as caught:
            value(**{name: 0})
        found = re.fullmatch(
            rf"{name}: [\w.]+ takes no such argument; did you mean (\w+)\?", str(caught.value)
        )
        assert found, caught.value
        assert found[1] in wrong[name]


def typed_words() -> Iterator[Any]:
    """Yield each argument of a schedule that is annotated with a Literal of words."""
    for name in schedules.__all__:
        made = getattr(schedules, name)
        for argument, hint in typing.get_type_hints(made.__init__).items() if inspect.isclass(made) else ():
            if typing.get_origin(hint) is typing.Literal:
                yield pytest.param(made, argument, typing.get_args(hint), id=f"{name}({argument})")


@pytest.mark.parametrize(("make", "name", "words"), [*typed_words()])
def test_typed_words_are_taken(make: Any, name: str, words: tuple[str, ...]) -> None:
    """The check accepts exactly the words of the annotation, and lists them in the same order."""
    with pytest.raises(ValueError, match=f"^{name}: expected one of {', '.join(words)}, got 'xyzzy'$"):
        make(**EXAMPLES.get(make.__name__, [{"lr": 0.1}])[0] | {name: "xyzzy"})
