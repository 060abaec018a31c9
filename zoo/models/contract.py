"""Check that two networks keep the contract of ``zoo.models.base``, by shapes alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.config import ImageSpec, LatentSpec
from zoo.core.errors import ZooError, describe_error, one_line
from zoo.core.schema import SchemaError

BATCH = 4  # images: a network may compare those of a batch, such as pairs of them


def check_networks(build: Callable[[], tuple[nn.Module, nn.Module]], image: ImageSpec) -> None:
    """Build two networks on the meta device and pass a batch through both.

    Args:
        build: returns generator and discriminator.
        image: what they must make and take.

    Raises:
        SchemaError: they cannot be built, take no label, or have other shapes; one line.
    """
    G, D = _attempt("the networks", "cannot be built", build)
    batch = BATCH * getattr(D, "packing", 1)
    shape = (batch, image.channels, image.resolution, image.resolution)
    label = torch.zeros(batch, dtype=torch.int64, device="meta") if image.classes else None
    latent = getattr(G, "latent", None)
    if not isinstance(latent, LatentSpec):
        raise SchemaError("generator", f"{_name(G)} lacks super().__init__(config, image, LatentSpec(dim=...))")
    for side, network in (("generator", G), ("discriminator", D)):
        _check_forward(side, network)
    z = torch.zeros(batch, latent.dim, device="meta")
    images = _attempt("generator", f"{_name(G)} fails on latents {tuple(z.shape)}", lambda: G(z, label))
    _check_tensor("generator", f"{_name(G)} makes images", images)
    if tuple(images.shape) != shape:
        raise SchemaError("generator", f"{_name(G)} makes images of shape {tuple(images.shape)}, not {shape}")
    x = torch.zeros(shape, device="meta")
    logits = _attempt("discriminator", f"{_name(D)} fails on images {shape}", lambda: D(x, label))
    _check_tensor("discriminator", f"{_name(D)} returns logits", logits)
    if not logits.dim() or len(logits) * getattr(D, "packing", 1) != batch:
        expected = f"({BATCH},), one per image"
        raise SchemaError("discriminator", f"{_name(D)} returns logits of shape {tuple(logits.shape)}, not {expected}")


def _check_forward(side: str, network: nn.Module) -> None:
    try:
        inspect.signature(network.forward).bind(None, None)
    except TypeError:
        signature = inspect.signature(network.forward)
        raise SchemaError(
            side, f"{_name(network)}.forward{signature} takes no label; write forward(self, x, label=None)"
        ) from None


def _check_tensor(side: str, what: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise SchemaError(side, f"{what} as {type(value).__name__}, not as a tensor")


def _attempt(path: str, what: str, function: Callable[[], Any]) -> Any:
    try:
        with torch.no_grad():
            return function()
    except ZooError:
        raise
    except Exception as error:
        raise SchemaError(path, f"{what} ({one_line(describe_error(error))})") from error


def _name(network: nn.Module) -> str:
    return type(network).__name__
