"""The inputs and protocols of PyTorch's own optimizer tests, for `lrcore.torch.FusedOptimizer`.

The inputs are those of ``torch.testing._internal.common_optimizers``: the arguments with which PyTorch tests each of its
optimizers, the schedulers, and the arguments that must be refused. The protocols are those of PyTorch's
``test/test_optim.py``, written anew. Each result is compared with that of PyTorch's optimizer of the same name
(``foreach=False``), which takes the same steps.

Not covered: PyTorch's ASGD, Rprop, LBFGS, SparseAdam, Adafactor and Muon, which lrcore does not have; tests that need
several GPUs or count PyTorch's temporaries; and the tests of devices, which are in test_devices.py.

PyTorch's module of inputs needs expecttest. When it is imported, it freezes the flags of ``torch.backends``.
"""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

import lrcore
from pytorch.modules import FusedOptimizer, assert_same_dictionary, torch

pytest.importorskip("expecttest")

from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

INFOS = {info.name: info for info in optim_db if hasattr(lrcore, info.name)}
"""PyTorch's test inputs for each optimizer that lrcore also has."""
each_name = pytest.mark.parametrize("name", INFOS)
FLAGS = {
    name: [flag for flag in info.supported_impls if flag != "differentiable"] for name, info in INFOS.items()
}
"""The arguments that select one of PyTorch's implementations: foreach, and fused if PyTorch has it."""


class Input(NamedTuple):
    """The arguments of one of PyTorch's test inputs, by its number in PyTorch's list."""

    name: str
    number: int
    device: str = "cpu"

    def arguments(self, **changes: Any) -> dict[str, Any]:
        """Return the arguments; tensors among them are new, because schedulers change them in place."""
        inputs = INFOS[self.name].optim_inputs_func(device=self.device)
        return dict(inputs[self.number].kwargs) | changes

    def ours(self, params: Any, **changes: Any) -> Any:
        return FusedOptimizer(params, getattr(lrcore, self.name), **self.arguments(**changes))

    def theirs(self, params: Any, **changes: Any) -> Any:
        return INFOS[self.name].optim_cls(params, **{"foreach": False} | self.arguments(**changes))

    def __str__(self) -> str:
        description: str = INFOS[self.name].optim_inputs_func(device=self.device)[self.number].desc
        return f"{self.name}: {description}"


def inputs_for(device: str) -> list[Input]:
    """Return PyTorch's inputs for a type of device. Those for CUDA include the capturable ones."""
    return [
        Input(name, i, device)
        for name, info in INFOS.items()
        for i in range(len(info.optim_inputs_func(device=device)))
    ]


INPUTS = inputs_for("cpu")
each_input = pytest.mark.parametrize("given", INPUTS, ids=str)


# Trajectories.

LIMIT = 4e-6
"""The largest difference between two tensors of float32, relative to the largest element.

Both optimizers round parameters and states in each step, by up to 2^-24 = 6e-8 of their size, and they round
differently; the gradients then differ too. The largest difference found, over 20 steps, is 1.6e-6, in the squares of
Adadelta's updates.
"""
CENTERED_LIMIT = 2e-5
"""As above. Centered RMSprop also divides by the root of v - a * a, where gradients that hardly change cancel; the
largest difference found is 6.8e-6."""


def assert_agree(ours: Any, theirs: Any) -> None:
    """Assert that the parameters of two optimizers agree, and that they have the same states."""
    limit = CENTERED_LIMIT if theirs.param_groups[0].get("centered") else LIMIT
    for i, (group, its) in enumerate(zip(ours.param_groups, theirs.param_groups, strict=True)):
        assert float(group["lr"]) == pytest.approx(float(its["lr"]), rel=1e-6), i  # perhaps of float32
        for k, (p, q) in enumerate(zip(group["params"], its["params"], strict=True)):
            found, expected = ours.state.get(p, {}), theirs.state.get(q, {})
            assert found.keys() == expected.keys(), (i, k)
            pairs = {"values": (p.detach(), q.detach())} | {
                name: (found[name], expected[name]) for name in found
            }
            for name, pair in pairs.items():
                one, other = map(torch.as_tensor, pair)  # NAdam's product may be a number
                assert one.dtype == other.dtype == torch.float32
                assert one.shape == other.shape
                off = deviation(one, other)
                assert off <= limit, f"param_groups[{i}]: params[{k}]: {name}: off by {off:.1e}"


def deviation(found: Any, expected: Any) -> float:
    """Return the largest difference, relative to the largest element."""
    if torch.equal(found, expected):
        return 0.0
    off: float = ((found.double() - expected).abs().max() / expected.abs().max()).item()
    return off


X = torch.tensor([0.5, -1.5, 0.25, 1.0, -0.75])


def affine(strided: bool = False) -> list[Any]:
    """Return a weight and a bias, which may have gaps in memory."""
    generator = torch.Generator().manual_seed(1)
    values = [torch.randn(*shape, 2, generator=generator) for shape in ((10, 5), (10,))]
    return [torch.nn.Parameter(each[..., 0] if strided else each[..., 0].contiguous()) for each in values]


def loss_of(weight: Any, bias: Any, *others: Any) -> Any:
    return (weight.mv(X) + bias).square().sum() + sum(each.sum() for each in others)


def training(params: list[Any], opt: Any, schedulers: Any = (), steps: int = 12) -> Iterator[float]:
    """Yield the loss before each step, after the step of the optimizer and those of the schedulers."""
    for _ in range(steps):
        opt.zero_grad()
        loss = loss_of(*params)
        loss.backward()
        opt.step()
        for each in schedulers:
            if isinstance(each, torch.optim.lr_scheduler.ReduceLROnPlateau):
                each.step(loss.detach())
            else:
                each.step()
        yield loss.item()


def train(params: list[Any], opt: Any, steps: int) -> None:
    for _ in training(params, opt, steps=steps):
        pass


def assert_same_training(
    given: Input, ours: tuple[Any, Any, Any], theirs: tuple[Any, Any, Any], *, steps: int = 12
) -> None:
    """Assert that both optimizers take the same steps, in the direction that `given` requires."""
    losses = []
    for loss, _ in zip(training(*ours, steps=steps), training(*theirs, steps=steps), strict=True):
        losses.append(loss)
        if len(losses) in (1, steps):
            assert_agree(ours[1], theirs[1])
    if given.arguments().get("maximize"):
        assert losses[-1] > losses[0]
    else:
        assert losses[-1] < losses[0]


@each_input
def test_parameters_without_gradients_in_between(given: Input) -> None:
    """A step without gradients, and a layer that is frozen for two steps, have PyTorch's effects.

    There are seven steps because RAdam's rule changes after the fifth. A single number and an empty tensor are among
    the parameters.
    """
    sides = []
    for make in (given.ours, given.theirs):
        torch.manual_seed(1)
        nn = torch.nn
        model = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid())
        others = [nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.empty(0, 2))]
        sides.append((model, others, make([*model.parameters(), *others])))
    for i in range(7):
        for model, others, opt in sides:
            opt.zero_grad()
            model[2].requires_grad_(i not in (3, 4))
            if i != 2:
                model(torch.arange(1, 7).reshape(3, 2) / 10).sum().backward()
                for each in others:
                    each.grad = torch.full_like(each, 0.25 - i)
            opt.step()
        assert_agree(sides[0][2], sides[1][2])


OPTIONS = {"nesterov", "centered", "amsgrad", "decoupled_weight_decay"}
"""The arguments that all groups of a FusedOptimizer share. In PyTorch, each group may have its own."""


@each_input
def test_groups_with_their_own_numbers(given: Input) -> None:
    """Groups may have all numbers of their own. A group with a rate of almost 0 keeps its values."""
    shared = {
        name: value
        for name, value in given.arguments().items()
        if name in OPTIONS | {"initial_accumulator_value"}
    }
    if "nesterov" in shared:
        shared["momentum"] = 0.5  # nesterov requires it
    sides = []
    for make in (Input(given.name, 0).ours, Input(given.name, 0).theirs):
        params = [*affine(), torch.nn.Parameter(torch.tensor([0.75, -1.5]))]
        numbers = {"lr": 1e-3} | given.arguments()
        groups = [
            {"params": params[0], **numbers},
            {"params": [params[1]], **numbers, "weight_decay": 0.0},
            {"params": iter(params[2:])},
        ]
        sides.append((params, make(groups, lr=1e-28, **shared), ()))
    assert_same_training(given, *sides)
    assert sides[0][0][2].tolist() == [0.75, -1.5]


@pytest.mark.parametrize("given", [each for each in INPUTS if OPTIONS & each.arguments().keys()], ids=str)
def test_groups_with_their_own_options(given: Input) -> None:
    """PyTorch's tests pass options in groups alone. A FusedOptimizer refuses them by name."""
    (option,) = OPTIONS & given.arguments().keys()
    with pytest.raises(ValueError, match=rf"^param_groups\[1\]: {option}"):
        Input(given.name, 0).ours([{"params": affine()}, {"params": affine(), **given.arguments()}])


@each_input
def test_schedulers(given: Input) -> None:
    """The loss moves in the right direction with and without PyTorch's schedulers, as with PyTorch's optimizer."""
    for makers in ([], *INFOS[given.name].scheduler_inputs):
        sides = []
        for make in (given.ours, given.theirs):
            params = affine(strided=True)
            opt = make(params)
            sides.append((params, opt, [make_scheduler(opt) for make_scheduler in makers]))
        assert_same_training(given, *sides)


@each_name
def test_schedulers_of_groups(name: str) -> None:
    """PyTorch's schedulers change the rate of each group."""
    for makers in INFOS[name].scheduler_inputs:
        sides = []
        for make in (Input(name, 0).ours, Input(name, 0).theirs):
            weight, bias = affine()
            opt = make([{"params": [weight]}, {"params": [bias], "lr": 0.01}])
            sides.append(([weight, bias], opt, [make_scheduler(opt) for make_scheduler in makers]))
        assert_same_training(Input(name, 0), *sides)


@each_input
def test_a_rate_that_is_a_tensor(given: Input) -> None:
    """A rate in a tensor is read at each step."""
    sides = []
    for make in (given.ours, given.theirs):
        params, lr = affine(), torch.tensor(1e-3)
        opt = make(params, lr=lr)
        assert opt.param_groups[0]["lr"] is lr
        sides.append((params, opt, [SimpleNamespace(step=lambda lr=lr: lr.mul_(0.5))]))
    assert_same_training(given, *sides, steps=5)


@each_input
def test_flags_of_other_implementations(given: Input) -> None:
    """PyTorch's `foreach` and `fused` have no effect on the bits."""
    expected = affine()
    train(expected, given.ours(expected), 3)
    for flag in FLAGS[given.name]:
        for value in (False, True):
            params = affine()
            opt = given.ours(params, **{flag: value})
            train(params, opt, 3)
            assert opt.param_groups[0][flag] is value
            assert all(map(torch.equal, params, expected))


@each_input
def test_gradients_of_zero(given: Input) -> None:
    """Without weight decay, gradients of zero leave the parameters as they are; `step` returns the closure's loss."""
    params = affine()
    opt = given.ours(params, weight_decay=0.0)
    for each in params:
        each.grad = torch.zeros_like(each)
    loss = torch.tensor([1.0])
    assert opt.step(lambda: loss) is loss
    assert all(map(torch.equal, params, affine()))


def steps_of(opt: Any) -> list[float]:
    """Return the number of steps of each parameter, in so far as the optimizer counts them."""
    return [float(opt.state.get(p, {}).get("step", 0)) for p in opt.param_groups[0]["params"]]


@each_input
def test_parameters_that_require_no_gradients(given: Input) -> None:
    params = [each.detach() for each in affine()]
    opt = given.ours(params)
    assert opt.step(lambda: 3.0) == 3.0
    assert all(map(torch.equal, params, affine()))
    assert not any(steps_of(opt))


@each_input
def test_a_step_with_infinite_gradients(given: Input) -> None:
    """GradScaler's attributes make a step that changes nothing, before and after the first step."""
    params = affine()
    opt = given.ours(params)
    for scale in (None, torch.ones(1)):
        values, steps, states = copy.deepcopy((params, steps_of(opt), opt.state_dict()["state"]))
        for each in params:
            each.grad = torch.full_like(each, torch.inf)
        opt.grad_scale, opt.found_inf = scale, torch.ones(())
        opt.step()
        del opt.grad_scale, opt.found_inf
        assert all(map(torch.equal, params, values))
        assert steps_of(opt) == steps
        now = opt.state_dict()["state"]
        assert all(torch.equal(now[i][name], states[i][name]) for i in states for name in states[i])
        train(params, opt, 1)


# Refusals.


class Refusal(NamedTuple):
    """An error that is raised, by the name of the argument or parameter, for input that lacks support by design."""

    error: type[Exception]
    match: str
    provoke: Callable[[Input], Any]


def of_dtype(dtype: Any) -> Refusal:
    """Return the refusal of parameters of a dtype, beside others of float32."""
    return Refusal(
        TypeError,
        rf"params\[1\]: expected dtype float32, got .*{dtype}".replace("torch.", ""),
        lambda given: given.ours([torch.ones(2), torch.ones(3).to(dtype)]),
    )


def on_meta(given: Input) -> None:
    given.ours([torch.ones(2, device="meta")])


def sparse(given: Input) -> None:
    """Step with a sparse gradient."""
    params = affine()
    opt = given.ours(params)
    params[1].grad = torch.ones(10).to_sparse()
    opt.step()


REFUSED: dict[str, Refusal] = {
    # a step writes in place, and is not recorded by autograd
    "differentiable": Refusal(
        ValueError, "^differentiable: ", lambda given: given.ours(affine(), differentiable=True)
    ),
    # the constants of all steps are computed in advance, so their number is needed
    "capturable": Refusal(ValueError, "^max_steps: ", lambda given: given.ours(affine(), capturable=True)),
    # the arithmetic is that of float32; test_complex and test_mixed_device_dtype use other dtypes
    **{
        str(dtype): of_dtype(dtype)
        for dtype in (torch.complex64, torch.float64, torch.float16, torch.bfloat16)
    },
    # a flat buffer needs memory; test_fused_error_on_params_on_meta allocates it later
    "meta": Refusal(ValueError, r"params\[0\]: expected a tensor on a CPU or CUDA device, got meta", on_meta),
    # a step is one pass over dense arrays; test_rosenbrock_sparse
    "sparse": Refusal(TypeError, r"param_groups\[0\]: params\[1\]: expected a dense gradient", sparse),
}
"""Features that PyTorch's tests use and FusedOptimizer refuses by design, with the reasons."""


@pytest.mark.parametrize("what", REFUSED)
@each_name
def test_refusals_by_name(name: str, what: str) -> None:
    refusal = REFUSED[what]
    with pytest.raises(refusal.error, match=refusal.match):
        refusal.provoke(Input(name, 0))


DUPLICATE = "more than one|more than once|twice|shares memory"
SAME_ERRORS: dict[str, str] = {
    "invalid param type": "^params",
    "duplicate parameters should not occur across param groups either": DUPLICATE,
    "Tensor lr must be 1-element": "^lr: ",
    "all optimizer params should be with/without names": "^all optimizer params should be with/without names. Some",
    "all optimizer param groups should be with/without names.": "^all optimizer param groups should be with/without",
    "lr_decay must be bigger than 0": "^lr_decay: ",
    "rho should be between 0 and 1": "^rho: ",
    "momentum should be between 0 and 1": "^momentum: ",
    "momentum_decay should > 0": "^momentum_decay: ",
    "weight_decay should > 0": "^weight_decay: ",
    "beta1 should be between 0 and 1": r"^betas\[0\]: ",
    "beta2 should be between 0 and 1": r"^betas\[1\]: ",
}
"""PyTorch's descriptions of errors for which FusedOptimizer raises an error of the same type, and its message."""
OTHER_ERRORS: dict[str, tuple[type[Exception], str] | None] = {
    # PyTorch warns that this will be an error
    "a param group cannot have duplicate parameters": (ValueError, DUPLICATE),
    # `foreach` has no effect, so that it cannot conflict with a tensor
    "lr as Tensor doesn't work with foreach & not capturable": None,
    r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True": None,
    # each number is read on its own
    "betas must be either both floats or both Tensors": None,
}
"""PyTorch's descriptions of errors where FusedOptimizer differs: the error that it raises, or None if it runs."""
ERRORS = [
    pytest.param(name, i, id=f"{name}: {each.optimizer_error_input.desc}")
    for name, info in INFOS.items()
    for i, each in enumerate(info.optim_error_inputs_func(device="cpu", dtype=torch.float32))
]


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate:UserWarning")
@pytest.mark.parametrize(("name", "i"), ERRORS)
def test_errors(name: str, i: int) -> None:
    """The types of errors are PyTorch's, except in the cases listed above."""
    wrong = INFOS[name].optim_error_inputs_func(device="cpu", dtype=torch.float32)[i]
    assert wrong.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR
    params, arguments, description = (
        getattr(wrong.optimizer_error_input, each) for each in ("params", "kwargs", "desc")
    )

    def make() -> Any:
        return FusedOptimizer(affine() if params is None else params, getattr(lrcore, name), **arguments)

    if description in SAME_ERRORS:
        expected: tuple[type[Exception], str] | None = (wrong.error_type, SAME_ERRORS[description])
    else:
        expected = OTHER_ERRORS[description]
    if expected is None:
        make()
        return
    error, message = expected
    with pytest.raises(error, match=message):
        make()


# State dictionaries.


def arranged(params: list[Any], arrangement: str) -> Any:
    """Return parameters, perhaps with names, or each in a group of its own, or both."""
    weight, bias = zip(("weight", "bias"), params, strict=True) if "named" in arrangement else params
    if "groups" not in arrangement:
        return [weight, bias]
    return [{"params": [weight]}, {"params": [bias], "lr": 0.01, "weight_decay": 0.0}]


def nameless(dictionary: Any) -> Any:
    """Return a state dictionary without the names of the parameters."""
    groups = [
        {name: value for name, value in group.items() if name != "param_names"}
        for group in dictionary["param_groups"]
    ]
    return dictionary | {"param_groups": groups}


@pytest.mark.parametrize("arrangement", ["plain", "named", "groups"])
@each_input
def test_resuming_from_a_dictionary(given: Input, arrangement: str) -> None:
    """An optimizer that loads a state dictionary takes the same steps, bit for bit, with or without names.

    The dictionary survives `torch.save`, also with `weights_only`. The step counts may be numbers instead of tensors.
    """
    params = affine()
    opt = given.ours(arranged(params, arrangement))
    train(params, opt, 5)
    saved = copy.deepcopy(opt.state_dict())
    file = io.BytesIO()
    torch.save(saved, file)
    for weights_only in (False, True):
        file.seek(0)
        assert_same_dictionary(torch.load(file, weights_only=weights_only), saved)
    numbers = copy.deepcopy(saved)
    for entries in numbers["state"].values():
        entries |= {name: value.item() for name, value in entries.items() if name == "step"}

    others = []
    for dictionary, names in ((saved, ""), (saved, "named"), (numbers, "named")):
        copies = copy.deepcopy(params)
        other = given.ours(arranged(copies, names + arrangement.replace("named", "")))
        other.load_state_dict(copy.deepcopy(dictionary))
        others.append((copies, other))
        named = [
            each for group in other.state_dict()["param_groups"] for each in group.get("param_names", [])
        ]
        assert named == (["weight", "bias"] if "named" in names + arrangement else [])
    for _ in range(3):
        train(params, opt, 1)
        for copies, other in others:
            train(copies, other, 1)
            assert all(map(torch.equal, copies, params))
    for _, other in others:
        assert_same_dictionary(nameless(other.state_dict()), nameless(opt.state_dict()))


def half_frozen(params: list[Any], opt: Any) -> None:
    """Take three steps, and one in which the second parameter has no gradient."""
    train(params, opt, 3)
    opt.zero_grad()
    loss_of(*params).backward()
    params[1].grad = None
    opt.step()


@pytest.mark.parametrize("arrangement", ["plain", "named groups"])
@each_input
def test_exchange_with_pytorchs_optimizer(given: Input, arrangement: str) -> None:
    """Each optimizer continues from the dictionary of the other, whatever PyTorch's implementation.

    The parameters have different step counts.
    """
    makes = (given.ours, given.theirs)
    for flag in (None, *(FLAGS[given.name] if arrangement == "plain" else ())):
        own = {} if flag is None else {flag: True, "foreach": flag == "foreach"}
        sides = [
            (params, make(arranged(params, arrangement), **own)) for make in makes for params in [affine()]
        ]
        for side in sides:
            half_frozen(*side)
        loaded = []
        for make, (params, opt) in zip(reversed(makes), sides, strict=True):
            copies = copy.deepcopy(params)
            other = make(arranged(copies, arrangement), lr=7.0)
            other.load_state_dict(copy.deepcopy(opt.state_dict()))
            assert flag is None or other.param_groups[0][flag] is True
            loaded.append((copies, other))
        for side in (*sides, *loaded):
            train(*side, 3)
        for ours, theirs in ((sides[0], sides[1]), (loaded[1], sides[1]), (sides[0], loaded[0])):
            assert_agree(ours[1], theirs[1])


@each_input
def test_older_dictionaries(given: Input) -> None:
    """The entries that PyTorch added later may be missing. Without `maximize`, the optimizer minimizes."""
    sides = []
    for make in (given.ours, given.theirs):
        params = affine()
        opt = make(params)
        train(params, opt, 3)
        sides.append((params, opt))
    for source in (1, 0):  # first PyTorch's dictionary, then each its own
        older = [copy.deepcopy(sides[i][1].state_dict()) for i in (source, 1)]
        for (params, opt), dictionary in zip(sides, older, strict=True):
            for flag in INFOS[given.name].not_og_supported_flags:
                dictionary["param_groups"][0].pop(flag, None)
            opt.load_state_dict(dictionary)
            train(params, opt, 3)
        assert not sides[0][1].param_groups[0]["maximize"]
        assert_agree(sides[0][1], sides[1][1])


@each_name
def test_dictionaries_of_other_groups(name: str) -> None:
    """The numbers of groups and of parameters must fit, as in PyTorch; otherwise nothing changes."""
    given = Input(name, 0)
    params = affine()
    opt = given.ours(params)
    train(params, opt, 1)
    before = copy.deepcopy(opt.state_dict())
    for others in (arranged(affine(), "groups"), affine()[:1]):
        with pytest.raises(ValueError):
            opt.load_state_dict(given.ours(others).state_dict())
        assert_same_dictionary(opt.state_dict(), before)


@each_name
def test_hooks(name: str) -> None:
    """Hooks of dictionaries run in PyTorch's order, and may replace the dictionary. Those of steps enclose the step."""
    params = affine()
    opt = Input(name, 0).ours(params)
    seen: list[Any] = []

    def set_rate(lr: float) -> Any:
        def hook(_: Any, dictionary: Any) -> Any:
            seen.append(lr)
            replaced = copy.deepcopy(dictionary)
            replaced["param_groups"][0]["lr"] = lr
            return replaced

        return hook

    handles = [
        opt.register_state_dict_pre_hook(lambda opt: opt.param_groups[0].update(mark=1)),
        opt.register_state_dict_pre_hook(lambda opt: opt.param_groups[0].update(mark=2), prepend=True),
        opt.register_state_dict_post_hook(set_rate(0.25)),
        opt.register_state_dict_post_hook(set_rate(0.5), prepend=True),
    ]
    saved = opt.state_dict()
    (group,) = saved["param_groups"]
    assert (seen, group["lr"], group["mark"]) == ([0.5, 0.25], 0.25, 1)
    handles += [
        opt.register_load_state_dict_pre_hook(set_rate(0.125)),
        opt.register_load_state_dict_pre_hook(set_rate(0.75), prepend=True),
        opt.register_load_state_dict_post_hook(lambda opt: seen.append(opt.param_groups[0]["lr"])),
    ]
    opt.load_state_dict(saved)
    assert seen[2:] == [0.75, 0.125, 0.125]
    assert opt.param_groups[0]["mark"] == 1

    seen.clear()
    handles += [
        opt.register_step_pre_hook(lambda *_: seen.append("pre")),
        opt.register_step_post_hook(lambda *_: seen.append("post")),
        register_optimizer_step_pre_hook(lambda *_: seen.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: seen.append("global post")),
    ]
    order = ["global pre", "pre", "closure", "post", "global post"]
    opt.step(lambda: seen.append("closure"))
    assert seen == order
    for handle in handles:
        handle.remove()
    opt.step(lambda: seen.append("closure"))
    opt.load_state_dict(opt.state_dict())
    assert seen == [*order, "closure"]


@each_name
def test_copies_of_parameters_and_optimizer(name: str) -> None:
    """A copy of both, in one call, has all public attributes, and takes the same steps on its own."""
    params = affine()
    opt = Input(name, 0).ours(params)
    train(params, opt, 3)
    copies, twin = copy.deepcopy((params, opt))
    assert all(p is q for p, q in zip(copies, twin.param_groups[0]["params"], strict=True))
    assert {each for each in vars(twin) if each[0] != "_"} == {each for each in vars(opt) if each[0] != "_"}
    before = copy.deepcopy(copies)
    train(params, opt, 2)
    assert all(map(torch.equal, copies, before))
    train(copies, twin, 2)
    assert all(map(torch.equal, copies, params))
    assert_same_dictionary(twin.state_dict(), opt.state_dict())


# All inputs.


def error_of(given: Input, choice: dict[str, bool]) -> Exception | None:
    """Return the error of a step, or None."""
    params = affine()
    try:
        opt = given.ours(params, **choice)
        train(params, opt, 1)
        assert repr(opt)
    except (RuntimeError, TypeError, ValueError) as error:
        return error
    return None


def test_at_least_99_percent_of_the_inputs_run() -> None:
    """PyTorch's inputs take a step with each choice of implementation, except those that are refused by design.

    Those are the inputs with `differentiable=True`, and with `capturable=True` but no `max_steps`, which PyTorch has for
    CUDA. All others are basic inputs, and all basic inputs run at present.
    """
    results = []
    for given in (*INPUTS, *(each for each in inputs_for("cuda") if "capturable" in each.arguments())):
        choices = [{flag: value} for flag in INFOS[given.name].supported_impls for value in (False, True)]
        for choice in ({}, *choices):
            arguments = given.arguments() | choice
            reasons = [each for each in ("differentiable", "capturable") if arguments.get(each)]
            results.append((f"{given}, {choice}", reasons, error_of(given, choice)))
    for what, reasons, error in results:
        if reasons:
            assert re.match("|".join(REFUSED[each].match for each in reasons), str(error)), what
    basic = [(what, error) for what, reasons, error in results if not reasons]
    failed = [each for each in basic if each[1] is not None]
    assert len(failed) <= 0.01 * len(basic), failed
