"""Sharpen a blurred, noisy image by gradient descent on its pixels, on a GPU with CuPy or on the CPU with NumPy.

Parameters need not belong to a network: here the parameters are the pixels of a NumPy or CuPy array, updated in place.
The loss is half the squared difference between the blurred image and the observed image, plus a multiple of the
image's total variation. The total variation is large for noise, and small for flat areas with sharp edges.

    python examples/deblur.py          # on CuPy's current GPU, after LRCORE_CUDA=ON pip install ".[cuda]"
    python examples/deblur.py --cpu    # the same in NumPy

Reference: Rudin, Osher & Fatemi 1992, "Nonlinear total variation based noise removal algorithms".
"""

from __future__ import annotations

import argparse
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lrcore

SIZE, STEPS = 256, 200
BLUR = 2.0  # standard deviation of the Gaussian kernel, in pixels
NOISE = 0.02  # standard deviation of the noise that is added to pixels from 0 to 1
VARIATION = 0.003  # weight of the total variation


def draw_image() -> NDArray[np.float32]:
    """Return an image (SIZE, SIZE) of discs and bars, with values from 0 to 1."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    image = np.zeros((SIZE, SIZE), np.float32)
    for i in range(5):
        across = x - 0.15 - 0.17 * i
        image[across**2 + (y - 0.3) ** 2 < (0.02 + 0.012 * i) ** 2] = 1 - 0.15 * i
        image[(abs(across) < 0.01 + 0.01 * i) & (abs(y - 0.7) < 0.15)] = 0.4 + 0.15 * i
    return image


def blur(image: Any, xp: ModuleType) -> Any:
    """Return the image (SIZE, SIZE) blurred with periodic boundaries. The blur is its own adjoint."""
    down, across = xp.fft.fftfreq(SIZE)[:, None], xp.fft.rfftfreq(SIZE)  # cycles per pixel
    gaussian = xp.exp(-2 * (np.pi * BLUR) ** 2 * (down**2 + across**2)).astype(xp.float32)
    return xp.fft.irfft2(xp.fft.rfft2(image) * gaussian, s=image.shape)


def variation_gradient(image: Any, xp: ModuleType) -> Any:
    """Return the gradient (SIZE, SIZE) of the sum over all pixels of ``sqrt(down**2 + across**2 + 1e-4)``.

    `down` and `across` are the differences between a pixel and the next pixel below and to the right.
    """
    down, across = xp.roll(image, -1, axis=0) - image, xp.roll(image, -1, axis=1) - image
    length = xp.sqrt(down**2 + across**2 + 1e-4)
    down, across = down / length, across / length
    return xp.roll(down, 1, axis=0) - down + xp.roll(across, 1, axis=1) - across


def main(cpu: bool = False) -> tuple[float, float]:
    """Restore the image, and return its root-mean-square error before and after."""
    xp: ModuleType = np
    if not cpu:
        try:
            import cupy
        except ModuleNotFoundError as error:
            raise SystemExit('CuPy is not installed: pip install ".[cuda]", or use --cpu') from error
        xp = cupy

    true = xp.asarray(draw_image())
    noise = np.random.default_rng(0).normal(scale=NOISE, size=true.shape).astype(np.float32)
    observed = blur(true, xp) + xp.asarray(noise)

    image = observed.copy()
    opt = lrcore.Adam(image, lr=lrcore.schedules.Cosine(0.05, steps=STEPS))
    for _ in range(STEPS):
        gradient = blur(blur(image, xp) - observed, xp) + VARIATION * variation_gradient(image, xp)
        opt.step(gradient)

    before, after = (float(xp.sqrt(((each - true) ** 2).mean())) for each in (observed, image))
    print(f"{xp.__name__}: {opt.step_count} steps on {SIZE} by {SIZE} pixels")
    print(f"root-mean-square error: {before:.4f} before, {after:.4f} after")
    return before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Deblur an image.")
    parser.add_argument("--cpu", action="store_true", help="use NumPy instead of CuPy")
    main(**vars(parser.parse_args()))
