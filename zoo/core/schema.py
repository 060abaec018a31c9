"""Strict conversion of plain data (YAML, JSON) to frozen dataclasses.

Understands ``bool``, ``int``, ``float``, ``str``, ``Literal``, ``X | None`` and other unions, ``tuple[X, ...]``,
``tuple[X, Y]``, ``dict[str, X]``, dataclasses, ``Annotated[X, Range(...)]`` and any class with ``parse`` and
``plain`` methods (see ``zoo.core.schedule``). Every error names the dotted path and what is allowed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import operator
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from zoo.core.errors import ZooError, shorten, suggest


@dataclass(frozen=True)
class Range:
    """Bounds of a number: ``low`` and ``high`` are included, ``above`` and ``below`` are not; None: unbounded."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def admits(self, value: float) -> bool:
        """Return whether ``value`` lies within the bounds."""
        return all(compare(value, limit) for _, compare, limit in self._bounds())

    def __str__(self) -> str:
        return " and ".join(f"{words} {limit:g}" for words, _, limit in self._bounds())

    def _bounds(self) -> list[tuple[str, Callable[[float, float], bool], float]]:
        bounds = (
            ("above", operator.gt, self.above),
            ("at least", operator.ge, self.low),
            ("at most", operator.le, self.high),
            ("below", operator.lt, self.below),
        )
        return [(words, compare, limit) for words, compare, limit in bounds if limit is not None]


Count = typing.Annotated[int, Range(low=1, high=10**12)]
Share = typing.Annotated[float, Range(low=0, high=1)]
NonNegative = typing.Annotated[float, Range(low=0)]
Positive = typing.Annotated[float, Range(above=0)]


MAX_PATH = 200  # characters of a dotted path in an error
_BOOLEANS = {"yes": True, "on": True, "no": False, "off": False}  # YAML 1.1's other words


class SchemaError(ZooError):
    """A value that does not fit, with its dotted path."""

    def __init__(self, path: str, message: str) -> None:
        place = path if len(path) <= MAX_PATH else f"{path[:MAX_PATH]}..."
        super().__init__(f"{place}: {message}" if path else message)


class RangeError(SchemaError):
    """A number of the right type that is out of its bounds."""


def from_plain(kind: Any, data: Any, path: str = "") -> Any:
    """Convert ``data``, as YAML or JSON gives it, to type ``kind``.

    Args:
        kind: one of the types in the module's docstring.
        data: mappings, lists, strings, numbers, None.
        path: dotted path of ``data`` for errors, such as ``"train.batch"``.

    Raises:
        SchemaError: an unknown or missing key, a wrong type or a value out of range; one line with the dotted path,
            what is allowed and the nearest match.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        value = from_plain(arguments[0], data, path)
        for bound in arguments[1:]:
            if isinstance(bound, Range) and not bound.admits(value):
                raise RangeError(path, f"must be {bound}, not {shorten(value)}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _build_union(kind, arguments, data, path)
    if origin is Literal:
        # Types are compared too, since True == 1 in Python.
        if not any(data == choice and type(data) is type(choice) for choice in arguments):
            names = [str(choice) for choice in arguments]
            raise SchemaError(
                path, f"must be one of {', '.join(names)}, not {shorten(data)}{suggest(_word(data), names)}"
            )
        return data
    if origin is tuple:
        return _build_tuple(kind, arguments, data, path)
    if origin is dict:
        if not isinstance(data, dict):
            raise SchemaError(path, f"must be a mapping, not {shorten(data)}")
        return {str(key): from_plain(arguments[1], value, _join(path, key)) for key, value in data.items()}
    if hasattr(kind, "parse"):
        try:
            return kind.parse(data)
        except ValueError as error:
            raise SchemaError(path, str(error)) from None
    if dataclasses.is_dataclass(kind):
        # An instance was built before by a caller who knew more: zoo.recipes, which looks up architectures.
        built = isinstance(data, typing.cast(type, kind))
        return data if built else _build_dataclass(kind, data, path)
    return _build_scalar(kind, data, path)


def to_plain(value: Any) -> Any:
    """Convert dataclasses and tuples to mappings and lists for YAML or JSON; the inverse of :func:`from_plain`."""
    if hasattr(value, "plain"):
        return value.plain()
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def _build_dataclass(kind: Any, data: Any, path: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    keys = ", ".join(fields)
    if not isinstance(data, dict):
        raise SchemaError(path, f"must be a mapping with the keys {keys}, not {shorten(data)}")
    for key in data:
        if key not in fields:
            raise SchemaError(_join(path, key), f"unknown key{suggest(str(key), fields)}; allowed here: {keys}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise SchemaError(_join(path, name), "is missing")
    hints = typing.get_type_hints(kind, include_extras=True)
    values = {key: from_plain(hints[key], value, _join(path, key)) for key, value in data.items()}
    try:
        return kind(**values)
    except ValueError as error:  # raised by __post_init__
        raise SchemaError(path, str(error)) from None


def _build_union(kind: Any, arguments: tuple[Any, ...], data: Any, path: str) -> Any:
    if data is None and type(None) in arguments:
        return None
    choices = [choice for choice in arguments if choice is not type(None)]
    for choice in choices:
        try:
            return from_plain(choice, data, path)
        except RangeError:  # says more than a list of types
            raise
        except SchemaError:
            if len(choices) == 1:  # `X | None`: X's own error says more than a list of types
                raise
    words = [word for choice in choices if typing.get_origin(choice) is Literal for word in typing.get_args(choice)]
    raise SchemaError(path, f"must be {describe_type(kind)}, not {shorten(data)}{suggest(_word(data), words)}")


def _build_tuple(kind: Any, arguments: tuple[Any, ...], data: Any, path: str) -> tuple[Any, ...]:
    any_length = arguments[-1] is Ellipsis
    if not isinstance(data, list | tuple) or not (any_length or len(data) == len(arguments)):
        raise SchemaError(path, f"must be {describe_type(kind)}, not {shorten(data)}")
    if any_length:
        arguments = arguments[:1] * len(data)
    return tuple(from_plain(a, item, f"{path}[{i}]") for i, (a, item) in enumerate(zip(arguments, data, strict=True)))


def _build_scalar(kind: Any, data: Any, path: str) -> Any:
    if kind is float and isinstance(data, str | int) and not isinstance(data, bool):
        with contextlib.suppress(ValueError, OverflowError):  # reported below as a wrong type
            data = float(data)  # YAML 1.1 reads 2e-4 as a string
    if kind is bool and isinstance(data, str):
        data = _BOOLEANS.get(data.lower(), data)  # text to zoo.core.yaml_io: they may also name a column or a class
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise SchemaError(path, f"must be {describe_type(kind)}, not {shorten(data)}")
    if kind is float and not math.isfinite(data):
        raise SchemaError(path, f"must be a finite number, not {data}")
    return data


def describe_type(kind: Any) -> str:
    """Name a type in words, for an error or a table."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if hasattr(kind, "described"):
        return kind.described
    if origin is typing.Annotated:
        return describe_type(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(describe_type, arguments))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list, each item {describe_type(arguments[0])}"
        return f"a list of {len(arguments)}"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    return names.get(kind, str(kind))


def _word(data: Any) -> str:
    """Return what a suggestion is looked up for: only words and numbers have any."""
    return str(data) if isinstance(data, str | bool | float) else ""


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
