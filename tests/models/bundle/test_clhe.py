import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.nn.functional import layer_norm, normalize

from recsys.cf_config import CFExperiment
from recsys.errors import ConfigError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.item_features import ItemFeatures
from recsys.graph.negatives import SamplingConfig
from recsys.graph.set_batches import SetBatch
from recsys.graph.text_features import TextOptions
from recsys.losses.in_batch import in_batch
from recsys.models.bundle.clhe import CLHE
from recsys.serving.recommender import Recommender
from recsys.testing.cf import CFModelConformance, tiny_features, tiny_interactions
from recsys.train.run import RunOptions, run

SMALL = {"embedding_dim": 8, "hidden": 12, "feedback_dim": 4, "dropout": 0.0,
         "text": TextOptions(trained=False, axes=4)}  # fmt: skip


class TestCLHE(CFModelConformance):
    model = CLHE
    config = CLHE.Config(**SMALL)
    sampling = SamplingConfig(negatives="none")
    learning_rate = 0.01
    schemes = ("hash", "unified")


class TestCLHEWithAttention(CFModelConformance):
    model = CLHE
    config = CLHE.Config(**SMALL, pool="attention", reconstruct="held_out", item_view="noise")
    sampling = SamplingConfig(negatives="none")
    learning_rate = 0.01
    schemes = ("hash",)


def made(**options):
    graph = InteractionGraph.of(tiny_interactions(), features=tiny_features())
    model = CLHE(CLHE.Config(**{**SMALL, **options}), graph)
    model.reset_parameters(1)
    return model


def by_hand(model, encoder, table):
    """Vectors of all items, item by item."""
    ids, found = model.rows_of(table), []
    (photo, text), feedback = model.inputs()
    warm = model.graph.item_degrees() > 0
    for item in range(model.graph.num_items):
        parts = [
            normalize(mlp(rows[item : item + 1]))[0]
            for mlp, rows in zip(encoder.contents, (photo, text))
            if rows[item].any()
        ]
        content = sum(parts) if parts else ids[item]
        own = ids[item] if warm[item] or not parts else content
        told = encoder.feedback(feedback[item]) if feedback[item].any() else content
        tokens = normalize(torch.stack([content, own, told]))
        q, k = encoder.attention.queries.weight, encoder.attention.keys.weight
        shares = ((tokens @ q.T) @ (tokens @ k.T).T / model.config.embedding_dim**0.5).softmax(1)
        found.append((shares @ tokens).mean(0))
    return torch.stack(found)


def test_scores_are_the_equations():
    for pool in ("mean", "attention"):
        model = made(pool=pool).eval()
        f, g = (by_hand(model, model.encoder, "item"), by_hand(model, model.decoder, "candidate"))
        matrix = model.graph.matrix().toarray()
        for bundle in (0, 3):
            x = layer_norm(f[np.flatnonzero(matrix[bundle])], (8,))
            if pool == "attention":
                (layer,) = model.sets.layers
                q, k = x @ layer.queries.weight.T, x @ layer.keys.weight.T
                x = (q @ k.T / 8**0.5).softmax(1) @ x
            expected = x.mean(0) @ g.T
            torch.testing.assert_close(model.scores(torch.tensor([bundle]))[0], expected.detach())
            history = csr_array(matrix[[bundle]])
            torch.testing.assert_close(model.scores_of(history)[0], expected.detach())


def test_the_loss_is_the_sum_of_its_parts_and_reaches_all_parameters():
    model = made(item_weight=0.7, item_view="none", bundle_weight=0, pool="attention")
    batch = SetBatch.of(model.graph.matrix()[[1, 2]], torch.tensor([1, 2]))
    f, g = (by_hand(model, model.encoder, "item"), by_hand(model, model.decoder, "candidate"))
    matrix = torch.from_numpy(model.graph.matrix().toarray())
    e = model.vectors()[0][[1, 2]]
    logs = (e @ g.T).log_softmax(1)
    asked = matrix[[1, 2]]
    expected = -(logs * asked).sum(1).div(asked.sum(1)).mean()
    inside = asked.sum(0).nonzero()[:, 0]
    likeness = normalize(f[inside]) @ normalize(f[inside]).T / model.config.item_temperature
    contrast = -likeness.log_softmax(1).diagonal().mean()
    loss = model.loss(batch)
    torch.testing.assert_close(loss, expected + 0.7 * contrast)
    loss.backward()
    dead = [name for name, weight in model.named_parameters()
            if weight.grad is None or not weight.grad.any()]  # fmt: skip
    assert not dead, "also the attention over items is trained"


def test_held_out_items_are_asked_and_given_ones_are_not_compared_with():
    model = made(reconstruct="held_out", item_weight=0, bundle_weight=0)
    batch = SetBatch.of(model.graph.matrix()[[1]], torch.tensor([1]))
    given = torch.zeros_like(batch.real)
    given[0, :2] = True
    history = torch.zeros(1, model.graph.num_items)
    history[0, batch.items[0, :2]] = 1
    scores = model.scores_of(csr_array(history.numpy()))[0]
    others = [n for n in range(model.graph.num_items) if not history[0, n]]
    asked = batch.items[0, 2:].tolist()
    expected = -(scores[asked] - scores[others].logsumexp(0)).mean()
    bundles = model.folded_in(csr_array(history.numpy()))
    torch.testing.assert_close(model.reconstruction(bundles, batch, given).detach(), expected)


def test_kept_items_are_real_and_neither_all_nor_none():
    model, real = made(keep=0.5), torch.arange(7)[None] < torch.tensor([[1], [2], [3], [7]])
    torch.manual_seed(0)
    drawn = torch.stack([model._kept(real) for _ in range(50)])
    assert not (drawn & ~real).any()
    assert (drawn.sum(2) == torch.tensor([1, 1, 2, 4])).all()
    assert drawn.any(0)[1:, :2].all(), "every place is kept at times"


def test_bundles_of_the_same_items_are_no_negatives():
    users, items = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 0, 1, 2])
    graph = InteractionGraph(3, 4, users, items)
    model = CLHE(CLHE.Config(**SMALL, item_weight=0, bundle_weight=1.0, keep=0.1), graph)
    model.reset_parameters(1)
    batch = SetBatch.of(graph.matrix(), torch.arange(3))
    torch.manual_seed(4)
    kept = model._kept(batch.real)
    torch.manual_seed(4)
    loss = model.loss(batch)
    f = model.items_in_bundles()
    view = torch.stack([layer_norm(f[i[k]], (8,)).mean(0) for i, k in zip(batch.items, kept)])
    e = model.vectors()[0]
    wanted = model.reconstruction(e, batch, batch.real)
    contrast = in_batch(e, view, ids=torch.tensor([0, 0, 1]), temperature=0.2)
    torch.testing.assert_close(loss, wanted + contrast)


def test_a_cold_item_is_known_by_its_content_alone():
    model = made(feedback_dim=0).eval()
    item = 7
    train = tiny_interactions()
    cold = InteractionGraph.of(train.take(train.item != item), features=tiny_features())
    other = CLHE(model.config, cold)
    other.reset_parameters(1)
    tokens = other.tokens("item", torch.tensor([item]))[0]
    torch.testing.assert_close(tokens[0], tokens[1])
    with torch.no_grad():
        before = other.eval().scores(torch.tensor([1]))
        for table in other.embeddings.parameters():
            table.mul_(-3)
    # rows of other items matter, the own one does not
    torch.testing.assert_close(other.tokens("item", torch.tensor([item]))[0], tokens)
    assert not torch.allclose(other.train().eval().scores(torch.tensor([1])), before)


def test_what_it_cannot_take_is_refused():
    with pytest.raises(ConfigError, match="items bring no vectors `cf`"):
        made(feedback="cf")
    with pytest.raises(ConfigError, match=r"text\.axes"):
        made(text=TextOptions())
    with pytest.raises(ConfigError, match="compares with all items"):
        made().loader(SamplingConfig(negatives="uniform"))
    with pytest.raises(ConfigError, match="knows items by their features"):
        made().folded_in(csr_array((1, 30), dtype=np.float32), "item")
    assert made(feedback="photo").spectrum is None


def test_it_completes_planted_bundles_better_than_popularity(tmp_path):
    models = {
        "clhe": {"class": "recsys.models.bundle.clhe.CLHE", "embedding_dim": 32, "hidden": 64},
        "popular": {"class": "recsys.models.graph.most_pop.MostPop"},
    }
    found = {}
    for name, model in models.items():
        experiment = CFExperiment.parse({
            "dataset": {"class": "recsys.datasets.planted_bundles.PlantedBundles",
                        "task": "complete", "num_bundles": 500, "num_users": 100},
            "model": model, "sampling": {"negatives": "none"},
            "embedding": {"learning_rate": 0.01},
            "train": {"num_epochs": 8, "learning_rate": 0.005, "batch_size": 64,
                      "num_threads": 1, "monitor": "ndcg@10"},
            "evaluation": {"ks": [10], "bootstrap_samples": 0},
        })  # fmt: skip
        options = RunOptions(cache_dir=tmp_path, show="none", device="cpu", report=False)
        found[name] = run(experiment, tmp_path / name, options).metrics("test")["ndcg@10"]
    assert found["clhe"] > 2 * found["popular"] > 0
    recommender = Recommender.load(tmp_path / "clhe")
    listed = recommender.recommend_for({"new bundle": [3, 5]}, k=4)  # nobody trained on it
    ids = {item for item, _ in listed[0]}
    assert len(ids) == 4 and not {3, 5} & ids


def test_a_set_without_features_has_rows_alone():
    graph = InteractionGraph.of(tiny_interactions(), features=ItemFeatures(20))
    model = CLHE(CLHE.Config(**SMALL), graph)
    model.reset_parameters(1)
    assert model.tokens("item", torch.tensor([2])).shape == (1, 1, 8)
