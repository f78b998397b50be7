"""Update the parameters of a PyTorch model on the CPU, through DLPack, without a copy.

This example flattens a model by hand: one flat tensor holds all parameters, another holds all gradients, and the model's
own tensors become views of them. The backward pass accumulates the gradients in place, and one step updates the whole
model. `lrcore.torch.FusedOptimizer` makes the parameters views in the same way, but reads the gradients where autograd
has put them; use it unless you need flat gradients.

    pip install torch
    python examples/with_torch.py
"""

from __future__ import annotations

import lrcore

try:
    import torch
except ModuleNotFoundError as error:
    raise SystemExit("torch is not installed: pip install torch") from error

STEPS = 300


def rings(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `count` points (count, 2) on three noisy rings, and the number of each point's ring, 0 to 2 (count,)."""
    ring = torch.randint(3, (count,))
    angle = 2 * torch.pi * torch.rand(count)
    radius = 1 + ring + 0.1 * torch.randn(count)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), ring


def flatten(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Move a model's float32 parameters into one flat tensor and their gradients into another, and return both.

    Neither tensor requires a gradient, so both can be exported through DLPack.
    """
    parameters = list(model.parameters())
    flat = torch.cat([p.detach().flatten() for p in parameters])
    grads = torch.zeros_like(flat)
    start = 0
    for p in parameters:
        end = start + p.numel()
        p.data = flat[start:end].view_as(p)
        p.grad = grads[start:end].view_as(p)
        start = end
    return flat, grads


def main() -> float:
    """Train on 600 points, and return the accuracy on 600 others."""
    torch.manual_seed(0)
    x, y = rings(600)
    test_x, test_y = rings(600)

    linear, relu = torch.nn.Linear, torch.nn.ReLU
    model = torch.nn.Sequential(linear(2, 32), relu(), linear(32, 32), relu(), linear(32, 3))
    flat, grads = flatten(model)
    opt = lrcore.AdamW(flat, lr=lrcore.schedules.Cosine(0.02, steps=STEPS), grads=grads)

    for _ in range(STEPS):
        grads.zero_()  # model.zero_grad() would drop the views
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        opt.step()

    with torch.no_grad():
        accuracy = float((model(test_x).argmax(dim=1) == test_y).float().mean())
    print(f"{opt.size} parameters in {len(list(model.parameters()))} tensors, last loss {loss.item():.4f}")
    print(f"test accuracy: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
