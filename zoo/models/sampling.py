"""Images from a generator: the same for the same seed, however many are asked for at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from zoo.core.errors import ZooError
from zoo.models.base import Generator, StyleGenerator
from zoo.runtime import rng
from zoo.runtime.speed import Speed

SAMPLING_BATCH = 16  # fixed, because what a generator draws inside is drawn batch by batch


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
    """Latents (N, dim) to float images (N, C, H, W) on the CPU; inner noise is a function of ``seed``.

    The generator is used in the mode it is in: eval, unless batch statistics are wanted. ``advance`` is told of every
    few images made. ``first`` is the number of the first chunk, where these latents are a part of more. ``speed`` says
    in which precision; None: in the weights'. ``label`` (N,): classes; None: as often as in training, by ``seed``.
    """
    if label is None:
        label = rng.fixed_labels(seed, len(z), generator.image.shares, first * SAMPLING_BATCH)
    return in_chunks(generator, z, generator, label=label, seed=seed, first=first, speed=speed, advance=advance)


def synthesise_images(generator: Generator, w: Tensor, *, seed: int = 0, speed: Speed | None = None) -> Tensor:
    """Like :func:`images`, from styles (N, num_styles, dim) of a generator that has them."""
    assert isinstance(generator, StyleGenerator)
    return in_chunks(generator, w, generator.synthesis, seed=seed, speed=speed)


@torch.no_grad()
def in_chunks(
    generator: Generator,
    inputs: Tensor,
    function: Callable[..., Tensor],
    *,
    label: Tensor | None = None,
    seed: int,
    first: int = 0,
    speed: Speed | None = None,
    advance: Callable[[int], None] | None = None,
) -> Tensor:
    """``function`` over ``inputs``, a chunk at a time on the generator's device, leaving torch's own random state
    alone.
    """
    device = next(generator.parameters()).device
    images = []
    with rng.fork_rng(device):
        for index, chunk in enumerate(inputs.split(SAMPLING_BATCH), first):
            torch.manual_seed(rng.derive_seed(seed, "noise", index))
            # The last chunk is padded: draws for eight images need not be the first of the draws for sixteen.
            whole = [_filled(chunk).to(device)]
            if label is not None:
                place = (index - first) * SAMPLING_BATCH
                whole.append(_filled(label[place : place + SAMPLING_BATCH]).to(device))
            with contextlib.nullcontext() if speed is None else speed.autocast():
                images.append(_fitting(function, *whole)[: len(chunk)])
            if advance is not None:
                advance(len(chunk))
    return torch.cat(images)


def _filled(chunk: Tensor) -> Tensor:
    return torch.cat([chunk, chunk[:1].expand(SAMPLING_BATCH - len(chunk), *chunk.shape[1:])])


def _fitting(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Images on the CPU, generated in halves where the device's memory does not suffice for all at once.

    What a generator draws inside is then drawn for each half: its images are other ones, and as good.
    """
    try:
        return function(*inputs).float().cpu()
    except torch.OutOfMemoryError:
        if len(inputs[0]) == 1:
            raise ZooError(f"an image does not fit the memory of {inputs[0].device}; --device cpu makes it") from None
    torch.cuda.empty_cache()
    return torch.cat([_fitting(function, *half) for half in zip(*(each.chunk(2) for each in inputs), strict=True)])


@torch.no_grad()
def truncate_styles(generator: Generator, w: Tensor, psi: float) -> Tensor:
    """Styles (N, ..., dim) moved towards the mean style: mean + psi (w - mean) (Karras et al. 2019, appendix B).

    The mean is that of 4,096 fixed latents, so that it needs no state.
    """
    assert isinstance(generator, StyleGenerator)
    z = torch.randn(4096, generator.latent.dim, generator=rng.seeded_generator("mean style"))
    label = rng.fixed_labels(0, len(z), generator.image.shares)
    mean = generator.mapping(z.to(w.device), None if label is None else label.to(w.device)).mean(0)
    return torch.lerp(mean.expand_as(w), w, psi)


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Spherical interpolation of normal latents (..., dim) (White 2016): lengths stay those of normal draws on the
    way.
    """
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1, 1)[..., None]
    angle = cosine.acos()
    sine = angle.sin()
    near = sine.abs() < 1e-6  # the same or the opposite direction: a straight line, and no division by zero
    safe = torch.where(near, torch.ones_like(sine), sine)
    curved = ((1 - t) * angle).sin() / safe * a + (t * angle).sin() / safe * b
    return torch.where(near, torch.lerp(a, b, t), curved)
