"""The usual choice of the parameters of a module to which weight decay applies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lrcore._checks import is_list, naming, safe_repr
from lrcore._extras import optional_dependency
from lrcore._names import explain_keywords
from lrcore.optimizers import _decay_groups
from lrcore.optimizers._places import Places
from lrcore.pack._node import Place
from lrcore.schedules import Rate

with optional_dependency("torch"):
    import torch

_SELECTORS = "parameters of the module, (name, parameter) pairs, names, patterns or predicates"


@explain_keywords
def decay_groups(
    module: Any, weight_decay: Rate, groups: Sequence[Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Return parameter groups in which weight decay applies only to parameters of two or more dimensions.

    This is the rule of nanoGPT's `configure_optimizers`: weights of linear layers, convolution kernels and embeddings
    decay; biases and the gains and shifts of normalization layers do not. The groups contain the parameters that
    require gradients now, each once, under its first name. Pass them to `FusedOptimizer` or to an optimizer of
    ``torch.optim``. `lrcore.decay_groups` is the same function for a `lrcore.Pack`.

    Parameters
    ----------
    module : torch.nn.Module
        The module whose parameters are to be optimized.
    weight_decay : float, schedule or callable
        The weight decay of parameters of two or more dimensions. ``torch.optim`` accepts only a number.
    groups : list of dict, optional
        Groups in PyTorch's form. The entry `params` has parameters of the module, (name, parameter) pairs, or names as
        in ``module.named_parameters()``; or patterns and predicates as for `lrcore.decay_groups`, such as
        ``"head.*"``. Each group is split in two. If a group has its own `weight_decay`, the parameters of two or more
        dimensions get that number.

    Returns
    -------
    list of dict
        Parameter groups in PyTorch's form. For each given group, and then for the parameters that are in none of them,
        there is a group of the parameters that decay and a group of the others. The entry `params` is a list of
        (name, parameter) pairs, and other entries are kept. Groups without parameters are left out.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, if a group contains something that is not in the module, or if two groups contain the
        same parameter.

    Examples
    --------
    >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2))
    >>> for group in lrcore.torch.decay_groups(module, 0.1, [{"params": "2.*", "lr": 0.01}]):
    ...     print(group | {"params": [name for name, _ in group["params"]]})
    {'params': ['2.weight'], 'lr': 0.01, 'weight_decay': 0.1}
    {'params': ['2.bias'], 'lr': 0.01, 'weight_decay': 0.0}
    {'params': ['0.weight'], 'weight_decay': 0.1}
    {'params': ['0.bias', '1.weight', '1.bias'], 'weight_decay': 0.0}
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    parameters = {}
    places: dict[str, Place] = {}
    first: dict[int, str] = {}
    end = 0
    for name, each in module.named_parameters(remove_duplicate=False):
        if torch.nn.parameter.is_lazy(each):
            raise ValueError(f"module: {name} has no shape yet; run a forward pass first")
        parameters[name] = each
        known = first.setdefault(id(each), name)
        if known == name:
            places[name] = Place(end, tuple(each.shape))
            end = places[name].end
        elif each.numel():  # without elements, a second name would count as a second array
            places[name] = places[known]
    given: Any = groups
    if is_list(groups):
        given = [_by_name(i, each, first) for i, each in enumerate(groups)]
    found = []
    for group in _decay_groups.divided(Places(places), weight_decay, given):
        pairs = [(name, parameters[name]) for name in group["params"] if parameters[name].requires_grad]
        if pairs:
            found.append({**group, "params": pairs})
    return found


def _by_name(i: int, group: Any, names: Mapping[int, str]) -> Any:
    """Return a group with names in place of tensors. `names` has the name of each parameter by its id."""
    if not isinstance(group, Mapping):
        return group
    with naming(f"groups[{i}]"), naming("params"):
        if "params" not in group:
            raise TypeError(f"missing; expected {_SELECTORS}")
        params: Any = group["params"]
        if isinstance(params, (str, torch.Tensor)) or _is_pair(params) or callable(params):
            params = [params]
        elif isinstance(params, (set, frozenset)) or not isinstance(params, Iterable):
            raise TypeError(f"expected {_SELECTORS}, or a list of these, got {type(params).__name__}")
        selected = [_name_or_selector(each, names) for each in params]
    # A group of PyTorch has a list of the names, which the pairs replace.
    others = {name: value for name, value in group.items() if name != "param_names"}
    return {**others, "params": selected}


def _name_or_selector(given: Any, names: Mapping[int, str]) -> Any:
    """Return the name of a parameter, or a pattern or predicate unchanged."""
    tensor = given[1] if _is_pair(given) else given
    if isinstance(tensor, torch.Tensor):
        if id(tensor) not in names:
            raise ValueError(
                f"got a tensor of shape {tuple(tensor.shape)} that is not a parameter of the module"
            )
        return names[id(tensor)]
    if isinstance(given, torch.nn.Module):
        raise TypeError("expected parameters, got a module; pass module.parameters()")
    if isinstance(given, str) or callable(given):
        return given
    raise TypeError(f"expected {_SELECTORS}, got {safe_repr(given)}")


def _is_pair(given: Any) -> bool:
    return (
        isinstance(given, tuple)
        and len(given) == 2
        and isinstance(given[0], str)
        and isinstance(given[1], torch.Tensor)
    )
