"""From trained tables to tables that are only served.

Stability: caller
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.packed_store import PackedStore
from recsys.embeddings.row_format import check_dtype, stored_dtype
from recsys.embeddings.scheme import Dtype, Successor
from recsys.embeddings.store import LocalStore
from recsys.errors import ConfigError

logger = logging.getLogger(__name__)


def freeze(collection: EmbeddingCollection, dtype: Dtype = "fp32") -> EmbeddingCollection:
    """A collection for serving only: every table as its scheme serves it, rows in a dtype.

    Frozen in fp32, it gives what the collection gives in eval mode without gradients, bit for
    bit. Tables are quantized some rows at a time, so the peak is the sum of both collections.
    Widths where quantized rows would not be smaller than fp16 are stored in fp16
    (`recsys.embeddings.row_format.stored_dtype`).

    Args:
        collection: After the last phase; unchanged. Sharded tables are gathered: call it on every
            rank, and each gets the whole.
        dtype: How rows are stored, unless a scheme says otherwise for its own.

    Returns:
        On the device of ``collection``; the CPU where it is sharded. ``bytes("infer")`` is what
        ``collection.bytes("infer", dtype=dtype)`` said, wherever the size was known then.

    Raises:
        ConfigError: The collection is frozen in another dtype than fp32 already, a scheme refuses
            the dtype, a width does not fit it, or a value is not finite.

    Example:
        >>> from recsys.schema import TableSpec
        >>> table = TableSpec(name="user", num_embeddings=10, embedding_dim=16,
        ...                   feature_names=("user",), pooling="sum")
        >>> tables = EmbeddingCollection({"embedding": [table]}, keys=("user",))
        >>> freeze(tables, "int4").bytes().total
        120
    """
    dtype = check_dtype(dtype)
    if collection.dtype not in (None, "fp32"):
        raise ConfigError(
            f"the tables are frozen already, in {collection.dtype}. Freeze the model they were "
            "frozen from: rounding twice loses twice."
        )
    for name, scheme in collection.schemes.items():
        try:
            scheme.check_dtype(dtype)
        except ConfigError as error:
            raise ConfigError(f"table `{name}`: {error}") from None
    collection.bytes("infer", dtype=dtype)  # refuses widths before the work is done
    successors = {
        name: trained.scheme.frozen(trained) for name, trained in collection.trained().items()
    }
    device = collection.store.device if isinstance(collection.store, LocalStore) else "cpu"
    schemes = {name: successor.scheme for name, successor in successors.items()}
    frozen = EmbeddingCollection(collection.groups, collection.keys, device, schemes, dtype)
    _fill(frozen, successors)
    _say_narrow(frozen, dtype)
    return frozen.eval()


def _say_narrow(frozen: EmbeddingCollection, dtype: Dtype) -> None:
    """Names widths that stay in fp16."""
    widths = {
        table.spec.embedding_dim
        for table in frozen.store.tables
        if stored_dtype(dtype, table.spec.embedding_dim) != dtype
    }
    if widths:
        logger.info(
            "rows of width %s stay in fp16: with scale and bias, %s would take no fewer bytes",
            ", ".join(map(str, sorted(widths))),
            dtype,
        )


def _fill(frozen: EmbeddingCollection, successors: Mapping[str, Successor]) -> None:
    """Writes tables, encoders and decoders. A table of several schemes is written once."""
    assert isinstance(frozen.store, PackedStore)
    written: set[str] = set()
    for group, specs in frozen.groups.items():
        for spec in specs:
            successor = successors[f"{group}.{spec.name}"]
            with torch.device("meta"):
                probes = frozen.schemes[f"{group}.{spec.name}"].part(spec).probes
            weights = successor.probes or ()
            grids = successor.grids or (None,) * len(weights)
            for probe, weight, grid in zip(probes, weights, grids, strict=True):
                name = f"{group}.{probe.name}"
                if name not in written:
                    frozen.store.load_weights({name: weight}, {name: grid})
                    written.add(name)
            place = f"{group}/{spec.name}"
            _load(frozen.encoders, place, successor.encoder)
            _load(frozen.decoders, place, successor.decoder)


def _load(modules: nn.ModuleDict, name: str, state: Mapping[str, Tensor] | None) -> None:
    if name in modules and state is not None:
        modules[name].load_state_dict(state)
