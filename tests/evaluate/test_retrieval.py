"""Retrieval judged over all items of a log: against a naive computation, by hand, refusals."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from recsys.errors import ConfigError, DataError, TrainingError
from recsys.evaluate.retrieval import RetrievalOptions, evaluate_retrieval
from recsys.layers.mlp import MLPConfig
from recsys.models.ctr.lr import LR
from recsys.models.ctr.two_tower import TwoTower
from recsys.schema import Categorical, Label, Numeric, Schema
from recsys.testing.data import fill_weights
from recsys.types import Batch

SCHEMA = Schema(
    features=(
        Categorical(name="user", num_embeddings=22),
        Categorical(name="item", num_embeddings=32),
        Numeric(name="price"),
        Numeric(name="hour"),
    ),
    labels=(Label(name="click"),),
    group="user",
)
CONFIG = TwoTower.Config(
    item_features=("item", "price"),
    item_id="item",
    embedding_dim=4,
    output_dim=5,
    user_mlp=MLPConfig(hidden_units=(8,)),
    item_mlp=MLPConfig(hidden_units=(8,)),
)


def model_of(schema: Schema = SCHEMA, **changes) -> TwoTower:
    model = TwoTower(CONFIG.model_copy(update=changes), schema)
    fill_weights(model)
    return model


def rows_of(count: int, seed: int) -> list[dict]:
    """Group numbers are no table indices; item 1 is unknown; prices belong to items."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        item, user = int(random.integers(1, 32)), int(random.integers(2, 22))
        found.append({
            "user": user, "item": item, "price": math.sin(item), "hour": float(random.normal()),
            "click": float(random.random() < 0.5), "weight": float(random.integers(0, 3)),
            "group": (-1) ** user * 10**12 * user,
        })  # fmt: skip
    return found


def batch_of(rows: list[dict], grouped: bool = True) -> Batch:
    def column(name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.tensor([row[name] for row in rows], dtype=dtype)

    return Batch(
        dense=torch.stack([column("price"), column("hour")], 1),
        values=torch.cat([column("user", torch.int32), column("item", torch.int32)]),
        lengths=torch.ones(2 * len(rows), dtype=torch.int32),
        labels=column("click")[:, None],
        keys=("user", "item"),
        value_counts=(len(rows), len(rows)),
        weights=column("weight"),
        groups=column("group", torch.int64) if grouped else None,
    )


def batches_of(rows: list[dict], size: int = 37) -> list[Batch]:
    return [batch_of(rows[start : start + size]) for start in range(0, len(rows), size)]


def naive(model, seen, held_out, k: int, per: str, mask: bool, popular: bool) -> dict[str, float]:
    """Loops over rows, one forward for each pair of a question and an item."""
    seen, held_out = ([row for row in rows if row["weight"] > 0] for rows in (seen, held_out))
    items = {row["item"]: row for row in reversed([*seen, *held_out]) if row["item"] > 1}
    questions: dict[int, list[dict]] = {}
    for number, row in enumerate(held_out):
        if row["click"] and row["item"] > 1:
            questions.setdefault(row["group"] if per == "group" else number, []).append(row)
    recalls, gains = [], []
    for name, rows in questions.items():
        known = set()
        if mask and per == "group":
            known = {row["item"] for row in seen if row["click"] and row["group"] == name}
        wanted = {row["item"] for row in rows} - known
        if not wanted:
            continue
        scores = {}
        for item, features in items.items():
            pair = {**rows[0], "item": item, "price": features["price"]}
            scores[item] = model(batch_of([pair])).item()
            if popular:
                scores[item] = sum(row["click"] for row in seen if row["item"] == item)
        allowed = [item for item in sorted(items) if item not in known]
        best = sorted(allowed, key=lambda item: -scores[item])[:k]
        hits = [item in wanted for item in best]
        recalls.append(sum(hits) / len(wanted))
        gain = sum(1 / math.log2(rank + 2) for rank, hit in enumerate(hits) if hit)
        gains.append(gain / sum(1 / math.log2(r + 2) for r in range(min(k, len(wanted)))))
    return {f"recall@{k}": float(np.mean(recalls)), f"ndcg@{k}": float(np.mean(gains))}


@pytest.mark.parametrize(("per", "mask"), [("group", True), ("group", False), ("row", True)])
def test_equals_a_naive_computation(per, mask):
    model = model_of().train()
    seen, held_out = rows_of(200, seed=1), rows_of(60, seed=2)
    options = RetrievalOptions(ks=(7, 3), per=per, mask_seen=mask, bootstrap_samples=20)
    found = evaluate_retrieval(model, batches_of(seen), batches_of(held_out), options)
    assert model.training and not model.get_buffer("shares.seen")
    model.eval()
    for k in (3, 7):
        expected = naive(model, seen, held_out, k, per, mask, popular=False)
        popular = naive(model, seen, held_out, k, per, mask, popular=True)
        for name, value in expected.items():
            assert found.metrics[name] == pytest.approx(value), name
            assert found.popular[name] == pytest.approx(popular[name]), name
            interval = found.intervals[name]
            assert interval.low <= found.metrics[name] <= interval.high
    clicks = [row for row in held_out if row["click"] and row["weight"]]
    unknown = sum(row["item"] == 1 for row in clicks)
    assert unknown and found.counts["clicks_on_unknown_items"] == unknown
    assert found.counts["held_out_clicks"] == len(clicks)
    assert (found.counts["clicks_on_seen_items"] > 0) == (per == "group" and mask)
    assert found.counts["questions"] == len(found.lists) == len(found.values["recall@3"])
    assert found.lists.min() >= 2 and found.lists.max() < 32


def test_by_hand():
    """Items by cosine with the user; the first is seen, so the list of two is b, c; c is wanted."""
    schema = SCHEMA.model_copy(update={"features": SCHEMA.features[:2]})
    empty = MLPConfig(hidden_units=())
    model = TwoTower(
        CONFIG.model_copy(update={
            "item_features": ("item",), "embedding_dim": 2, "output_dim": 2, "normalize": False,
            "user_mlp": empty, "item_mlp": empty,
        }),
        schema,
    )  # fmt: skip
    state = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    for side in ("user", "item"):
        state[f"{side}_tower.layers.0.weight"] += torch.eye(2)
    state["embeddings.embedding.user.weight"][2] = torch.tensor([1.0, 0.0])
    vectors = torch.tensor([[9.0, 0.0], [3.0, 5.0], [2.0, 1.0], [-1.0, 8.0]])
    state["embeddings.embedding.item.weight"][2:6] = vectors
    model.load_state_dict(state)

    def rows(*pairs: tuple[int, float]) -> list[Batch]:
        made = [{"user": 2, "item": item, "click": click, "price": 0.0, "hour": 0.0,
                 "weight": 1.0, "group": 5} for item, click in pairs]  # fmt: skip
        return [dataclasses.replace(batch_of(made), dense=torch.zeros(len(made), 0))]

    found = evaluate_retrieval(
        model, rows((2, 1.0), (3, 0.0)), rows((4, 1.0), (5, 1.0), (3, 0.0)),
        RetrievalOptions(ks=(2, 4), bootstrap_samples=0),
    )  # fmt: skip
    assert found.lists.tolist() == [[3, 4, 5, -1]]
    assert found.metrics["recall@2"] == 0.5 and found.metrics["recall@4"] == 1.0
    gain = 1 / math.log2(3)
    assert found.metrics["ndcg@2"] == pytest.approx(gain / (1 + gain))
    assert found.metrics["mrr@2"] == 0.5 and found.intervals == {}
    # Only item 2 was clicked before, and it is masked: ties, so items in their order.
    assert found.popular["recall@2"] == 0.5
    assert found.counts == {
        "questions": 1, "items": 4, "held_out_clicks": 2, "clicks_on_unknown_items": 0,
        "clicks_on_seen_items": 0,
    }  # fmt: skip
    assert found.table().splitlines()[0] == (
        "1 questions, 4 items, 2 held out clicks, 0 clicks on unknown items, 0 clicks on seen items"
    )
    assert "most clicked" in found.table() and found.to_json()["metrics"]["recall@2"] == 0.5


def test_refusals():
    model, rows = model_of(), rows_of(40, seed=3)
    data = batches_of(rows)
    with pytest.raises(ConfigError, match=r"vectors of users and of items, got LR. Models that"):
        evaluate_retrieval(LR(LR.Config(), SCHEMA), data, data)
    with pytest.raises(ConfigError, match=r"model.item_id is not set"):
        evaluate_retrieval(model_of(item_id=None, softmax_weight=0.0), data, data)
    bare = SCHEMA.model_copy(update={"group": None})
    with pytest.raises(ConfigError, match=r'per="group": the schema names no group column'):
        evaluate_retrieval(model_of(bare), data, data)
    with pytest.raises(DataError, match=r"the batches have no groups"):
        evaluate_retrieval(model, [batch_of(rows, grouped=False)], data)
    with pytest.raises(ConfigError, match=r"ks: expected at most the \d+ items of the log, got 99"):
        evaluate_retrieval(model, data, data, RetrievalOptions(ks=(99,), mask_seen=False))
    with pytest.raises(DataError, match=r"on items that are masked because they were seen"):
        evaluate_retrieval(model, data, data)
    none = [dataclasses.replace(data[0], labels=torch.zeros_like(data[0].labels))]
    with pytest.raises(DataError, match=r"of 0 held-out clicks none is on an item"):
        evaluate_retrieval(model, data, none)
    with torch.no_grad():
        model.get_parameter("user_tower.layers.0.bias").fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"a score is NaN"):
        evaluate_retrieval(model, [], data, RetrievalOptions(ks=(3,)))
    for key, value, message in (
        ("ks", (), r"ks: expected different cut-offs"),
        ("per", "user", r'per: expected "group" or "row", got \'user\''),
        ("bootstrap_samples", 1, r"expected 0 \(none\) or at least 2, got 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(RetrievalOptions(), **{key: value})
