"""Images from a generator: the same for the same seed, in any number at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoo.core.errors import ZooError
from zoo.models.base import Generator, StyleGenerator
from zoo.runtime import rng
from zoo.runtime.speed import Speed

SAMPLING_BATCH = 16  # images per chunk; fixed, because a generator's noise inputs are drawn per chunk
_MEAN_STYLE_LATENTS = 4096


def generate_images(
    generator: Generator,
    z: Tensor,
    *,
    label: Tensor | None = None,
    seed: int = 0,
    first: int = 0,
    speed: Speed | None = None,
    advance: Callable[[int], None] | None = None,
) -> Tensor:
    """Generate float images (N, C, H, W) on the CPU.

    Args:
        generator: in eval mode, unless batch statistics are wanted.
        z: latents (N, dim).
        label: (N,) classes; None draws them by ``seed`` as often as in training.
        seed: of the noise inputs.
        first: index of the first chunk, where ``z`` is a part of more latents.
        speed: sets the precision; None keeps the weights'.
        advance: called with the number of images after each chunk.
    """
    if label is None:
        label = rng.fixed_labels(seed, len(z), generator.image.shares, first * SAMPLING_BATCH)
    inputs = [z] if label is None else [z, label]
    return in_chunks(generator, inputs, generator, seed=seed, first=first, speed=speed, advance=advance)


def synthesise_images(generator: Generator, w: Tensor, *, seed: int = 0, speed: Speed | None = None) -> Tensor:
    """Generate images like :func:`generate_images`, from styles.

    ``w`` is (N, num_styles, dim); ``generator`` must be a style generator.
    """
    assert isinstance(generator, StyleGenerator)
    return in_chunks(generator, [w], generator.synthesis, seed=seed, speed=speed)


@torch.no_grad()
def in_chunks(
    generator: Generator,
    inputs: Sequence[Tensor],
    function: Callable[..., Tensor],
    *,
    seed: int,
    first: int = 0,
    speed: Speed | None = None,
    advance: Callable[[int], None] | None = None,
) -> Tensor:
    """Apply ``function`` to ``inputs`` chunk by chunk on the generator's device.

    torch's own random state is kept.
    """
    device = next(generator.parameters()).device
    images = []
    with rng.fork_rng(device):
        chunks = zip(*(tensor.split(SAMPLING_BATCH) for tensor in inputs), strict=True)
        for index, chunk in enumerate(chunks, first):
            # Per chunk, so that an image does not depend on how many are generated.
            torch.manual_seed(rng.derive_seed(seed, "noise", index))
            # The last chunk is padded: a device's noise for 8 images need not be the start of its noise for 16.
            padded = [_pad_chunk(tensor).to(device) for tensor in chunk]
            with contextlib.nullcontext() if speed is None else speed.autocast():
                images.append(_run_within_memory(function, *padded)[: len(chunk[0])])
            if advance is not None:
                advance(len(chunk[0]))
    return torch.cat(images)


def _pad_chunk(chunk: Tensor) -> Tensor:
    return torch.cat([chunk, chunk[:1].expand(SAMPLING_BATCH - len(chunk), *chunk.shape[1:])])


def _run_within_memory(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return images on the CPU, generated in halves where memory is short.

    Noise inputs are then drawn per half: the images differ, and are as good.
    """
    try:
        return function(*inputs).float().cpu()
    except torch.OutOfMemoryError:
        if len(inputs[0]) == 1:
            raise ZooError(
                f"an image does not fit the memory of {inputs[0].device}. Generate on the CPU with --device cpu"
            ) from None
    # Outside the except block, where the error would still hold the tensors of the failed attempt.
    torch.cuda.empty_cache()
    halves = zip(*(tensor.chunk(2) for tensor in inputs), strict=True)
    return torch.cat([_run_within_memory(function, *half) for half in halves])


@torch.no_grad()
def truncate_styles(generator: Generator, w: Tensor, psi: float) -> Tensor:
    """Move styles (N, ..., dim) towards the mean: mean + psi (w - mean).

    The truncation trick (Karras et al. 2019, appendix B).
    """
    mean = mean_style(generator, w)
    return torch.lerp(mean.expand_as(w), w, psi)


@torch.no_grad()
def mean_style(generator: Generator, like: Tensor) -> Tensor:
    """Return the mean style (dim,) of fixed latents, so that no running mean has to be stored.

    Its type and device are those of ``like``.
    """
    assert isinstance(generator, StyleGenerator)
    draws = rng.seeded_generator("mean style")
    z = torch.randn(_MEAN_STYLE_LATENTS, generator.latent.dim, generator=draws, dtype=torch.float32, device="cpu")
    label = rng.fixed_labels(0, len(z), generator.image.shares)
    return generator.mapping(z.to(like), None if label is None else label.to(like.device)).mean(0)


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Interpolate normal latents (..., dim) spherically (White 2016).

    Lengths stay those of normal draws.
    """
    # Clamped: rounding can leave the domain of acos.
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1, 1)[..., None]
    angle = cosine.acos()
    sine = angle.sin()
    parallel = sine.abs() < 1e-6  # the same or the opposite direction: a straight line, without division by zero
    divisor = torch.where(parallel, torch.ones_like(sine), sine)
    arc = ((1 - t) * angle).sin() / divisor * a + (t * angle).sin() / divisor * b
    return torch.where(parallel, torch.lerp(a, b, t), arc)
