"""Widths by a supernet: what is searched, bytes, values, going on after a stop."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from recsys.config import Experiment
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prepare import prepare
from recsys.embeddings.compression.evolution import Evolution
from recsys.embeddings.compression.opt_embed_supernet import Supernet
from recsys.errors import BudgetInfeasible, ConfigError, DataError
from recsys.evaluate.predictions import collect
from recsys.evaluate.summary import flat_metrics
from recsys.train.trainer import Trainer
from recsys.tune import supernet
from recsys.tune.cost import Costs
from recsys.tune.front_search import FrontSearch, Sizes
from recsys.tune.halving import fronts
from recsys.tune.prior import first_answers
from recsys.tune.space import Space
from recsys.tune.supernet import SupernetOptions, WidthPoint, search_widths, spread
from recsys.tune.supernet_judge import SupernetJudge, some_rows
from recsys.tune.sweep import Limits, Sweep
from recsys.tune.worker import Task

SPACE = {
    "model.tables.[C1, C2].embedding_dim": {"power_of_two": [2, 8]},
    "model.tables.C5.embedding_dim": {"choice": [1, 4, None]},
    "model.tables.C6.embedding_dim": {"int": [2, 6], "step": 2},
    "model.tables.tags.embedding_dim": {"power_of_two": [2, 16]},
    "train.learning_rate": {"float": [1e-4, 1e-2], "log": True},
}
WIDTHS = {"C1": {2, 4, 8}, "C2": {2, 4, 8}, "C5": {1, 4, 8}, "C6": {2, 4, 6}, "tags": {2, 4, 8, 16}}


def make_experiment(**changes):
    return Experiment.parse(
        {
            "dataset": {"class": "recsys.datasets.synthetic.Synthetic",
                        "num_rows": 3000, "valid_rows": 1000, "test_rows": 500},
            "model": {"class": "recsys.models.ctr.deep_fm.DeepFM", "embedding_dim": 8,
                      "init_std": 0.1, "mlp": {"hidden_units": [8]}, **changes},
            "train": {"batch_size": 256, "num_epochs": 2, "evaluations_per_epoch": 1,
                      "eval_batch_size": 300},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def prepared(cache):
    experiment = make_experiment()
    dataset = experiment.dataset.build()
    return prepare(dataset.schema(), dataset.splits(cache), cache / "prepared", experiment.prepare)


@pytest.fixture(scope="module")
def costs(prepared):
    return Costs(make_experiment(), prepared, Limits())


def space_of(costs, raw=None):
    return Space(make_experiment(), raw or SPACE, costs.tables(make_experiment()))


def options(**changes):
    evolution = Evolution(generations=4, mutations=6, crossovers=6, elite=8)
    settings = {"evolution": evolution, "device": "cpu", "say": lambda text: None, **changes}
    return SupernetOptions(**settings)


@pytest.fixture(scope="module")
def found(prepared, costs, tmp_path_factory):
    """One search: its folder, what it said and its front."""
    folder, said = tmp_path_factory.mktemp("supernet"), []
    front = search_widths(
        make_experiment(), space_of(costs), prepared, folder, options(say=said.append)
    )
    return folder, said, front


def judged_in(folder):
    return [json.loads(line) for line in (folder / "judged.jsonl").read_text().splitlines()]


def genes_of(costs, prepared):
    return supernet._searched(make_experiment(), space_of(costs), prepared)


# ------------------------------------------------------------------------------- candidates


def test_widths_are_of_the_space_and_tied_ones_equal(found):
    folder, said, _ = found
    judged = judged_in(folder)
    assert len(judged) > 30
    for line in judged:
        assert line["widths"].keys() == WIDTHS.keys()
        assert all(width in WIDTHS[table] for table, width in line["widths"].items())
        assert line["widths"]["C1"] == line["widths"]["C2"]
    assert said[0].startswith("training a supernet")
    assert "validation AUC 0." in said[1]
    assert said[2].startswith("widths 0/4: ") and "on the front" in said[2]
    assert said[-1].startswith(f"supernet: {len(judged)} widths judged, ")


def test_the_front_is_not_dominated(found):
    folder, _, front = found
    assert len(front) > 2
    points = [(float(point.bytes), -point.auc) for point in front]
    assert fronts(points) == [list(range(len(front)))]
    assert [point.bytes for point in front] == sorted(point.bytes for point in front)
    assert max(point.auc for point in front) == max(line["auc"] for line in judged_in(folder))


def test_bytes_are_those_that_the_search_counts(found, costs, prepared):
    _, _, front = found
    for point in front:
        settings = {f"model.tables.{table}.embedding_dim": w for table, w in point.widths.items()}
        assert point.bytes == costs.of(Experiment.parse(_put(settings)), "fp32").bytes
    sizes = supernet._sizes(make_experiment(), genes_of(costs, prepared), prepared, "int8")
    narrow = {f"model.tables.{table}.embedding_dim": min(w) for table, w in WIDTHS.items()}
    assert sizes.of((0, 0, 0, 0)) == costs.of(Experiment.parse(_put(narrow)), "int8").bytes
    wide = {f"model.tables.{table}.embedding_dim": max(w) for table, w in WIDTHS.items()}
    assert sizes.of((2, 2, 2, 3)) == costs.of(Experiment.parse(_put(wide)), "int8").bytes


def _put(settings):
    tables = {place.split(".")[2]: {"embedding_dim": width} for place, width in settings.items()}
    return make_experiment(tables=tables).model_dump(mode="json")


def test_answers_give_the_widths(found, costs):
    _, _, front = found
    names = {"model.tables.[C1,C2].embedding_dim (log2)", "model.tables.C5.embedding_dim",
             "model.tables.C6.embedding_dim", "model.tables.tags.embedding_dim (log2)"}  # fmt: skip
    for point in front:
        assert point.answers.keys() == names
        assert 1 << point.answers["model.tables.tags.embedding_dim (log2)"] == point.widths["tags"]
        assert (point.answers["model.tables.C5.embedding_dim"] or 8) == point.widths["C5"]


def test_limits_hold_for_all_that_is_judged(found, prepared, costs, tmp_path):
    _, _, front = found
    most = (front[0].bytes + front[-1].bytes) // 2
    smaller = search_widths(
        make_experiment(), space_of(costs), prepared, tmp_path, options(most_bytes=most)
    )
    assert len(smaller) > 0 and smaller[-1].bytes <= most
    for line in judged_in(tmp_path):
        settings = {f"model.tables.{table}.embedding_dim": w for table, w in line["widths"].items()}
        assert costs.of(Experiment.parse(_put(settings)), "fp32").bytes <= most


def test_a_limit_below_all_widths_is_refused(prepared, costs, tmp_path):
    with pytest.raises(BudgetInfeasible, match=r"at most 9 bytes are allowed, and the smallest"):
        search_widths(make_experiment(), space_of(costs), prepared, tmp_path, options(most_bytes=9))
    assert not (tmp_path / "supernet.json").exists()


def test_a_narrow_table_may_be_the_larger_one():
    sizes = Sizes(5, ((30, 10, 20), (1, 2, 3)))
    search = FrontSearch(sizes, 17, Evolution(generations=3, mutations=3, crossovers=3, elite=4))
    scores = search.run(lambda genes: float(sum(genes)), 3, lambda text: None)
    assert set(scores) == {(1, 0), (1, 1)}
    assert sizes.least == 16
    assert search.front(scores) == [(1, 0), (1, 1)]


def test_evolution_finds_the_whole_front_of_a_sum():
    costs = tuple(tuple(4 * rows << at for at in range(5)) for rows in (3, 10, 40, 200, 1000, 90))
    worth = (0.1, 0.5, 0.2, 0.9, 0.8, 0.3)
    calls = []

    def judge(genes):
        calls.append(genes)
        return sum(w * (1 - 2.0**-at) for w, at in zip(worth, genes))

    search = FrontSearch(Sizes(0, costs), None, Evolution(generations=60, mutations=20,
                         crossovers=20, elite=40))  # fmt: skip
    scores = search.run(judge, 1, lambda text: None)
    assert len(calls) == len(set(calls)) == len(scores)
    front = search.front(scores)
    assert front[0] == (0,) * 6 and front[-1] == (4,) * 6
    most = 20_000
    best = max(
        sum(w * (1 - 2.0**-at) for w, at in zip(worth, genes))
        for genes in torch.cartesian_prod(*[torch.arange(5)] * 6).tolist()
        if search.sizes.of(tuple(genes)) <= most
    )
    mine = max(scores[genes] for genes in front if search.sizes.of(genes) <= most)
    assert mine > best - 0.03


# ------------------------------------------------------------------------------- values


def test_full_widths_equal_plain_evaluation(found, prepared, costs):
    folder, _, _ = found
    model = supernet._trained(
        make_experiment(), genes_of(costs, prepared), prepared, folder, options()
    )
    judge = SupernetJudge(model, some_rows(prepared, 1000, 300, 1, "cpu"))
    loader = BatchLoader(prepared, "valid", LoaderConfig(batch_size=300))

    def plain():
        return flat_metrics(collect(model, loader, prepared.schema).reports())["auc"]

    full = plain()
    assert judge.auc({}) == full
    assert judge.auc({"C1": 8, "C5": 8, "tags": 16}) == full

    widths = {"C1": 2, "C2": 4, "C5": 1, "C6": 2, "tags": 2}
    masked = judge.auc(widths)
    for table, width in widths.items():
        decoder = model.embeddings.decoders[f"embedding/{table}"]
        assert isinstance(decoder, Supernet)
        decoder.width.fill_(width)
    assert masked == plain() != full
    assert set(model.embeddings.decoders) == {f"embedding/{table}" for table in widths}


def test_rows_to_judge_on(prepared):
    assert [b.batch_size for b in some_rows(prepared, 1000, 300, 1, "cpu")] == [300, 300, 300, 100]
    some = some_rows(prepared, 400, 150, 1, "cpu")
    assert [b.batch_size for b in some] == [150, 150]
    again = some_rows(prepared, 400, 150, 1, "cpu")
    assert torch.equal(some[0].values, again[0].values)
    first = next(iter(BatchLoader(prepared, "valid", LoaderConfig(batch_size=150))))
    assert not torch.equal(some[0].values, first.values)


def test_one_label_cannot_be_judged(found, prepared, costs):
    folder, _, _ = found
    model = supernet._trained(
        make_experiment(), genes_of(costs, prepared), prepared, folder, options()
    )
    (batch,) = some_rows(prepared, 100, 100, 1, "cpu")
    batch = dataclasses.replace(batch, labels=torch.zeros_like(batch.labels))
    with pytest.raises(DataError, match="all 100 validation rows to judge on have the same label"):
        SupernetJudge(model, [batch]).auc({})


# ------------------------------------------------------------------------------- going on


def test_the_same_seed_gives_the_same_front(found, prepared, costs, tmp_path):
    folder, _, front = found
    space = space_of(costs)
    assert search_widths(make_experiment(), space, prepared, tmp_path, options()) == front
    assert judged_in(tmp_path) == judged_in(folder)
    other = search_widths(make_experiment(), space, prepared, tmp_path, options(seed=1))
    assert other != front


def test_a_search_that_was_killed_goes_on(found, prepared, costs, tmp_path, monkeypatch):
    folder, _, front = found
    calls, whole, judged = [], SupernetJudge.auc, judged_in(folder)

    def counted(self, widths):
        if len(calls) == 20:
            raise KeyboardInterrupt
        calls.append(dict(widths))
        return whole(self, widths)

    monkeypatch.setattr(SupernetJudge, "auc", counted)
    with pytest.raises(KeyboardInterrupt):
        search_widths(make_experiment(), space_of(costs), prepared, tmp_path, options())
    assert judged_in(tmp_path) == judged[:20]
    with (tmp_path / "judged.jsonl").open("a") as file:
        file.write('{"widths": {"C1": 2')  # cut short

    calls.append({})
    assert search_widths(make_experiment(), space_of(costs), prepared, tmp_path, options()) == front
    assert [line["widths"] for line in judged] == [one for one in calls if one]
    assert judged_in(tmp_path) == judged

    before, said = len(calls), []
    again = options(say=said.append)
    assert search_widths(make_experiment(), space_of(costs), prepared, tmp_path, again) == front
    assert len(calls) == before
    assert all(text.startswith("widths") for text in said)  # nothing was trained either


def test_a_training_that_was_stopped_goes_on(found, prepared, costs, tmp_path, monkeypatch):
    _, _, front = found
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_stop_asked", lambda t: "SIGTERM" if t.progress.step == 7 else "")
        with pytest.raises(KeyboardInterrupt):
            search_widths(make_experiment(), space_of(costs), prepared, tmp_path, options())
    assert not (tmp_path / "judged.jsonl").exists()
    said = []
    again = options(say=said.append)
    assert search_widths(make_experiment(), space_of(costs), prepared, tmp_path, again) == front
    assert said[0].startswith("supernet: 24 steps")  # of which 7 were before


def test_another_search_in_the_folder_is_refused(found, prepared, costs):
    folder, _, _ = found
    with pytest.raises(ConfigError, match=r"another search \(max_rows changed\)"):
        search_widths(make_experiment(), space_of(costs), prepared, folder, options(max_rows=500))


# ------------------------------------------------------------------------------- refusals


def test_what_cannot_be_searched_is_refused(prepared, costs, tmp_path):
    rate = {"train.learning_rate": {"float": [1e-4, 1e-2]}}
    with pytest.raises(ConfigError, match="no width of a table is searched"):
        search_widths(make_experiment(), space_of(costs, rate), prepared, tmp_path)
    compressed = make_experiment(compression={"scheme": {"kind": "hash"}, "ratio": 0.5})
    with pytest.raises(ConfigError, match="the experiment compresses its tables"):
        search_widths(compressed, space_of(costs), prepared, tmp_path)
    with pytest.raises(ConfigError, match="max_rows must be at least 1, got 0"):
        search_widths(make_experiment(), space_of(costs), prepared, tmp_path, options(max_rows=0))
    without = dataclasses.replace(prepared, split_rows={"train": 3000})
    with pytest.raises(ConfigError, match="judged on the validation split"):
        search_widths(make_experiment(), space_of(costs), without, tmp_path)


# ------------------------------------------------------------------------------- first trials


def test_points_are_spread_over_bytes():
    points = [WidthPoint({}, {}, 1 << i, 0.5 + i / 100) for i in range(9)]
    assert [math.log2(point.bytes) for point in spread(points, 3)] == [0, 4, 8]
    assert spread(points, 1) == [points[-1]]
    assert spread(points, 20) == points
    assert spread(points, 0) == []


def test_first_trials_have_the_widths(found, prepared, costs, cache, tmp_path, monkeypatch):
    _, _, front = found
    asked = []

    def search(experiment, space, prepared, directory, options):
        asked.append((directory, options))
        return front

    monkeypatch.setattr("recsys.tune.prior.search_widths", search)
    sweep = Sweep.model_validate(
        {"config": "x.yaml", "space": SPACE | {"serve.dtype": {"choice": ["int8", "int4"]}},
         "objectives": ["auc", "bytes"], "prior": {"uniform": 0, "supernet": 2},
         "sampler": {"seed": 5}}
    )  # fmt: skip
    experiment = make_experiment()
    space = Space(experiment, sweep.space, costs.tables(experiment))
    task = Task(sweep, experiment, tmp_path, None, cache, prepared.directory, 1, False)
    limited = Costs(experiment, prepared, Limits(ratio=0.5))
    first, small, large = first_answers(task, space, limited, lambda text: None)
    assert first == space.defaults()
    assert small == space.defaults() | front[0].answers | {"serve.dtype": "int8"}
    assert large == space.defaults() | front[-1].answers | {"serve.dtype": "int8"}
    ((folder, chosen),) = asked
    assert folder == tmp_path / "prior" / "supernet"
    assert (chosen.most_bytes, chosen.dtype, chosen.seed) == (limited.most_bytes, "int8", 5)
