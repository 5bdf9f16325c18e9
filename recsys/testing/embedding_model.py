"""What every trained collaborative filter with vectors has to do, as one suite to inherit.

That is what `recsys.testing.cf` asks of any filter, and more about noise, gradients and learning.

Example::

    class TestLightGCN(EmbeddingModelConformance):
        model = LightGCN
        config = LightGCN.Config(embedding_dim=8)

pytest collects the inherited tests with the class. A test beside it pins the equations.

Stability: testing
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from recsys.cf import EmbeddingModel
from recsys.cf_config import CFTrainConfig, RankingConfig
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.evaluate.ranking import RankingOptions, evaluate_ranking
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import InteractionSplits
from recsys.graph.planted_interactions import PlantedInteractions, PlantedInteractionsConfig
from recsys.graph.sampling import PairLoader
from recsys.graph.splitting import UserSplit, split_interactions
from recsys.testing.cf import CFModelConformance
from recsys.train.ranking_task import RankingTask
from recsys.train.ranks import Ranks
from recsys.train.state import seed_everything
from recsys.train.trainer import Trainer
from recsys.types import PairBatch

_PLANTED = PlantedInteractionsConfig(
    num_users=240, num_items=240, num_communities=6, mean_items=24.0, noise=0.02
)


def tiny_graph() -> InteractionGraph:
    """Three users, five items, the last without a user."""
    user, item = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 0, 2, 3])
    return InteractionGraph(3, 5, user, item)


def dense_operator(graph: InteractionGraph, self_loops: bool = False) -> Tensor:
    """``D^-1/2 A D^-1/2`` of users and items, written out, to check vectors by.

    Args:
        graph: A small one.
        self_loops: Whether A has ones on its diagonal.
    """
    size = graph.num_users + graph.num_items
    whole = torch.zeros(size, size)
    whole[graph.user, graph.item + graph.num_users] = 1
    whole = whole + whole.T + torch.eye(size) * self_loops
    root = whole.sum(1).clamp(min=1).rsqrt()
    return root[:, None] * whole * root[None]


def planted_splits() -> InteractionSplits:
    """Users in six communities: a model learns them in seconds."""
    return split_interactions(PlantedInteractions.of(_PLANTED).interactions(), UserSplit())


class EmbeddingModelConformance(CFModelConformance):
    """Inherit, name the model and a small config, and run pytest."""

    learning_rate: ClassVar[float] = 0.02
    """For the tables and everything else."""
    num_epochs: ClassVar[int] = 15
    """After which it must be better than popularity."""
    gain: ClassVar[float] = 1.3
    """By which factor its Recall@20 must be better."""

    # ------------------------------------------------------------------------------- helpers

    def tiny(self, graph: InteractionGraph | None = None) -> EmbeddingModel:
        """The model in training, with start values of seed 1.

        Args:
            graph: By default the tiny one.
        """
        made = cast(Any, self.model)(self.config, graph or tiny_graph())
        made.reset_parameters(1)
        return made

    def batch(self, shared: bool = False) -> PairBatch:
        """Pairs of the tiny graph with negatives.

        Args:
            shared: Whether negatives are those of all pairs.
        """
        user, item = torch.tensor([0, 2, 1]), torch.tensor([1, 3, 1])
        if shared:
            known = torch.tensor([[1, 1], [0, 2]])
            return PairBatch(user, item, torch.tensor([0, 4, 3, 2]), known=known)
        return PairBatch(user, item, torch.tensor([[2, 4], [1, 4], [4, 3]]))

    # ------------------------------------------------------------------------------- vectors, loss

    def test_scores_are_products_of_vectors_without_noise(self) -> None:
        """Noise and dropout are for training; items without users have finite scores."""
        made = self.tiny().eval()
        users, items = (part.clone() for part in made.vectors())
        made.train()
        made.eval()
        torch.testing.assert_close(made.vectors()[0], users)
        asked = torch.tensor([2, 0])
        torch.testing.assert_close(made.scores(asked), users[asked] @ items.T)
        assert made.scores(asked).isfinite().all()

    def test_a_step_reaches_every_parameter(self) -> None:
        """Over some batches, every parameter has a gradient that is not 0, and a finite one."""
        made = self.tiny()
        seed_everything(0)
        for _ in range(4):
            made.loss(self.batch()).backward()
        for name, parameter in made.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name

    def test_shared_negatives_leave_out_what_is_known(self) -> None:
        """The loss and its gradient are finite."""
        made = self.tiny()
        loss = made.loss(self.batch(shared=True))
        loss.backward()
        assert loss.isfinite() and loss.ndim == 0
        grads = [p.grad for p in made.parameters() if p.grad is not None]
        assert grads and all(grad.isfinite().all() for grad in grads)

    # ------------------------------------------------------------------------------- training

    def _job(self, run_dir: Path, **train: object) -> tuple[Trainer, Any]:
        """A trainer on planted communities, and its loader."""
        config = CFTrainConfig.model_validate(
            {"batch_size": 256, "learning_rate": self.learning_rate, "monitor": "recall@20",
             "epochs_per_evaluation": 100, **train}
        )  # fmt: skip
        graph = InteractionGraph.of(planted_splits().train)
        seed_everything(3)
        made = self.tiny(graph)
        tables = made.embeddings.attach_optimizer(
            EmbeddingOptimizerConfig(kind="adam", mode="dense", learning_rate=self.learning_rate)
        )
        task = RankingTask(made, config, RankingConfig(), tables, Ranks.current(), seed=5)
        loader = made.loader(self.sampling, config.batch_size, 3)
        return Trainer(task, tables, run_dir, "none"), loader

    def test_it_learns_what_popularity_does_not_tell(self, tmp_path: Path) -> None:
        """The loss falls, and lists are better than the popular items by a factor."""
        trainer, loader = self._job(tmp_path, num_epochs=self.num_epochs)
        made = trainer.model
        assert isinstance(made, EmbeddingModel)
        first = next(iter(PairLoader(made.graph, self.sampling, 256, 4, scorer=made.pair_scores)))
        before = float(made.loss(first).detach())
        trainer.fit(loader)
        made.train()
        assert float(made.loss(first).detach()) < before
        splits, options = planted_splits(), RankingOptions(ks=(20,), bootstrap_samples=0)
        assert splits.test is not None
        found = evaluate_ranking(made.eval(), splits.train, splits.test, options)
        popular = made.graph.item_degrees().float()
        made.keep_vectors(torch.ones(made.graph.num_users, 1), popular[:, None])
        base = evaluate_ranking(made, splits.train, splits.test, options)
        assert found.metrics["recall@20"] > self.gain * base.metrics["recall@20"]
