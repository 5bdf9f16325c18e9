"""Training batches of aspect models: pairs of items that are alike, all of one aspect.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import torch
import xxhash
from scipy.sparse import csr_array
from torch import Tensor

from recsys.errors import DataError
from recsys.graph.aspects import AspectTable
from recsys.graph.epoch_loader import EpochLoader


@dataclasses.dataclass(frozen=True, slots=True)
class AspectBatch:
    """Pairs of items that share a label of one aspect.

    Args:
        aspect: Its number.
        anchor: Items.
        positive: Another item of a label of each.
        alike: Whether the anchor of the row shares a label of the aspect with the positive of the
            column.

    Shape:
        - anchor, positive: (B,) int64
        - alike: (B, B) bool
    """

    aspect: int
    anchor: Tensor
    positive: Tensor
    alike: Tensor

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self.anchor)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> AspectBatch:
        """The same batch on another device."""
        moved = (tensor.to(device, non_blocking=non_blocking)
                 for tensor in (self.anchor, self.positive, self.alike))  # fmt: skip
        return AspectBatch(self.aspect, *moved)


class AspectLoader(EpochLoader[AspectBatch]):
    """Iterates over the batches of one epoch; every ``for`` is one pass.

    In an epoch every training item is the anchor once for each of its labels that another training
    item has too; the other one is drawn. A batch has pairs of one aspect, so that what is told
    apart within it is that aspect. Batches of all aspects come in random order.

    Args:
        table: Items and labels.
        batch_size: Pairs of a batch at most.
        seed: Of the order and of all draws.
        device: Where batches go.

    Raises:
        DataError: No two training items share a label.
        ConfigError: A number is out of range.
    """

    unit: ClassVar[str] = "pairs"

    def __init__(
        self,
        table: AspectTable,
        batch_size: int = 256,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._table, self._device = table, device
        self._has = [table.has_label(aspect, "train") for aspect in table.aspects]
        of_label = [csr_array(has.T.tocsr()) for has in self._has]
        self._of_label = of_label
        self._anchors, self._batches = [], []
        for aspect, name in enumerate(table.aspects):
            item, label = table.labels_in(name, "train")
            shared = np.diff(of_label[aspect].indptr)[label] > 1
            self._anchors.append(np.stack([item[shared], label[shared]]))
            count = int(shared.sum())
            parts = np.array_split(np.arange(count), max(1, -(-count // max(1, batch_size))))
            self._batches += [(aspect, part[0], part[-1] + 1) for part in parts if len(part)]
        if not self._batches:
            raise DataError(
                "no two training items share a label: there is nothing to learn. Give more items, "
                "or raise rule.max_items."
            )
        super().__init__(len(self._batches) * batch_size, batch_size, seed, 0, 1)
        self._mixed: tuple[int, list[np.ndarray]] | None = None
        both = np.concatenate([anchors.ravel() for anchors in self._anchors])
        self._fingerprint = xxhash.xxh64(np.ascontiguousarray(both).data).hexdigest()

    def order(self, epoch: int) -> Tensor:
        """See `EpochLoader`: the order of the batches."""
        return torch.randperm(len(self._batches), generator=self.generator(epoch))

    def batch(self, epoch: int, start: int, order: Tensor | None) -> AspectBatch:
        """See `EpochLoader`."""
        assert order is not None
        number = int(order[start // self.batch_size])
        aspect, first, last = self._batches[number]
        item, label = self._anchors[aspect][:, self._permutation(epoch, aspect)[first:last]]
        of_label = self._of_label[aspect]
        begin, count = of_label.indptr[label], np.diff(of_label.indptr)[label]
        drawn = torch.rand(len(item), generator=self.generator(epoch, 1, number)).numpy()
        # One of the others of the label: places behind the anchor's own move up by one.
        place = (drawn * (count - 1)).astype(np.int64)
        own = np.array([np.searchsorted(of_label.indices[b : b + c], i)
                        for b, c, i in zip(begin, count, item)])  # fmt: skip
        other = of_label.indices[begin + place + (place >= own)].astype(np.int64)
        has = self._has[aspect]
        alike = (has[item] @ has[other].T).toarray() > 0
        batch = AspectBatch(
            aspect, torch.from_numpy(item), torch.from_numpy(other), torch.from_numpy(alike)
        )
        return batch.to(self._device)

    def _permutation(self, epoch: int, aspect: int) -> np.ndarray:
        if self._mixed is None or self._mixed[0] != epoch:
            mixed = [torch.randperm(anchors.shape[1], generator=self.generator(epoch, 0, number))
                     for number, anchors in enumerate(self._anchors)]  # fmt: skip
            self._mixed = epoch, [order.numpy() for order in mixed]
        return self._mixed[1][aspect]

    def identity(self) -> dict[str, Any]:
        """See `EpochLoader`."""
        return {"batch_size": self.batch_size, "seed": self.seed, "data": self._fingerprint}
