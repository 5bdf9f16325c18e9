"""AspectEmbedding against its equations, and on data where the best vectors are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from recsys.datasets.planted_aspects import PlantedAspects
from recsys.errors import ConfigError
from recsys.evaluate.aspects import AspectOptions, cosines, evaluate_aspects, judge_scores
from recsys.graph.aspect_batches import AspectBatch
from recsys.graph.text_features import TextOptions
from recsys.models.aspect.aspect_embedding import AspectEmbedding
from recsys.testing.aspects import AspectModelConformance, tiny_aspects

TEXT = TextOptions(num_buckets=300, axes=4)


class TestLinear(AspectModelConformance):
    model = AspectEmbedding
    config = AspectEmbedding.Config(text=TEXT, use_ids=True, embedding_dim=8, vector_dim=6)


class TestAttention(AspectModelConformance):
    model = AspectEmbedding
    config = AspectEmbedding.Config(
        text=TEXT, heads="attention", embedding_dim=8, vector_dim=6, attention_heads=2
    )


class TestShared(AspectModelConformance):
    model = AspectEmbedding
    config = AspectEmbedding.Config(text=TEXT, heads="shared", embedding_dim=8, vector_dim=6)

    def test_all_aspects_have_one_vector(self):
        model = self.build()
        assert torch.equal(model.vectors("kind"), model.vectors("colour"))


def made(**options):
    config = AspectEmbedding.Config(text=TEXT, embedding_dim=8, vector_dim=6, **options)
    model = AspectEmbedding(config, tiny_aspects())
    model.reset_parameters(3)
    return model


def test_vectors_and_loss_are_those_of_the_equations():
    model = made(use_ids=True, temperature=0.2)
    table, items = model.table, torch.tensor([4, 0, 47, 9])
    grams = model.embeddings.state_dict()["embedding.text.weight"]
    ids = model.embeddings.state_dict()["embedding.item.weight"]
    rows = torch.from_numpy(model.text.rows(items.numpy()).toarray())
    axes = functional.normalize(rows @ model.text.axes, dim=1)
    brought = functional.normalize(torch.from_numpy(table.vectors["made"])[items], dim=1)
    first, second = (layer.weight for layer in model.projections)
    fields = torch.cat([rows @ grams[2:], ids[items + 2], axes @ first.T, brought @ second.T], 1)
    wanted = fields @ model.heads[1].weight.T
    torch.testing.assert_close(model.encode(model.features(items), 1), wanted)

    alike = torch.eye(2, dtype=torch.bool)
    alike[0, 1] = True
    batch = AspectBatch(1, items[:2], items[2:], alike)
    scores = (
        functional.normalize(wanted[:2], dim=1) @ functional.normalize(wanted[2:], dim=1).T / 0.2
    )
    # the first anchor is like the second positive: no negatives of each other, either way round
    forth = scores[1].logsumexp(0) - scores[1, 1]
    back = scores[:, 0].logsumexp(0) - scores[0, 0]
    torch.testing.assert_close(model.loss(batch), (forth + back) / 4)


def test_attention_looks_through_grams_and_fixed_vectors():
    model = made(heads="attention", attention_heads=1).eval()
    items = torch.tensor([4, 47])
    batch = model.features(items)
    tokens, item, weights = model.tokens(batch)
    count = model.text.rows(items.numpy()).nnz
    assert len(tokens) == count + 4 and item[-4:].tolist() == [0, 1, 0, 1]
    assert weights[-4:].tolist() == [1, 1, 1, 1]
    # its parts summed with their weights are the field of the text
    whole = torch.zeros(2, 8).index_add(0, item[:count], weights[:count, None] * tokens[:count])
    torch.testing.assert_close(whole, model.fields(batch)[:, :8])
    seen = model.attention(tokens, item, 2, 0, weights)
    torch.testing.assert_close(model.encode(batch, 0), model.output(seen))


@pytest.mark.parametrize("heads", ["linear", "attention"])
def test_residual_heads_start_as_the_fixed_vectors(heads):
    config = AspectEmbedding.Config(
        text=TEXT, embedding_dim=8, vector_dim=11, heads=heads, residual=True
    )
    model = AspectEmbedding(config, tiny_aspects())
    model.reset_parameters(3)
    items = torch.arange(48)
    fixed = functional.normalize(model.fixed(model.features(items)), dim=1)
    torch.testing.assert_close(model.eval().vectors("kind"), fixed)
    pairs = AspectBatch(1, items[:4], items[9:13], torch.eye(4).bool())
    model.loss(pairs).backward()
    last = model.heads[1] if heads == "linear" else model.output
    assert last.weight.grad.abs().sum() > 0
    with pytest.raises(ConfigError, match="expected their width 11, got 6"):
        made(residual=True)


def test_prefixes_are_trained_as_vectors():
    plain, nested = made(), made(prefixes=(2, 6))
    batch = AspectBatch(0, torch.tensor([0, 1]), torch.tensor([3, 4]), torch.eye(2).bool())
    anchors, positives = plain.both(batch)
    short = AspectEmbedding.loss(made(prefixes=(6,)), batch)
    torch.testing.assert_close(short, plain.loss(batch))
    assert not torch.isclose(nested.loss(batch), plain.loss(batch))
    assert anchors.shape == positives.shape == (2, 6)


def test_what_it_cannot_take_is_refused():
    table = dataclasses.replace(tiny_aspects(), vectors={})
    with pytest.raises(ConfigError, match="the items have no features"):
        AspectEmbedding(AspectEmbedding.Config(text=None), table)
    with pytest.raises(ConfigError, match="has one token here"):
        AspectEmbedding(AspectEmbedding.Config(text=None, use_ids=True, heads="attention"), table)
    with pytest.raises(ConfigError, match="divides embedding_dim=8, got 3"):
        made(heads="attention", attention_heads=3)


@pytest.fixture(scope="module")
def planted():
    data = PlantedAspects(PlantedAspects.Config(num_items=240, num_labels=6))
    return data, data.table(Path())


def trained(table, **options):
    suite = TestLinear()
    suite.config = AspectEmbedding.Config(text=TextOptions(num_buckets=2048), embedding_dim=32,
                                          vector_dim=32, **options)  # fmt: skip
    model = suite.build(table=table)
    suite.train_some(model, 12)
    return evaluate_aspects(model, "test")


@pytest.mark.parametrize(("heads", "init_std"), [("linear", 0.1), ("attention", 0.5)])
def test_heads_beat_the_generic_vector_and_do_not_leak(planted, heads, init_std):
    """The generic vector leans to the first aspect, which has the most words, and mixes them."""
    data, table = planted
    found = trained(table, heads=heads, init_std=init_std)
    own, generic = np.diag(found.leakage), found.leakage[-1]
    assert (own > generic - 0.01).all() and own.mean() > generic.mean() + 0.08
    chance = judge_scores(
        table, dict.fromkeys(table.aspects, cosines(torch.randn(240, 8))), "test", AspectOptions()
    )
    off = found.metrics["off_aspect.map@10"]
    assert off < 0.5 * own.mean() and off < generic.mean()
    assert off < 1.6 * chance.metrics["map@10"]
    oracle = {name: cosines(functional.normalize(torch.from_numpy(data.oracle(n)).float(), dim=1))
              for n, name in enumerate(table.aspects)}  # fmt: skip
    best = judge_scores(table, oracle, "test", AspectOptions())
    assert own.mean() < np.diag(best.leakage).mean() + 0.02
