import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from recsys.errors import DataError, TrainingError
from recsys.evaluate.aspects import AspectOptions, cosines, evaluate_aspects, judge_scores
from recsys.graph.aspects import AspectRule
from tests.evaluate.fixed_aspects import given_model, tiny_table


def test_metrics_and_leakage_by_hand():
    found = evaluate_aspects(given_model(), "train", AspectOptions(ks=(1, 2)))
    # vectors of k, judged by k: lists of two
    #   a (x): b e -> 2 of 2   b: e a -> 2 of 2   e: b a -> 2 of 2   c (y): d e   d: c e -> 1 of 1
    assert found.queries == {"k": 5, "m": 4}
    assert found.metrics["k.map@2"] == 1 and found.metrics["k.mrr@2"] == 1
    assert found.metrics["k.precision@2"] == pytest.approx((3 * 1 + 2 * 0.5) / 5)
    assert found.metrics["k.recall@1"] == pytest.approx((3 * 0.5 + 2 * 1) / 5)
    # by m: p is a c, q is b d, r and the last item are alone. None of b e, e a, d e, c e is right.
    assert found.leakage[0].tolist() == [1, 0]
    # vectors of m are all alike: the lowest numbers. By m: a: b c -> 1/2   b: a c -> 0
    # c: a -> 1   d: a b -> 1/2.   By k: a: b c -> 1/2   b: a c -> 1/2   e: a b -> 1, others 0
    assert found.leakage[1].tolist() == [pytest.approx(2 / 5), pytest.approx(2 / 4)]
    assert found.metrics["map@2"] == pytest.approx((1 + 0.5) / 2)
    assert found.metrics["off_aspect.map@2"] == pytest.approx((0 + 0.4) / 2)
    assert found.rows == ("k", "m", "generic")
    assert "0.40000" in found.table() and "map@2 of vectors of" in found.table()
    told = json.loads(json.dumps(found.to_json()))
    assert told["leakage"]["m"] == {"k": pytest.approx(0.4), "m": 0.5}


def test_candidates_may_be_all_items():
    rule = AspectRule(valid=0, test=0.5, seed=2)
    table = tiny_table(rule)
    vectors = cosines(torch.eye(6))
    scorers = {"k": vectors, "m": vectors}
    for candidates, inside in (("split", table.members("test")), ("all", np.arange(6))):
        options = AspectOptions(ks=(6,), candidates=candidates)
        found = judge_scores(table, scorers, "test", options)
        has = table.has_label("k").toarray()
        right = has @ has.T
        np.fill_diagonal(right, 0)
        queries = right[table.members("test")][:, inside].any(1)
        assert found.queries["k"] == queries.sum()
        assert found.metrics["k.recall@6"] == 1  # fewer candidates than the list is long


def test_intervals_are_around_the_metrics():
    options = AspectOptions(ks=(2,), bootstrap_samples=100)
    found = evaluate_aspects(given_model(), "train", options)
    interval = found.intervals["m.map@2"]
    assert interval.low < found.metrics["m.map@2"] < interval.high
    assert set(found.to_json()["intervals"]) == set(found.intervals)


def test_blocks_do_not_matter(monkeypatch):
    wanted = evaluate_aspects(given_model(), "train")
    monkeypatch.setattr("recsys.evaluate.aspects._BLOCK", 2)
    assert evaluate_aspects(given_model(), "train").metrics == wanted.metrics


def test_an_aspect_without_queries_has_no_metrics():
    table = tiny_table()
    alone = dataclasses.replace(table, label_aspect=np.where(table.label_aspect == 1, 1, 0))
    keep = ~((alone.label_aspect[alone.label] == 1) & (alone.item > 0))
    alone = dataclasses.replace(alone, item=alone.item[keep], label=alone.label[keep])
    scores = cosines(torch.eye(6))
    found = judge_scores(alone, {"k": scores, "m": scores}, "train", AspectOptions())
    assert found.queries["m"] == 0 and math.isnan(found.metrics["m.map@10"])
    assert found.metrics["map@10"] == found.metrics["k.map@10"]
    assert found.to_json()["leakage"]["k"]["m"] is None and "-" in found.table()


def test_what_cannot_be_judged():
    model = given_model()
    with pytest.raises(DataError, match="no two items of the test split share a label"):
        evaluate_aspects(model, "test")
    model.bad = True
    with pytest.raises(TrainingError, match="NaN or infinite"):
        evaluate_aspects(model.eval(), "train")
