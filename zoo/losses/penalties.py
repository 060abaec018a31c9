"""Regularisers: gradient penalties, and penalties with running means.

``PENALTIES[name].make()`` returns one for a run: a function from :class:`StepOutputs` to a scalar. Steps in which a
penalty with gradients of gradients is due run in fp32, including the forward pass it shares with the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zoo.core.registry import Registry
from zoo.losses.restoration import restoration
from zoo.losses.step_outputs import StepOutputs
from zoo.runtime import distributed, rng
from zoo.runtime.convolution import image_gradients
from zoo.runtime.precision import full_float32, upcast

Differentiated = Literal["real", "fake", "between", "styles"]


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """A regulariser.

    Attributes:
        make: returns a function of the step; a :class:`RunningMeans` where it has a state.
        weight: returns the default for a resolution and a batch size.
        phase: whose objective it belongs to.
        differentiates: what it takes a gradient with respect to; training it then needs second derivatives.
        needs: a method that G must have, and what it says of a network; None: any G.
        estimate: returns the same value of a step by finite differences (see :func:`finite_difference`); None for most.
    """

    make: Callable[[], Callable[[StepOutputs], Tensor]]
    weight: Callable[[int, int], float]
    phase: Literal["D", "G"] = "D"
    differentiates: Differentiated | None = None
    needs: tuple[str, str] | None = None
    estimate: Callable[..., Tensor] | None = None


def default_gamma(resolution: int, batch: int) -> float:
    """Return a weight for R1 and R2: 0.0002 resolution^2 / batch.

    Karras et al. 2020, ADA, appendix C.
    """
    return 0.0002 * resolution**2 / batch


def gradient_penalty(images: Tensor, logits: Tensor) -> Tensor:
    """Return half the squared norm of d logits / d images, averaged over images.

    R1 for real images (Mescheder et al. 2018, eq. 9), R2 for fake ones (eq. 10).

    Args:
        images: (N, C, H, W) that require gradients.
        logits: (N,) or (N, ...) of ``images``; several per image are summed.
    """
    return 0.5 * _squared_gradient_norms(images, logits).mean()


def r1(step: StepOutputs) -> Tensor:
    """Return :func:`gradient_penalty` of real images."""
    assert step.real is not None
    assert step.real_logits is not None
    return gradient_penalty(step.real, step.real_logits)


def r2(step: StepOutputs) -> Tensor:
    """Return :func:`gradient_penalty` of fake images."""
    return gradient_penalty(step.fake, step.fake_logits)


def finite_difference(step: StepOutputs, side: Literal["real", "fake"], *, scale: float, share: float) -> Tensor:
    """Estimate :func:`gradient_penalty` without a gradient of a gradient.

    The mean of ((D(x + scale n) - D(x)) / scale)^2 / 2 over normal noise n (Hyun et al. 2025, arXiv:2509.24935; Lin et
    al. 2025, arXiv:2511.22475). Both passes are in fp32: a small difference loses its digits in bf16. Where D
    normalises over the batch, slopes of an image's logits are those with respect to all images, not to this one alone.

    Args:
        side: images on which it is taken.
        scale: deviation of the noise.
        share: of the images of a micro-batch, its first ones.
    """
    images, logits = (step.real, step.real_logits) if side == "real" else (step.fake, step.fake_logits)
    assert images is not None
    assert logits is not None
    assert step.judge is not None
    pack = len(images) // len(logits)  # images that D classifies together
    x = images[: pack * max(1, round(share * len(logits)))].detach()
    seed = torch.initial_seed()
    generator = torch.Generator(x.device).manual_seed(rng.derive_seed(seed, "difference", side))
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    # Both passes draw the same dropout and share one step of power iteration: they differ by the noise alone.
    values = []
    with parametrize.cached(), full_float32():
        for point in (x, x + scale * noise):
            torch.manual_seed(seed)
            values.append(upcast(step.judge(point, side=side)))
    slopes = ((values[1] - values[0]) / scale).reshape(len(x) // pack, -1).sum(1)  # of an image's logits together
    return 0.5 * slopes.square().sum() / len(x)


def centre(step: StepOutputs) -> Tensor:
    """Return (D(real) + D(fake))^2, in pairs: keeps relativistic logits about zero.

    Lin et al. 2025, arXiv:2511.22475.
    """
    assert step.real_logits is not None
    return (upcast(step.real_logits) + upcast(step.fake_logits)).square().mean()


def interpolated_penalty(step: StepOutputs, centre: float) -> Tensor:
    """Return (norm of d logits / d images - centre)^2 between real and fake images.

    At one random point of each pair.
    Centre 1: WGAN-GP (Gulrajani et al. 2017, eq. 3). Centre 0: Thanh-Tung et al. 2019, eq. 6.
    """
    assert step.real is not None
    assert step.judge is not None
    # One point per pair, shared by its pixels.
    u = torch.rand(len(step.fake), 1, 1, 1, dtype=step.fake.dtype, device=step.fake.device)
    between = torch.lerp(step.fake.detach(), step.real.detach(), u).requires_grad_()
    squares = _squared_gradient_norms(between, step.judge(between))
    if centre == 0:
        return squares.mean()
    # Clamped: the gradient of a root at 0 is infinite.
    return (squares.clamp(min=1e-12).sqrt() - centre).square().mean()


class RunningMeans(nn.Module):
    """A penalty with moving averages, updated once per step over all processes.

    They are buffers, and so a part of a run's state.

    Args:
        buffer: name of the means in that state.
        shape: of the means.
    """

    DECAY = 0.99  # per step
    seen: Tensor

    def __init__(self, buffer: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer(buffer, torch.zeros(shape))
        self.register_buffer("seen", torch.zeros(math.prod(shape) + 1))  # sums in this step, and their number
        self._buffer = buffer

    @torch.no_grad()
    def settle(self) -> None:
        """Move the means towards those of this step, if it had a forward pass."""
        # Summed over processes here and not in forward, which may run once per micro-batch.
        *sums, count = distributed.all_reduce_sum(self.seen)
        means = self.get_buffer(self._buffer)
        fresh = torch.stack(sums).view_as(means) / count.clamp(min=1)
        # As a product, because an if would wait for the device.
        means.lerp_(fresh, (1 - self.DECAY) * (count > 0))
        self.seen.zero_()


class LeCam(RunningMeans):
    """Keep logits near the running mean of the other side (LeCam).

    Tseng et al. 2021, arXiv:2104.03310, eq. 6:
    (D(real) - mean of D(fake))^2 + (D(fake) - mean of D(real))^2.
    """

    means: Tensor

    def __init__(self) -> None:
        super().__init__("means", (2,))  # of D(real) and D(fake)

    def forward(self, step: StepOutputs) -> Tensor:
        assert step.real_logits is not None
        real, fake = upcast(step.real_logits), upcast(step.fake_logits)
        mean_real, mean_fake = self.means.clone()  # settle() changes them before the backward pass
        with torch.no_grad():
            n = len(real)
            # Sums weighted by images, so that micro-batches and processes add up to the whole batch.
            self.seen += torch.stack([n * real.mean(), n * fake.mean(), real.new_full((), n)])
        return (real - mean_fake).square().mean() + (fake - mean_real).square().mean()


class PathLength(RunningMeans):
    """Path length regularisation: (norm of J_w^T y - a)^2.

    Karras et al. 2020, arXiv:1912.04958, eq. 4.
    y are normal images and a the running mean of the norms before the step; on half of a batch's latents.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__("mean", ())

    def forward(self, step: StepOutputs) -> Tensor:
        G: Any = step.G
        assert step.z is not None
        half = slice(0, max(1, len(step.z) // 2))
        w = G.mapping(step.z[half], None if step.label is None else step.label[half])
        w = w[:, None].expand(-1, G.num_styles, -1).contiguous()
        if not w.requires_grad:  # a mapping without parameters
            w.requires_grad_()
        images = upcast(G.synthesis(w))
        # By the root of the pixel count, so that lengths do not depend on the resolution, as in the authors' code.
        y = torch.randn_like(images) / (images.shape[2] * images.shape[3]) ** 0.5
        # J_w^T y without forming J: the gradient of <image, y> (section 3.2).
        (gradient,) = torch.autograd.grad((images * y).sum(), w, create_graph=True)
        # Mean over the styles of an image, then clamped: the gradient of a root at 0 is infinite.
        lengths = upcast(gradient).square().sum(2).mean(1).clamp(min=1e-12).sqrt()
        with torch.no_grad():
            self.seen += torch.stack([lengths.sum(), lengths.new_full((), len(lengths))])
        return (lengths - self.mean.clone()).square().mean()


def mode_seeking(step: StepOutputs) -> Tensor:
    """Return the inverse of how far images move with their latents, for the pairs of both halves of the batch.

    Mao et al. 2019, arXiv:1903.05628, eq. 5, as the authors minimise it: 1 / (mean |G(z1) - G(z2)| / mean |z1 - z2|).

    Raises:
        ValueError: there is only one image.
    """
    assert step.z is not None
    half = len(step.z) // 2
    if not half:
        raise ValueError("penalties.mode_seeking: takes at least 2 images at once")
    images, z = upcast(step.fake), upcast(step.z)
    # A mean over all pairs, as in the authors' code: a single pair of equal images leaves it finite.
    ratio = (images[:half] - images[half : 2 * half]).abs().mean() / (z[:half] - z[half : 2 * half]).abs().mean()
    return 1 / (ratio + 1e-5)


def register_penalty(
    name: str,
    penalty: Callable[[StepOutputs], Tensor] | type[RunningMeans],
    *,
    weight: float | Callable[[int, int], float] = 1.0,
    phase: Literal["D", "G"] = "D",
    differentiates: Differentiated | None = None,
    needs: tuple[str, str] | None = None,
    estimate: Callable[..., Tensor] | None = None,
) -> None:
    """Register a regulariser as a key of ``penalties:`` in recipes.

    Args:
        name: in recipes.
        penalty: a function of a step to a scalar; or, with a state, a class of :class:`RunningMeans`.
        weight: the default; or a function of the resolution and the batch size that returns it.
        phase: whose objective it belongs to.
        differentiates: what it takes a gradient with respect to; training it then needs second derivatives.
        needs: a method that G must have, and what it says of a network; None: any G.
        estimate: returns the same value by finite differences (see :func:`finite_difference`).

    Raises:
        ValueError: another penalty has this name.
    """
    entry = Penalty(
        make=penalty if isinstance(penalty, type) else partial(_return, penalty),
        weight=weight if callable(weight) else lambda size, batch: weight,
        phase=phase,
        differentiates=differentiates,
        needs=needs,
        estimate=estimate,
    )
    PENALTIES.register(name, entry, penalty)


def _return(penalty: Callable[[StepOutputs], Tensor]) -> Callable[[StepOutputs], Tensor]:
    return penalty


PENALTIES: Registry[Penalty] = Registry("penalty")
register_penalty(
    "r1", r1, weight=default_gamma, differentiates="real", estimate=partial(finite_difference, side="real")
)
register_penalty(
    "r2", r2, weight=default_gamma, differentiates="fake", estimate=partial(finite_difference, side="fake")
)
register_penalty("gp1", partial(interpolated_penalty, centre=1.0), weight=10.0, differentiates="between")
register_penalty("gp0", partial(interpolated_penalty, centre=0.0), weight=10.0, differentiates="between")
register_penalty("centre", centre, weight=0.01)
register_penalty("lecam", LeCam, weight=0.1)
register_penalty("mode_seeking", mode_seeking, phase="G")
register_penalty(
    "path_length",
    PathLength,
    weight=2.0,
    phase="G",
    differentiates="styles",
    needs=("mapping", "styles (a mapping network)"),
)
register_penalty("restoration", restoration, phase="G", needs=("enlarge", "step that enlarges images"))


def _squared_gradient_norms(images: Tensor, logits: Tensor) -> Tensor:
    """Return the squared norm of d logits / d images for each image, (N,)."""
    # The sum's gradient is each image's own, as long as no image's logit depends on another image.
    with image_gradients():
        (gradient,) = torch.autograd.grad(upcast(logits).sum(), images, create_graph=True)
    return upcast(gradient).square().sum(dim=(1, 2, 3))
