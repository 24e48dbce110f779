"""Conditional random field as a layer: voxels near each other that look alike are moved towards one label.

Sources: Krähenbühl & Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NeurIPS 2011,
eq. 3 and algorithm 1; Zheng et al., "Conditional Random Fields as Recurrent Neural Networks", ICCV 2015; Teichmann &
Cipolla, "Convolutional CRFs for Semantic Segmentation", BMVC 2019 (the local window).
Departures: only voxels within a local window are joined, and there the sum is exact (Krähenbühl: all voxels, by an
approximate high-dimensional filter); positions are in mm; messages are not normalised per voxel, but the weights are
in units of the whole window, so that they start at a size that does not depend on spacing and window; the widths are
trained too, as logarithms; the answer is the logits after the last iteration, so that any loss of logits applies.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ITERATIONS = 5
REACH = 2  # voxels of the finest axis that a window reaches to either side; a coarser axis at least one of its own
CONTRAST = 0.5  # difference of normalised intensities at which two voxels begin to look unlike


class CRF(nn.Module):
    """Q_i(l) ∝ exp(U_i(l) - sum_l' mu_ll' sum_{j != i} K_ij Q_j(l')), iterated from Q = softmax(U).

    K_ij = w_s exp(-d^2 / 2 theta_s^2) + w_b exp(-d^2 / 2 theta_b^2 - |I_i - I_j|^2 / 2 theta_i^2), d in mm, for j in
    the window around i. Logits U ``[B, L, *S]`` and image ``[B, C, *S]`` -> logits ``[B, L, *S]``, log Q up to a
    constant, in float32 at least.

    spacing: mm per axis. radius: voxels per axis that the window reaches to either side.
    weight: w_s and w_b, in units in which all neighbours of a voxel together weigh one at the start.
    log_theta: of theta_s and theta_b in mm, and of theta_i in units of the image. compatibility: mu, at first Potts's.
    """

    squares: Tensor
    unit: Tensor

    def __init__(
        self, labels: int, spacing: Sequence[float], radius: Sequence[int] | None = None, iterations: int = ITERATIONS
    ) -> None:
        super().__init__()
        finest, self.iterations = min(spacing), iterations
        self.radius = list(radius or [max(round(REACH * finest / step), 1) for step in spacing])
        self.offsets = list(half_window(self.radius))
        distances = [sum((o * s) ** 2 for o, s in zip(offset, spacing, strict=True)) for offset in self.offsets]
        self.register_buffer("squares", torch.tensor(distances, dtype=torch.float32), persistent=False)  # mm^2
        theta = [finest, REACH * finest]
        totals = [2 * sum(math.exp(-d / (2 * t**2)) for d in distances) for t in theta]
        self.register_buffer("unit", 1 / torch.tensor(totals), persistent=False)
        self.weight = nn.Parameter(torch.ones(2))
        self.log_theta = nn.Parameter(torch.tensor([*theta, CONTRAST]).log())
        self.compatibility = nn.Parameter(1 - torch.eye(labels))

    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):  # exp of differences has no room for rounding
            unary, image = (x if x.dtype == torch.float64 else x.float() for x in (logits, image))
            precision = (-2 * self.log_theta).exp() / 2  # 1 / (2 theta^2)
            near, alike = (self.weight * self.unit)[:, None] * (-self.squares * precision[:2, None]).exp()
            # With a gap as wide as the window between its rows, the image is a line and every offset a step along it.
            size = [n + r for n, r in zip(unary.shape[2:], self.radius, strict=True)]
            steps = [sum(o * math.prod(size[axis + 1 :]) for axis, o in enumerate(offset)) for offset in self.offsets]
            look, refined = self.line(image), unary
            for _ in range(self.iterations):
                messages = Messages.apply(self.line(refined.softmax(1)), look, near, alike, precision[2], steps)
                messages = (self.compatibility @ messages).unflatten(2, size)
                refined = unary - messages[(..., *(slice(n) for n in unary.shape[2:]))]
            return refined

    def line(self, x: Tensor) -> Tensor:
        """``[B, C, *S] -> [B, C, N]`` with zeros behind every row, column and plane."""
        return F.pad(x, [side for r in reversed(self.radius) for side in (0, r)]).flatten(2)


class Messages(torch.autograd.Function):
    """sum_{j != i} K_ij Q_j of every voxel i; Q ``[B, L, N]`` and image ``[B, C, N]`` as lines with gaps, in which Q is
    zero and the answer means nothing.

    Offset by offset, each for both voxels of a pair, in either direction of the pass; the kernel is computed anew, as
    keeping it for the gradient would take the whole window's size times the image.

    near, alike ``[P]``: weighted Gaussians of position per offset; precision: 1 / (2 theta_i^2). steps: along the line.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, image: Tensor, near: Tensor, alike: Tensor, precision: Tensor, steps: list[int]
    ) -> Tensor:
        ctx.save_for_backward(q, image, near, alike, precision)
        ctx.steps = steps
        return send(q, image, near, alike, precision, steps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, image, near, alike, precision = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_image = torch.zeros_like(image) if ctx.needs_input_grad[1] else None
        of_near, of_alike, of_precision = torch.zeros_like(near), torch.zeros_like(alike), torch.zeros_like(precision)
        for number, (a, b) in enumerate(ends(q.shape[2], ctx.steps)):
            difference = image[a] - image[b]
            squares = difference.square().sum(1, keepdim=True)
            likeness = (-precision * squares).exp()
            of_kernel = (gradient[a] * q[b]).addcmul_(gradient[b], q[a]).sum(1, keepdim=True)
            of_near[number] = of_kernel.sum()
            of_kernel *= likeness
            of_alike[number] = of_kernel.sum()
            of_precision -= alike[number] * (of_kernel * squares).sum()
            if of_image is not None:
                pull = 2 * precision * alike[number] * of_kernel * difference
                of_image[a] -= pull
                of_image[b] += pull
        # The kernel is symmetric: what a voxel sent is what it is told.
        of_q = send(gradient, image, near, alike, precision, ctx.steps)
        return of_q, of_image, of_near, of_alike, of_precision, None


def send(q: Tensor, image: Tensor, near: Tensor, alike: Tensor, precision: Tensor, steps: list[int]) -> Tensor:
    """What ``Messages`` gives."""
    messages = torch.zeros_like(q)
    for number, (a, b) in enumerate(ends(q.shape[2], steps)):
        difference = image[a] - image[b]
        squares = difference.mul_(difference).sum(1, keepdim=True)
        kernel = squares.mul_(-precision).exp_().mul_(alike[number]).add_(near[number])  # [B, 1, N - step]
        messages[a].addcmul_(kernel, q[b])
        messages[b].addcmul_(kernel, q[a])
    return messages


def half_window(radius: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """One offset of every pair that differs in sign, without the centre: those whose first step is ahead."""
    centre = (0,) * len(radius)
    return (offset for offset in itertools.product(*(range(-r, r + 1) for r in radius)) if offset > centre)


def ends(length: int, steps: Sequence[int]) -> Iterator[tuple[Any, Any]]:
    """The two parts of a line of ``length`` whose voxels each step joins; a step beyond its end joins none."""
    return (((..., slice(max(length - step, 0))), (..., slice(step, None))) for step in steps)
