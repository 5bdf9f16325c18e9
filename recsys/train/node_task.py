"""Training a classifier of nodes: its own loss, judged by the classes it tells.

Stability: internal
"""

from __future__ import annotations

from torch import Tensor

from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.evaluate.nodes import evaluate_nodes
from recsys.graph.node_batches import NodeBatch
from recsys.node_config import NodeTrainConfig
from recsys.node_model import NodeClassifier
from recsys.train.diagnosis import loss_problem
from recsys.train.task import Judgement, Task


class NodeTask(Task):
    """Trains a `NodeClassifier`.

    Args:
        model: Gives the loss of a batch and an auxiliary loss.
        config: Monitored metric, learning rate.
        tables: The tables' optimizer, for error texts.
    """

    model: NodeClassifier
    config: NodeTrainConfig

    def __init__(
        self, model: NodeClassifier, config: NodeTrainConfig, tables: EmbeddingOptimizer | None
    ) -> None:
        super().__init__(model, config)
        self._tables = None if tables is None else tables.config

    def loss(self, batch: NodeBatch) -> Tensor:
        """See `Task`."""
        return self.model.loss(batch) + self.model.auxiliary_loss()

    @property
    def monitor(self) -> str:
        """See `Task`."""
        return self.config.monitor

    def higher_is_better(self) -> bool:
        """See `Task`."""
        return self.monitor != "logloss"

    def blame(self, place: str) -> str:
        """See `Task`."""
        return loss_problem(place, "", self.config, self._tables)

    def judge(self, valid: str, step: int, factor: float) -> Judgement:
        """See `Task`; ``valid`` is the name of a split."""
        del step, factor
        found = evaluate_nodes(self.model, valid)
        problem = ""
        if len(found.nodes) > 1 and (found.probabilities == found.probabilities[0]).all():
            problem = f"the model tells all nodes apart by nothing. {self.blame('equal scores')}"
        return Judgement(found.metrics, ("accuracy", "macro_f1"), problem)
