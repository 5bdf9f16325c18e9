"""Training a model of aspects: its own loss, judged by what is near in every aspect.

Stability: internal
"""

from __future__ import annotations

from torch import Tensor

from recsys.aspect_config import AspectEvaluationConfig, AspectTrainConfig
from recsys.aspect_model import AspectModel
from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.evaluate.aspects import AspectOptions, evaluate_aspects
from recsys.graph.aspect_batches import AspectBatch
from recsys.train.diagnosis import loss_problem
from recsys.train.task import Judgement, Task


class AspectTask(Task):
    """Trains an `AspectModel`.

    Args:
        model: Gives the loss of a batch and an auxiliary loss.
        config: Monitored metric, learning rate.
        evaluation: Cut-offs and candidates.
        tables: The tables' optimizer, for error texts.
    """

    model: AspectModel
    config: AspectTrainConfig

    def __init__(
        self,
        model: AspectModel,
        config: AspectTrainConfig,
        evaluation: AspectEvaluationConfig,
        tables: EmbeddingOptimizer | None,
    ) -> None:
        super().__init__(model, config)
        self._tables = None if tables is None else tables.config
        ks = tuple(sorted(evaluation.ks))
        self._options = AspectOptions(ks, evaluation.candidates, generic=False)

    def loss(self, batch: AspectBatch) -> Tensor:
        """See `Task`."""
        return self.model.loss(batch) + self.model.auxiliary_loss()

    @property
    def monitor(self) -> str:
        """See `Task`."""
        return self.config.monitor

    def higher_is_better(self) -> bool:
        """See `Task`."""
        return True

    def blame(self, place: str) -> str:
        """See `Task`."""
        return loss_problem(place, "", self.config, self._tables)

    def judge(self, valid: str, step: int, factor: float) -> Judgement:
        """See `Task`; ``valid`` is the name of a split."""
        del step, factor
        was_training = self.model.training
        self.model.eval()
        try:
            found = evaluate_aspects(self.model, valid, self._options)
            members = self.model.table.members(valid)
            first = self.model.vectors(self.model.aspects[0], members)
        finally:
            self.model.train(was_training)
        problem = ""
        if len(first) > 1 and bool((first == first[0]).all()):
            problem = f"all items have one vector. {self.blame('equal vectors')}"
        shown = (self.monitor, f"off_aspect.map@{found.k}")
        return Judgement(found.metrics, shown, problem)
