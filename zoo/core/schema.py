"""Plain data to frozen dataclasses, strictly: errors say where, and what is allowed.

Understands ``bool``, ``int``, ``float``, ``str``, ``Literal``, ``X | None`` and other unions, ``tuple[X, ...]``,
``tuple[X, Y]``, ``dict[str, X]``, dataclasses, ``Annotated[X, Range(...)]`` and any class with ``parse`` and
``plain`` methods (see ``zoo.core.schedule``). Standard library only.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from zoo.core.errors import ZooError, suggest


@dataclass(frozen=True)
class Range:
    """Bounds of a number: ``low`` and ``high`` are themselves allowed, ``above`` and ``below`` are not."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def admits(self, value: float) -> bool:
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        parts = []
        if self.above is not None:
            parts.append(f"above {self.above:g}")
        if self.low is not None:
            parts.append(f"at least {self.low:g}")
        if self.high is not None:
            parts.append(f"at most {self.high:g}")
        if self.below is not None:
            parts.append(f"below {self.below:g}")
        return " and ".join(parts)


Count = typing.Annotated[int, Range(low=1)]
Share = typing.Annotated[float, Range(low=0, high=1)]
NonNegative = typing.Annotated[float, Range(low=0)]
Positive = typing.Annotated[float, Range(above=0)]


class SchemaError(ZooError):
    """What does not fit, with the dotted path at which it stands."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)


def from_plain(kind: Any, data: Any, path: str = "") -> Any:
    """``data`` (as YAML gives it) as a ``kind``.

    Args:
        kind: a type of those named above.
        data: mappings, lists, strings, numbers, None.
        path: where ``data`` stands, for errors: ``"train.batch"``.

    Raises:
        SchemaError: an unknown or missing key, a wrong type or a value out of range: one line with the dotted path,
            what is allowed and the nearest match.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        value = from_plain(arguments[0], data, path)
        for bound in arguments[1:]:
            if isinstance(bound, Range) and not bound.admits(value):
                raise SchemaError(path, f"must be {bound}, not {value}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _build_union(kind, arguments, data, path)
    if origin is Literal:
        if data not in arguments or isinstance(data, bool) != any(data is a for a in arguments if isinstance(a, bool)):
            hint = suggest(str(data), [str(a) for a in arguments])
            raise SchemaError(path, f"must be one of {', '.join(map(str, arguments))}, not {data!r}{hint}")
        return data
    if origin is tuple:
        return _build_tuple(kind, arguments, data, path)
    if origin is dict:
        if not isinstance(data, dict):
            raise SchemaError(path, f"must be a mapping, not {data!r}")
        return {str(key): from_plain(arguments[1], value, _join(path, key)) for key, value in data.items()}
    if hasattr(kind, "parse"):
        try:
            return kind.parse(data)
        except ValueError as error:
            raise SchemaError(path, str(error)) from None
    if dataclasses.is_dataclass(kind):
        if isinstance(data, typing.cast(type, kind)):  # built already, by someone who knows more about it
            return data
        return _build_dataclass(kind, data, path)
    return _build_scalar(kind, data, path)


def to_plain(value: Any) -> Any:
    """The inverse of :func:`build`: dataclasses and tuples to mappings and lists, ready for YAML or JSON."""
    if hasattr(value, "plain"):
        return value.plain()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def _build_dataclass(kind: Any, data: Any, path: str) -> Any:
    if not isinstance(data, dict):
        raise SchemaError(path, f"must be a mapping with the keys {', '.join(_keys(kind))}, not {data!r}")
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in data:
        if key not in fields:
            raise SchemaError(
                _join(path, key), f"unknown key{suggest(str(key), fields)}; allowed here: {', '.join(_keys(kind))}"
            )
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise SchemaError(_join(path, name), "is missing")
    values = {key: from_plain(hints[key], value, _join(path, key)) for key, value in data.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise SchemaError(path, str(error)) from None


def _build_union(kind: Any, arguments: tuple[Any, ...], data: Any, path: str) -> Any:
    if data is None and type(None) in arguments:
        return None
    failures = []
    for choice in (a for a in arguments if a is not type(None)):
        try:
            return from_plain(choice, data, path)
        except SchemaError as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    words = [word for a in arguments if typing.get_origin(a) is Literal for word in typing.get_args(a)]
    raise SchemaError(path, f"must be {_describe(kind)}, not {data!r}{suggest(str(data), words)}")


def _build_tuple(kind: Any, arguments: tuple[Any, ...], data: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(data, list | tuple):
        raise SchemaError(path, f"must be {_describe(kind)}, not {data!r}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(from_plain(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(data))
    if len(data) != len(arguments):
        raise SchemaError(path, f"must be {_describe(kind)}, not {len(data)} of them")
    return tuple(from_plain(a, item, f"{path}[{i}]") for i, (a, item) in enumerate(zip(arguments, data, strict=True)))


def _build_scalar(kind: Any, data: Any, path: str) -> Any:
    if kind is float and isinstance(data, str):  # YAML 1.1 reads 2e-4 as a string
        try:
            data = float(data)
        except ValueError:
            raise SchemaError(path, f"must be a number, not {data!r}") from None
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        data = float(data)
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise SchemaError(path, f"must be {_describe(kind)}, not {data!r}")
    if kind is float and not math.isfinite(data):
        raise SchemaError(path, f"must be a finite number, not {data}")
    return data


def _describe(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _describe(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if a is type(None) else _describe(a) for a in arguments)
    if origin is Literal:
        return " or ".join(repr(a) for a in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list, each item {_describe(arguments[0])}"
        return f"a list of {len(arguments)}"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _keys(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
