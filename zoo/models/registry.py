"""Architectures by name: a dict, one function that fills it, and discovery by placement.

An *architecture* is one file in ``zoo/models`` that ends with a call of :func:`register`; putting the file there is all
it takes. A *recipe* (``recipes/lean-256.yaml``) names architectures and says how to train them; see ``zoo.recipes``.

This module needs the standard library only. The files in ``zoo/models`` import torch, so they are imported inside the
look-up, never at the top.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.core.config import NetworkConfig
    from zoo.models.base import Discriminator, Generator


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A generator and a discriminator that were designed together, and what their networks are configured by."""

    name: str
    generator_config: type[NetworkConfig]
    generator: type[Generator]
    discriminator_config: type[NetworkConfig]
    discriminator: type[Discriminator]
    paper: str  # who described it and where: "Radford et al. 2016, arXiv:1511.06434"


_architectures: dict[str, Architecture] = {}


def register_architecture(
    name: str,
    *,
    generator: tuple[type[NetworkConfig], type[Generator]],
    discriminator: tuple[type[NetworkConfig], type[Discriminator]],
    paper: str,
) -> None:
    """Make an architecture known under ``name``. Called once, at the end of its file in ``zoo/models``.

    Args:
        name: what recipes write after ``arch:``; the file's own name.
        generator: the generator's config class and the generator class.
        discriminator: the same for the discriminator.
        paper: authors, year and source, in one line.

    Raises:
        ValueError: the name is taken by another architecture.
    """
    if name in _architectures:
        raise ValueError(f"two architectures are called {name!r}: {_architectures[name].generator} and {generator[1]}")
    _architectures[name] = Architecture(
        name=name,
        generator_config=generator[0],
        generator=generator[1],
        discriminator_config=discriminator[0],
        discriminator=discriminator[1],
        paper=paper,
    )


def list_architectures() -> list[str]:
    """Names of all architectures, sorted."""
    _discover()
    return sorted(_architectures)


def get_architecture(name: str) -> Architecture:
    """The architecture called ``name``.

    Raises:
        KeyError: unknown name; :func:`list_architectures` lists the known ones.
    """
    _discover()
    return _architectures[name]


def _discover() -> None:
    import zoo.models

    for module in pkgutil.iter_modules(zoo.models.__path__):
        importlib.import_module(f"zoo.models.{module.name}")
