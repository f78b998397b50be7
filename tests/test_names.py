"""Names that a user brings along, or misspells: the error names what is meant here."""

from __future__ import annotations

import copy
import inspect
import pydoc
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import _names, demo, functional, optimizers, pack, plot, schedules, tune

MODULES = (lrcore, functional, optimizers, plot, schedules, tune)
"""The modules that say what is meant."""


def public() -> Iterator[tuple[str, Any]]:
    """Yield each public class and function of a module, and each public method, with its path."""
    for module in (*MODULES, demo, pack):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isroutine(value):
                yield f"{module.__name__}.{name}", value
            if inspect.isclass(value):
                for attribute in dir(value):
                    if not attribute.startswith("_"):
                        yield f"{module.__name__}.{name}.{attribute}", getattr(value, attribute)


def keywords_of(value: Any) -> list[str]:
    """Return the names of the arguments that may be passed by name."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return []
    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    return [each.name for each in parameters if each.kind in kinds and each.name != "self"]


def test_the_table_names_what_is_there() -> None:
    """Each name is public: a class, a function, a method, an attribute or an argument."""
    names = {path.rpartition(".")[2] for path, _ in public()}
    names |= {name for _, value in public() for name in keywords_of(value)}
    meant = {each for row in _names.FOREIGN.values() for each in row if _names.is_name(each)}
    assert len(meant) > 60
    assert meant <= names


def test_the_table_says_what_can_be_written() -> None:
    """The code in each remedy runs."""
    params, grads = np.ones(6, np.float32), np.ones(6, np.float32)
    known = vars(schedules) | {
        "alpha": 0.1, "copy": copy, "factor": 0.5, "grads": grads, "lr": 0.1, "lrcore": lrcore, "metric": 1.0, "n": 3,
        "opt": lrcore.SGD(params, lr=schedules.Plateau(0.1), momentum=0.5, grads=grads),
        "other": schedules.Constant(0.5), "pack": lrcore.Pack({"w": 3}), "plateau": schedules.Plateau(0.1), "rate": 0.5,
        "ratio": 0.1, "schedule": schedules.Constant(0.1), "steps": 10,
    }  # fmt: skip
    words = {each for row in _names.FOREIGN.values() for each in row if not _names.is_name(each)}
    assert len(words) > 20
    for each in words:
        if each.startswith(("leave it out; ", "make another optimizer; ")):
            continue
        match = re.match(
            r"(?:write|assign|see) (.+?)(?: between steps| for what there is)?(?:; [^;]+)?$", each
        )
        assert match, each
        if match[1] != "import lrcore.torch" or find_spec("torch"):
            exec(match[1], dict(known))


def test_no_name_is_foreign_to_itself() -> None:
    """A row that names only itself would say nothing."""
    assert all({*meant} != {name} for name, meant in _names.FOREIGN.items())


@pytest.mark.parametrize(
    ("owner", "name", "meant"),
    [
        (schedules, "CosineAnnealingLR", "did you mean lrcore.schedules.Cosine?"),
        (schedules, "ReduceLROnPlateau", "did you mean lrcore.schedules.Plateau?"),
        (schedules, "Warmup", "write schedule.warmup(steps)"),
        (schedules, "get_cosine_schedule_with_warmup", "write Cosine(lr, steps).warmup(n)"),
        (schedules, "Cosin", "did you mean lrcore.schedules.Cosine?"),
        (schedules, "stepdecay", "did you mean lrcore.schedules.StepDecay?"),
        (schedules, "AdamW", "did you mean lrcore.AdamW?"),
        (optimizers, "AdaBelief", "see lrcore.optimizers.__all__ for what there is"),
        (optimizers, "xyzzy", None),
        (lrcore, "CosineAnnealingLR", "did you mean lrcore.schedules.Cosine?"),
        (lrcore, "Cosine", "did you mean lrcore.schedules.Cosine?"),
        (lrcore, "adam", "did you mean lrcore.Adam?"),
        (lrcore, "zero_grad", "write grads[:] = 0; the gradients are yours, and a step only reads them"),
        (lrcore, "get_num_threads", 'write lrcore.info()["threads"]'),
        (lrcore, "range_test", "did you mean lrcore.tune.range_test?"),
        (lrcore, "lr_find", "did you mean lrcore.tune.range_test?"),
        (lrcore, "xyzzy", None),
        (functional, "Adam", "did you mean lrcore.functional.adam?"),
        (functional, "adamw2", "did you mean lrcore.functional.adamw?"),
        (tune, "xyzzy", None),
        (plot, "schedulers", "did you mean lrcore.plot.schedules?"),
    ],
)
def test_unknown_names_of_modules(owner: Any, name: str, meant: str | None) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(owner, name)
    expected = f"{name}: {owner.__name__} has no such attribute" + (f"; {meant}" if meant else "")
    assert str(caught.value) == expected if meant else str(caught.value).startswith(expected)
    assert not hasattr(owner, name)


@pytest.mark.parametrize("module", MODULES)
def test_modules_stay_what_they_were(module: Any) -> None:
    with pytest.raises(ImportError, match="cannot import name 'xyzzy'"):
        exec(f"from {module.__name__} import xyzzy")
    with pytest.raises(AttributeError, match=f"^module '{module.__name__}' has no attribute '__wrapped__'$"):
        _ = module.__wrapped__
    assert {*module.__all__} <= {*dir(module)}
    assert not {"annotations", "TYPE_CHECKING", "np", "inspect"} & {*dir(module)}
    assert not {each for each in dir(module) if each.startswith("_") and not each.startswith("__")}
    assert all(hasattr(module, each) for each in dir(module))
    assert module.__all__[0] in pydoc.render_doc(module)
