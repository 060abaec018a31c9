"""Architectures by name, discovered by file or registered by plug-ins.

An *architecture* is one file in ``zoo/models`` that ends with a call of :func:`register_architecture`; placing the file
there is enough. A *recipe* (``recipes/lean-256.yaml``) names architectures and how to train them (``zoo.recipes``).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, is_dataclass

import zoo.models
from zoo.core.plugins import import_modules
from zoo.core.registry import Registry
from zoo.models import Discriminator, Generator, NetworkConfig


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A generator and a discriminator of one design, with their config classes."""

    name: str
    generator_config: type[NetworkConfig]
    generator: type[Generator]
    discriminator_config: type[NetworkConfig]
    discriminator: type[Discriminator]
    paper: str  # authors, year and source: "Radford et al. 2016, arXiv:1511.06434"


def _discover() -> None:  # on first use: importing all architectures takes longer than importing this module
    import_modules(zoo.models)


ARCHITECTURES: Registry[Architecture] = Registry("architecture", _discover)


def register_architecture(
    name: str,
    *,
    generator: tuple[type[NetworkConfig], type[Generator]],
    discriminator: tuple[type[NetworkConfig], type[Discriminator]],
    paper: str = "",
) -> None:
    """Register an architecture as ``name``, at the end of its file in ``zoo/models`` or of a plug-in.

    Args:
        name: value of ``arch:`` in recipes.
        generator: the generator's config class and the generator class; built as ``Class(config, image)``.
        discriminator: the same for the discriminator.
        paper: authors, year and source, in one line.

    Raises:
        TypeError: a class does not derive from the one it must.
        ValueError: another architecture has this name.
    """
    _check_classes(f"the generator of {name!r}", *generator, Generator)
    _check_classes(f"the discriminator of {name!r}", *discriminator, Discriminator)
    architecture = Architecture(
        name=name,
        generator_config=generator[0],
        generator=generator[1],
        discriminator_config=discriminator[0],
        discriminator=discriminator[1],
        paper=paper,
    )
    ARCHITECTURES.register(name, architecture, generator[1])


def _check_classes(where: str, config: object, network: object, base: type) -> None:
    if not (isinstance(config, type) and issubclass(config, NetworkConfig)):
        raise TypeError(f"{where}: {_name(config)} is no config; derive it from zoo.models.NetworkConfig")
    if not is_dataclass(config) or (inspect.get_annotations(config) and "__dataclass_fields__" not in vars(config)):
        raise TypeError(f"{where}: the config {_name(config)} lacks @dataclass(frozen=True, kw_only=True)")
    if not (isinstance(network, type) and issubclass(network, base)):
        raise TypeError(f"{where}: {_name(network)} must derive from zoo.models.{base.__name__}")


def _name(kind: object) -> str:
    return getattr(kind, "__name__", repr(kind))


def list_architectures() -> list[str]:
    """List the names of all architectures, sorted."""
    return sorted(ARCHITECTURES)


def get_architecture(name: str) -> Architecture:
    """Return the architecture called ``name``.

    Raises:
        KeyError: unknown name; :func:`list_architectures` lists the known ones.
    """
    return ARCHITECTURES[name]
