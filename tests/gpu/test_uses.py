"""Uses of device arrays: files and packs; arrays, streams and gradients of other libraries.

All results are compared with the CPU's to the last bit, on an imitated device and, if a GPU works, on real
ones.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.devices import CUPY, CuPy, Foreign, Imitated, Torch, library, problem, with_the_tests
from support import assert_bits, gradients, python

SCHEDULE = lrcore.schedules.Cosine(0.1, steps=9).warmup(2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a name for a file."""
    return tmp_path / "file.safetensors"


def content(path: Path) -> tuple[Any, bytes]:
    """Return the header and data of a file, and delete it. The order of names in the header is arbitrary."""
    data = path.read_bytes()
    path.unlink()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


@pytest.mark.parametrize("shift", [0, 3])
def test_files_of_states(xp: CuPy | Torch, path: Path, shift: int) -> None:
    """A device's file has the same contents as the CPU's; either file loads on both, and the runs agree."""
    start, all_gradients = problem(1003, 6)
    memory = xp.array(np.r_[np.zeros(shift, np.float32), start])
    host, there = (lrcore.AdamW(p, SCHEDULE, amsgrad=True) for p in (start, memory[shift:]))
    for g in all_gradients[:3]:
        host.step(g)
        there.step(xp.array(g))
    host.save(path)
    expected = content(path)
    there.save(path)
    params, grads = host.params.copy(), xp.array(all_gradients[3])
    back, loaded = lrcore.load(path, params.copy()), lrcore.load(path, xp.array(params))
    graph = lrcore.load(path, xp.array(params), grads=grads, capturable=True, max_steps=9)
    other = lrcore.AdamW(xp.array(params), 7.0, amsgrad=True)
    other.load(path)
    assert content(path) == expected
    assert type(loaded.state["exp_avg"]) is type(loaded.params)
    copied, before = copy.copy(loaded), host.state_dict()["state"]  # a copy has states of its own
    replay = xp.capture(graph.step)
    for g in all_gradients[3:]:
        for each in (host, back):
            each.step(g)
        for each in (there, loaded, other):
            each.step(xp.array(g))
        xp.write(grads, g)
        xp.numpy(grads)
        replay()
    assert_bits(back.params, host.params)
    for each in (there, loaded, other, graph):
        assert (each.step_count, each.lr, each.device) == (6, host.lr, "cuda:0")
        assert_bits(xp.numpy(each.params), host.params)
        for name, state in each.state.items():
            assert_bits(xp.numpy(state), host.state[name], name)
            assert_bits(xp.numpy(copied.state[name]), before[name], name)


@pytest.mark.parametrize("name", CUPY)
@pytest.mark.parametrize("pad", [False, True])
def test_packs(name: str, pad: bool, path: Path) -> None:
    """Packs on a device are assigned, stepped, saved, loaded and copied as on the CPU."""
    layer = {"w": (2, 3), "b": 3}
    host = lrcore.Pack({"embed": (3, 5), "layers": [layer, layer], "s": ()}, pad=pad)
    gradient = host.like()
    for pack in (host, gradient):
        for index, view in enumerate(pack.named_arrays().values()):
            view[...] = gradients(np.random.default_rng([index, pack is host]), view.size).reshape(view.shape)

    with library(name) as xp:
        assert isinstance(xp, CuPy)

        def assert_equal(pack: Any, expected: Any) -> None:
            for where, view in pack.named_arrays().items():
                assert type(view) is xp.cupy.ndarray
                assert_bits(xp.numpy(view), expected.named_arrays()[where], where)

        there = lrcore.Pack(host.tree(), xp.cupy, pad=pad)
        its_gradient = there.like()
        its_gradient.assign(gradient.tree())
        groups = [{"params": ["layers.*.b", "s"], "lr_scale": 0.5}, {"params": "embed", "frozen": True}]
        opt, reference = (
            lrcore.Adam(p, grads=g, groups=groups) for p, g in ((there, its_gradient), (host, gradient))
        )
        for _ in range(3):
            opt.step()
            reference.step()
        for pack, grads in ((there, its_gradient), (host, gradient)):
            lrcore.SGD(pack["layers"][1]).step(grads["layers"][1])
        for state, expected in reference.state.items():
            assert_equal(opt.state[state], expected)
        reordered = lrcore.Pack({name: there.tree()[name] for name in ("s", "layers", "embed")}, xp.cupy)
        moved = lrcore.Adam(reordered, groups=groups)
        moved.load_state_dict(opt.state_dict())
        for state, expected in reference.state.items():
            assert_equal(moved.state[state], expected)
        copied, its_opt = copy.deepcopy((there, opt))
        assert its_opt.params is copied
        for pack in (there, copied, pickle.loads(pickle.dumps(there))):
            assert_equal(pack, host)

        host.save(path)
        expected = content(path)
        there.save(path)
        before = lrcore.Pack.from_file(path)
        again = lrcore.Pack.from_file(path, xp.cupy, pad=pad)
        assert repr(again) == repr(there)
        assert_equal(again, before)
        for each in (opt, its_opt, reference):
            each.step()
        for pack in (there, copied, host):
            pack["s"] = 7
            pack["layers"][0]["b"] = np.arange(3.0)
            pack["layers"][1] = {"w": np.ones((2, 3)), "b": pack["layers"][0]["b"]}
        assert_equal(there, host)
        assert_equal(copied, host)
        there.load(path)
        assert_equal(there, before)
        assert content(path) == expected


def test_arrays_of_unknown_libraries(xp: CuPy | Torch) -> None:
    """The state is a CuPy array if CuPy is installed, and a DLPack exporter otherwise."""
    start, all_gradients = problem(1003, 4)
    opt, reference = lrcore.Adam(Foreign(xp.array(start))), lrcore.Adam(start.copy())
    stream = xp.stream()
    for t, g in enumerate(all_gradients):
        opt.step(Foreign(xp.array(g)), stream=xp.handle(stream) if t % 2 else None)
        xp.numpy(opt.params.array)  # the two streams do not wait for each other
        reference.step(g)
    assert opt.device == "cuda:0"
    assert_bits(xp.numpy(opt.params.array), reference.params)
    resumed = lrcore.Adam(start)
    resumed.load_state_dict(opt.state_dict())
    for name, state in reference.state.items():
        assert_bits(resumed.state[name], state, name)


MIXED = [
    ("imitated", "imitated"),
    pytest.param("cupy", "torch", marks=pytest.mark.gpu),
    pytest.param("torch", "cupy", marks=pytest.mark.gpu),
]


@pytest.mark.parametrize(("making", "stepping"), MIXED)
def test_gradients_of_another_library(making: str, stepping: str) -> None:
    """A step on the parameters' stream uses gradients that are queued behind long work on another stream."""
    with library(making) as one, nullcontext(one) if making == stepping else library(stepping) as other:
        n = 1000 if isinstance(one, Imitated) else 1 << 26
        g, source, ones = (one.array(np.full(n, value, np.float32)) for value in (0, 0, 1))
        params = other.array(np.zeros(n, np.float32))
        opt = lrcore.SGD(params, lr=1.0)
        one.numpy(g[:1])
        with one.using(one.stream()):
            for _ in range(100):
                g[...] = source
            g[...] = ones
            opt.step(g)
        for part in (params[:1000], params[-1000:]):
            assert_bits(other.numpy(part), np.full(1000, -1, np.float32))


NO_GPU = "JAX has no GPU here"


def step_on_jax(xp: Any, n: int = 1 << 22, turns: int = 500) -> None:
    """Check steps on gradients that JAX is still computing, on the current stream and on another.

    The gradients are released at once.
    """
    import jax

    jnp = jax.numpy
    start, (first, second, third) = problem(n, 3)
    turned = jax.jit(lambda g: jax.lax.fori_loop(0, turns, lambda _, each: jnp.roll(each, 1), g))
    of_product = jax.jit(jax.grad(lambda p, g: jnp.sum(p * g)))
    opt, reference = lrcore.Adam(xp.array(start)), lrcore.Adam(start.copy())
    for g, stream in ((first, None), (second, xp.stream())):
        opt.step(turned(jnp.asarray(g)), stream=stream)
        xp.numpy(opt.params)
        reference.step(np.roll(g, turns))
    gradient = of_product(jnp.asarray(start), jnp.asarray(third))
    opt.step(gradient)
    reference.step(third)
    assert_bits(xp.numpy(opt.params), reference.params)
    for name, state in opt.state.items():
        assert_bits(xp.numpy(state), reference.state[name], name)
    assert_bits(np.asarray(gradient), third)
    with pytest.raises(TypeError, match="^grads: expected dtype float32, got bfloat16"):
        opt.step(gradient.astype(jnp.bfloat16))
    # JAX treats -1, which means "no stream to wait for" in the protocol, as the handle of a stream.
    with pytest.raises((TypeError, ValueError), match="^params: .*(immutable|read-only|cannot be exported)"):
        lrcore.SGD(gradient)


def step_library_on_jax(name: str) -> None:
    """Run `step_on_jax` with parameters of a library; a test calls this in a separate process."""
    import jax

    if jax.default_backend() != "gpu":
        print(NO_GPU)
        return
    with library(name) as xp:
        step_on_jax(xp)
    print("stepped")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cupy", "torch"])
def test_gradients_of_jax(name: str) -> None:
    """The process is separate, because JAX only releases the device's memory when its process ends."""
    for each in ("jax", name):
        if importlib.util.find_spec(each) is None:
            pytest.skip(f"{each} is not installed")
    program = f"from gpu import test_uses; test_uses.step_library_on_jax({name!r})"
    ran = python(program, PYTHONPATH=with_the_tests(), XLA_PYTHON_CLIENT_PREALLOCATE="false")
    assert ran.returncode == 0, ran.stderr
    if NO_GPU in ran.stdout:
        pytest.skip(NO_GPU)
    assert ran.stdout.split()[-1] == "stepped"
