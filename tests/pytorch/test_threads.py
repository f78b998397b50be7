"""Large steps run on PyTorch's own threads if lrcore.torch is imported, and on lrcore's threads otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytorch.modules import torch
from support import assert_runs

pytestmark = [
    pytest.mark.skipif(
        not Path("/proc/self/task").is_dir(), reason="this platform does not list a process's threads"
    ),
    pytest.mark.skipif(
        "omp_get_max_threads" not in torch.__config__.parallel_info(),
        reason="PyTorch was built without OpenMP",
    ),
]

BEGIN = """
import os, threading
import torch, lrcore.torch

size = 1_300_011
grads = np.random.default_rng(0).standard_normal(size, np.float32)
torch.set_num_threads(4)
torch.ones(size).add_(1)  # PyTorch starts its threads

def threads():
    return len(os.listdir("/proc/self/task"))

def new_threads_of_a_step(run=lambda steps: steps()):
    param = torch.nn.Parameter(torch.ones(size))
    param.grad = torch.from_numpy(grads)
    opt = lrcore.torch.FusedOptimizer([param], lrcore.Adam, lr=0.1)
    counts = []

    def steps():
        counts.append(threads())
        for _ in range(3):
            opt.step()
        counts.append(threads())

    run(steps)
    assert param.detach().numpy().tobytes() == expected
    return counts[1] - counts[0]

lrcore.set_num_threads(1)
alone = lrcore.Adam(np.ones(size, np.float32), lr=0.1, grads=grads)
for _ in range(3):
    alone.step()
expected = alone.params.tobytes()
"""


def check(program: str) -> None:
    assert_runs(BEGIN + program)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_step_uses_the_threads_of_pytorch(count: int) -> None:
    check(f"""
lrcore.set_num_threads({count})
assert new_threads_of_a_step() == 0
""")


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_step_uses_no_more_threads_than_pytorch(count: int) -> None:
    check(f"""
torch.set_num_threads({count})
lrcore.set_num_threads(5)
assert new_threads_of_a_step() == 0
""")


def test_a_step_in_another_thread_uses_its_own_threads() -> None:
    check("""
lrcore.set_num_threads(3)

def in_another_thread(steps):
    thread = threading.Thread(target=steps)
    thread.start()
    thread.join()

assert new_threads_of_a_step(in_another_thread) == 2
""")


def test_a_step_within_a_region_of_fewer_threads_does_all_of_its_work() -> None:
    """OpenMP may give fewer threads than its maximum, for example if OMP_THREAD_LIMIT is less."""
    assert_runs(
        BEGIN
        + """
lrcore.set_num_threads(4)
new = new_threads_of_a_step()
assert new == 0, new
""",
        OMP_THREAD_LIMIT="3",
    )


def test_a_forked_child_steps_with_its_own_threads() -> None:
    check("""
import signal
lrcore.set_num_threads(3)
assert new_threads_of_a_step() == 0
if (child := os.fork()) == 0:
    signal.alarm(20)
    opt = lrcore.Adam(np.ones(size, np.float32), lr=0.1, grads=grads)
    for _ in range(3):
        opt.step()
    os._exit(opt.params.tobytes() != expected or threads() != 3)
assert os.waitpid(child, 0)[1] == 0
assert new_threads_of_a_step() == 0
""")


def test_steps_are_unaffected_by_the_rounding_of_pytorchs_threads() -> None:
    """PyTorch may have told its threads to flush subnormal numbers to zero."""
    check("""
tiny = np.full(size, 1e-42, np.float32)
lrcore.set_num_threads(4)
torch.set_flush_denormal(True)
param = torch.nn.Parameter(torch.zeros(size))
param.grad = torch.from_numpy(tiny)
lrcore.torch.FusedOptimizer([param], lrcore.SGD, lr=1.0).step()
torch.set_flush_denormal(False)
assert param.detach().numpy().tobytes() == (-tiny).tobytes()
""")


def test_without_lrcore_torch_a_step_uses_its_own_threads() -> None:
    assert_runs("""
        import os, torch
        torch.set_num_threads(4)
        torch.ones(1_000_000).add_(1)
        lrcore.set_num_threads(3)
        before = len(os.listdir("/proc/self/task"))
        lrcore.SGD(np.zeros(1_300_000, np.float32), lr=1.0).step(np.ones(1_300_000, np.float32))
        assert len(os.listdir("/proc/self/task")) == before + 2
    """)
