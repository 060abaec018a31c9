"""The package's only YAML reader; it rejects duplicate keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from zoo.core.errors import ZooError, error_reason


def read_yaml(path: Path, what: str = "a recipe") -> dict[str, Any]:
    """Read the mapping in a YAML file; ``what`` names its content in errors.

    Raises:
        ZooError: the file cannot be read, is not YAML, has a duplicate key, or holds no mapping.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise ZooError(f"{path}: cannot be read ({error_reason(error)})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ZooError(f"{path}{line}: is not YAML ({getattr(error, 'problem', None) or 'not text'})") from None
    if not isinstance(data, dict):
        raise ZooError(f"{path}: {what} must be a mapping of keys to values")
    return data


class _UniqueKeyLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A safe loader that rejects a repeated key, of which plain YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key, _ in node.value:
            if str(key.value) in keys:
                problem = f"the key {key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            keys.add(str(key.value))
        return super().construct_mapping(node, deep)
