"""A mapping of an optimizer's hyperparameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Literal, Protocol, TypeAlias, overload

from lrcore._names import unknown_key
from lrcore.optimizers._arguments import Value
from lrcore.optimizers._changing import schedules_in

_Single: TypeAlias = Literal[
    "alpha", "dampening", "eps", "lr_decay", "momentum", "momentum_decay", "rho", "weight_decay"
]
"""The hyperparameters that are single numbers."""


class _Numbered(Protocol):
    """An object with numeric arguments. If one of several changes is invalid, none is made."""

    @property
    def _hyperparameters(self) -> Mapping[str, Any]: ...

    def _number_of_next_step(self, name: str, value: Any) -> Any: ...

    def _change_hyper(self, changes: Mapping[str, Any]) -> None: ...


class Hyper(MutableMapping[str, Value]):
    """An optimizer's numeric arguments by name. They can be read, and assigned between steps.

    If an argument is a schedule or a callable, reading it gives the number of the next step; see `schedules`.
    Every assignment is checked like the constructor's arguments. A change that would require another rule, such as
    changing momentum to or from 0, raises ValueError. Names cannot be added or removed. `update` changes all given
    values or none.
    """

    def __init__(self, optimizer: _Numbered) -> None:
        self._optimizer = optimizer

    @overload
    def __getitem__(self, name: Literal["betas"]) -> tuple[float, float]: ...
    @overload
    def __getitem__(self, name: _Single) -> float: ...
    @overload
    def __getitem__(self, name: str) -> Value: ...
    def __getitem__(self, name: str) -> Value:
        numbers = self._optimizer._hyperparameters
        if name not in numbers:
            raise unknown_key(name, numbers)
        value: Value = self._optimizer._number_of_next_step(name, numbers[name])
        return value

    @property
    def schedules(self) -> Mapping[str, Any]:
        """The schedules of the arguments that change from step to step, by name; for `betas`, a pair."""
        numbers = self._optimizer._hyperparameters
        return {name: value for name, value in numbers.items() if schedules_in(value)}

    def __contains__(self, name: object) -> bool:
        return name in self._optimizer._hyperparameters

    def __setitem__(self, name: str, value: Any) -> None:
        self._optimizer._change_hyper({name: value})

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"{name}: hyperparameters cannot be removed")

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Assign several values at once; if one of them is invalid, none is changed."""
        self._optimizer._change_hyper(dict(*args, **kwargs))

    def __iter__(self) -> Iterator[str]:
        return iter(self._optimizer._hyperparameters)

    def __len__(self) -> int:
        return len(self._optimizer._hyperparameters)

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # copies and pickles are plain dictionaries
