"""The experiment file of a collaborative filter: what it reads and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from recsys.cf_config import CFExperiment, kind_of, load_any
from recsys.config import Experiment, load
from recsys.errors import ConfigError
from recsys.models.graph.ease import EASE
from recsys.models.graph.light_gcn import LightGCN

BASE = """
dataset: {class: recsys.datasets.planted_communities.PlantedCommunities, num_users: 30}
model: {class: recsys.models.graph.light_gcn.LightGCN, num_layers: 2}
"""
CLICKS = """
dataset: {class: recsys.datasets.synthetic.Synthetic}
model: {class: recsys.models.ctr.lr.LR}
"""


def write(folder: Path, text: str, name: str = "x.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refuse(folder: Path, text: str, *overrides: str) -> str:
    """The text of the error."""
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_any(path, overrides)
    assert "pydantic" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def test_a_file_becomes_typed_blocks_with_defaults_filled(tmp_path):
    found = load_any(write(tmp_path, BASE), ["train.num_epochs=7", "sampling.negatives=none"])
    assert isinstance(found, CFExperiment) and not found.fitted
    assert found.model.model_class is LightGCN
    assert found.model.config.model_dump()["num_layers"] == 2
    assert found.train.num_epochs == 7 and found.sampling.negatives == "none"
    assert (found.embedding.kind, found.embedding.mode) == ("adam", "dense")
    assert found.dataset.build().config.model_dump()["num_users"] == 30
    again = load_any(
        write(tmp_path, BASE.replace("light_gcn.LightGCN, num_layers: 2", "ease.EASE"))
    )
    assert isinstance(again, CFExperiment) and again.fitted and again.model.model_class is EASE


@pytest.mark.parametrize("name", ["x.yaml", "x.json"])
def test_a_saved_experiment_loads_back_equal(tmp_path, name):
    overrides = [
        "name=mine", "seeds=[3, 4]", "weighted=true", "train.valid_users=9",
        "dataset.split={kind: by_user, seed: 2}", "evaluation.ks=[3, 20]", "train.monitor=hr@3",
    ]  # fmt: skip
    first = load_any(write(tmp_path, BASE), overrides)
    first.save(tmp_path / f"again-{name}")
    assert load_any(tmp_path / f"again-{name}") == first


def test_the_kind_follows_from_the_class_of_the_model(tmp_path):
    assert isinstance(load_any(write(tmp_path, CLICKS)), Experiment)
    for block, kind in (
        ({"class": "recsys.models.graph.light_gcn.LightGCN"}, CFExperiment),
        ({"class": "recsys.models.graph.light_gnc.LightGCN"}, CFExperiment),
        ({"class": "recsys.models.ctr.lrr.LR"}, Experiment),
        ({"class": 3}, Experiment),
        (None, Experiment),
    ):
        assert kind_of({"model": block}) is kind


def test_what_reads_clicks_says_what_it_got(tmp_path):
    path = write(tmp_path, BASE)
    with pytest.raises(ConfigError, match=r"x\.yaml: LightGCN does not predict clicks.*recommend"):
        load(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.monitor=ndgc@20", "no ranking metric `ndgc`. Did you mean `ndcg`?"),
        ("train.monitor=ndcg@7", "expected one of evaluation.ks=[10, 20] behind the @"),
        ("train.monitor=ndcg", "train.monitor"),
        ("train.monitor=auc", "train.monitor"),
        ("model.num_layer=3", "`model.num_layer` is not a field of LightGCN.Config. Did you mean"),
        ("train.epochs_per_evaluations=2", "Did you mean `epochs_per_evaluation`"),
        ("train.eval_batch_size=5", "`train.eval_batch_size` is not a field of CFTrainConfig"),
        ("train.valid_users=0", "`train.valid_users`: expected a number of at least 1, got 0"),
        ("sampling.negatives=unifrm", "sampling.negatives"),
        ("dataset.num_user=3", "Did you mean `num_users`"),
        ("prepare.on_bad_rows=raise", "`prepare` is not a field of CFExperiment"),
        ("model.class=recsys.models.graph.light_gnc.LightGCN", "Did you mean `light_gcn`"),
        ("dataset.class=recsys.datasets.synthetic.Synthetic", "is not a InteractionDataset class"),
        ("seeds=[1,1]", "expected different seeds"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, override, message):
    assert message in refuse(tmp_path, BASE, override)


def test_experiments_cannot_be_changed(tmp_path):
    found = load_any(write(tmp_path, BASE))
    with pytest.raises(ValidationError, match="frozen"):
        found.seeds = (9,)  # pyright: ignore
