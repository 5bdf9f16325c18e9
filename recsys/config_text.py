"""YAML and JSON text to plain values and back, and `a.b=c` overrides. Knows no field names.

The YAML read here is the 1.2 core schema: ``no`` and ``off`` are text (a true/false field turns
them into false), ``1e-3`` is a number, ``12:30`` is text, and ``010`` stays text, so that a text
field keeps it and a number field reads ten, never eight. A key that is written twice is an error,
and no Python object can be made.

Stability: internal
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode

from recsys.errors import ConfigError, did_you_mean

_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"0|[-+]?[1-9][0-9]*|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)\.[0-9]*)([eE][-+]?[0-9]+)?"
        r"|[-+]?(0|[1-9][0-9]*)[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - PyYAML's own attribute

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuses a key that is written twice; PyYAML keeps the last."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ConstructorError(
                    None, None, f"a key must be text, got {key!r}", key_node.start_mark
                )
            if key in seen:
                raise ConstructorError(
                    None, None, f"key `{key}` is written twice; keep one", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_float(self, node: Any) -> float:
        """`1e-3` as well as `1.0e-3`."""
        text = str(self.construct_scalar(node)).lower()
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))


class _Dumper(yaml.SafeDumper):
    """Quotes whatever this loader or a YAML 1.1 reader would not read as text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        first: list(found) for first, found in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: object) -> bool:
        """Equal lists are written out, not referenced."""
        return True


for _tag, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first
        )
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def read_mapping(path: Path) -> dict[str, Any]:
    """The content of a configuration file.

    Args:
        path: A YAML or JSON file.

    Raises:
        ConfigError: The file is missing, is not text, is malformed, has a key twice or does not
            hold a mapping.
    """
    if not path.is_file():
        folder = path.parent
        names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        endings = (".yaml", ".yml", ".json")
        near = [n for n in names if n.endswith(endings) and not n.startswith(".")]
        hint = did_you_mean(path.name, near) if near else "Give the path of a YAML file."
        raise ConfigError(f"{path}: there is no such file. {hint}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: expected UTF-8 text, got byte {error.start} that is not. Save it as UTF-8."
        ) from None
    value = _parse_json(text, str(path)) if path.suffix == ".json" else parse(text, str(path))
    if not isinstance(value, dict):
        got = "an empty file" if value is None else f"a {type(value).__name__}"
        raise ConfigError(
            f"{path}: expected a mapping with `dataset:` and `model:`, got {got}. "
            "See configs/ for examples."
        )
    return value


def parse(text: str, origin: str) -> Any:
    """One YAML document as plain values.

    Args:
        text: YAML.
        origin: What to call the text in errors.

    Raises:
        ConfigError: The text is malformed or has a key twice.

    Example:
        >>> parse("{rate: 1e-3, flag: no, code: 010, at: 12:30}", "example")
        {'rate': 0.001, 'flag': 'no', 'code': '010', 'at': '12:30'}
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{origin}{place}: {error.problem or error.context}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not YAML: {error}.") from None


def _parse_json(text: str, origin: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ConfigError(f"{origin}: key `{key}` is written twice; keep one.")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{origin}, line {error.lineno}, column {error.colno}: {error.msg}."
        ) from None


def to_text(value: Mapping[str, Any], suffix: str) -> str:
    r"""Plain values as text that reads back equal.

    Args:
        value: The mapping.
        suffix: ``.json``, else YAML.

    Example:
        >>> to_text({"a": "no", "b": "1e-3", "c": [1, 2]}, ".yaml")
        "a: 'no'\nb: '1e-3'\nc: [1, 2]\n"
    """
    if suffix == ".json":
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True
    )


def override(data: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A copy of the values with dotted paths set.

    Args:
        data: Content of a configuration file.
        settings: ``place=value`` each, the value in YAML; a later one wins.

    Raises:
        ConfigError: A setting has no ``=``, an empty place, or goes through a value that holds
            nothing.

    Example:
        >>> override({"train": {"batch_size": 1}}, ["train.batch_size=64", "model.hidden=[8, 4]"])
        {'train': {'batch_size': 64}, 'model': {'hidden': [8, 4]}}
    """
    result = _copy(data)
    for setting in settings:
        place, equals, text = setting.partition("=")
        parts = place.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(
                f"--set {setting}: expected `place=value`, say `train.batch_size=1024`."
            )
        _set(result, parts, parse(text, f"--set {setting}"), f"--set {setting}")
    return result


def put(data: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the values with dotted paths set to plain values.

    Args:
        data: Content of a configuration file.
        values: By place.

    Raises:
        ConfigError: A place goes through a value that holds nothing.

    Example:
        >>> put({"train": {"batch_size": 1}}, {"train.batch_size": 64})
        {'train': {'batch_size': 64}}
    """
    result = _copy(data)
    for place, value in values.items():
        _set(result, place.split("."), _copy(value), f"{place}={value!r}")
    return result


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value


def _set(node: Any, parts: list[str], value: Any, origin: str) -> None:
    for depth, part in enumerate(parts):
        here = ".".join(parts[:depth])
        last = depth == len(parts) - 1
        if isinstance(node, dict):
            if last:
                node[part] = value
            elif node.get(part) is None:
                node[part] = {}
            node = node[part]
        elif isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                raise ConfigError(
                    f"{origin}: `{here}` is a list of {len(node)}; expected a position "
                    f"from 0 to {len(node) - 1}, got `{part}`."
                )
            if last:
                node[int(part)] = value
            node = node[int(part)]
        else:
            raise ConfigError(
                f"{origin}: `{here}` is {node!r} and holds no `{part}`. Set `{here}` as a whole."
            )
