"""The state of a `lrcore.torch.FusedOptimizer` in PyTorch's form: for each parameter, views of the flat states.

Assigned states are copied into the flat states immediately, or rejected. Removing all states resets them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from lrcore._checks import require_entries
from lrcore._lrcore_core import commit
from lrcore.optimizers import _torch_state
from lrcore.torch._buffer import Buffer, fitting

_BEGIN_ANEW = "reset the states of all parameters, which share one step count, with opt.state.clear()"
_NOTHING = object()


class Flat(NamedTuple):
    """Checked states of all parameters."""

    states: list[dict[str, Any]]
    """The flat states of each buffer by name."""
    step_count: int


class FormerStates(defaultdict[Any, Any]):
    """A replaced mapping: it behaves like a plain dictionary, and so do its copies and pickles."""

    def copy(self) -> Any:
        """Return a plain `defaultdict` of the same entries."""
        return defaultdict(dict, self)

    __copy__ = copy

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return defaultdict, (dict, dict(self))


class States(FormerStates):
    """A mapping from each parameter to its states by name."""

    _buffers: Sequence[Buffer]
    """The buffers that these states belong to."""

    @classmethod
    def over(cls, buffers: Sequence[Buffer]) -> States:
        """Return the mapping for the flat states of the given buffers."""
        states = cls(dict)
        for buffer in buffers:
            for i, parameter in enumerate(buffer.parameters):
                dict.__setitem__(states, parameter, Entries.over(buffer, i, len(buffers) == 1))
        states._buffers = buffers
        return states

    def retire(self) -> None:
        """Become a plain dictionary after another mapping has replaced this one."""
        self.__class__ = FormerStates  # type: ignore[assignment]
        del self._buffers

    def checked(self, given: Any) -> Flat | None:
        """Check new states for all parameters; return None if all states are to be reset."""
        if not isinstance(given, Mapping) or not all(isinstance(each, Mapping) for each in given.values()):
            raise TypeError("state: expected a dictionary of dictionaries, as in PyTorch")
        if not any(each or isinstance(each, FormerEntries) for each in given.values()):
            return None
        indices = {
            parameter: i
            for buffer in self._buffers
            for i, parameter in zip(buffer.indices, buffer.parameters, strict=True)
        }
        if {*given} != {*indices}:
            raise ValueError(
                f"state: expected the states of all {len(indices)} parameters, or {{}} to reset them; got {len(given)}"
            )
        found = [given[parameter] for parameter in sorted(indices, key=indices.__getitem__)]
        every = [each.as_of_then() if isinstance(each, FormerEntries) else each for each in found]
        step_count = self._buffers[0].optimizer.step_count
        if counted := [each for each in every if "step" in each]:
            step_count = _torch_state.common_step_count(counted)
        return Flat([buffer.join_all(every, step_count) for buffer in self._buffers], step_count)

    def __setitem__(self, parameter: Any, entries: Any) -> None:
        if entries is not self[parameter]:
            self[parameter].replace(entries)

    def __missing__(self, parameter: Any) -> Any:
        raise KeyError("state: expected a parameter of this optimizer")

    def __delitem__(self, parameter: Any) -> None:
        self[parameter].clear()

    def clear(self) -> None:
        """Reset all states to their initial values, and the step count to 0."""
        reset(self._buffers)

    def pop(self, parameter: Any, default: Any = _NOTHING) -> Any:
        """Reset the only parameter's state, and return its former values; raise ValueError if there are several."""
        if parameter not in self and default is not _NOTHING:
            return default
        return self[parameter].taken()

    def popitem(self) -> tuple[Any, Any]:
        """Reset the only parameter's state as `pop` does; return the parameter and the former values."""
        parameter = next(reversed(self))
        return parameter, self.pop(parameter)

    def setdefault(self, parameter: Any, default: Any = None) -> Any:  # noqa: ARG002
        """Return the state of a parameter; it always exists."""
        return self[parameter]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Assign the states of several parameters; if one is invalid, assign none."""
        given = dict(*args, **kwargs)
        checked = [(self[each], self[each].checked(given[each])) for each in given]
        for entries, values in checked:
            entries.write(values)

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self


class FormerEntries(dict[str, Any]):
    """Replaced states of one parameter: a plain dictionary that keeps its step count."""

    _step_count: int

    def as_of_then(self) -> Mapping[str, Any]:
        """Return the states with their own step count, which may differ from the optimizer's."""
        return {"step": self._step_count, **self}

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self.as_of_then()),)


class Entries(FormerEntries):
    """The states of one parameter by name, each a view of a flat state."""

    _buffer: Buffer
    """The buffer that these states belong to."""
    _name: str
    """The name of these states in messages."""
    _alone: bool
    """Whether this is the only parameter."""

    @classmethod
    def over(cls, buffer: Buffer, index: int, only_buffer: bool) -> Entries:
        """Return the states of one parameter of a buffer."""
        entries = cls((name, views[index]) for name, views in buffer.state_views.items())
        entries._buffer, entries._name = buffer, f"state[{buffer.names[index]}]"
        entries._alone = only_buffer and len(buffer.parameters) == 1
        return entries

    def values_of_now(self) -> tuple[int, dict[str, Any]]:
        """Return the step count and copies of the states."""
        return self._buffer.optimizer.step_count, {name: values.clone() for name, values in self.items()}

    def retire(self, step_count: int, values: Mapping[str, Any]) -> None:
        """Become a plain dictionary of the last values after another mapping has replaced this one."""
        self._step_count = step_count
        self.__class__ = FormerEntries  # type: ignore[assignment]
        del self._buffer
        self.update(values)

    def as_of_then(self) -> Mapping[str, Any]:
        """Return the states. They have no step count of their own, because they share the optimizer's."""
        return self

    def checked(self, given: Any) -> dict[str, Any]:
        """Check states given by name. A step count, if given, must equal the optimizer's."""
        for name in given:
            if name not in self and name not in _torch_state.COUNTS:
                raise ValueError(f"{self._name}: expected the entries {[*self]}, got {name}")
        _torch_state.require_step_count(self._name, given, self._buffer.optimizer.step_count)
        return {
            name: fitting(f"{self._name}: {name}", given[name], values).clone()  # it may alias another state
            for name, values in self.items()
            if name in given
        }

    def write(self, checked: Mapping[str, Any]) -> None:
        """Copy checked values into the flat states."""
        for name, values in checked.items():
            self[name].copy_(values)

    def replace(self, given: Any) -> None:
        """Replace all states of this parameter; an empty mapping resets them."""
        if not isinstance(given, Mapping):
            raise TypeError(f"{self._name}: expected a dictionary, got {type(given).__name__}")
        if type(given) is Entries:
            raise ValueError(
                f"{self._name}: got the live state of another parameter, which changes with that parameter; assign clones: "
                "{name: values.clone() for name, values in opt.state[other].items()}"
            )
        if not given:
            self.clear()
            return
        values = self.checked(given)
        require_entries(self._name, values, self)
        self.write(values)

    def taken(self) -> dict[str, Any]:
        """Reset the states, and return a copy of the former values."""
        _, before = self.values_of_now()
        self.clear()
        return before

    def __setitem__(self, name: str, values: Any) -> None:
        if name not in self or values is not self[name]:
            self.write(self.checked({name: values}))

    def __delitem__(self, name: str) -> None:
        raise ValueError(f"{self._name}: {name}: cannot be removed; assign zeros, or {_BEGIN_ANEW}")

    def clear(self) -> None:
        """Reset the states, if this is the only parameter; otherwise raise ValueError."""
        if not self._alone:
            raise ValueError(f"{self._name}: cannot be removed alone; {_BEGIN_ANEW}, or assign zeros")
        reset([self._buffer])

    def pop(self, name: str, default: Any = _NOTHING) -> Any:
        """Raise ValueError for the name of a state, which cannot be removed; return the default for other names."""
        if name in self:
            del self[name]
        return super().pop(name) if default is _NOTHING else super().pop(name, default)

    def popitem(self) -> tuple[str, Any]:
        """Raise ValueError, because a state cannot be removed."""
        if self:
            del self[next(reversed(self))]
        return super().popitem()

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Return a state; it always exists."""
        if name not in self:
            self[name] = default
        return self[name]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Assign several states; if one is invalid, assign none."""
        self.write(self.checked(dict(*args, **kwargs)))

    def __ior__(self, other: Any) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self


def reset(buffers: Sequence[Buffer]) -> None:
    """Reset all states of the buffers to their initial values, and the step count to 0."""
    commit([buffer.change_to(buffer.beginning(), 0) for buffer in buffers])
