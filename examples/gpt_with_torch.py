"""Train a small GPT in PyTorch on the characters of a Python module, with the optimizer of lrcore or of PyTorch.

The training loop is that of nanoGPT (https://github.com/karpathy/nanoGPT): AdamW in two groups, of which only the
matrices decay, warm-up and a cosine, gradients accumulated over micro-batches and clipped. The optimizers differ in one
line of `make_optimizer`, and agree up to float32 rounding.

    pip install torch
    python examples/gpt_with_torch.py
    python examples/gpt_with_torch.py --optimizer torch
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import math
from collections.abc import Sequence
from typing import Any

import lrcore

try:
    import torch
    from torch.nn import functional as F
except ModuleNotFoundError as error:
    raise SystemExit("torch is not installed: pip install torch") from error

STEPS = 300
WARMUP = 20
RATE = 3e-3
LEAST_RATE = RATE / 10
DECAY = 0.1
MAX_NORM = 1.0
MICRO_BATCHES = 2
BATCH = 8
HELD_OUT = 0.1  # the share of the text on which the model is tested


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of a GPT."""

    vocabulary: int
    layers: int = 3
    heads: int = 4
    width: int = 64
    context: int = 64


class Block(torch.nn.Module):  # type: ignore[misc]
    """Causal self-attention and a perceptron, each added to its normalized input."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, self.heads = sizes.width, sizes.heads
        self.norm_1, self.norm_2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.qkv, self.out = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.expand, self.contract = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the result for activations `x` (batch, length, width), in the same shape."""
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        q, k, v = (each.view(split).transpose(1, 2) for each in self.qkv(self.norm_1(x)).split(width, dim=2))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(x.shape))
        return x + self.contract(F.gelu(self.expand(self.norm_2(x))))


class GPT(torch.nn.Module):  # type: ignore[misc]
    """A GPT whose output layer has the weights of the embedding."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.tokens = torch.nn.Embedding(sizes.vocabulary, sizes.width)
        self.positions = torch.nn.Embedding(sizes.context, sizes.width)
        self.blocks = torch.nn.Sequential(*(Block(sizes) for _ in range(sizes.layers)))
        self.norm = torch.nn.LayerNorm(sizes.width)
        self.head = torch.nn.Linear(sizes.width, sizes.vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                last = name.endswith(("out.weight", "contract.weight"))  # of a block, which has 2 such layers
                torch.nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * sizes.layers) if last else 0.02)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the mean cross entropy of the next tokens `y` after `x`; both have the shape (batch, length)."""
        positions = self.positions.weight[: x.shape[1]]
        logits = self.head(self.norm(self.blocks(self.tokens(x) + positions)))
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def make_optimizer(model: torch.nn.Module, kind: str = "lrcore") -> Any:
    """Return AdamW in two groups: parameters of two or more dimensions decay, others do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    if kind == "torch":
        return torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), fused=True)
    return lrcore.torch.FusedOptimizer(groups, lrcore.AdamW, lr=RATE, betas=(0.9, 0.95), fused=True)


def rate(step: int) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine that ends at `LEAST_RATE`."""
    if step < WARMUP:
        return RATE * (step + 1) / (WARMUP + 1)
    progress = (step - WARMUP) / (STEPS - WARMUP)
    return LEAST_RATE + 0.5 * (1 + math.cos(math.pi * progress)) * (RATE - LEAST_RATE)


def batch(text: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random pieces of the text, and the same pieces shifted by one token."""
    starts = torch.randint(len(text) - length, (BATCH,))
    return tuple(torch.stack([text[i + shift : i + shift + length] for i in starts]) for shift in (0, 1))


def train_step(
    model: torch.nn.Module, opt: Any, step: int, batches: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> float:
    """Take a step with the gradients of all batches, and return the mean of their losses."""
    for group in opt.param_groups:
        group["lr"] = rate(step)
    total = 0.0
    for x, y in batches:
        loss = model(x, y) / len(batches)
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
    opt.step()
    opt.zero_grad(set_to_none=True)
    return total


def characters() -> tuple[torch.Tensor, int]:
    """Return the tokens of a text, one for each character, and the number of different tokens."""
    text = inspect.getsource(argparse)
    vocabulary = sorted({*text})
    number = {character: i for i, character in enumerate(vocabulary)}
    return torch.tensor([number[each] for each in text]), len(vocabulary)


def main(kind: str) -> tuple[float, float]:
    """Train, and return the losses on the held-out text before and after."""
    torch.manual_seed(0)
    text, vocabulary = characters()
    sizes = Sizes(vocabulary)
    model = GPT(sizes)
    opt = make_optimizer(model, kind)

    split = int(len(text) * (1 - HELD_OUT))
    tests = [batch(text[split:], sizes.context) for _ in range(20)]

    def tested() -> float:
        with torch.no_grad():
            return float(sum(model(x, y) for x, y in tests)) / len(tests)

    before = tested()
    for step in range(STEPS):
        loss = train_step(
            model, opt, step, [batch(text[:split], sizes.context) for _ in range(MICRO_BATCHES)]
        )
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss:.3f}")
    after = tested()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {type(opt).__name__}")
    print(f"loss on held-out text: {before:.3f} before, {after:.3f} after")
    return before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--optimizer", choices=("lrcore", "torch"), default="lrcore", help="default: lrcore")
    main(parser.parse_args().optimizer)
