"""A classifier of pairs, whose vectors are taken for vectors of aspects: a baseline.

Train it: ``recsys train --config configs/aspect/pairwise_classifier.yaml``.

Stability: caller
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recsys.aspect_model import AspectModel
from recsys.graph.aspect_batches import AspectBatch
from recsys.graph.aspects import AspectTable
from recsys.types import Batch


class PairwiseClassifier(AspectModel):
    """Tells whether two items share a label of an aspect; its vectors are used without it.

        z = W_a [fields],    p = sigmoid(v_a . [|z_i - z_j|, z_i * z_j] + b_a)

    trained by cross entropy on the alike pairs of a batch and, for every second of them, a pair
    that is not alike. Nothing asks for alike items to be near by cosine, which is why it is a weak
    way to vectors.

    Args:
        config: Width.
        table: Items, texts, labels and splits.

    Source:
        A baseline of Ostendorff et al., JCDL 2022 ("fine-tuned"): negatives at ratio 0.5, vectors
        of the tuned encoder. Differs: a linear head over shared features in place of a transformer;
        negatives are pairs of the batch that are known not to share a label.

    Example:
        >>> from recsys.graph.aspects import AspectRule, aspect_table
        >>> table = aspect_table({1: "red ball", 2: "red car", 3: "a car"}, [1, 2, 3], ["kind"] * 3,
        ...                      ["ball", "car", "car"], AspectRule(valid=0, test=0))
        >>> model = PairwiseClassifier(PairwiseClassifier.Config(vector_dim=4), table)
        >>> model.reset_parameters(1)
        >>> model.probability(torch.tensor([0]), torch.tensor([1]), "kind").shape
        torch.Size([1])
    """

    class Config(AspectModel.Config):
        """Options of the classifier."""

        vector_dim: int = Field(default=64, ge=1)
        """Width of the vectors."""

    config: Config

    def __init__(self, config: Config, table: AspectTable) -> None:
        super().__init__(config, table)
        self.heads = nn.ModuleList(
            nn.Linear(self.fields_width, config.vector_dim, bias=False) for _ in self.aspects
        )
        self.classifiers = nn.ModuleList(nn.Linear(2 * config.vector_dim, 1) for _ in self.aspects)

    def encode(self, batch: Batch, aspect: int) -> Tensor:
        """See `AspectModel`."""
        return self.heads[aspect](self.fields(batch))

    def _logits(self, first: Tensor, second: Tensor, aspect: int) -> Tensor:
        both = torch.cat([(first - second).abs(), first * second], dim=1)
        return self.classifiers[aspect](both).squeeze(1)

    def probability(self, first: Tensor, second: Tensor, aspect: str) -> Tensor:
        """That two items share a label of an aspect, without gradient, (n,).

        Args:
            first: Numbers of known items, (n,) int64.
            second: Likewise.
            aspect: Its name.
        """
        number = self.table.aspect_number(aspect)
        with torch.no_grad():
            ends = [self.encode(self.features(items), number) for items in (first, second)]
            return self._logits(ends[0], ends[1], number).sigmoid().cpu()

    def loss(self, batch: AspectBatch) -> Tensor:
        """See `AspectModel`."""
        anchors, positives = self.both(batch)
        moved = torch.arange(batch.batch_size, device=anchors.device).roll(1)
        apart = ~batch.alike.gather(1, moved[:, None]).squeeze(1)
        apart[1::2] = False
        logits = torch.cat([
            self._logits(anchors, positives, batch.aspect),
            self._logits(anchors[apart], positives[moved][apart], batch.aspect),
        ])  # fmt: skip
        labels = torch.zeros_like(logits)
        labels[: batch.batch_size] = 1
        return functional.binary_cross_entropy_with_logits(logits, labels)
