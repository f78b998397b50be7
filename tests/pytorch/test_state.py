"""State dictionaries of `torch.optim`, imported and exported.

The tests are skipped if PyTorch is not installed.
Parameters count as equal if ``|difference| / (1 + |p|)`` is within the tolerance after each later step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from lrcore._lrcore_core import nadam_momentum_product
from pytorch.modules import FusedOptimizer, set_group, set_state, torch
from rules import oracle, peers
from support import CONFIGURATIONS, Array, N, assert_bits, make, run, start

ROWS = [row for row in peers.ROWS if row.peer == "torch"]
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
TAKEN = (0, 1, 30)
"""Numbers of steps after which the other library continues."""
SHAPES = ((2, 3), (), (5,), (0, 4), (3, 2))
"""Shapes of PyTorch's parameters, which together have as many elements as `peers.problem`."""


class Torch:
    """A PyTorch optimizer of some parameters, which steps with given gradients.

    `groups` has the indices of the parameters in each group, and the group's own numbers.
    """

    def __init__(self, row: peers.Row, params: Array, shapes: Any = SHAPES, groups: Any = None) -> None:
        sizes = [int(np.prod(shape)) for shape in shapes]
        parts = torch.from_numpy(params.copy()).split(sizes)
        self.params = [
            torch.nn.Parameter(part.reshape(shape)) for part, shape in zip(parts, shapes, strict=True)
        ]
        given = [
            {"params": [self.params[i] for i in indices], **numbers}
            for indices, numbers in groups or [(range(len(sizes)), {})]
        ]
        self.opt = getattr(torch.optim, row.theirs.name)(given, lr=row.lr, **row.theirs.kwargs)
        self.sizes = sizes

    def step(self, gradient: Array, lr: float, frozen: bool = False) -> None:
        """Take a step at a rate, which is halved from each group to the next, perhaps without the last group."""
        for i, group in enumerate(self.opt.param_groups):
            group["lr"] = lr / 2**i
        parts = torch.from_numpy(gradient.copy()).split(self.sizes)
        for param, part in zip(self.params, parts, strict=True):
            param.grad = part.reshape(param.shape)
        for param in self.opt.param_groups[-1]["params"] if frozen else ():
            param.grad = None
        self.opt.step()

    def flat(self) -> Array:
        """Return the parameters as one array."""
        values: Array = torch.cat([param.detach().reshape(-1) for param in self.params]).numpy()
        return values


def ours(row: peers.Row, params: Array, lr: Any, **others: Any) -> Any:
    """Return our optimizer for a row."""
    return getattr(lrcore, row.ours.name)(params, lr=lr, **dict(row.ours.kwargs) | others)


def counted(row: peers.Row, k: int) -> dict[str, int]:
    """Return the argument that loading a dictionary of SGD needs."""
    return {"step_count": k} if row.ours.name == "SGD" else {}


def go_on(row: peers.Row, k: int, theirs: Torch, opt: Any) -> None:
    """Check that the parameters of both optimizers agree after each step from step k on.

    Both optimizers round in float32, and PyTorch fuses and reassociates operations. The tolerance is
    therefore twice the deviation from float64 that was found for a single optimizer.
    """
    _, gradients = peers.problem()
    for index in range(k, len(gradients)):
        opt.lr = rate = peers.rate(row.lr, index)
        for i, group in enumerate(opt.groups[1:], 1):
            group.lr = rate / 2**i
        opt.step(gradients[index])
        theirs.step(gradients[index], rate)
        off = peers.deviation(opt.params, theirs.flat()).max()
        assert off <= 2 * row.tolerance.limit, f"step {index + 1}: off by {off:.1e}"


@pytest.mark.parametrize("k", TAKEN)
@each_row
def test_from_torch(row: peers.Row, k: int) -> None:
    """After k steps of PyTorch's optimizer, our optimizer continues as PyTorch's does.

    Our optimizer was made with other hyperparameters, another rate and another step count.
    """
    params, gradients = peers.problem()
    theirs = Torch(row, params)
    for index in range(k):
        theirs.step(gradients[index], peers.rate(row.lr, index))
    given = theirs.opt.state_dict()
    others: dict[str, Any] = {"betas": (0.5, 0.6)} if "betas" in given["param_groups"][0] else {}
    opt = ours(row, theirs.flat().copy(), 7.0, **others, weight_decay=0.5)
    opt.step_count = 99
    opt.load_torch_state_dict(given, **counted(row, k))
    assert opt.step_count == k
    assert opt.lr == given["param_groups"][0]["lr"]
    expected = ours(row, params.copy(), 7.0)
    assert dict(opt.hyper) == dict(expected.hyper)
    for name, state in opt.state.items():
        parts = [each[name].numpy().ravel() for each in given["state"].values() if name in each]
        assert_bits(state, np.concatenate(parts) if parts else np.zeros(opt.size, np.float32))
    go_on(row, k, theirs, opt)


@pytest.mark.parametrize("k", TAKEN)
@each_row
def test_to_torch(row: peers.Row, k: int) -> None:
    """After k steps of our optimizer, PyTorch's continues as ours does, with several parameters and with one.

    A round trip restores the exact bits.
    """
    params, gradients = peers.problem()
    opt = ours(row, params.copy(), lambda t: peers.rate(row.lr, t))
    for index in range(k):
        opt.step(gradients[index])
    for shapes in (SHAPES, None):
        theirs = Torch(row, opt.params, shapes or [params.shape])
        expected = copy.deepcopy(theirs.opt.param_groups[0]) | {"lr": peers.rate(row.lr, k)}
        theirs.opt.param_groups[0] |= {"weight_decay": 0.7, "lr": 3.0}
        theirs.opt.load_state_dict(opt.torch_state_dict(shapes))
        group = theirs.opt.param_groups[0]
        assert group.keys() == expected.keys()
        for name in group.keys() - {
            "params",
            "initial_accumulator_value",  # only the constructor uses it
        }:
            assert group[name] == expected[name], name
        twin = ours(row, opt.params.copy(), 7.0)
        twin.load_torch_state_dict(theirs.opt.state_dict(), **counted(row, k))
        assert (twin.step_count, twin.lr, dict(twin.hyper)) == (k, opt.lr, dict(opt.hyper))
        for name, state in opt.state.items():
            assert_bits(twin.state[name], state)
        go_on(row, k, theirs, twin)


LACKING = {"eps_placement": "hat", "eps_inside_sqrt": True, "lr_in_velocity": True}
"""Arguments for which PyTorch has no option."""


def test_every_rule_is_exported_or_refused(rule: str) -> None:
    """The error names the missing option or optimizer. A dictionary without that option is refused."""
    opt = make(rule, start())
    name, arguments = type(opt).__name__, CONFIGURATIONS[rule].arguments
    lacking = [each for each in LACKING if arguments.get(each) == LACKING[each]]
    if not hasattr(torch.optim, name):
        lacking = [name]
    if not lacking:
        assert opt.torch_state_dict()["param_groups"][0]["lr"] == 0.01
        return
    with pytest.raises(ValueError, match=f"^{lacking[0]}: torch.optim"):
        opt.torch_state_dict()
    if lacking != [name]:
        without = {each: "corrected" if each == "eps_placement" else False for each in lacking}
        plain = make(rule, start(), **without)
        counts = {"step_count": 0} if name == "SGD" else {}
        with pytest.raises(ValueError, match=f"^rule: expected {rule}, got {plain.rule}$"):
            opt.load_torch_state_dict(plain.torch_state_dict(), **counts)


def test_decay_that_torch_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"^decoupled_weight_decay: torch.optim.SGD has no .*=True"):
        lrcore.SGD(start(), decoupled_weight_decay=True).torch_state_dict()
    with pytest.raises(ValueError, match=r"^decoupled_weight_decay: torch.optim.AdamW has no .*=False"):
        lrcore.AdamW(start(), decoupled_weight_decay=False).torch_state_dict()
    opt = lrcore.Adam(start(), decay="independent")
    for exchange in (opt.torch_state_dict, lambda: opt.load_torch_state_dict(adam())):
        with pytest.raises(
            ValueError, match=r"^decay: torch.optim.Adam has no decay='independent'; use state_dict"
        ):
            exchange()


def adam(**group: Any) -> dict[str, Any]:
    """Return the dictionary of PyTorch's Adam after three steps, with these changes to its group."""
    param = torch.nn.Parameter(torch.from_numpy(start()))
    opt = torch.optim.Adam([param], lr=0.5)
    for _ in range(3):
        param.grad = torch.ones(N)
        opt.step()
    dictionary: dict[str, Any] = copy.deepcopy(opt.state_dict())
    dictionary["param_groups"][0] |= group
    return dictionary


def test_numbers_and_arrays_for_tensors_and_back() -> None:
    """The rate may be a tensor, the count a number, and the states arrays.

    A group may have entries of schedulers, and may come from a former version of PyTorch.
    """
    dictionary = adam(lr=torch.tensor(0.25), initial_lr=0.5, max_momentum=0.9, capturable=True, fused=True)
    dictionary["param_groups"][0]["betas"] = [torch.tensor(0.5), 0.75]
    state = dictionary["state"][0]
    dictionary["state"][0] = {name: value.numpy() for name, value in state.items()} | {"step": 3}
    opt = lrcore.Adam(start(), lr=schedules.Cosine(0.1, steps=5))
    opt.load_torch_state_dict(dictionary)
    assert (opt.lr, opt.step_count, opt.hyper["betas"]) == (0.25, 3, (0.5, 0.75))
    assert_bits(opt.state["exp_avg"], state["exp_avg"].numpy())
    del dictionary["param_groups"][0]["decoupled_weight_decay"]  # as before PyTorch 2.6
    lrcore.Adam(start()).load_torch_state_dict(dictionary)
    lrcore.AdamW(start()).load_torch_state_dict(dictionary)


def test_memory_formats() -> None:
    """The elements are in C order, whatever PyTorch's memory format."""
    values = torch.arange(120.0).reshape(2, 3, 4, 5)
    param = torch.nn.Parameter(values.to(memory_format=torch.channels_last))
    theirs = torch.optim.Adam([param], lr=0.1)
    param.grad = param.detach().clone()
    theirs.step()
    opt = lrcore.Adam(values.numpy())
    opt.load_torch_state_dict(theirs.state_dict())
    assert (np.diff(opt.state["exp_avg"]) > 0).all()


HALF = torch.ones(10)


def maximum(saved: Any) -> None:
    """Change a dictionary into that of an optimizer with amsgrad."""
    set_group(saved, amsgrad=True)
    set_state(saved, 0, max_exp_avg_sq=torch.ones(N))


def split(saved: Any, **of_second: Any) -> None:
    """Change a dictionary so that it has two parameters, the second with these entries."""
    first = saved["state"][0]
    first |= {"exp_avg": HALF, "exp_avg_sq": HALF}
    rest = {"exp_avg": torch.ones(N - 10), "exp_avg_sq": torch.ones(N - 10)}
    set_group(saved, params=[0, 1])
    if of_second:
        saved["state"][1] = first | rest | of_second


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda saved: saved.pop("param_groups"), "state_dict: expected the entries"),
        (lambda saved: saved.update(state=3), "state: expected a dictionary of dictionaries"),
        (lambda saved: saved["state"].update({0: 3}), "state: expected a dictionary of dictionaries"),
        (
            lambda saved: saved["state"].update({1: {}}),
            r"state: expected only the parameters \[0\], but also got \[1\]",
        ),
        (lambda saved: saved["state"][0].pop("exp_avg_sq"), r"state\[0\]: expected the entries"),
        (lambda saved: set_state(saved, 0, more=torch.ones(N)), r"state\[0\]: expected the entries"),
        (lambda saved: set_state(saved, 0, step=2.5), "step: expected a whole number of steps"),
        (lambda saved: set_state(saved, 0, step=float("nan")), "step: expected a whole number of steps"),
        (lambda saved: set_state(saved, 0, step=-1.0), "step_count: expected"),
        (lambda saved: set_state(saved, 0, step=2.0**60), "step_count: expected"),
        (
            lambda saved: set_state(saved, 0, exp_avg=HALF),
            "exp_avg: expected 21 elements like params, got 10",
        ),
        (lambda saved: set_state(saved, 0, exp_avg=HALF.double()), "exp_avg: .* float32 tensor, got float64"),
        (lambda saved: set_state(saved, 0, exp_avg=HALF.bfloat16()), "exp_avg: .* got bfloat16"),
        (lambda saved: set_state(saved, 0, exp_avg=HALF.to_sparse()), "exp_avg: expected a dense tensor"),
        (
            lambda saved: set_state(saved, 0, exp_avg=torch.ones(N, device="meta")),
            "exp_avg: expected a tensor with memory",
        ),
        (lambda saved: set_state(saved, 0, exp_avg=3), "exp_avg: expected a float32 tensor, got int"),
        (maximum, "rule: expected adam, got adam_amsgrad"),
        (split, "step: expected the same step count for all parameters, got counts from 0 to 3"),
        (lambda saved: split(saved, step=torch.tensor(4.0)), "step: expected the same .* from 3 to 4"),
        (lambda saved: saved["param_groups"].append({}), "param_groups: expected one group, got 2"),
        (lambda saved: saved["param_groups"].clear(), "param_groups: expected one group, got 0"),
        (lambda saved: saved.update(param_groups=[3]), "param_groups: expected a list of dictionaries"),
        (lambda saved: saved.update(param_groups={}), "param_groups: expected a list of dictionaries"),
        (lambda saved: set_group(saved, params=None), "param_groups: expected the entry params to be a list"),
        (lambda saved: saved["param_groups"][0].pop("amsgrad"), "param_groups: expected the entries"),
        (lambda saved: saved["param_groups"][0].pop("betas"), "param_groups: expected the entries"),
        (lambda saved: saved["param_groups"][0].pop("lr"), "lr: expected a number, got None$"),
        (lambda saved: set_group(saved, momentum=0.5), "param_groups: expected the entries"),
        (lambda saved: set_group(saved, differentiable=True), "differentiable: "),
        (lambda saved: set_group(saved, maximize=True), "options: expected"),
        (lambda saved: set_group(saved, decoupled_weight_decay=True), "options: expected"),
        (lambda saved: set_group(saved, eps=float("nan")), "eps: expected"),
        (lambda saved: set_group(saved, betas=(0.9, 1.0)), r"betas\[1\]: expected"),
        (lambda saved: set_group(saved, lr=-1.0), "lr: expected"),
    ],
)
def test_a_wrong_dictionary_changes_nothing(spoil: Callable[[Any], object], message: str) -> None:
    opt = lrcore.Adam(start(), lr=0.1)
    run(opt, 2)
    before = {name: np.array(state) for name, state in opt.state.items()}
    dictionary = adam()
    spoil(dictionary)
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        opt.load_torch_state_dict(dictionary)
    for name, state in opt.state.items():
        assert_bits(state, before[name])
    assert (opt.step_count, opt.lr) == (2, 0.1)


def test_another_class() -> None:
    """Each class accepts only its own dictionary, although Adam and AdamW differ only in their defaults."""
    classes = ("SGD", "Adagrad", "RMSprop", "Adadelta", "Adam", "AdamW", "NAdam", "RAdam", "Adamax")
    for one in classes:
        param = torch.nn.Parameter(torch.from_numpy(start()))
        theirs = getattr(torch.optim, one)([param], lr=0.1)
        param.grad = torch.ones(N)
        theirs.step()
        for other in classes:
            opt = getattr(lrcore, other)(start())
            counts = {"step_count": 1} if other == "SGD" else {}
            if one == other:
                opt.load_torch_state_dict(theirs.state_dict(), **counts)
            else:
                with pytest.raises(ValueError, match="^(param_groups|state|options)"):
                    opt.load_torch_state_dict(theirs.state_dict(), **counts)
    with pytest.raises(ValueError, match="^Lion: torch.optim has no such optimizer; it has SGD, Adagrad"):
        lrcore.Lion(start()).load_torch_state_dict(adam())


def test_the_steps_of_sgd() -> None:
    """PyTorch does not count the steps of SGD, and dampening does not affect the first velocity."""
    opt, begun = (lrcore.SGD(start(), momentum=0.9, dampening=0.5) for _ in range(2))
    fresh = opt.torch_state_dict()
    run(begun, 2)
    for dictionary, count, message in (
        (begun.torch_state_dict(), 0, "step_count: expected at least 1, because the momentum has begun"),
        (fresh, 2, r"state\[0\]: expected the entries \['momentum_buffer'\]"),
        (fresh, -1, "step_count: expected an integer >= 0"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            opt.load_torch_state_dict(dictionary, step_count=count)
    with pytest.raises(ValueError, match="^step_count: PyTorch's Adam counts its steps; leave it out"):
        lrcore.Adam(start()).load_torch_state_dict(adam(), step_count=3)
    fresh["state"] = {0: {"momentum_buffer": None}}  # as in some versions of PyTorch
    opt.load_torch_state_dict(fresh)
    assert opt.step_count == 0


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.5},
        {"momentum": 0.5, "nesterov": True},
        {"momentum": 0.5, "dampening": 0.25},
        {"momentum": 0.5, "dampening": 0.25, "weight_decay": 0.125},
    ],
    ids=str,
)
def test_sgd_without_a_count_goes_on_as_pytorchs(options: dict[str, Any], steps: int) -> None:
    """The count starts at 0, or at 1 if the next gradient is damped. All numbers are exact in float32."""
    weight, twin = (torch.nn.Parameter(torch.arange(16) / 4) for _ in range(2))
    theirs = torch.optim.SGD([weight], lr=0.25, **options)
    opt = FusedOptimizer([twin], lrcore.SGD, lr=0.5, **options)
    plain = lrcore.SGD(torch.zeros(16), lr=0.5, **options)
    for i in range(steps + 3):
        if i == steps:
            opt.load_state_dict(theirs.state_dict())
            plain.load_torch_state_dict(theirs.state_dict())
            twin.data.copy_(weight.detach())
            plain.params.copy_(weight.detach())
            assert opt.step_count == plain.step_count == (1 if steps and "dampening" in options else 0)
            assert opt.lr == plain.lr == 0.25
        weight.grad = twin.grad = (torch.arange(16) % 7 - 3) * (i + 1) / 8
        theirs.step()
        if i >= steps:
            opt.step()
            plain.step(twin.grad)
            for found in (twin.detach(), plain.params):
                assert_bits(found.numpy(), weight.detach().numpy())


@pytest.mark.parametrize("momentum_decay", [0.0, 4e-3, 1.0])
@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9, 0.999])
def test_the_product_of_the_momenta_is_the_oracles(beta1: float, momentum_decay: float) -> None:
    """The products are bitwise identical, including a product that is so small that it becomes 0."""
    for t in (0, 1, 2, 10, 41, 59, 60, 61, 100, 100_000):
        numbers = SimpleNamespace(beta1=beta1, momentum_decay=momentum_decay, t=t)
        product = nadam_momentum_product(t, beta1, momentum_decay)
        assert product == oracle.nadam_momentum_product(numbers)
        assert (product == 1) == (t == 0)
    assert product == 0


def test_momenta_that_changed() -> None:
    """If the momenta changed, NAdam's product cannot be computed from the number of steps."""
    opt = lrcore.NAdam(start())
    run(opt, 3)
    dictionary = opt.torch_state_dict()
    dictionary["param_groups"][0]["betas"] = (0.5, 0.999)
    message = "^mu_product: expected 0.0[0-9]+, got 0.[0-9]+; betas and momentum_decay"
    with pytest.raises(ValueError, match=message):
        opt.load_torch_state_dict(dictionary)


def test_counts_that_float32_has_not_are_refused() -> None:
    opt, sgd = lrcore.NAdam(start()), lrcore.SGD(start(), momentum=0.5)
    for count in (2**24 - 1, 2**24, 2**24 + 2):
        opt.step_count = count
        assert int(opt.torch_state_dict()["state"][0]["step"]) == count
    opt.step_count = sgd.step_count = count = 2**24 + 1
    message = f"^step_count: PyTorch counts in float32.* rounds {count} to .*; use state_dict"
    with pytest.raises(ValueError, match=message):
        opt.torch_state_dict()
    assert "step" not in sgd.torch_state_dict()["state"][0]


def test_shapes() -> None:
    """Exported states have the requested shapes, and are copies."""
    opt = lrcore.Adam(start().reshape(3, 7))
    exported = opt.torch_state_dict()["state"][0]["exp_avg"]
    assert exported.shape == (3, 7)
    exported.fill_(1.0)
    assert not np.any(opt.state["exp_avg"])
    layers = [torch.nn.Parameter(torch.ones(2, 5)), np.ones(4, np.float32), 7]
    given = opt.torch_state_dict(shapes=layers)
    assert [each["exp_avg"].shape for each in given["state"].values()] == [(2, 5), (4,), (7,)]
    assert given["param_groups"][0]["params"] == [0, 1, 2]
    with pytest.raises(ValueError, match="^shapes: expected 21 elements in total, got 20"):
        opt.torch_state_dict(shapes=[20])
    with pytest.raises(ValueError, match=r"^shapes\[1\]: expected dimensions >= 0"):
        opt.torch_state_dict(shapes=[21, (-1,)])
    with pytest.raises(TypeError, match=r"^shapes\[0\]: "):
        opt.torch_state_dict(shapes=["21"])


# ---- groups

LAYOUT = ((2, 3), (3,), (0, 4), (2, 2), (2,), (), (2,))
"""Shapes of parameters, each of which is inside one of the groups below."""
MEMBERS = ([1, 5, 6], [0, 4], [2, 3])
"""The parameters in each group, the rest first."""
PARTS = ([slice(0, 6), (13, 15)], [(9, 13)])
"""The elements of the groups after the rest."""
ORDER = [6, 7, 8, 15, 16, 17, *range(6), 13, 14, *range(9, 13)]
"""The elements in the order of PyTorch's parameters."""
UNFROZEN = 2
"""The step before which the last group is frozen."""


def of_groups(row: peers.Row) -> list[dict[str, Any]]:
    """Return the numbers of each group: another weight decay in the second, and other numbers in the third.

    A centered average takes another epsilon instead. With decay, it subtracts squares that are so close that rounding
    errors exceed the tolerances, which were found without decay.
    """
    decays = dict(ours(row, np.ones(1, np.float32), 0.1).hyper)["weight_decay"] > 0
    betas = {"betas": (0.5, 0.75)} if "betas" in row.theirs.kwargs else {}
    centered = "centered" in row.theirs.kwargs
    second = {"eps": 1e-4} if centered else {"weight_decay": 0.0 if decays else 0.01}
    return [{}, second, {"maximize": True, **betas}]


def torch_with_groups(row: peers.Row, params: Array, numbers: Any = None) -> Torch:
    """Return PyTorch's optimizer with three groups."""
    return Torch(row, params, LAYOUT, [*zip(MEMBERS, numbers or of_groups(row), strict=True)])


def ours_with_groups(row: peers.Row, params: Array, lr: Any, numbers: Any = None, **others: Any) -> Any:
    """Return our optimizer with the same groups."""
    _, *rest = numbers or of_groups(row)
    groups = [{"params": params_of, **own} for params_of, own in zip(PARTS, rest, strict=True)]
    return ours(row, params, lr, groups=groups, **others)


def assert_same_groups(opt: Any, expected: Any) -> None:
    """Assert that groups have the same numbers."""
    for group, other in zip(opt.groups, expected.groups, strict=True):
        assert (dict(group.hyper), group.maximize) == (dict(other.hyper), other.maximize)


@pytest.mark.parametrize("k", TAKEN)
@each_row
def test_groups_from_torch(row: peers.Row, k: int) -> None:
    """Each group continues as in PyTorch, with its own numbers and, except in SGD, its own step count.

    The last group of PyTorch's parameters had no gradients in the first two steps.
    """
    params, gradients = peers.problem()
    theirs = torch_with_groups(row, params)
    for index in range(k):
        theirs.step(gradients[index], peers.rate(row.lr, index), frozen=index < UNFROZEN)
    given = theirs.opt.state_dict()
    others = [{}, {"lr_scale": 3.0, "weight_decay": 0.5}, {"lr": 5.0}]
    opt = ours_with_groups(row, theirs.flat().copy(), 7.0, others, weight_decay=0.25)
    opt.step_count = 99
    opt.groups[0].lr, opt.groups[0].hyper["weight_decay"] = 3.0, 0.75
    opt.load_torch_state_dict(given, **counted(row, k))
    assert opt.step_count == k
    assert opt.lr == opt.groups[0].lr
    if row.ours.name != "SGD":
        assert [group.step_count for group in opt.groups] == [k, k, max(0, k - UNFROZEN)]
    assert [group.lr for group in opt.groups] == [group["lr"] for group in given["param_groups"]]
    assert [group.lr_scale for group in opt.groups] == [1, 1, 1]
    assert_same_groups(opt, ours_with_groups(row, params.copy(), 7.0))
    for name, state in opt.state.items():
        parts = [
            given["state"].get(i, {}).get(name, torch.zeros(LAYOUT[j])).numpy().ravel()
            for i, j in enumerate(j for members in MEMBERS for j in members)
        ]
        assert_bits(state[ORDER], np.concatenate(parts))
    go_on(row, k, theirs, opt)


@pytest.mark.parametrize("k", TAKEN)
@each_row
def test_groups_to_torch(row: peers.Row, k: int) -> None:
    """PyTorch continues each group, and a round trip restores the exact bits. The last group was frozen at first."""
    params, gradients = peers.problem()
    opt = ours_with_groups(row, params.copy(), lambda t: peers.rate(row.lr, t))
    opt.groups[1].lr_scale = 0.5
    opt.groups[2].lr = lambda t: peers.rate(row.lr, t) / 4
    for index in range(k):
        opt.groups[2].frozen = index < UNFROZEN
        opt.step(gradients[index])
    dictionary = opt.torch_state_dict(LAYOUT)
    theirs = torch_with_groups(row, opt.params, [{}, {"lr": 3.0}, {"weight_decay": 0.7}])
    theirs.opt.load_state_dict(dictionary)
    expected = torch_with_groups(row, params).opt.param_groups
    for i, (group, wanted) in enumerate(zip(theirs.opt.param_groups, expected, strict=True)):
        assert group.keys() == wanted.keys()
        assert group["lr"] == peers.rate(row.lr, k) / 2**i
        for name in group.keys() - {"params", "lr", "initial_accumulator_value"}:
            assert group[name] == wanted[name], name
    assert [each["params"] for each in dictionary["param_groups"]] == [[0, 1, 2], [3, 4], [5, 6]]
    twin = ours_with_groups(row, opt.params.copy(), 7.0)
    twin.load_torch_state_dict(theirs.opt.state_dict(), **counted(row, k))
    assert_same_groups(twin, opt)
    if row.ours.name != "SGD":
        counts = [[group.step_count for group in each.groups] for each in (opt, twin)]
        assert counts == [[k, k, max(0, k - UNFROZEN)]] * 2
    for name, state in opt.state.items():
        assert_bits(twin.state[name], state)
    go_on(row, k, theirs, twin)


def split_adam(**arguments: Any) -> Any:
    """Return an Adam optimizer with a rest of 11 elements, and groups of 7 and 3 elements."""
    groups: Any = [{"params": [(0, 4), (8, 11)], "eps": 0.5}, {"params": (18, 21)}]
    return lrcore.Adam(start(), lr=0.25, groups=groups, **arguments)


def test_parameters_without_elements() -> None:
    """They have the step counts of their neighbours, also in an optimizer that is frozen as a whole."""
    opt = lrcore.Adam(start())
    run(opt, 2)
    opt.groups[0].frozen = True
    run(opt, 1)
    exported = opt.torch_state_dict([0, 3, (2, 0), 18, 0])
    assert [int(each["step"]) for each in exported["state"].values()] == [2] * 5
    opt.load_torch_state_dict(exported)
    assert opt.step_count == 2
    empty = lrcore.Adam(np.zeros(0, np.float32))
    assert [each["exp_avg"].shape for each in empty.torch_state_dict()["state"].values()] == [(0,)]
    empty.load_torch_state_dict(empty.torch_state_dict())


def test_the_default_is_one_parameter_for_each_range() -> None:
    """A rest without elements is left out. One group that has all elements has a parameter like `params`."""
    opt = split_adam()
    run(opt, 2)
    exported = opt.torch_state_dict()
    assert [group["params"] for group in exported["param_groups"]] == [[0, 1], [2, 3], [4]]
    assert [each["exp_avg"].numel() for each in exported["state"].values()] == [4, 7, 4, 3, 3]
    again = split_adam()
    again.load_torch_state_dict(exported)
    assert_bits(again.state["exp_avg"], opt.state["exp_avg"])
    for groups, numels in (([(0, 9), (9, 21)], [9, 12]), ([(0, 21)], [21])):
        whole = lrcore.Adam(
            start().reshape(3, 7), lr=0.25, groups=[{"params": each, "lr": 0.5} for each in groups]
        )
        exported = whole.torch_state_dict()
        assert [group["lr"] for group in exported["param_groups"]] == [0.5] * len(groups)
        assert [each["exp_avg"].numel() for each in exported["state"].values()] == numels
        exported["param_groups"][0] |= {"lr": 0.75, "eps": 0.5}
        whole.load_torch_state_dict(exported)
        assert (whole.groups[1].lr, whole.groups[1].hyper["eps"]) == (0.75, 0.5)
        assert (whole.lr, whole.hyper["eps"]) == (0.25, 1e-8)
    assert exported["state"][0]["exp_avg"].shape == (3, 7)


def test_what_the_optimizer_keeps() -> None:
    """PyTorch's groups are never frozen, and have no factors."""
    opt = split_adam()
    opt.groups[0].maximize = opt.groups[1].frozen = True
    opt.groups[2].lr_scale = 0.5
    run(opt, 3)
    exported = opt.torch_state_dict()
    steps = [[int(exported["state"][i]["step"]) for i in each["params"]] for each in exported["param_groups"]]
    assert steps == [[3, 3], [0, 0], [3]]
    assert [each["maximize"] for each in exported["param_groups"]] == [True, False, False]
    opt.groups[0].maximize = False
    opt.load_torch_state_dict(exported)
    assert [each.frozen for each in opt.groups] == [False, True, False]
    assert [each.maximize for each in opt.groups] == [True, False, False]
    assert [each.step_count for each in opt.groups] == [3, 0, 3]
    assert [(each.lr, each.lr_scale) for each in opt.groups] == [(0.25, 1), (0.25, 1), (0.125, 1)]
    opt.hyper["eps"] = 0.125  # PyTorch's groups have all numbers, so these are the groups' own
    assert [each.hyper["eps"] for each in opt.groups] == [0.125, 0.5, 1e-8]

    whole = lrcore.Adam(start())
    whole.groups[0].maximize = whole.groups[0].frozen = True
    whole.load_torch_state_dict(whole.torch_state_dict())
    assert (whole.groups[0].maximize, whole.groups[0].frozen) == (True, True)


def test_parameters_of_a_group_with_different_counts() -> None:
    """PyTorch counts the steps of each parameter, and a later export has the same counts."""
    params = [torch.nn.Parameter(torch.ones(size)) for size in (11, 2, 5, 3)]
    theirs = torch.optim.Adam([{"params": params[:1]}, {"params": params[1:3]}, {"params": params[3:]}])
    for without in ((2, 3), (2, 0), ()):
        for i, param in enumerate(params):
            param.grad = None if i in without else torch.ones(param.shape)
        theirs.step()
    given = theirs.state_dict()
    opt = split_adam()
    opt.load_torch_state_dict(given)
    assert opt.step_count == 3
    assert [group.step_count for group in opt.groups] == [2, None, 2]
    # The second group has the elements 0:4 and 8:11, of which PyTorch's second parameter has the last five.
    found = opt.torch_state_dict(shapes=[2, 2, 4, 3, 7, 3])
    steps = [[int(found["state"][i]["step"]) for i in each["params"]] for each in found["param_groups"]]
    assert steps == [[2, 2], [3, 1, 1], [2]]
    with pytest.raises(ValueError, match=r"^shapes\[0\]: .*elements 0:4 have taken 1 to 3 steps"):
        opt.torch_state_dict()
    run(opt, 1)
    assert [group.step_count for group in opt.groups] == [3, None, 3]


@pytest.mark.parametrize("name", ["SGD", "RMSprop"])
def test_a_group_without_momentum(name: str) -> None:
    """PyTorch has no buffer for it, and both continue alike."""
    params = [torch.nn.Parameter(torch.ones(size)) for size in (8, 4)]
    theirs = getattr(torch.optim, name)(
        [{"params": params[:1], "momentum": 0.5}, {"params": params[1:]}], lr=0.25
    )
    opt = getattr(lrcore, name)(
        np.ones(12, np.float32), lr=0.25, momentum=0.5, groups=[{"params": (8, 12), "momentum": 0.0}]
    )
    for i in range(4):
        if i == 2:
            assert "momentum_buffer" not in theirs.state_dict()["state"].get(1, {})
            opt.load_torch_state_dict(theirs.state_dict())
            opt.params[:] = np.concatenate([param.detach().numpy() for param in params])
            theirs.load_state_dict(opt.torch_state_dict([8, 4]))
        for param in params:
            param.grad = torch.full_like(param, 1.0 + i)
        theirs.step()
        if i >= 2:
            opt.step(np.full(12, 1.0 + i, np.float32))
            found = np.concatenate([param.detach().numpy() for param in params])
            np.testing.assert_allclose(opt.params, found, rtol=1e-6)


def test_dampening_of_groups_that_have_not_begun() -> None:
    """The first gradient of such a group is not damped, although the other group has taken steps."""
    params = [torch.nn.Parameter(torch.zeros(4)) for _ in range(2)]
    theirs = torch.optim.SGD([{"params": [param]} for param in params], lr=0.25, momentum=0.5, dampening=0.5)
    groups = [{"params": (4, 8)}]
    opt: Any = lrcore.SGD(np.zeros(8, np.float32), lr=0.25, momentum=0.5, dampening=0.5, groups=groups)
    for i in range(4):
        for j, param in enumerate(params):
            param.grad = torch.full_like(param, 1.0 + i) if i >= 2 or j == 0 else None
        if i == 2:
            opt.params[:4] = params[0].detach().numpy()
            opt.load_torch_state_dict(theirs.state_dict(), step_count=2)
            assert [group.step_count for group in opt.groups] == [2, 0]
            dictionary = opt.torch_state_dict()
            assert [*dictionary["state"]] == [0]
            theirs.load_state_dict(dictionary)
        theirs.step()
        if i >= 2:
            opt.step(np.full(8, 1.0 + i, np.float32))
            assert_bits(opt.params, np.concatenate([param.detach().numpy() for param in params]))
    opt = lrcore.SGD(np.zeros(8, np.float32), momentum=0.5, groups=groups)
    with pytest.raises(ValueError, match=r"^param_groups\[0\]: state\[0\]: expected the entries"):
        fresh = torch.optim.SGD([{"params": [param]} for param in params], momentum=0.5)
        opt.load_torch_state_dict(fresh.state_dict(), step_count=2)


def test_momenta_of_a_group_that_changed() -> None:
    opt = lrcore.NAdam(start(), groups=[{"params": (0, 9), "betas": (0.5, 0.75)}])
    run(opt, 3)
    dictionary = opt.torch_state_dict()
    products = [nadam_momentum_product(3, beta1, 4e-3) for beta1 in (0.9, 0.5)]
    assert [float(dictionary["state"][i]["mu_product"]) for i in (0, 1)] == pytest.approx(products)
    opt.load_torch_state_dict(dictionary)
    dictionary["param_groups"][1]["betas"] = (0.9, 0.75)
    with pytest.raises(ValueError, match=r"^param_groups\[1\]: mu_product: expected"):
        opt.load_torch_state_dict(dictionary)


def test_rates_are_called_once() -> None:
    calls = []

    def rate(t: int) -> float:
        calls.append(t)
        return 0.5

    opt = split_adam()
    opt.lr = rate
    assert [group["lr"] for group in opt.torch_state_dict()["param_groups"]] == [0.5] * 3
    assert calls == [0]


def second(**changes: Any) -> Callable[[Any], None]:
    """Return a function that changes the second group of a dictionary."""
    return lambda saved: saved["param_groups"][1].update(changes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda saved: saved["param_groups"].pop(), "param_groups: expected 3 groups, got 2; make the optimizer"),
        (lambda saved: saved["param_groups"].append({}), "param_groups: expected 3 groups, got 4"),
        (second(params=None), "param_groups: expected the entry params to be a list"),
        (second(params=[]), "state: expected only the parameters"),
        (second(params=[2]), "state: expected only the parameters"),
        (second(params=[2, 3, 3]), "params: expected each parameter once"),
        (second(params=[[2], 3]), "params: expected indices of parameters"),
        (lambda saved: saved["param_groups"][1].pop("betas"), r"param_groups\[1\]: expected the entries"),
        (second(momentum=0.5), r"param_groups\[1\]: expected the entries"),
        (second(differentiable=True), r"param_groups\[1\]: differentiable: "),
        (second(differentiable=torch.ones(2)), r"param_groups\[1\]: differentiable: "),
        (second(eps=-1.0), r"param_groups\[1\]: eps: expected"),
        (second(lr=-1.0), r"param_groups\[1\]: lr: expected"),
        (second(amsgrad=True), r"param_groups\[1\]: amsgrad: expected False as in param_groups\[0\], got True"),
        (
            second(decoupled_weight_decay=True),
            r"param_groups\[1\]: decay: expected 'l2' as in param_groups\[0\], got 'decoupled'",
        ),
        (lambda saved: set_state(saved, 2, step=2.5), r"param_groups\[1\]: step: expected a whole number"),
        (lambda saved: set_state(saved, 2, step=-1.0), r"param_groups\[1\]: step: expected an integer >= 0"),
        (lambda saved: saved["state"].pop(2), r"param_groups\[1\]: state\[2\]: expected the entries"),
        (lambda saved: saved["state"][2].pop("exp_avg"), r"param_groups\[1\]: state\[2\]: expected the entries"),
        (
            lambda saved: set_state(saved, 2, exp_avg_sq=torch.ones(5)),
            r"param_groups\[1\]: exp_avg_sq: expected 7 elements like opt.groups\[1\], got 8",
        ),
        (lambda saved: set_state(saved, 2, exp_avg=3), r"param_groups\[1\]: exp_avg: expected a float32 tensor"),
    ],
)  # fmt: skip
def test_wrong_groups_change_nothing(spoil: Callable[[Any], object], message: str) -> None:
    opt = split_adam()
    run(opt, 2)
    dictionary = copy.deepcopy(opt.torch_state_dict())
    run(opt, 1)
    before = opt.state_dict()
    spoil(dictionary)
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        opt.load_torch_state_dict(dictionary)
    after = opt.state_dict()
    for name, state in before.pop("state").items():
        assert_bits(after["state"][name], state)
    del after["state"]
    assert after == before


def test_groups_that_do_not_match() -> None:
    """A group without parameters, a dictionary of one group, and parameters of two groups are refused."""
    opt = split_adam()
    run(opt, 2)
    with pytest.raises(
        ValueError, match="^param_groups: expected one group, got 3; make the optimizer with groups="
    ):
        lrcore.Adam(start()).load_torch_state_dict(opt.torch_state_dict())
    with pytest.raises(ValueError, match="^param_groups: expected 3 groups, got 1"):
        opt.load_torch_state_dict(adam())
    param = torch.nn.Parameter(torch.ones(21))
    theirs = torch.optim.Adam([{"params": [param]}, {"params": []}, {"params": []}])
    with pytest.raises(
        ValueError, match=r"^param_groups\[1\]: params: expected the indices of parameters, got none"
    ):
        opt.load_torch_state_dict(theirs.state_dict())
    message = r"^shapes\[1\]: expected a parameter inside one group, got elements 4:11 of opt.groups\[0\], opt.groups\[1\]$"
    with pytest.raises(ValueError, match=message):
        opt.torch_state_dict(shapes=[4, 7, 7, 3])
    opt.step_count = 2**24 + 1
    opt.groups[1].frozen = True
    with pytest.raises(ValueError, match="^step_count: PyTorch counts in float32"):
        opt.torch_state_dict()
