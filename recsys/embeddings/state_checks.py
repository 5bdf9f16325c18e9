"""What a collection refuses to load: the state of another scheme, plan or dtype.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from recsys.errors import CheckpointError

MODULES = ("encoders", "decoders")
"""Where a collection keeps what is no table."""


def check_scheme(
    state: Mapping[str, Any],
    modules: Mapping[str, Tensor],
    groups: Collection[str],
    tables: Collection[str],
    strict: bool,
) -> None:
    """Refuses the state of another scheme, or of another plan, in a word of its own.

    Args:
        state: The collection's part of the checkpoint.
        modules: What encoders and decoders hold here.
        groups: Of the collection.
        tables: ``<group>.<table>.weight`` of the physical tables.
        strict: Whether everything must be there.

    Raises:
        CheckpointError: It belongs to other tables.
    """
    there = {
        key: value for key, value in state.items() if key.partition(".")[0] in (*groups, *MODULES)
    }
    missing = sorted({*tables, *modules} - there.keys())
    extra = sorted(there.keys() - {*tables, *modules})
    compressed = any(_is_scheme(name) for name in missing + extra)
    if compressed and (strict or (missing and extra)):
        raise CheckpointError(
            f"the checkpoint holds the tables in another scheme: expected {_some(missing)}, "
            f"got {_some(extra)}. Build the model with the compression (and the schema) of "
            "the checkpoint."
        )
    for name, held in modules.items():
        value = there.get(name, held)
        fits = value.dtype == held.dtype
        fits = fits or (value.is_floating_point() and held.is_floating_point())
        if value.shape != held.shape or not fits:
            raise CheckpointError(
                f"`{name}` of the compressed tables: expected {held.dtype} of "
                f"{tuple(held.shape)}, got {value.dtype} of {tuple(value.shape)}. Build the "
                "model with the compression of the checkpoint: its scheme, options and budget."
            )


def _is_scheme(name: str) -> bool:
    """Whether a name in a state dict is there for a scheme: full tables have none such."""
    return name.partition(".")[0] in MODULES or "@" in name


def _some(names: Sequence[str]) -> str:
    shown = [f"`{name}`" for name in names[:3]] + [f"{len(names) - 3} more"] * (len(names) > 3)
    return ", ".join(shown) or "nothing"


def check_stored(name: str, dtype: str | None, weight: Tensor, held: Tensor | None) -> None:
    """Refuses rows that are stored in another way than the table's.

    Args:
        name: Of the table.
        dtype: It is frozen in; None where it is trained.
        weight: In the checkpoint.
        held: As it is stored here, where it is frozen.

    Raises:
        CheckpointError: They differ.
    """
    if held is None:
        fits, expected = weight.is_floating_point(), "floats, for training"
    else:  # bytes of quantized rows tell int8, int4 and int2 apart
        packed = held.dtype == torch.uint8
        fits = weight.dtype == held.dtype and (not packed or weight.shape[1:] == held.shape[1:])
        expected = f"{held.dtype} rows of {held.shape[1]} (frozen in {dtype})"
    if not fits:
        raise CheckpointError(
            f"table `{name}` is held as {expected}; the checkpoint has {weight.dtype} rows of "
            f"{weight.shape[-1]}. Build the model with the `dtype` of the checkpoint (a frozen "
            "model loads as it was frozen), or freeze the trained model anew."
        )
