"""The names that other libraries use for features of lrcore, and the errors for unknown names.

An error suggests a known name, which is found in the table or by its spelling, or describes what to write instead.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

_MEANINGS: dict[tuple[str, ...], str] = {
    # rates
    ("lr",):
        "learning_rate learn_rate lrate init_lr initial_lr lr_init initial_learning_rate init_value value "
        "params_lr rate rates lrs lr_schedule lr_scheduler schedule scheduler start_factor",
    ("peak", "high", "lr_max", "lr"): "max_lr lr_max peak_lr peak_value warmup_target",
    ("low", "base", "lr"): "base_lr",
    ("start", "lr_min"): "start_lr warmup_start_lr",
    ("end", "min_lr", "low", "lr_min", "lr_max"):
        "eta_min end_value end_lr lr_end final_lr end_learning_rate end_factor min_learning_rate min_lr "
        "lr_min",
    ("write end=alpha * lr; end is a rate",): "alpha min_lr_ratio",
    # numbers of steps
    ("steps", "step_count", "epochs"):
        "T_max T_0 total_steps num_steps n_steps num_training_steps decay_steps max_iters transition_steps "
        "first_decay_steps total_iters num_it num_training epochs max_epochs num_epochs",
    ("warmup_steps", "write schedule.warmup(steps)"):
        "num_warmup_steps warmup_steps warmup_iters warmup_epochs warmup",
    ("write schedule.warmup(round(ratio * steps))",): "warmup_ratio warmup_fraction",
    ("stable",): "num_stable_steps",
    ("decay",): "num_decay_steps",
    ("every",): "step_size",
    ("up",): "step_size_up",
    ("down",): "step_size_down",
    ("boundaries",): "milestones boundaries_and_scales",
    # forms of schedules
    ("factor", "rate", "k"): "gamma decay_rate",
    ("cycle_mult",): "T_mult t_mul",
    ("peak_mult",): "m_mul",
    ("power",): "exponent",
    ("div",): "div_factor",
    ("final_div",): "final_div_factor div_final",
    ("shape",): "anneal_strategy decay_type",
    ("fn",): "lr_lambda",
    ("parts",): "schedulers schedules",
    ("threshold",): "min_delta",
    ("leave it out; pass the schedule to the optimizer, as lr",): "optimizer",
    ("assign opt.step_count; a schedule has no counter",): "last_epoch",
    ('assign opt.hyper["momentum"] = schedule; each number has a schedule of its own',):
        "cycle_momentum base_momentum max_momentum",
    # arguments of optimizers
    ("betas", "momentum"): "beta1 beta2 beta_1 beta_2 b1 b2 beta adam_beta1 adam_beta2 mom sqr_mom",
    ("eps",): "epsilon adam_epsilon",
    ("weight_decay",): "decay wd lambd weight_decay_rate l2",
    ("decoupled_weight_decay",): "decoupled decouple_wd weight_decouple",
    ("nesterov",): "nesterovs nesterov_momentum use_nesterov",
    ("alpha",): "rho",
    ("leave it out; every step is fused",): "foreach fused differentiable jit_compile",
    ("max_norm", "assign opt.max_norm = 1.0"):
        "clipnorm global_clipnorm max_grad_norm clip_grad_norm clip_grad_norm_ clip_by_global_norm clip_norm "
        "grad_clip grad_clip_norm gradient_clip_val clip_grad",
    ("write grads.clip(-1.0, 1.0, out=grads); a step only reads the gradients",):
        "clipvalue clip_value clip_grad_value_",
    ("ema",): "ema_decay ema_momentum use_ema",
    # attributes and methods of optimizers
    ("params", "flat", "names"): "parameters params",
    ("grads",): "gradients gradient grad",
    ("step_count", "steps", "steps_per_epoch"): "steps step_number iterations t count",
    ("hyper",): "hyperparameters hypers defaults",
    ("state",): "variables slots opt_state get_weights",
    ("step",): "apply_gradients apply_updates update minimize",
    ("write opt.step(zero_grads=True)",): "zero_grad zero_grads",
    # parameter groups
    ("groups",): "param_groups",
    ("pass groups= to the constructor; freeze a group there and thaw it later",): "add_param_group append",
    ("lr_scale",): "lr_mult lr_multiplier",
    ("write weight_decay=factor * weight_decay",): "decay_mult",
    ("write groups=lrcore.decay_groups(pack, weight_decay)",): "mask decay_mask exclude_from_weight_decay",
    ("leave it out; optimizers, groups and schedules have no names",): "name",
    ("names", "leave it out; pass a Pack, whose arrays have names"): "param_names",
    # learning rates and metrics
    ("write opt.lr",): "get_last_lr get_lr",
    ("write lrcore.schedules.plateaus(opt)[0].observe(metric)",): "observe",
    ("observe", "write opt.step(); a schedule has no counter"): "step",
    ('write plateau.state_dict()["bad"]',): "num_bad_epochs",
    # methods of packs
    ("named_arrays",): "named_parameters",
    ("like",): "zeros_like empty_like",
    ("flat",): "ravel flatten",
    ("write copy.deepcopy(pack)",): "clone copy",
    # optimizers and schedules
    ("SGD",): "Momentum Nesterov FusedSGD",
    ("Adam",): "FusedAdam CPUAdam DeepSpeedCPUAdam",
    ("Lion",): "FusedLion",
    ("see lrcore.optimizers.__all__ for the available optimizers",):
        "AdaBelief Adafactor ASGD Ftrl LAMB LARS LBFGS Muon NovoGrad Rprop Shampoo Sophia SparseAdam Yogi",
    ("Constant",): "ConstantLR constant_schedule get_constant_schedule",
    ("Cosine",): "CosineAnnealing CosineAnnealingLR CosineDecay cosine_decay_schedule SchedCos",
    ("CosineRestarts",): "CosineAnnealingWarmRestarts CosineDecayRestarts sgdr_schedule SGDR",
    ("Cyclic",): "CyclicLR",
    ("Exponential",): "ExponentialLR ExponentialDecay exponential_decay SchedExp",
    ("Function",): "LambdaLR",
    ("InverseSqrt",): "get_inverse_sqrt_schedule",
    ("InverseTime",): "InverseTimeDecay",
    ("Linear",): "LinearLR linear_schedule SchedLin",
    ("OneCycle",): "OneCycleLR cosine_onecycle_schedule linear_onecycle_schedule fit_one_cycle",
    ("PiecewiseConstant",): "MultiStepLR PiecewiseConstantDecay piecewise_constant_schedule",
    ("Plateau",): "ReduceLROnPlateau reduce_on_plateau",
    ("Polynomial",): "PolynomialLR PolynomialDecay polynomial_schedule SchedPoly",
    ("Recursive",): "MultiplicativeLR LearningRateScheduler",
    ("Schedule",): "LRScheduler LearningRateSchedule",
    ("Sequence",): "SequentialLR join_schedules combine_scheds",
    ("StepDecay",): "StepLR",
    ("WarmupStableDecay",): "WSD get_wsd_schedule",
    ("write schedule * other",): "ChainedScheduler",
    ("write schedule.warmup(steps)",): "Warmup LinearWarmup",
    ("write Constant(lr).warmup(n)",): "warmup_constant_schedule get_constant_schedule_with_warmup",
    ("write Cosine(lr, steps).warmup(n)",): "warmup_cosine_decay_schedule get_cosine_schedule_with_warmup",
    ("write CosineRestarts(lr, steps).warmup(n)",): "get_cosine_with_hard_restarts_schedule_with_warmup",
    ("write Exponential(lr, rate, steps).warmup(n)",): "warmup_exponential_decay_schedule",
    ("write Linear(lr, 0.0, steps).warmup(n)",): "get_linear_schedule_with_warmup",
    ("write Polynomial(lr, steps).warmup(n)",): "get_polynomial_decay_schedule_with_warmup",
    # other functions
    ("range_test",): "lr_find lr_finder LRFinder",
    ("stop_factor",): "stop_div early_stop_threshold",
    ("trials",): "n_trials",
    ("Pack",): "parameters_to_vector ravel_pytree",
    ("use_backend",): "set_backend",
    ("count", 'write lrcore.info()["threads"]'): "num_threads n_threads threads get_num_threads",
    ("name", 'write lrcore.info()["backend"]'): "backend get_backend",
    ("write lrcore.torch.FusedOptimizer",): "FusedOptimizer",
}  # fmt: skip
"""Maps possible meanings in lrcore to the names in other libraries.

Each key lists names in lrcore, then advice, which is given if none of these names is known where the error occurs.
"""

FOREIGN: dict[str, tuple[str, ...]] = {
    name: meant for meant, names in _MEANINGS.items() for name in names.split()
}
"""Maps a name in other libraries to its possible meanings in lrcore."""


_SLIP = 0.85
"""The minimum similarity, from 0 to 1, of two names that differ only by a typo."""


def is_name(meant: str) -> bool:
    """Return whether an entry of the table is a name, as opposed to a piece of advice."""
    return meant.isidentifier()


def meant_by(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` stands for in the table, or that differs from it only in case or underscores."""
    names = {each: each for each in known}
    alike = {_plain(each): each for each in names}
    meant = [name, *filter(is_name, FOREIGN.get(name, ()))]
    return next((found for each in meant if (found := names.get(each) or alike.get(_plain(each)))), None)


def _plain(name: str) -> str:
    return name.casefold().replace("_", "")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` stands for in the table, or else one with a similar spelling.

    If the table has only other meanings for the name, the spelling must match almost exactly: `minimize` does not
    suggest `maximize`.
    """
    names = [*known]
    close = difflib.get_close_matches(name, names, 1, _SLIP if name in FOREIGN else 0.6)
    return meant_by(name, names) or (close[0] if close else None)


def remedy(name: str, *places: Mapping[str, str]) -> str:
    """Return the end of a message about an unknown name: what to write instead, or an empty string.

    Parameters
    ----------
    name : str
        The unknown name.
    *places : mapping of str to str
        The places that may have the intended name, the most likely first. Each maps its known names to the
        expressions that a message suggests for them.
    """
    words = [each for each in FOREIGN.get(name, ()) if not is_name(each) and _fits(each, places)]
    for look in (meant_by,) if words else (meant_by, nearest):
        for known in places:
            if (meant := look(name, known)) is not None:
                return f"; did you mean {known[meant]}?"
    return f"; {words[0]}" if words else ""


def _fits(words: str, places: Iterable[Mapping[str, str]]) -> bool:
    """Return whether advice applies: the argument that it mentions, if any, must be known in one of the places."""
    argument = re.match(r"write (\w+)=", words)
    return argument is None or any(argument[1] in known for known in places)


def unknown_argument(owner: str, name: str, known: Iterable[str]) -> TypeError:
    """Return the error for an argument that `owner` does not take."""
    names = {each: each for each in known}
    if meant_by(name, names) is None:
        # A typo takes precedence over advice, which may be about an attribute of that name.
        name_or_slip = [*difflib.get_close_matches(name, names, 1, _SLIP), name][0]
    else:
        name_or_slip = name
    hint = remedy(name_or_slip, names) or f"; expected {', '.join(names) or 'none'}"
    return TypeError(f"{name}: {owner} takes no such argument{hint}")


def unknown_attribute(owner: Any, label: str, name: str, *places: Mapping[str, str]) -> AttributeError:
    """Return the error for an attribute that `owner` does not have. See `remedy` for `places`.

    The message refers to `owner` as `label`.
    """
    # Without the argument `name`, Python adds no suggestion of its own.
    return AttributeError(f"{name}: {label} has no such attribute{remedy(name, *places)}", obj=owner)


def unknown_key(key: Any, known: Iterable[Any], advice: str = "") -> KeyError:
    """Return the error for a key that a mapping does not have. The message ends with `advice` or a similar key."""
    names = [*map(str, known)]
    listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    meant = nearest(key, names) if isinstance(key, str) else None
    hint = f"; {advice}" if advice else f"; did you mean {meant}?" if meant else ""
    return KeyError(f"{key}: expected one of {listed}{hint}" if names else f"{key}: there are no entries")


_LISTED = 20
"""The largest number of keys that a message lists."""

Made = TypeVar("Made", bound=Callable[..., Any])


def explain_keywords(made: Made) -> Made:
    """Return a function or class that raises the error of `unknown_argument` for unknown keywords.

    Do not use it for functions that a training loop calls at every step: it adds 150 ns per call.
    """
    if isinstance(made, type):
        made.__init__ = explain_keywords(made.__init__)  # type: ignore[misc]
        return made
    code = inspect.unwrap(made).__code__  # ten times faster than inspect.signature at import time
    named = code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]
    known = [each for each in named if each not in ("self", "cls")]
    owner = made.__qualname__.removesuffix(".__init__")

    @functools.wraps(made)
    def checked(*args: Any, **keywords: Any) -> Any:
        for each in keywords:
            if each not in known:
                raise unknown_argument(owner, each, known)
        return made(*args, **keywords)

    return checked  # type: ignore[return-value]


def public_face(module: str, *on_access: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a public module, which explain unknown names and list the public ones.

    The submodules `on_access` are imported when they are first used as attributes.
    """

    def module_getattr(name: str) -> Any:
        if name in on_access:
            try:
                return importlib.import_module(f"{module}.{name}")
            except ImportError as error:  # hasattr and help expect an AttributeError
                raise AttributeError(f"{module}.{name}: {error}") from error
        if name.startswith("_"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        places = [_public_names(each) for each in (module, *_PUBLIC)]
        raise unknown_attribute(sys.modules[module], module, name, *places)

    def module_dir() -> list[str]:
        names = vars(sys.modules[module])
        modules = (each for each in names if "__all__" in vars(sys.modules.get(f"{module}.{each}", object)))
        special = (each for each in names if each.startswith("__"))
        shown = (each for each in modules if not each.startswith("_"))
        return sorted({*names["__all__"], *on_access, *special, *shown})

    return module_getattr, module_dir


_PUBLIC = ("lrcore", "lrcore.schedules", "lrcore.tune", "lrcore.plot", "lrcore.functional")
"""The modules that are searched for a name that is unknown in another public module."""


def _public_names(module: str) -> dict[str, str]:
    """Return a dictionary from public to qualified names; empty if the module is not fully imported."""
    names = vars(sys.modules.get(module, object)).get("__all__", ())
    return {each: f"{module}.{each}" for each in names}


class _Elsewhere:
    """An attribute that only objects of other libraries have; the AttributeError says what to write in lrcore.

    A `__getattr__` would cover all unknown names, but would slow down every lookup of a known name in Python 3.11.
    """

    def __init__(self, name: str, entries: Callable[[Any], dict[str, str]]) -> None:
        self._name, self._entries = name, entries
        self.__doc__ = "An attribute that other libraries have. The error says what to write in lrcore."

    def __get__(self, owner: Any, cls: type[Any]) -> NoReturn:
        if owner is None:  # dataclasses look up default values
            raise AttributeError(f"type object {cls.__name__!r} has no attribute {self._name!r}")
        known = {each: each for each in dir(cls) if not each.startswith("_") and not is_elsewhere(cls, each)}
        raise unknown_attribute(owner, cls.__name__, self._name, known | self._entries(owner))


def is_elsewhere(cls: type[Any], name: str) -> bool:
    """Return whether an attribute of a class exists only to raise an error."""
    return isinstance(inspect.getattr_static(cls, name, None), _Elsewhere)


def _dir_of_what_is_there(owner: Any) -> list[str]:
    """Return the names for `dir` and completion, without the attributes that exist only to raise an error."""
    own = getattr(owner, "__dict__", {})
    return [each for each in object.__dir__(owner) if each in own or not is_elsewhere(type(owner), each)]


Class = TypeVar("Class", bound=type[Any])


def explain_attributes(
    *names: str, entries: Callable[[Any], dict[str, str]] = lambda _: {}
) -> Callable[[Class], Class]:
    """Return a class decorator that makes the nonexistent attributes `names` raise an error with a suggestion.

    `entries` is called with an object, and returns further known names with the expressions to suggest for them.
    """

    def explain(cls: Class) -> Class:
        for name in names:
            setattr(cls, name, _Elsewhere(name, entries))
        cls.__dir__ = _dir_of_what_is_there  # type: ignore[assignment]
        return cls

    return explain
