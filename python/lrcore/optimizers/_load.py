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
from lrcore.optimizers import Optimizer, _arguments, _changing, _file, _group_state
from lrcore.optimizers._named_state import rearranged
from lrcore.optimizers._places import flat_of, places_of
from lrcore.optimizers._ranges import Ranges
from lrcore.optimizers._settings import GroupSettings, Settings, WholeSettings, restored_whole, settled
from lrcore.schedules import Constant, Rate, as_schedule
from lrcore.schedules._state import Restored


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
    params : array of float32, or Pack
        The parameters, with the values they had when the file was written; the file does not contain them. A file of an
        optimizer over a `Pack` is loaded with a `Pack`, whose arrays match by name.
    grads : array of float32, or Pack, optional
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
    max_steps = _arguments.table_length(capturable, max_steps)
    size = describe(flat_of(params)).size
    name, dictionary = _file.read(path, size)
    with naming_file(path):
        if not isinstance(name, str) or name not in optimizers.__all__ or name == "Optimizer":
            raise ValueError(f"class: expected the name of an optimizer, got {name!r}")
        cls: type[Optimizer] = getattr(optimizers, name)
        dictionary = {**rearranged(dictionary, places_of(params))}
        options, ranges, settings = _read(cls, dictionary, size)
    if lr is None and "schedule" not in dictionary:
        raise ValueError(f"lr: {path} has no schedule, because the rate came from a callable; pass lr")
    if lr is not None and "schedule" in dictionary:
        raise ValueError(f"lr: {path} has a schedule; leave lr out, and assign opt.lr afterwards")
    opt = cls.__new__(cls)
    opt._bind(params, grads, options, ranges, settings, as_schedule(0.0 if lr is None else lr), max_steps)
    with naming_file(path):
        opt.load_state_dict(dictionary)
    return opt


def _read(
    cls: type[Optimizer], dictionary: Mapping[str, Any], size: int
) -> tuple[dict[str, Any], tuple[Ranges, ...], Settings]:
    """Return the options, the ranges of the groups, and the settings in a state dictionary."""
    rule = dictionary.get("rule")
    names = tuple(name for name in inspect.signature(cls).parameters if name in _arguments.NUMBERS)
    numbered: dict[int, Any] = {}
    hyper = _changing.restored(require_entries("hyper", dictionary.get("hyper"), names), {}, numbered)
    options = cls._checked_options(rule, dictionary.get("options"), cls._default_options())
    groups = dictionary.get("groups")
    ranges = _group_state.ranges_in(groups, size)
    whole = restored_whole(dictionary, WholeSettings(), numbered)
    settings = Settings(hyper, (GroupSettings(),) * len(ranges), whole)
    of_groups, _ = _group_state.restored(
        groups, ranges, settings, dictionary.get("step_count"), None, numbered
    )
    no_rate = Restored(Constant(0.0), None, (), is_same=True)  # `load_state_dict` replaces it
    _, settings, _ = settled(no_rate, Settings(hyper, of_groups, whole))
    if (selected := cls._choose_rule(settings.numbers(), options)) != rule:
        raise ValueError(f"rule: expected {selected}, got {rule!r}")
    return options, ranges, settings
