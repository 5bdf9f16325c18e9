import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from recsys.aspect_config import AspectEvaluationConfig, AspectExperiment, AspectTrainConfig
from recsys.cf_config import kind_of, load_any
from recsys.cli.main import main
from recsys.config import load
from recsys.errors import CheckpointError, ConfigError, DataError
from recsys.evaluate.stored_aspects import aspect_items
from recsys.retrieval.index import Index
from recsys.serving.aspect_folder import aspect_vectors, load_aspects
from recsys.serving.classifier_folder import load_classifier
from recsys.serving.predictor import Predictor
from recsys.serving.recommender import Recommender
from recsys.serving.vectors import Vectors
from recsys.train import plots
from recsys.train.aspect_task import AspectTask
from recsys.train.ray_train import RayOptions, run_on_ray
from recsys.train.run import RunOptions, run
from tests.evaluate.fixed_aspects import given_model

VALUES = {
    "dataset": {"class": "recsys.datasets.planted_aspects.PlantedAspects", "num_items": 90,
                "num_labels": 4, "num_aspects": 2},
    "model": {"class": "recsys.models.aspect.aspect_embedding.AspectEmbedding",
              "embedding_dim": 16, "vector_dim": 8, "text": {"num_buckets": 500}},
    "train": {"num_epochs": 4, "num_threads": 1, "batch_size": 32},
    "seeds": [1, 2],
}  # fmt: skip
QUIET = {"show": "none", "device": "cpu"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aspects")
    path = folder / "aspects.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    result = run(load_any(path), folder / "run", RunOptions(cache_dir=folder, **QUIET))
    return folder, result


def test_a_run_has_metrics_plots_and_a_card(trained):
    folder, result = trained
    metrics = result.metrics("test")
    assert metrics["map@10"] > metrics["off_aspect.map@10"] > 0 < metrics["generic.map@10"]
    seed = folder / "run" / "seed-1"
    judged = json.loads((seed / "evaluation.json").read_text())
    assert judged["test"]["metrics"] == pytest.approx(result.seeds[0].metrics["test"])
    assert set(judged["test"]["leakage"]) == {"aspect 0", "aspect 1", "generic"}
    card = (seed / "MODEL_CARD.md").read_text()
    if plots.available():
        drawn = {path.stem for path in (seed / "plots").iterdir()}
        assert drawn == {"learning_curve", "leakage_valid", "leakage_test"}
        assert all(f"plots/{name}.png" in card for name in drawn)
    assert "# AspectEmbedding" in card and "| generic |" in card and "| test | 18 |" in card
    lines = map(json.loads, (seed / "metrics.jsonl").read_text().splitlines())
    best = max(line["map@10"] for line in lines if line["kind"] == "valid")
    assert result.seeds[0].metrics["valid"]["map@10"] == best


def test_the_command_line_judges_it_as_training_did(trained, cli):
    folder, result = trained
    found = json.loads(cli("evaluate", folder / "run" / "seed-2", "--json").output)
    assert found["metrics"] == pytest.approx(result.seeds[1].metrics["test"])
    assert "map@10 of vectors of" in cli("evaluate", folder / "run" / "seed-2").output
    for option in ("--per-user", "--compare"):
        said = cli("evaluate", folder / "run" / "seed-2", option, folder / "x", code=2)
        assert "holds a model of aspects" in said.stderr
    said = cli("evaluate", folder / "run" / "seed-2", "--data", folder / "x.csv", code=2)
    assert "is judged on a split of its run" in said.stderr


def test_vectors_go_into_an_index(trained):
    model = load_aspects(trained[0] / "run" / "seed-1")
    found = aspect_vectors(model, "aspect 1")
    index = Index(found.values, found.ids)
    item = 17
    query = model.vectors_of("aspect 1", [model.table.texts[item]])
    hits = index.search(query.numpy()[0], k=3)[0]
    assert hits.ids[0] == model.table.items.values[item]
    assert hits.scores[0] == pytest.approx(1, abs=1e-5)
    wanted = found.values @ found.values[item]
    np.testing.assert_allclose(hits.scores, np.sort(wanted)[::-1][:3], rtol=1e-5)


def test_other_readers_refuse_it_and_it_refuses_others(trained, cli):
    folder, _ = trained
    model = folder / "run" / "seed-1" / "model"
    for read in (Predictor.load, Recommender.load):
        with pytest.raises(CheckpointError, match="holds AspectEmbedding, a model of aspects"):
            read(model)
    with pytest.raises(CheckpointError, match="which is no classifier"):
        load_classifier(model, None)
    with pytest.raises(ConfigError, match=r"AspectEmbedding does not predict clicks.*of aspects"):
        load(folder / "aspects.yaml")
    with pytest.raises(ConfigError, match="a model of aspects is trained in one process"):
        run_on_ray(
            AspectExperiment.parse({**VALUES, "seeds": [1]}), folder / "ray",
            RunOptions(cache_dir=folder, **QUIET), RayOptions(2),
        )  # fmt: skip


def test_a_damaged_folder_is_refused(trained, tmp_path):
    source = trained[0] / "run" / "seed-1" / "model"
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "pairs.parquet").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"pairs\.parquet"):
        load_aspects(tmp_path)


def test_vectors_of_files_become_features(tmp_path):
    ids = np.array([3, 500, 7])
    file = Vectors(ids, np.arange(6, dtype=np.float32).reshape(3, 2)).write(tmp_path / "v.parquet")
    experiment = AspectExperiment.parse({**VALUES, "item_vectors": {"mine": str(file)}})
    table = aspect_items(experiment, tmp_path)
    assert table.vectors["mine"][[3, 7]].tolist() == [[0, 1], [4, 5]]
    assert not np.delete(table.vectors["mine"], [3, 7], 0).any()
    assert table.report["items_without_vector:mine"] == 88
    model = experiment.model.build(table)
    assert [feature.name for feature in model.schema.features] == ["text", "vector0"]
    Vectors(ids + 1000, np.ones((3, 2), np.float32)).write(file)
    with pytest.raises(DataError, match="none of its 3 ids is an item, say 1003 against 0"):
        aspect_items(experiment, tmp_path)


def test_settings_and_kinds():
    with pytest.raises(ConfigError, match=r"train.monitor=map@5: expected one of evaluation.ks"):
        AspectExperiment.parse({**VALUES, "train": {"monitor": "map@5"}})
    assert kind_of(VALUES) is AspectExperiment
    typo = {"model": {"class": "recsys.models.aspect.aspect_embeding.AspectEmbedding"}}
    assert kind_of(typo) is AspectExperiment
    for path in (Path(__file__).parents[2] / "configs" / "aspect").glob("*.yaml"):
        load_any(path)


def test_a_model_that_tells_nothing_apart_is_named():
    model = given_model()
    task = AspectTask(model, AspectTrainConfig(), AspectEvaluationConfig(), None)
    assert task.judge("train", 1, 1.0).problem == "" and task.higher_is_better()
    model.same = True
    assert "all items have one vector" in task.judge("train", 1, 1.0).problem


@pytest.fixture
def cli():
    def call(*arguments, code=0):
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
        return result

    return call
