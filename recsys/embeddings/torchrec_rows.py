"""Rows one by one from tables that torchrec trains densely, on CPUs.

Stability: internal
"""

from __future__ import annotations

import bisect
import functools
from typing import Any

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    DenseTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn
from torch.nn import functional


def mend_dense_rows(module: nn.Module) -> None:
    """Replaces the lookup of FBGEMM's dense kernel where it should not pool, on CPUs.

    In fbgemm-gpu 1.8.0 it sums the bags there although ``PoolingMode.NONE`` is asked for, which is
    right only if every bag has one id. Row-wise shards get bags without any, and torchrec ends in
    "Split sizes doesn't match total dim 0 size".

    Args:
        module: Sharded; its kernels are changed in place.
    """
    # Collections hold their lookups in a plain list.
    lookups = (each for part in module.modules() for each in getattr(part, "_lookups", ()))
    for kernel in (kernel for lookup in lookups for kernel in lookup.modules()):
        if (
            isinstance(kernel, DenseTableBatchedEmbeddingBagsCodegen)
            and kernel.use_cpu
            and kernel.pooling_mode == PoolingMode.NONE
        ):
            setattr(kernel, "forward", functools.partial(_rows, kernel))  # noqa: B010, as typed


def _rows(
    kernel: DenseTableBatchedEmbeddingBagsCodegen, indices: Tensor, offsets: Tensor, *_: Any
) -> Tensor:
    """The rows of all features, (L, D), feature after feature.

    Args:
        kernel: Has the weights of all its tables in one vector.
        indices: (L,).
        offsets: (F x B + 1,).
    """
    first = kernel.weights_offsets.tolist()
    size = (len(offsets) - 1) // len(first)
    ends = offsets[::size].tolist() if size else [0] * (len(first) + 1)
    found = []
    for position, start, end in zip(first, ends, ends[1:]):
        # The last table that begins there: those before it have no rows on this rank.
        table = bisect.bisect_right(kernel.weights_physical_offsets[:-1], position) - 1
        rows, dim = kernel.embedding_specs[table]
        weights = kernel.weights[position : position + rows * dim].view(rows, dim)
        found.append(functional.embedding(indices[start:end], weights))
    return torch.cat(found)
