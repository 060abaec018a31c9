"""Regularisers that need gradients of images or styles, another forward pass, or memory between steps.

``PENALTIES[name].make()`` builds one for a run; called with the outputs of a step it returns a scalar. Penalties with
gradients of gradients run in fp32, on the steps on which they are due. Memory is kept in buffers, which are part of a
run's state, and updated once a step by what all processes saw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.losses.step_outputs import StepOutputs
from zoo.runtime import distributed
from zoo.runtime.precision import upcast

Differentiated = Literal["real", "fake", "between", "styles"]


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """A regulariser.

    Attributes:
        make: builds a function of the step; an ``nn.Module`` where it has memory.
        weight: default weight for a resolution and a batch size.
        phase: the network whose loss it is part of.
        differentiates: what its inner gradient is taken with respect to; None: it takes none.
        needs_styles: G must have a mapping network.
    """

    make: Callable[[], Callable[[StepOutputs], Tensor]]
    weight: Callable[[int, int], float]
    phase: Literal["D", "G"] = "D"
    differentiates: Differentiated | None = None
    needs_styles: bool = False


def default_gamma(resolution: int, batch: int) -> float:
    """Default weight of R1 and R2: 0.0002 resolution^2 / batch (Karras et al. 2020, ADA, appendix C)."""
    return 0.0002 * resolution**2 / batch


def gradient_penalty(images: Tensor, logits: Tensor) -> Tensor:
    """Half the squared norm of d logits / d images, averaged over images.

    R1 on real images (Mescheder et al. 2018, arXiv:1801.04406, eq. 9), R2 on fakes (eq. 10).

    Args:
        images: (N, C, H, W), requiring gradients, from which ``logits`` were computed one by one.
        logits: (N,) or (N, ...): several logits per image are summed.
    """
    return 0.5 * _slopes(images, logits).mean()


def r1(step: StepOutputs) -> Tensor:
    """:func:`gradient_penalty` on real images."""
    assert step.real is not None
    assert step.real_logits is not None
    return gradient_penalty(step.real, step.real_logits)


def r2(step: StepOutputs) -> Tensor:
    """:func:`gradient_penalty` on fakes."""
    return gradient_penalty(step.fake, step.fake_logits)


class Interpolated:
    """(norm of d logits / d images - centre)^2 at random points between pairs of real and fake images.

    Centre 1 is the gradient penalty of WGAN-GP (Gulrajani et al. 2017, eq. 3), centre 0 that of Thanh-Tung et al. 2019,
    eq. 6.
    """

    def __init__(self, centre: float) -> None:
        self.centre = centre

    def __call__(self, step: StepOutputs) -> Tensor:
        assert step.real is not None
        assert step.judge is not None
        u = torch.rand(len(step.fake), 1, 1, 1, dtype=step.fake.dtype, device=step.fake.device)
        between = torch.lerp(step.fake.detach(), step.real.detach(), u).requires_grad_()
        squares = _slopes(between, step.judge(between))
        if self.centre == 0:
            return squares.mean()
        return (squares.clamp(min=1e-12).sqrt() - self.centre).square().mean()


class LeCam(nn.Module):
    """(D(real) - mean of D(fake))^2 + (D(fake) - mean of D(real))^2, with running means.

    Tseng et al. 2021, arXiv:2104.03310, eq. 6.
    """

    DECAY = 0.99  # of the running means, per step
    means: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(2))  # of D(real) and D(fake)
        self.register_buffer("seen", torch.zeros(3))  # their sums in this step, and the number of images

    def forward(self, step: StepOutputs) -> Tensor:
        assert step.real_logits is not None
        real, fake = upcast(step.real_logits), upcast(step.fake_logits)
        mean_real, mean_fake = self.means.clone()
        with torch.no_grad():
            n = len(real)
            self.seen += torch.stack([n * real.mean(), n * fake.mean(), real.new_full((), n)])
        return (real - mean_fake).square().mean() + (fake - mean_real).square().mean()

    @torch.no_grad()
    def settle(self) -> None:
        """Update the means by what all processes saw in this step."""
        sums = distributed.all_reduce_sum(self.seen)
        fresh = sums[:2] / sums[2].clamp(min=1)
        self.means.lerp_(fresh, (1 - self.DECAY) * (sums[2] > 0))
        self.seen.zero_()


class PathLength(nn.Module):
    """(norm of J_w^T y - a)^2, with normal images y and the running mean a of the norms before the step.

    Karras et al. 2020, arXiv:1912.04958, eq. 4, on half of a batch's latents.
    """

    DECAY = 0.99
    mean: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, step: StepOutputs) -> Tensor:
        G: Any = step.G
        assert step.z is not None
        half = slice(0, max(1, len(step.z) // 2))
        w = G.mapping(step.z[half], None if step.label is None else step.label[half])
        w = w[:, None].expand(-1, G.num_styles, -1).contiguous()
        if not w.requires_grad:
            w.requires_grad_()
        images = upcast(G.synthesis(w))
        y = torch.randn_like(images) / (images.shape[2] * images.shape[3]) ** 0.5
        (gradient,) = torch.autograd.grad((images * y).sum(), w, create_graph=True)
        lengths = upcast(gradient).square().sum(2).mean(1).clamp(min=1e-12).sqrt()
        with torch.no_grad():
            self.seen += torch.stack([lengths.sum(), lengths.new_full((), len(lengths))])
        return (lengths - self.mean.clone()).square().mean()

    @torch.no_grad()
    def settle(self) -> None:
        """Update the mean by what all processes saw in this step."""
        total, count = distributed.all_reduce_sum(self.seen)
        self.mean.lerp_(total / count.clamp(min=1), (1 - self.DECAY) * (count > 0))
        self.seen.zero_()


PENALTIES = {
    "r1": Penalty(make=lambda: r1, weight=default_gamma, differentiates="real"),
    "r2": Penalty(make=lambda: r2, weight=default_gamma, differentiates="fake"),
    "gp1": Penalty(make=lambda: Interpolated(1.0), weight=lambda size, batch: 10.0, differentiates="between"),
    "gp0": Penalty(make=lambda: Interpolated(0.0), weight=lambda size, batch: 10.0, differentiates="between"),
    "lecam": Penalty(make=LeCam, weight=lambda size, batch: 0.1),
    "path_length": Penalty(
        make=PathLength, weight=lambda size, batch: 2.0, phase="G", differentiates="styles", needs_styles=True
    ),
}


def _slopes(images: Tensor, logits: Tensor) -> Tensor:
    """(N,) squared norms of d logits / d images."""
    (gradient,) = torch.autograd.grad(upcast(logits).sum(), images, create_graph=True)
    return upcast(gradient).square().sum(dim=(1, 2, 3))
