"""The package's only YAML reader, for files and for values on the command line.

It is stricter than YAML 1.1. A repeated key is an error. Plain words are numbers, true, false or null only in the forms
that everybody reads alike: ``017``, ``12:30:45``, ``1_000``, ``0x10``, ``yes`` and ``2020-01-01`` stay text, and
``zoo.core.schema`` decides whether a text fits where it stands. What a file may hold is bounded: depth, number of
values, aliases (which stand for copies) and tags.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from zoo.core.errors import ZooError, error_reason, shorten

MAX_BYTES = 10_000_000
MAX_VALUES = 100_000  # keys and values, with aliases as often as they stand for their content
MAX_DEPTH = 50

_Node = yaml.Node


def read_yaml(path: Path, what: str = "a recipe") -> dict[str, Any]:
    """Read the mapping in a YAML file; ``what`` names its content in errors.

    Raises:
        ZooError: the file cannot be read, is not YAML, is too large, has a duplicate key, or holds no mapping.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ZooError(f"{path}: cannot be read ({error_reason(error)})") from None
    if len(content) > MAX_BYTES:
        raise ZooError(f"{path}: is larger than {MAX_BYTES / 1e6:g} MB, which {what} never is")
    try:
        data = parse_yaml(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ZooError(f"{path}: is not YAML (not text in UTF-8)") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ZooError(f"{path}{line}: is not YAML ({yaml_problem(error)})") from None
    if not isinstance(data, dict):
        raise ZooError(f"{path}: {what} must be a mapping of keys to values")
    return data


def parse_yaml(text: str) -> Any:
    """Return the plain data of a YAML text: mappings, lists, text, numbers, true, false, null.

    Raises:
        yaml.YAMLError: not YAML, or more than this module's limits; :func:`yaml_problem` says why in a few words.
    """
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of the command line that are no UTF-8
        raise yaml.YAMLError("not text in UTF-8") from None
    depth = 0
    # Events come one by one, so that nothing is built of a text that breaks a limit.
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise _problem(f"nested deeper than {MAX_DEPTH}", event)
        if count > 2 * MAX_VALUES:
            raise _problem(f"more than {MAX_VALUES:,} values", event)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {})
        return loader.construct_document(node)
    except (ValueError, OverflowError, RecursionError) as error:  # a constructor that fails, as of 5000 digits
        raise yaml.YAMLError(error_reason(error)) from None
    finally:
        loader.dispose()


def yaml_problem(error: yaml.YAMLError) -> str:
    """Return what is wrong in a few words."""
    return getattr(error, "problem", None) or str(error).partition("\n")[0] or "not text"


def _problem(text: str, at: Any) -> yaml.YAMLError:
    """Return an error at the place of an event or a node."""
    return yaml.MarkedYAMLError(problem=text, problem_mark=at.start_mark)


def _count_values(node: _Node, counts: dict[int, int | None]) -> int:
    """Count a node and all below it, an alias as often as it stands for its content."""
    if id(node) in counts:
        if (known := counts[id(node)]) is None:
            raise _problem("an alias that contains itself", node)
        return known
    counts[id(node)] = None
    total = 1
    if isinstance(node, yaml.CollectionNode):
        for item in node.value:
            total += sum(_count_values(part, counts) for part in (item if isinstance(item, tuple) else (item,)))
    if total > MAX_VALUES:
        raise _problem(f"more than {MAX_VALUES:,} values, aliases included", node)
    counts[id(node)] = total
    return total


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A safe loader that rejects repeated keys, of which plain YAML silently takes the last, and other tags."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (filled below)
    yaml_constructors: dict[str | None, Any] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem("a key that is not a word or a number", key)
            if key.value in keys:
                raise _problem(f"the key {shorten(key.value)} stands twice", key)
            keys.add(key.value)
        return super().construct_mapping(node, deep)

    def reject_tag(self, node: _Node) -> Any:
        raise _problem(f"the tag {shorten(node.tag)}, which stands for no plain value", node)

    def construct_number(self, node: yaml.ScalarNode) -> int | float | bool | None:
        """Construct what the patterns below recognise; a tag before another text is an error."""
        kind = node.tag.rpartition(":")[2]
        if not _PATTERNS[kind].fullmatch(node.value):
            raise _problem(f"{shorten(node.value)} is no {kind}", node)
        if kind == "null":
            return None
        if kind == "bool":
            return node.value.lower() == "true"
        return (
            int(node.value)
            if kind == "int"
            else float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))
        )


_PATTERNS = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?(0|[1-9][0-9]*)"),
    # The dot is required, as in YAML 1.1: what that version writes as plain text must stay text.
    "float": re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
}
_TAG = "tag:yaml.org,2002:"
_Loader.add_constructor(None, _Loader.reject_tag)
for _kind in ("str", "seq", "map"):
    _Loader.add_constructor(f"{_TAG}{_kind}", yaml.SafeLoader.yaml_constructors[f"{_TAG}{_kind}"])
for _kind, _pattern in {**_PATTERNS, "merge": re.compile("<<")}.items():
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(rf"^(?:{_pattern.pattern})$"), None)
    if _kind != "merge":
        _Loader.add_constructor(f"{_TAG}{_kind}", _Loader.construct_number)
