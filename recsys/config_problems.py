"""What pydantic found wrong with a configuration, in plain words and all at once.

Stability: internal
"""

from __future__ import annotations

import difflib
import inspect
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from recsys.errors import RecsysError, did_you_mean

_WHOLE = "a whole number"
_BLOCK = "a block of fields"
_EXPECTED = {
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing_size": _WHOLE,
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": _BLOCK,
    "mapping_type": _BLOCK,
    "model_type": _BLOCK,
    "model_attributes_type": _BLOCK,
    "none_required": "null",
    "literal_error": "{expected}",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
    "string_too_short": "text of at least {min_length} letters",
    "string_pattern_mismatch": "text like {pattern}",
}


def describe(error: ValidationError, root: type[BaseModel], data: Any) -> list[tuple[str, str]]:
    """Every problem as its dotted place and one sentence that names the place.

    Args:
        error: What pydantic raised.
        root: The class that was validated. A class with a ``block_type(value)`` classmethod is
            described by the class that this returns for the raw value.
        data: The raw values.

    Example:
        >>> class Train(BaseModel, extra="forbid"):
        ...     batch_size: int = 1
        >>> try:
        ...     Train.model_validate({"batch_sise": 2})
        ... except ValidationError as error:
        ...     print(describe(error, Train, {"batch_sise": 2})[0][1])
        `batch_sise` is not a field of Train. Did you mean `batch_size`?
    """
    found: dict[str, list[str]] = {}
    shown: dict[str, str] = {}
    sentences: list[tuple[str, str]] = []
    for item in error.errors(include_url=False):
        kind, context, value = item["type"], item.get("ctx", {}), item["input"]
        path, owners, types_here = _walk(root, data, item["loc"])
        place = ".".join(path)
        if kind == "extra_forbidden":
            sentences.append((place, _unknown(place, path[-1], owners)))
        elif kind == "missing":
            sentences.append((place, f"`{place}` is missing. {_fields_help(owners)}".strip()))
        elif kind.startswith("union_tag"):
            name = str(context["discriminator"]).strip("'")
            tags = _tags(types_here, name)
            tag = value.get(name) if isinstance(value, Mapping) else None
            got = f"got {_show(tag)}. {did_you_mean(str(tag), tags)}" if tag else "it is missing."
            expected = ", ".join(f"`{t}`" for t in tags)
            sentences.append((place, f"`{place}.{name}`: expected one of {expected}; {got}"))
        elif kind in _EXPECTED:
            expected = _EXPECTED[kind].format(**context)
            found.setdefault(place, []).append(expected)
            shown[place] = f"got {_show(value)}.{_hint(kind, value, types_here)}"
        else:
            cause = context.get("error")
            text = str(cause) if cause is not None else item["msg"]
            prefix = "" if not place or text.startswith(f"{place}:") else f"`{place}`: "
            own = isinstance(cause, RecsysError) or text.endswith(".")
            sentences.append((place, prefix + text + ("" if own else ".")))
    for place, expected in found.items():
        wanted = " or ".join(dict.fromkeys(expected))
        sentences.append((place, f"`{place}`: expected {wanted}, {shown[place]}"))
    return sentences


def _unknown(place: str, name: str, owners: Sequence[type[BaseModel]]) -> str:
    names = [n for owner in owners for n in _names(owner)]
    classes = " or ".join(owner.__qualname__.lstrip("_") for owner in owners)
    known = did_you_mean(name, dict.fromkeys(names)) or "It has no fields."
    return f"`{place}` is not a field of {classes}. {known}"


def _fields_help(owners: Sequence[type[BaseModel]]) -> str:
    needed = [
        field.alias or name
        for owner in owners
        for name, field in owner.model_fields.items()
        if field.is_required()
    ]
    names = ", ".join(f"`{name}`" for name in dict.fromkeys(needed))
    owner = " or ".join(owner.__qualname__ for owner in owners)
    return f"{owner} needs {names}." if needed else ""


def _names(owner: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in owner.model_fields.items()]


def _show(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a block with " + (", ".join(f"`{key}`" for key in list(value)[:5]) or "nothing")
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def _hint(kind: str, value: Any, types_here: Sequence[Any]) -> str:
    if kind == "string_type" and isinstance(value, bool | int | float):
        return " Put it in quotes to make it text."
    if kind in ("model_type", "model_attributes_type") and isinstance(value, str):
        tags = _tags(types_here, "kind")
        close = difflib.get_close_matches(value, tags, n=1)
        return f" Did you mean `{{kind: {close[0]}}}`?" if close else ""
    if kind == "literal_error" and isinstance(value, str):
        words = [w for t in types_here if get_origin(t) is Literal for w in get_args(t)]
        close = did_you_mean(value, [str(word) for word in words])
        return f" {close}" if close.startswith("Did") else ""
    return ""


def booleans_for_numbers(root: type[BaseModel], data: Any) -> list[tuple[str, str]]:
    """Places with ``true`` where a number belongs; pydantic would read it as 1.

    Args:
        root: The class that is validated.
        data: The raw values.

    Example:
        >>> class Train(BaseModel):
        ...     patience: int | None = None
        >>> booleans_for_numbers(Train, {"patience": True})
        [('patience', '`patience`: expected a whole number, got true.')]
    """
    return list(_booleans([root], data, ()))


def _booleans(here: Sequence[Any], value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, bool):
        numbers = {int, float} & {t for t in here if inspect.isclass(t)}
        if numbers and bool not in here:
            place = ".".join(path)
            expected = _WHOLE if int in numbers else "a number"
            yield place, f"`{place}`: expected {expected}, got {_show(value)}."
        return
    inside: Any = value.items() if isinstance(value, Mapping) else ()
    for key, item in enumerate(value) if isinstance(value, list | tuple) else inside:
        below = [t for annotation in here for t in _step(annotation, key, value)]
        yield from _booleans(below, item, (*path, str(key)))


# ------------------------------------------------------------------- from a place to its classes


def _walk(
    root: type[BaseModel], data: Any, loc: Sequence[str | int]
) -> tuple[list[str], list[type[BaseModel]], list[Any]]:
    """The place without pydantic's union tags, the classes that own its last name, its types."""
    here: list[Any] = [root]
    owners: list[type[BaseModel]] = [root]
    path: list[str] = []
    for number, key in enumerate(loc):
        below = [t for annotation in here for t in _step(annotation, key, data)]
        known = isinstance(data, Mapping) and key in data
        last = number == len(loc) - 1
        if not below and not known and not (last and isinstance(key, str) and _is_block(here)):
            here = _narrow(here, str(key))
            continue
        owners = [_block(t, data) for t in here if _is_model(t)] or owners
        path.append(str(key))
        here = below
        data = _below(data, key)
    return path, owners, here


def _below(data: Any, key: str | int) -> Any:
    if isinstance(data, Mapping):
        return data.get(key)
    if isinstance(data, list | tuple) and isinstance(key, int) and key < len(data):
        return data[key]
    return None


def _is_model(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, BaseModel)


def _is_block(here: Sequence[Any]) -> bool:
    return bool(here) and all(_is_model(annotation) for annotation in here)


def _block(annotation: Any, value: Any) -> type[BaseModel]:
    block_type = getattr(annotation, "block_type", None)
    return block_type(value) if block_type is not None else annotation


def _flat(annotation: Any) -> list[Any]:
    """The members of a union, annotations taken off."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _flat(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [t for member in get_args(annotation) for t in _flat(member)]
    return [annotation]


def _step(annotation: Any, key: str | int, value: Any) -> list[Any]:
    """Types below one type."""
    if _is_model(annotation):
        for name, field in _block(annotation, value).model_fields.items():
            if key in (name, field.alias):
                return _flat(field.annotation)
        return []
    origin, arguments = get_origin(annotation), get_args(annotation)
    if not inspect.isclass(origin) or not arguments:
        return []
    if issubclass(origin, Mapping):
        return _flat(arguments[1])
    if issubclass(origin, Sequence) and isinstance(key, int):
        fixed = issubclass(origin, tuple) and arguments[-1] is not Ellipsis
        return _flat(arguments[min(key, len(arguments) - 1) if fixed else 0])
    return []


def _narrow(here: Sequence[Any], tag: str) -> list[Any]:
    """Members of a union that pydantic's tag in the place stands for."""
    fitting = [
        annotation
        for annotation in here
        if _is_model(annotation)
        and (
            annotation.__name__ == tag
            or any(field.default == tag for field in annotation.model_fields.values())
        )
    ]
    return fitting or list(here)


def _tags(types_here: Sequence[Any], name: str) -> list[str]:
    models = [annotation for annotation in types_here if _is_model(annotation)]
    return [
        str(tag)
        for model in models
        if name in model.model_fields
        for tag in get_args(model.model_fields[name].annotation)
    ]
