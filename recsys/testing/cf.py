"""What every collaborative filter has to do, as one suite to inherit.

Example::

    class TestLightGCN(CFModelConformance):
        model = LightGCN
        config = LightGCN.Config(embedding_dim=8, num_layers=2)

pytest collects the inherited tests with the class. Fitted models and those that are trained get the
tests that are about them; the others are skipped.

Stability: testing
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from recsys.cf import CFModel, EmbeddingModel
from recsys.cf_config import CFEmbeddingConfig, CFExperiment, CFTrainConfig, RankingConfig
from recsys.cf_fitted import FittedModel
from recsys.config import class_path
from recsys.embeddings.compression.plan import CompressionConfig
from recsys.errors import ConfigError
from recsys.graph.bundles import BundleContents, Bundles
from recsys.graph.concepts import Descriptions
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Interactions, Names
from recsys.graph.item_features import ItemFeatures
from recsys.graph.knowledge import KnowledgeGraph
from recsys.graph.negatives import SamplingConfig
from recsys.serving.freeze import freeze_model
from recsys.serving.recommender_folder import load_recommender, save_recommender
from recsys.train.ranking_task import RankingTask
from recsys.train.ranks import Ranks
from recsys.train.run import RunOptions, run
from recsys.train.step import TrainStep

NUM_USERS, NUM_ITEMS, _GROUPS, _MAKERS, _THINGS = 30, 20, 3, 18, 25
_DATASET = {
    "class": "recsys.datasets.planted_communities.PlantedCommunities",
    "num_users": 40, "num_items": 30, "num_communities": 3, "mean_items": 8,
    "split": {"kind": "by_user", "valid": 0.0, "test": 0.2},
}  # fmt: skip
_BUNDLES = {
    "class": "recsys.datasets.planted_bundles.PlantedBundles",
    "num_users": 40, "num_items": 30, "num_bundles": 30, "num_communities": 3,
    "split": {"kind": "by_user", "valid": 0.0, "test": 0.2},
}  # fmt: skip


_COMPLETION = {
    "class": "recsys.datasets.planted_bundles.PlantedBundles", "task": "complete",
    "num_users": 40, "num_items": 30, "num_bundles": 300, "num_communities": 3,
    "completion": {"valid": 0.0, "test": 0.2},
}  # fmt: skip
_CONCEPTS = {
    "class": "recsys.datasets.planted_concepts.PlantedConcepts",
    "num_queries": 40, "num_items": 30, "num_concepts": 6, "concepts_each": 2,
    "split": {"valid": 0.0, "test": 0.2},
}  # fmt: skip


def tiny_interactions(weighted: bool = False) -> Interactions:
    """Three groups of users who like three groups of items.

    The last user has nothing, and nobody has the last item.

    Args:
        weighted: Whether pairs have weights.
    """
    random = np.random.default_rng(11)
    users, items = np.arange(NUM_USERS), np.arange(NUM_ITEMS)
    likes = users[:, None] % _GROUPS == items % _GROUPS
    seen = random.random((NUM_USERS, NUM_ITEMS)) < np.where(likes, 0.7, 0.08)
    seen[users, users % _GROUPS] = True
    seen[-1], seen[:, -1] = False, False
    user, item = np.nonzero(seen)
    weight = random.integers(1, 5, len(user)).astype(np.float32) if weighted else None
    return Interactions(Names([f"u{n}" for n in users]), Names([f"i{n}" for n in items]), user,
                        item, weight=weight)  # fmt: skip


def tiny_knowledge() -> KnowledgeGraph:
    """The group and the maker of every item, and what groups are near; makers have one group."""
    groups, makers = [f"g{n}" for n in range(_GROUPS)], [f"m{n}" for n in range(_MAKERS)]
    names = Names([*(f"i{n}" for n in range(NUM_ITEMS)), *groups, *makers])
    items, first = np.arange(NUM_ITEMS), NUM_ITEMS + _GROUPS
    head = np.concatenate([items, items, [NUM_ITEMS, NUM_ITEMS + 1]])
    tail = np.concatenate(
        [NUM_ITEMS + items % _GROUPS, first + items % _MAKERS, [NUM_ITEMS + 1, NUM_ITEMS + 2]]
    )
    relation = np.repeat([0, 1, 2], [NUM_ITEMS, NUM_ITEMS, 2])
    return KnowledgeGraph(names, Names(["in", "by", "near"]), NUM_ITEMS, head, relation, tail)


def tiny_contents() -> BundleContents:
    """The items of `tiny_interactions` as bundles of two or three things of their group.

    The last thing is in no bundle; the last user took no thing.
    """
    random = np.random.default_rng(5)
    things = np.arange(_THINGS)
    rows = [random.permutation(things[:-1][things[:-1] % _GROUPS == bundle % _GROUPS])
            for bundle in range(NUM_ITEMS)]  # fmt: skip
    sizes = 2 + np.arange(NUM_ITEMS) % 2
    bundle = np.repeat(np.arange(NUM_ITEMS), sizes)
    item = np.concatenate([np.sort(row[:size]) for row, size in zip(rows, sizes)])
    users = np.arange(NUM_USERS)
    likes = users[:, None] % _GROUPS == things % _GROUPS
    taken = random.random(likes.shape) < np.where(likes, 0.5, 0.05)
    taken[-1] = False
    names = Names([f"t{n}" for n in things])
    bundles = Bundles(Names([f"i{n}" for n in range(NUM_ITEMS)]), names, bundle, item)
    user, thing = np.nonzero(taken)
    alone = Interactions(Names([f"u{n}" for n in users]), names, user, thing)
    return BundleContents(bundles, alone)


def tiny_descriptions() -> Descriptions:
    """Two words of the group of every user and item, and its group as a concept, for most.

    The last user has no text; every fifth user and item has no known concept.
    """
    random = np.random.default_rng(6)
    concepts = Names([f"about {n}" for n in range(_GROUPS)])
    parts = []
    for letter, count in (("u", NUM_USERS), ("i", NUM_ITEMS)):
        names = Names([f"{letter}{n}" for n in range(count)])
        texts = [f"g{n % _GROUPS}w{random.integers(2)} g{n % _GROUPS} n{random.integers(9)}"
                 for n in range(count)]  # fmt: skip
        told = np.flatnonzero(np.arange(count) % 5 > 0)
        parts.append((Interactions(names, concepts, told, told % _GROUPS), texts))
    (users, user_texts), (items, item_texts) = parts
    return Descriptions(users, items, (*user_texts[:-1], ""), tuple(item_texts))


def tiny_features() -> ItemFeatures:
    """Texts as in `tiny_descriptions`, a vector for most items, and who took which.

    Of the last item nothing is known but its number.
    """
    random = np.random.default_rng(8)
    texts = (*tiny_descriptions().item_texts[:-1], "")
    vectors = np.eye(_GROUPS)[np.arange(NUM_ITEMS) % _GROUPS] + random.random((NUM_ITEMS, _GROUPS))
    vectors[-4:] = 0
    train = tiny_interactions()
    taken = train.take(train.item % 5 > 0)
    return ItemFeatures(NUM_ITEMS, texts, vectors={"photo": vectors}, user_item=taken)


class CFModelConformance:
    """Inherit, name the model and a small config, and run pytest."""

    model: ClassVar[type[CFModel]]
    """The class under test."""
    config: ClassVar[CFModel.Config]
    """A small config of it, without dropout."""
    sampling: ClassVar[SamplingConfig] = SamplingConfig()
    """Negatives that it is trained with."""
    learning_rate: ClassVar[float] = 0.05
    """For the tables and everything else."""
    schemes: ClassVar[tuple[str, ...]] = ("hash", "quotient_remainder", "unified")
    """Compressed tables it must work with; empty for one that cannot."""
    equivariant: ClassVar[bool] = True
    """Whether a fitted model gives other numbers of users and items the same scores; not, where it
    draws start values."""
    tolerance: ClassVar[float] = 1e-5
    """Largest difference of scores that should be equal but for rounding, relative to the largest
    of them."""

    # ------------------------------------------------------------------------------- helpers

    def graph(self, train: Interactions | None = None) -> InteractionGraph:
        """The tiny graph, with what the model needs to know of its items."""
        knowledge = tiny_knowledge() if self.model.needs_knowledge else None
        contents = tiny_contents() if self.model.needs_contents else None
        about = tiny_descriptions() if self.model.needs_descriptions else None
        features = tiny_features() if self.model.needs_features else None
        return InteractionGraph.of(
            train or tiny_interactions(),
            knowledge,
            contents=contents,
            descriptions=about,
            features=features,
        )

    def build(self, seed: int = 1, train: Interactions | None = None, **changes: Any) -> CFModel:
        """Fitted, or with start values of a seed; in eval mode."""
        config = self.config.model_copy(update=changes)
        model = cast(Any, self.model)(config, self.graph(train))
        model.reset_parameters(seed)
        if isinstance(model, FittedModel):
            model.fit(lambda line: None)
        return model.eval()

    def scores(self, model: CFModel) -> Tensor:
        """Of everybody."""
        return model.scores(torch.arange(model.graph.num_users))

    def close(self, got: Tensor, expected: Tensor) -> None:
        """Asserts scores that are equal but for rounding."""
        scale = float(expected.abs().max())
        torch.testing.assert_close(got, expected, rtol=0, atol=self.tolerance * max(scale, 1e-6))

    def train_some(self, model: EmbeddingModel, epochs: int, batch_size: int = 64) -> list[float]:
        """Trains with Adam; the mean loss of every epoch."""
        rate = self.learning_rate
        config = CFTrainConfig(learning_rate=rate, batch_size=batch_size)
        torch.manual_seed(3)
        tables = None
        if model.embeddings.groups:
            tables = model.embeddings.attach_optimizer(CFEmbeddingConfig(learning_rate=rate))
        task = RankingTask(model, config, RankingConfig(ks=(5,)), tables, Ranks.current())
        step, losses = TrainStep(task, tables, Ranks.current()), []
        loader = model.loader(self.sampling, batch_size, 5)
        model.train()
        for epoch in range(epochs):
            task.begin_epoch(epoch)
            losses.append(float(np.mean([float(step(batch, 1.0)) for batch in loader])))
        model.eval()
        return losses

    def trained(self) -> EmbeddingModel:
        """The model where it is one that is trained; else the test is skipped."""
        if not issubclass(self.model, EmbeddingModel):
            pytest.skip("a fitted model")
        return cast(EmbeddingModel, self.build())

    # ------------------------------------------------------------------------------- config

    def test_config_survives_json_and_yaml(self) -> None:
        """A saved config loads back equal."""
        kind = type(self.config)
        assert kind.model_validate_json(self.config.model_dump_json()) == self.config
        text = yaml.safe_dump(self.config.model_dump(mode="json"))
        assert kind.model_validate(yaml.safe_load(text)) == self.config

    def test_config_is_frozen_and_a_typo_is_named(self) -> None:
        """A misspelt setting never passes silently, and none is changed later."""
        options = {**self.config.model_dump(), "embeding_dimension": 3}
        with pytest.raises(ValidationError, match="embeding_dimension"):
            self.model.Config.model_validate(options)
        with pytest.raises(ValidationError, match="frozen"):
            self.config.compression = None

    def test_builds_from_an_experiment(self) -> None:
        """A configuration file names the class and its options."""
        found = self.experiment().model
        assert found.model_class is self.model and found.config == self.config
        assert type(found.build(self.graph())) is self.model

    # ------------------------------------------------------------------------------- scores

    def test_scores_of_everybody_are_finite(self) -> None:
        """Also of a user without items; numbers of shape (U, I), without gradient."""
        model = self.build()
        scores = self.scores(model)
        assert scores.shape == (NUM_USERS, NUM_ITEMS) and scores.dtype == torch.float32
        assert scores.isfinite().all() and not scores.requires_grad
        assert len(scores[0].unique()) > 1, "all items are alike"

    def test_users_do_not_see_each_other(self) -> None:
        """A batch of one user, or in another order, gives the same scores."""
        model = self.build()
        whole = self.scores(model)
        order = torch.tensor([4, NUM_USERS - 1, 0])
        self.close(model.scores(order), whole[order])
        for user in (0, NUM_USERS - 1):
            self.close(model.scores(torch.tensor([user])), whole[user : user + 1])

    def test_eval_is_deterministic(self) -> None:
        """Two passes give the same bits, and what is kept is not changed."""
        model = self.build()
        first = self.scores(model).clone()
        assert torch.equal(self.scores(model), first)

    def test_one_seed_one_model(self) -> None:
        """The global random state does not matter; another seed gives another trained model."""
        found = []
        for global_seed, seed in ((0, 7), (1, 7), (1, 8)):
            torch.manual_seed(global_seed)
            found.append(self.scores(self.build(seed)))
        assert torch.equal(found[0], found[1])
        if issubclass(self.model, EmbeddingModel):
            assert not torch.equal(found[1], found[2])

    def test_other_numbers_of_users_and_items_change_nothing(self) -> None:
        """A fitted model knows nodes by their pairs alone."""
        if not issubclass(self.model, FittedModel) or not self.equivariant:
            pytest.skip("start values depend on the number of a node")
        if self.model.needs_knowledge:
            pytest.skip("knowledge has the numbers of the items")
        train, random = tiny_interactions(), np.random.default_rng(2)
        users, items = random.permutation(NUM_USERS), random.permutation(NUM_ITEMS)
        user, item = users[train.user], items[train.item]
        order = np.lexsort((item, user))
        other = Interactions(train.users, train.items, user[order], item[order])
        found, wanted = self.scores(self.build(train=other)), self.scores(self.build())
        self.close(found[torch.from_numpy(users)][:, torch.from_numpy(items)], wanted)

    # ------------------------------------------------------------------------------- files

    def test_state_dict_gives_equal_scores(self) -> None:
        """Another instance with the same state is the same model."""
        model = self.build()
        other = cast(Any, self.model)(self.config, self.graph())
        other.load_state_dict(copy.deepcopy(model.state_dict()))
        assert torch.equal(self.scores(other.eval()), self.scores(model))

    def test_artefact_gives_equal_scores(self, tmp_path: Path) -> None:
        """Bit for bit, with and without the weights that only training needs."""
        train = tiny_interactions()
        model = self.build(train=train)
        save_recommender(tmp_path / "model", model, train)
        for weights in (True, False):
            stored = load_recommender(tmp_path / "model", self.model, weights)
            assert stored.model.config == self.config
            assert torch.equal(self.scores(stored.model), self.scores(model))

    # ----------------------------------------------------------------------- what it may do

    def test_reasons_add_up(self) -> None:
        """Where scores can be explained, reasons and the rest are the score."""
        model = self.build()
        history = model.graph.matrix()[[2]]
        try:
            found = model.explain(4, history, 2)
        except ConfigError as error:
            assert type(model).__name__ in str(error)
            return
        if found.score is None:
            assert found.reasons
            return
        total = sum(reason.weight for reason in found.reasons) + found.rest
        scale = max(abs(reason.weight) for reason in found.reasons) + abs(found.rest)
        assert abs(total - found.score) <= 1e-4 * scale
        wanted = float(model.scores(torch.tensor([2]))[0, 4])
        assert abs(found.score - wanted) <= 1e-4 * scale

    def test_a_history_gives_scores_or_a_clear_error(self) -> None:
        """Anybody with the items of a user is that user, where the own row does not count."""
        model = self.build()
        try:
            found = model.scores_of(model.graph.matrix()[:5])
        except ConfigError as error:
            assert type(model).__name__ in str(error)
            return
        assert found.shape == (5, NUM_ITEMS) and found.isfinite().all()
        if isinstance(model, FittedModel):
            self.close(found, self.scores(model)[:5])

    # ----------------------------------------------------------------------------- training

    def test_training_lowers_the_loss(self) -> None:
        """And users get items of their own group."""
        model = self.trained()
        losses = self.train_some(model, 30)
        assert np.isfinite(losses).all() and np.mean(losses[-3:]) < losses[0]
        graph, scores = model.graph, self.scores(model)
        seen = torch.from_numpy(graph.matrix().toarray()) > 0
        active = seen.any(1)
        inside = torch.stack([s[m].mean() - s[~m].mean() for s, m in zip(scores, seen)])
        assert (inside[active] > 0).float().mean() > 0.9, "seen items score higher than others"

    def test_a_batch_of_one_pair_trains(self) -> None:
        """The last batch of an epoch may have one pair."""
        model = self.trained()
        assert np.isfinite(self.train_some(model, 1, batch_size=1)).all()

    @pytest.mark.parametrize("scheme", ["hash", "quotient_remainder", "unified"])
    def test_compressed_tables(self, scheme: str) -> None:
        """Half of the bytes, trained; a state dict brings the scores back."""
        if scheme not in self.schemes:
            pytest.skip("does not take it")
        self.trained()
        compression = CompressionConfig.model_validate(
            {"scheme": {"kind": scheme}, "ratio": 0.5, "exact_rows": 0}
        )
        model = cast(EmbeddingModel, self.build(compression=compression))
        full = cast(EmbeddingModel, self.build()).embeddings.num_rows_parameters()
        assert model.embeddings.num_rows_parameters() < 0.75 * full
        losses = self.train_some(model, 20)
        assert np.mean(losses[-3:]) < losses[0]
        scores = self.scores(model)
        assert scores.isfinite().all()
        config = self.config.model_copy(update={"compression": compression})
        other = cast(Any, self.model)(config, self.graph())
        other.load_state_dict(model.state_dict())
        assert torch.equal(self.scores(other.eval()), scores)

    @pytest.mark.parametrize("dtype", ["fp32", "int8"])
    def test_frozen_tables(self, dtype: Any) -> None:
        """Served in fp32 they give the same scores, in int8 nearly."""
        model = self.trained()
        wanted = self.scores(model)
        found = self.scores(freeze_model(model, dtype))
        if dtype == "fp32":
            self.close(found, wanted)
        else:
            together = torch.stack([found.flatten(), wanted.flatten()])
            assert not torch.equal(found, wanted)
            assert float(together.corrcoef()[0, 1]) > 0.99

    def experiment(self, **train: Any) -> CFExperiment:
        """A small job with the model."""
        config = self.config.model_dump(mode="json", exclude_defaults=True)
        dataset = _BUNDLES if self.model.needs_contents else _DATASET
        dataset = _COMPLETION if self.model.needs_features else dataset
        return CFExperiment.parse({
            "dataset": _CONCEPTS if self.model.needs_descriptions else dataset,
            "model": {"class": class_path(self.model), **config},
            "sampling": self.sampling.model_dump(mode="json"),
            "embedding": {"learning_rate": self.learning_rate},
            "train": {"num_epochs": 3, "batch_size": 64, "num_threads": 1,
                      "learning_rate": self.learning_rate, "monitor": "ndcg@5", **train},
            "evaluation": {"ks": [5], "bootstrap_samples": 0, "slice_groups": 0},
        })  # fmt: skip

    def test_a_resumed_run_equals_one_that_never_stopped(self, tmp_path: Path) -> None:
        """Stopped in the middle of an epoch, through the whole job; the saved models are equal."""
        options = RunOptions(cache_dir=tmp_path, show="none", device="cpu", report=False)
        whole, cut = tmp_path / "whole", tmp_path / "cut"
        run(self.experiment(), whole, options)
        run(self.experiment(max_steps=4), cut, options)
        again = RunOptions(cache_dir=tmp_path, show="none", device="cpu", report=False, resume=True)
        run(self.experiment(), cut, again)
        first, second = (load_recommender(folder, self.model).model for folder in (whole, cut))
        assert torch.equal(self.scores(first), self.scores(second))
