"""Network architectures, and the contract that they fulfil."""

from zoo.core.config import ImageSpec, LatentSpec, NetworkConfig
from zoo.models.base import Discriminator, Generator

__all__ = ["Discriminator", "Generator", "ImageSpec", "LatentSpec", "NetworkConfig"]
