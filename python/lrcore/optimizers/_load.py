"""Creating an optimizer from a state file."""

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
    """Return the optimizer that `Optimizer.save` wrote to a file, bound to the given parameters.

    It has the stored class, options, hyperparameters, step count, states and schedule. If `save` was called on an
    instance of your own subclass, the result is an instance of the `lrcore` class that it derives from. To get your
    subclass, create an instance and call its ``load`` method.

    Parameters
    ----------
    path : str, bytes or path
        The file.
    params : array of float32
        The parameters, with the values they had when the file was written; the file does not contain them.
    grads : array of float32, optional
        Gradients to bind, so that ``step()`` needs no argument.
    lr : float, schedule or callable
        The learning rate. It is required if the optimizer was saved with a callable, because callables are not stored.
        It must be omitted if the file contains a schedule; to replace that schedule, assign ``opt.lr`` afterwards.
    capturable, max_steps
        As in the constructor.

    Returns
    -------
    Optimizer
        An instance of the stored class.

    Raises
    ------
    OSError
        If the file cannot be read.
    TypeError, ValueError
        If the file is damaged, was written by a later version or does not match the parameters, or if an argument is
        invalid.
    """
    path = file_path(path)
    name, dictionary = _file.read(path, describe(params).size)
    with naming_file(path):
        if not isinstance(name, str) or name not in optimizers.__all__ or name == "Optimizer":
            raise ValueError(f"class: expected the name of an optimizer, got {name!r}")
        cls: type[Any] = getattr(optimizers, name)
        arguments = _arguments_for(cls, dictionary)
    if lr is None and "schedule" not in dictionary:
        raise ValueError(f"lr: {path} has no schedule, because the rate came from a callable; pass lr")
    if lr is not None and "schedule" in dictionary:
        raise ValueError(f"lr: {path} has a schedule; leave lr out, and assign opt.lr afterwards")
    rate = 0.0 if lr is None else lr
    opt: Optimizer = cls(params, rate, grads=grads, capturable=capturable, max_steps=max_steps, **arguments)
    with naming_file(path):
        opt.load_state_dict(dictionary)
    return opt


def _arguments_for(cls: type[Any], dictionary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a class that select the rule of a state dictionary."""
    rule = dictionary.get("rule")
    names = tuple(name for name in inspect.signature(cls).parameters if name in _arguments.NUMBERS)
    hyper = _arguments.numbers(require_entries("hyper", dictionary.get("hyper"), names))
    options = cls._checked_options(rule, dictionary.get("options"), cls._default_options())
    arguments: dict[str, Any] = hyper | options
    if cls._choose_rule(arguments) != rule:
        raise ValueError(f"rule: expected {cls._choose_rule(arguments)}, got {rule!r}")
    return arguments
