"""The ways in which a run can be resumed."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lrcore

Way = Callable[[Any, Path], Any]


def ways_to_resume(fresh: Callable[[Any], Any]) -> dict[str, Way]:
    """Return functions of an optimizer and a path that return an optimizer with equal parameters, which continues the run.

    `fresh` makes an optimizer of the given parameters with other settings than those that it loads.
    """

    def filled(opt: Any, load: Callable[[Any], object]) -> Any:
        load(made := fresh(opt.params.copy()))
        return made

    return {
        "copy": lambda opt, _: copy.copy(opt),
        "deepcopy": lambda opt, _: copy.deepcopy(opt),
        "pickle": lambda opt, _: pickle.loads(pickle.dumps(opt)),
        "lrcore.load": lambda opt, path: (opt.save(path), lrcore.load(path, opt.params.copy()))[1],
        "load": lambda opt, path: (opt.save(path), filled(opt, lambda made: made.load(path)))[1],
        "dictionary": lambda opt, _: filled(opt, lambda made: made.load_state_dict(opt.state_dict())),
    }
