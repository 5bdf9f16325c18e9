"""SESA against its equations, and on data where the concepts are known."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from recsys.cf_config import CFExperiment
from recsys.errors import ConfigError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.negatives import SamplingConfig
from recsys.graph.text_features import TextOptions
from recsys.models.aspect.sesa import SESA
from recsys.serving.recommender import Recommender
from recsys.serving.service import Service
from recsys.testing.cf import (
    NUM_ITEMS,
    NUM_USERS,
    CFModelConformance,
    tiny_descriptions,
    tiny_interactions,
)
from recsys.train.run import RunOptions, run
from recsys.types import PairBatch
from tests.cli.conftest import cli

TEXT = TextOptions(num_buckets=200, axes=3)
CONFIG = SESA.Config(text=TEXT, embedding_dim=8)


class TestSuite(CFModelConformance):
    model = SESA
    config = CONFIG
    sampling = SamplingConfig(negatives="none")


class TestLatent(CFModelConformance):
    model = SESA
    config = SESA.Config(text=TEXT, embedding_dim=8, space="latent", latent_dim=6)
    sampling = SamplingConfig(negatives="none")


def made(train=None, about=None, **options):
    about = about or tiny_descriptions()
    graph = InteractionGraph.of(train or tiny_interactions(), descriptions=about)
    model = SESA(CONFIG.model_copy(update=options), graph)
    model.reset_parameters(3)
    return model


def by_hand(model, numbers, layer):
    rows = torch.from_numpy(model.text.rows(numbers).toarray())
    grams = model.embeddings.state_dict()["embedding.text.weight"][2:]
    return layer(torch.cat([rows @ grams, rows @ model.text.axes], dim=1))


def test_scores_and_loss_are_those_of_the_equations():
    model = made(concept_weight=0.4, temperature=0.7)
    user, item = torch.tensor([0, 3, 5, 7]), torch.tensor([0, 3, 2, 4])
    u = by_hand(model, user.numpy(), model.users)
    v = by_hand(model, item.numpy() + NUM_USERS, model.items)
    w = functional.softplus(model.raw_weights)
    scores = (u.sigmoid() * w) @ v.sigmoid().T
    torch.testing.assert_close(
        model.eval().scores(user)[torch.arange(4)[:, None], item[None]], scores.detach()
    )
    seen = torch.from_numpy(model.graph.matrix().toarray())[user][:, item] > 0
    hidden = seen & ~torch.eye(4, dtype=torch.bool)
    logits = (scores / 0.7).masked_fill(hidden, -torch.inf)
    wanted = functional.cross_entropy(logits, torch.arange(4))
    # concepts are known of all but every fifth: users 3 and 7, items 3, 2 and 4
    for code, numbers, known in ((u, user, [1, 3]), (v, item, [1, 2, 3])):
        labels = torch.eye(3)[numbers[known] % 3]
        entropy = functional.binary_cross_entropy(code[known].sigmoid(), labels, reduction="none")
        wanted = wanted + 0.4 * entropy.sum(1).mean()
    torch.testing.assert_close(model.train().loss(PairBatch(user, item)), wanted)


def test_codes_start_at_the_frequency_of_concepts():
    model = made()
    # users 1-4, 6-9, ... to learn from, of 29: 23 with one concept each, 8 of them of the first
    known = [n for n in range(NUM_USERS - 1) if n % 5]
    share = (sum(n % 3 == 0 for n in known) + 0.5) / (len(known) + 1)
    torch.testing.assert_close(model.users.bias[0].sigmoid(), torch.tensor(share).float())
    times = sum(n % 3 == 0 for n in range(NUM_USERS) if n % 5)
    times += sum(n % 3 == 0 for n in range(NUM_ITEMS) if n % 5)
    rare = 1 + np.log((1 + NUM_USERS + NUM_ITEMS) / (1 + times))
    assert float(model.weights[0]) == pytest.approx(rare)


def test_concepts_of_users_who_are_held_out_are_not_used():
    about = tiny_descriptions()
    pairs = about.user_concepts
    keep = pairs.user < NUM_USERS - 1  # the last one has no training pair
    fewer = dataclasses.replace(
        about,
        user_concepts=dataclasses.replace(pairs, user=pairs.user[keep], item=pairs.item[keep]),
    )
    assert len(fewer.user_concepts) < len(pairs)
    suite = TestSuite()
    found = [made(about=each) for each in (about, fewer)]
    for model in found:
        suite.train_some(model, 2)
    # all concepts together say how rare one is at the start; nothing else knows of the last user
    torch.testing.assert_close(found[0].users.bias, found[1].users.bias, rtol=0, atol=0.05)
    first, second = (suite.build().users.bias, made(about=fewer).users.bias)
    torch.testing.assert_close(first, second)


def test_sparse_codes_keep_the_largest_parts():
    model = made(top=1).eval()
    codes = model.codes_of(["g1 g1w0", ""])
    assert ((codes > 0).sum(1) == 1).all()
    whole = made().eval().codes_of(["g1 g1w0", ""])
    weighted = whole * model.weights
    assert (codes.argmax(1) == weighted.argmax(1)).all()
    torch.testing.assert_close(codes.sum(1), whole.gather(1, codes.argmax(1, keepdim=True))[:, 0])
    assert (model.train().code(torch.zeros(2, 3)) > 0).all()


@pytest.mark.parametrize("top", [1, 2, 3, None])
def test_scores_are_dot_products_whatever_is_held(top):
    model = made(top=top).eval()
    users, items = model.vectors()
    torch.testing.assert_close(model.scores(torch.tensor([5, 0])), users[[5, 0]] @ items.T)
    found = model.scores_of_texts([model.about.user_texts[4], "g1 g1w0"])
    torch.testing.assert_close(found[0], model.scores(torch.tensor([4]))[0])
    torch.testing.assert_close(
        found[1], (model.codes_of(["g1 g1w0"])[0] * model.weights).detach() @ items.T
    )
    index = model.inverted_index()
    assert isinstance(index, torch.Tensor) == (top in (3, None))  # of 3 concepts
    if not isinstance(index, torch.Tensor):
        assert index.nnz == top * NUM_ITEMS and index.shape == (3, NUM_ITEMS)
    why = model.explain(4, model.graph.matrix()[[2]], 2)
    assert why.score == pytest.approx(float(model.scores(torch.tensor([2]))[0, 4]), rel=1e-5)
    assert model.train().inverted_index() is not index  # what is trained changes


def test_reasons_are_named_concepts_that_add_up():
    model = made().eval()
    found = model.explain(4, model.graph.matrix()[[2]], 2)
    assert {reason.path[0].kind for reason in found.reasons} == {"concept"}
    assert sum(reason.weight for reason in found.reasons) == pytest.approx(found.score)
    assert found.score == pytest.approx(float(model.scores(torch.tensor([2]))[0, 4]), rel=1e-5)
    text = model.about.user_texts[2]
    assert model.explain_text(text, 4).score == pytest.approx(found.score, rel=1e-5)
    with pytest.raises(ConfigError, match="by their texts, not by a history"):
        model.explain(4, model.graph.matrix()[[2]])
    with pytest.raises(ConfigError, match="no concepts to name"):
        made(space="latent").eval().explain_text(text, 4)


def test_what_it_cannot_take_is_refused():
    graph = InteractionGraph.of(tiny_interactions())
    with pytest.raises(ConfigError, match="reads texts and concepts, and the data has none"):
        SESA(CONFIG, graph)
    with pytest.raises(ConfigError, match=r"text\.trained"):
        made(text=TextOptions(trained=False, axes=3))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("sesa"), {}
    for name, options in {"sesa": {}, "popular": None}.items():
        model = {"class": "recsys.models.aspect.sesa.SESA", "embedding_dim": 16,
                 "text": {"num_buckets": 1000}, **(options or {})}  # fmt: skip
        if options is None:
            model = {"class": "recsys.models.graph.most_pop.MostPop"}
        experiment = CFExperiment.parse({
            "dataset": {"class": "recsys.datasets.planted_concepts.PlantedConcepts",
                        "num_queries": 300, "num_items": 60, "num_concepts": 12,
                        "concepts_each": 3},
            "model": model, "sampling": {"negatives": "none"},
            "embedding": {"learning_rate": 0.02},
            "train": {"num_epochs": 8, "learning_rate": 0.02, "batch_size": 128,
                      "num_threads": 1, "monitor": "ndcg@10"},
            "evaluation": {"ks": [10], "bootstrap_samples": 0},
        })  # fmt: skip
        options = RunOptions(cache_dir=folder, show="none", device="cpu", report=False)
        found[name] = run(experiment, folder / name, options).metrics("test")
    return folder / "sesa", found


def test_new_queries_are_ranked_and_explained_by_planted_concepts(trained):
    folder, metrics = trained
    assert metrics["sesa"]["ndcg@10"] > 1.5 * metrics["popular"]["ndcg@10"]
    recommender = Recommender.load(folder)
    about, right, total = recommender.model.graph.descriptions, 0, 0
    cold = np.flatnonzero(recommender.model.graph.user_degrees().numpy() == 0)[:25]
    for number in cold:  # queries that training has not seen
        user = recommender.users.values[number]
        item = recommender.recommend([user], k=1)[0][0][0]
        text = (
            about.user_texts[number] + " " + about.item_texts[recommender.items.numbers([item])[0]]
        )
        for reason in recommender.explain(user, item, k=1).reasons:
            name = reason.path[0].id
            assert name.startswith("skill ")
            right += text.count(f"c{name[-2:]}w") >= 2  # both texts have a word of the concept
            total += 1
    assert right / total > 0.6, "of the strongest reasons, those that both are about"


def test_a_new_text_is_served_like_the_query_that_has_it(trained):
    recommender = Recommender.load(trained[0])
    text, name = recommender.model.graph.descriptions.user_texts[7], recommender.users.values[7]
    found = recommender.recommend_texts({"new": text, "none": ""}, k=60)
    known = recommender.recommend([name], k=60, exclude_seen=False)
    assert [item for item, _ in found[0]] == [item for item, _ in known[0]]
    assert [s for _, s in found[0]] == pytest.approx([s for _, s in known[0]], rel=1e-5)
    assert len(found[1]) == 60
    item = found[0][3][0]
    one, two = recommender.explain(None, item, text=text), recommender.explain(name, item)
    assert [reason.path for reason in one.reasons] == [reason.path for reason in two.reasons]
    assert one.score == pytest.approx(two.score) and one.reasons[0].path[0].id.startswith("skill ")
    assert len(recommender.recommend_texts([text], k=5, filter=[item])[0]) == 1
    # by command and by request
    lines = cli("recommend", trained[0], "--text", text, "--k", 2).output.splitlines()[2:]
    assert [line.split()[2] for line in lines] == [name for name, _ in found[0][:2]]
    assert cli("recommend", trained[0], "--text", text, "--explain", item).output == (
        recommender.explain(None, item, 10, text=text).text() + "\n"
    )
    with Service() as service:
        service.load(trained[0])
        answer = service.answer("recommend", json.dumps({"texts": [text, "x"], "k": 3}).encode())
        first, _ = json.loads(answer.body)["lists"]
        assert first["items"] == [name for name, _ in found[0][:3]]
        for wrong in ({"texts": [3]}, {"texts": ["x"], "users": [1]}, {"texts": []}):
            assert service.answer("recommend", json.dumps(wrong).encode()).status == 422
