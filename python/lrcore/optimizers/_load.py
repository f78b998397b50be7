"""Making the optimizer that a file holds."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from lrcore import optimizers
from lrcore._checks import FilePath, file_path, require_entries
from lrcore._files.safetensors import naming_file
from lrcore._lrcore_core import describe
from lrcore._names import explain_keywords
from lrcore.optimizers import Optimizer, _arguments, _file
from lrcore.schedules import Rate


@explain_keywords
def load(
    path: FilePath,
    params: Any,
    *,
    grads: Any = None,
    lr: Rate | None = None,
    capturable: bool = False,
    max_steps: int | None = None,
) -> Optimizer:
    """Return the optimizer that `Optimizer.save` wrote, on these parameters.

    It is of the stored class, with the stored options, hyperparameters, step count, states and schedule. From a class of
    the caller's own, it is of the one in `lrcore` that this derives from; for another make it, and call its ``load``.

    Parameters
    ----------
    path : str, bytes or path
        The file.
    params : array of float32
        The parameters, as they were when it was written: they are not in it.
    grads : array of float32, optional
        Gradients bound once; ``step()`` then needs none.
    lr : float, schedule or callable
        The rate, where the stored one came from a callable, which no file holds. Refused where there is a schedule in the
        file; assign ``opt.lr`` afterwards to replace that.
    capturable, max_steps
        As in the constructor.

    Returns
    -------
    Optimizer
        Of the stored class.

    Raises
    ------
    OSError
        When the file cannot be read.
    TypeError, ValueError
        When the file is damaged or of a later version, does not fit the parameters, or an argument is refused.
    """
    path = file_path(path)
    name, dictionary = _file.read(path, describe(params).size)
    with naming_file(path):
        if not isinstance(name, str) or name not in optimizers.__all__ or name == "Optimizer":
            raise ValueError(f"class: expected the name of an optimizer, got {name!r}")
        cls: type[Any] = getattr(optimizers, name)
        arguments = _arguments_for(cls, dictionary)
    if lr is None and "schedule" not in dictionary:
        raise ValueError(f"lr: {path} has no schedule, since the rate came from a callable; pass lr")
    if lr is not None and "schedule" in dictionary:
        raise ValueError(f"lr: {path} has a schedule; leave lr out, and assign opt.lr afterwards")
    rate = 0.0 if lr is None else lr
    opt: Optimizer = cls(params, rate, grads=grads, capturable=capturable, max_steps=max_steps, **arguments)
    with naming_file(path):
        opt.load_state_dict(dictionary)
    return opt


def _arguments_for(cls: type[Any], dictionary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a class that choose the rule of a state dictionary."""
    rule = dictionary.get("rule")
    names = tuple(name for name in inspect.signature(cls).parameters if name in _arguments.NUMBERS)
    hyper = _arguments.numbers(require_entries("hyper", dictionary.get("hyper"), names))
    options = cls._checked_options(rule, dictionary.get("options"), cls._default_options())
    arguments: dict[str, Any] = hyper | options
    if cls._choose_rule(arguments) != rule:
        raise ValueError(f"rule: expected {cls._choose_rule(arguments)}, got {rule!r}")
    return arguments
