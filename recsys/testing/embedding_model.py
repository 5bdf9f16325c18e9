"""What every collaborative filter with vectors has to do, as one suite to inherit.

Example::

    class TestLightGCN(EmbeddingModelConformance):
        model = LightGCN
        config = LightGCN.Config(embedding_dim=8)

pytest collects the inherited tests with the class. A test beside it pins the equations.

Stability: testing
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from recsys.cf import EmbeddingModel
from recsys.cf_config import CFTrainConfig, RankingConfig
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.evaluate.ranking import RankingOptions, evaluate_ranking
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import InteractionSplits
from recsys.graph.negatives import SamplingConfig
from recsys.graph.planted_interactions import PlantedInteractions, PlantedInteractionsConfig
from recsys.graph.sampling import PairLoader
from recsys.graph.splitting import UserSplit, split_interactions
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


class EmbeddingModelConformance:
    """Inherit, name the model and a small config, and run pytest."""

    model: ClassVar[type[EmbeddingModel]]
    """The class under test."""
    config: ClassVar[EmbeddingModel.Config]
    """A small config of it, with its dropout or noise."""
    sampling: ClassVar[SamplingConfig] = SamplingConfig()
    """What it is trained on."""
    learning_rate: ClassVar[float] = 0.02
    """Of Adam, for the tables and the rest."""
    num_epochs: ClassVar[int] = 15
    """After which it must be better than popularity."""
    gain: ClassVar[float] = 1.3
    """By which factor its Recall@20 must be better."""

    # ------------------------------------------------------------------------------- helpers

    def build(self, graph: InteractionGraph | None = None, **changes: object) -> EmbeddingModel:
        """The model with start values of seed 1.

        Args:
            graph: By default the tiny one.
            **changes: Fields of the config to replace.
        """
        options = {**self.config.model_dump(), **changes}
        config = self.model.Config.model_validate(options)
        made = self.model(config, graph or tiny_graph())
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

    # ------------------------------------------------------------------------------- config

    def test_config_survives_json_and_yaml(self) -> None:
        """A saved config loads back equal."""
        kind = type(self.config)
        assert kind.model_validate_json(self.config.model_dump_json()) == self.config
        text = yaml.safe_dump(self.config.model_dump(mode="json"))
        assert kind.model_validate(yaml.safe_load(text)) == self.config

    def test_unknown_config_key_is_refused(self) -> None:
        """A misspelt setting never passes silently."""
        with pytest.raises(ValidationError, match="num_layer_s"):
            self.model.Config.model_validate({**self.config.model_dump(), "num_layer_s": 3})

    # ------------------------------------------------------------------------------- start, state

    def test_start_values_depend_on_the_seed_alone(self) -> None:
        """Equal for one seed, whatever the global random state; others for another."""
        one = self.build().state_dict()
        torch.manual_seed(123)
        two, other = self.build(), self.build()
        other.reset_parameters(2)
        assert all(torch.equal(one[name], value) for name, value in two.state_dict().items())
        changed = [n for n, value in other.state_dict().items() if not torch.equal(one[n], value)]
        assert changed

    def test_a_state_dict_is_the_whole_model(self) -> None:
        """Another model with the state gives the same vectors."""
        one, two = self.build().eval(), self.build()
        two.reset_parameters(9)
        two.load_state_dict(one.state_dict())
        for mine, other in zip(one.vectors(), two.eval().vectors()):
            torch.testing.assert_close(mine, other)

    # ------------------------------------------------------------------------------- vectors, loss

    def test_scores_are_products_of_vectors_without_noise(self) -> None:
        """Noise and dropout are for training; items without users have finite scores."""
        made = self.build().eval()
        users, items = (part.clone() for part in made.vectors())
        made.train()
        made.eval()
        torch.testing.assert_close(made.vectors()[0], users)
        asked = torch.tensor([2, 0])
        torch.testing.assert_close(made.scores(asked), users[asked] @ items.T)
        assert made.scores(asked).isfinite().all()

    def test_a_step_reaches_every_parameter(self) -> None:
        """Over some batches, every parameter has a gradient that is not 0, and a finite one."""
        made = self.build()
        seed_everything(0)
        for _ in range(4):
            made.loss(self.batch()).backward()
        for name, parameter in made.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name

    def test_shared_negatives_leave_out_what_is_known(self) -> None:
        """The loss and its gradient are finite."""
        made = self.build()
        loss = made.loss(self.batch(shared=True))
        loss.backward()
        assert loss.isfinite() and loss.ndim == 0
        grads = [p.grad for p in made.parameters() if p.grad is not None]
        assert grads and all(grad.isfinite().all() for grad in grads)

    def test_compressed_tables_are_trained(self) -> None:
        """Rows that are computed take gradients too."""
        scheme = {"scheme": {"kind": "hash", "num_buckets": 3}, "exact_rows": 0}
        made = self.build(compression=scheme)
        made.loss(self.batch()).backward()
        tables = made.embeddings.table_parameters()
        assert tables and all(t.grad is not None and t.grad.abs().sum() > 0 for t in tables)
        users, items = made.eval().vectors()
        assert (len(users), len(items)) == (3, 5) and items.isfinite().all()

    # ------------------------------------------------------------------------------- training

    def _job(self, run_dir: Path, **train: object) -> tuple[Trainer, PairLoader]:
        """A trainer on planted communities, and its loader."""
        config = CFTrainConfig.model_validate(
            {"batch_size": 256, "learning_rate": self.learning_rate, "monitor": "recall@20",
             "epochs_per_evaluation": 100, **train}
        )  # fmt: skip
        graph = InteractionGraph.of(planted_splits().train)
        seed_everything(3)
        made = self.build(graph)
        tables = made.embeddings.attach_optimizer(
            EmbeddingOptimizerConfig(kind="adam", mode="dense", learning_rate=self.learning_rate)
        )
        task = RankingTask(made, config, RankingConfig(), tables, Ranks.current(), seed=5)
        loader = PairLoader(graph, self.sampling, config.batch_size, 3, scorer=made.pair_scores)
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

    def test_resuming_within_an_epoch_changes_nothing(self, tmp_path: Path) -> None:
        """What is drawn in a step or for an epoch is drawn again."""
        whole, loader = self._job(tmp_path / "whole", num_epochs=3)
        whole.fit(loader)
        steps = len(loader) + len(loader) // 2
        cut, loader = self._job(tmp_path / "cut", num_epochs=3, max_steps=steps)
        cut.fit(loader)
        rest, loader = self._job(tmp_path / "cut", num_epochs=3)
        torch.manual_seed(77)
        np.random.seed(77)
        rest.fit(loader, resume=True)
        mine, other = whole.model.state_dict(), rest.model.state_dict()
        assert all(torch.equal(mine[name], other[name]) for name in mine)
