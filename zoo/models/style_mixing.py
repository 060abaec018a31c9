"""Whether training images mix the styles of two latents."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn


@contextlib.contextmanager
def without_mixing(generator: nn.Module) -> Iterator[None]:
    """Let every image of ``generator`` depend on one latent alone, in the block."""
    network: Any = generator
    share = getattr(network, "mixing", 0.0)  # only generators with a mapping network have one
    if share:
        network.mixing = 0.0
    try:
        yield
    finally:
        if share:
            network.mixing = share
