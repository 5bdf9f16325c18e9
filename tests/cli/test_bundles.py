"""Bundles are recommended by the commands that recommend items, by filters of pairs too."""

from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from recsys.datasets.planted_bundles import PlantedBundles
from recsys.serving.recommender import Recommender
from recsys.serving.recommender_folder import load_recommender
from tests.cli.conftest import cli

CONFIGS = Path(__file__).parent.parent.parent / "configs"
SIZES = {"num_users": 60, "num_bundles": 50, "num_items": 40, "cold": 0.1}
SMALL = [f"dataset.{name}={value}" for name, value in SIZES.items()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A recommender of bundles and a filter of pairs, on the same data."""
    folder = tmp_path_factory.mktemp("bundles")
    data = "dataset={class: recsys.datasets.planted_bundles.PlantedBundles}"
    changes = {
        "bundle/multi_cbr": ["train.num_epochs=2", "model.embedding_dim=8", *SMALL],
        "graph/item_knn": [data, *SMALL],
    }
    found = {}
    for name, settings in changes.items():
        found[name] = folder / name.replace("/", "-")
        sets = [part for change in [*settings, "train.num_threads=1"] for part in ("--set", change)]
        cli("train", "--config", CONFIGS / f"{name}.yaml", "--run-dir", found[name], *sets)
    return found


@pytest.mark.parametrize("name", ["bundle/multi_cbr", "graph/item_knn"])
def test_runs_are_judged_and_give_lists_of_bundles(runs, name):
    run = runs[name]
    assert "recall@20" in cli("evaluate", run).output
    out = run.parent / f"{run.name}.parquet"
    cli("recommend", run, "--all-users", "--k", 5, "--out", out)
    table = pyarrow.parquet.read_table(out)
    assert table.num_rows == 300 and set(table["item"].to_pylist()) <= set(range(50))
    cli("evaluate", run, "--compare", runs["graph/item_knn"])


def test_a_saved_model_has_the_contents(runs, tmp_path):
    wanted = PlantedBundles(PlantedBundles.Config(**SIZES)).bundle_data(tmp_path)
    for run in runs.values():
        contents = load_recommender(run).model.graph.contents
        assert contents is not None and contents.user_item is not None
        np.testing.assert_array_equal(contents.bundles.keys, wanted.bundles.keys)
        np.testing.assert_array_equal(contents.user_item.keys, wanted.user_item.keys)
        np.testing.assert_array_equal(contents.bundles.items.values, wanted.items.values)


def test_exported_vectors_rank_as_the_model_does(runs, tmp_path):
    recommender = Recommender.load(runs["bundle/multi_cbr"])
    users, bundles = recommender.vectors("user"), recommender.vectors("item")
    assert bundles.values.shape == (50, 8)
    for user in (0, 7):
        scores = bundles.values @ users.values[user]
        for bundle, score in recommender.recommend([user], 5)[0]:
            np.testing.assert_allclose(scores[bundle], score, rtol=1e-4)


def test_cold_bundles_are_like_others_for_models_that_look_into_them(runs):
    looks, blind = (Recommender.load(runs[name]) for name in runs)
    cold = int(np.flatnonzero(looks.model.graph.item_degrees() == 0)[0])
    assert len(looks.similar_items([cold], 3)[0]) == 3
    with pytest.raises(Exception, match="was not seen in training"):
        blind.similar_items([cold], 3)
