"""The suite of collaborative filters: right ones pass, and it catches those that are wrong."""

from __future__ import annotations

import pytest
import torch

from recsys.models.graph.ease import EASE
from recsys.models.graph.item_knn import ItemKNN
from recsys.models.graph.light_gcn import LightGCN
from recsys.testing.cf import CFModelConformance


class TestLightGCN(CFModelConformance):
    model = LightGCN
    config = LightGCN.Config(embedding_dim=8, num_layers=2)


class TestEASE(CFModelConformance):
    model = EASE
    config = EASE.Config(l2=10.0)


class TestItemKNN(CFModelConformance):
    model = ItemKNN
    config = ItemKNN.Config(top_k=5, weighting="tfidf")


def suite(model_class, config):
    return type("Suite", (CFModelConformance,), {"model": model_class, "config": config})()


class Leaky(LightGCN):
    """Scores depend on the other users of a batch."""

    class Config(LightGCN.Config):
        """The same."""

    def scores(self, users):
        found = super().scores(users)
        return found + found.mean()


class Noisy(LightGCN):
    """Draws in evaluation, too."""

    class Config(LightGCN.Config):
        """The same."""

    def encode(self):
        return super().encode() + torch.rand(1)


class Stubborn(LightGCN):
    """Learns nothing."""

    class Config(LightGCN.Config):
        """The same."""

    def loss(self, batch):
        return super().loss(batch) * 0


class Forgetful(LightGCN):
    """A part of its state is in no state dict."""

    class Config(LightGCN.Config):
        """The same."""

    def reset_parameters(self, seed):
        super().reset_parameters(seed)
        self.shift = float(seed)

    def scores(self, users):
        return super().scores(users) + torch.arange(self.graph.num_items) * getattr(
            self, "shift", 0
        )


class Numbered(EASE):
    """Knows items by their numbers."""

    class Config(EASE.Config):
        """The same."""

    def scores_of(self, history):
        return super().scores_of(history) + torch.arange(self.graph.num_items)


def test_users_that_see_each_other():
    with pytest.raises(AssertionError, match="not close"):
        suite(Leaky, Leaky.Config(embedding_dim=4)).test_users_do_not_see_each_other()


def test_chance_in_evaluation():
    tests = suite(Noisy, Noisy.Config(embedding_dim=4))
    with pytest.raises(AssertionError):
        tests.test_one_seed_one_model()


def test_a_model_that_learns_nothing():
    tests = suite(Stubborn, Stubborn.Config(embedding_dim=4))
    with pytest.raises(AssertionError):
        tests.test_training_lowers_the_loss()


def test_state_that_is_not_saved(tmp_path):
    tests = suite(Forgetful, Forgetful.Config(embedding_dim=4))
    with pytest.raises(AssertionError):
        tests.test_state_dict_gives_equal_scores()
    with pytest.raises(AssertionError):
        tests.test_artefact_gives_equal_scores(tmp_path)


def test_a_fitted_model_that_knows_numbers():
    tests = suite(Numbered, Numbered.Config())
    with pytest.raises(AssertionError, match="not close"):
        tests.test_other_numbers_of_users_and_items_change_nothing()
