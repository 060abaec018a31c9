"""The networks of a run with their first weights, which are a function of the recipe's seed."""

from __future__ import annotations

import torch
from torch import nn

from zoo.core.config import Recipe
from zoo.core.errors import ZooError
from zoo.core.wording import count_of
from zoo.models.base import Discriminator, Generator
from zoo.models.batch_norm import batch_norms, has_dense_norm
from zoo.models.encoder import Encoder
from zoo.models.layers import MinibatchStd
from zoo.models.scales import ImageHeads, ScaleDiscriminators
from zoo.models.summary import count_parameters
from zoo.recipes import build_generator, build_networks
from zoo.runtime import rng
from zoo.runtime.distributed import World
from zoo.runtime.speed import Speed
from zoo.training.micro_batch import local_batch_size, micro_batch_size


def build_trained_networks(recipe: Recipe, speed: Speed, world: World) -> tuple[Generator, Discriminator]:
    """Build G and D on the device, in training mode.

    Raises:
        ZooError: a batch of some stage cannot be divided among processes, or is too small for a network.
    """
    torch.manual_seed(rng.derive_seed(recipe.train.seed, "weights"))
    G, D = build_networks(recipe)
    shares = [local_batch_size(size, world.size) for size in recipe.train.batches.sizes]
    sizes = [micro_batch_size(recipe.train.micro_batch, local) for local in shares]
    for side, network in (("generator", G), ("discriminator", D)):
        speed.network(network).train()
        if min(sizes) < 2 and has_dense_norm(network):
            key = "micro_batch" if recipe.train.micro_batch else "batch"
            raise ZooError(f"train.{key}: the {side} normalises over the batch and takes at least 2 images at once")
    for batch, size in zip(recipe.train.batches.sizes, sizes, strict=True):
        check_micro_batch(recipe, D, batch, size)
    return G, D


def check_micro_batch(recipe: Recipe, D: Discriminator, batch: int, size: int) -> None:
    """Check that D sees in ``size`` images at once what it sees in a whole ``batch``.

    Raises:
        ZooError: a pack or a group of images that D compares would be divided, or a penalty lacks images.
    """
    packing = recipe.discriminator.config.packing
    if size % packing:
        raise ZooError(f"discriminator.packing: {packing} does not divide the {size} images of each process")
    if "mode_seeking" in recipe.penalties and size < 2:
        raise ZooError("penalties.mode_seeking: compares images; at least 2 must pass through G in each process")
    _check_groups(recipe, D, batch // packing, size // packing)
    _check_shares(recipe, D, size // packing)


def _check_groups(recipe: Recipe, D: Discriminator, batch: int, count: int) -> None:
    """Check that ``count`` images (or packs) at once consist of whole groups, whose deviation D sees."""
    for group in _std_groups(D):
        # A batch of fewer images is one group; a part of a batch would be another group than in one process.
        if count < 2 or count % min(group, batch):
            key = "micro_batch" if recipe.train.micro_batch else "batch"
            raise ZooError(
                f"train.{key}: the discriminator compares images in groups of {group}, which do not divide the "
                f"{count_of(count, 'image')} that it sees at once; take a multiple, or groups of another size"
            )


def _std_groups(D: Discriminator) -> list[int]:
    return sorted({module.group for module in D.modules() if isinstance(module, MinibatchStd) and module.group > 1})


def _check_shares(recipe: Recipe, D: Discriminator, count: int) -> None:
    """Check that a share of ``count`` images, on which a finite difference is taken, has the statistics of them all."""
    least = min(2, count) if batch_norms(D) else 1
    groups = [min(group, count) for group in _std_groups(D)]
    for name, penalty in recipe.penalties.items():
        share = max(1, round(penalty.share * count))
        if penalty.step and (share < least or any(share % group for group in groups)):
            least = max([least, *groups])
            raise ZooError(
                f"penalties.{name}.share: {penalty.share:g} of {count_of(count, 'image')} is {share}, and the "
                f"discriminator compares at least {least} of them; set a multiple of {least / count:.2g}"
            )


def build_helpers(recipe: Recipe, latent: int) -> dict[str, nn.Module]:
    """Build the networks that train along with G and D and are no part of either; their weights change no others.

    Args:
        latent: numbers per latent.

    Returns:
        ``encoder`` of ``autoencoder:``; ``heads`` (of G) and ``scale_discriminators`` of ``scales:``.

    Raises:
        SchemaError: G has no maps of one of the sizes.
    """
    helpers: dict[str, nn.Module] = {}
    if recipe.autoencoder is not None:
        torch.manual_seed(rng.derive_seed(recipe.train.seed, "encoder"))
        helpers["encoder"] = Encoder(recipe.image, latent, recipe.autoencoder.channels)
    if (scales := recipe.scales) is not None:
        probe = build_generator(recipe, "meta")
        torch.manual_seed(rng.derive_seed(recipe.train.seed, "scales"))
        helpers["heads"] = ImageHeads(probe, scales.sizes)
        helpers["scale_discriminators"] = ScaleDiscriminators(recipe.image, scales.sizes, scales.channels)
    return helpers


def count_helper_parameters(recipe: Recipe) -> dict[str, int]:
    """Count the parameters of each network of :func:`build_helpers`, from shapes alone."""
    with rng.fork_rng(torch.device("cpu")), torch.device("meta"):
        helpers = build_helpers(recipe, build_generator(recipe, "meta").latent.dim)
    return {name: count_parameters(helper) for name, helper in helpers.items()}
