"""Vectors know the model they are of, in memory and in a file."""

import shutil

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.models.graph.light_gcn import LightGCN
from recsys.serving.folder import artefact_version
from recsys.serving.recommender import Recommender
from recsys.serving.recommender_folder import save_recommender
from recsys.serving.service_folder import load_parts, save_service
from recsys.serving.two_stage import TwoStage
from recsys.serving.vectors import Vectors, read_vectors
from tests.serving.test_recommender_folder import TRAIN, VALID, built


def saved(folder, seed=3, metadata=None):
    model = built(LightGCN, embedding_dim=4)
    model.reset_parameters(seed)
    return save_recommender(folder, model.eval(), TRAIN, [VALID], metadata)


@pytest.mark.parametrize("ending", ["parquet", "safetensors"])
@pytest.mark.parametrize("version", ["3f2a", None])
@pytest.mark.parametrize("ids", [np.array([7, 3]), np.array(["a", "b\u00f6"], object)])
def test_the_version_survives_a_file(tmp_path, ending, version, ids):
    made = Vectors(ids, np.eye(2, dtype=np.float32), version=version)
    again = read_vectors(made.write(tmp_path / f"v.{ending}"))
    assert again.version == version and again.metric == "dot"
    assert again.ids.tolist() == ids.tolist() and again.values.tolist() == [[1, 0], [0, 1]]
    assert again.index().version == version


def test_one_artefact_has_one_version_and_another_training_another(tmp_path):
    first = saved(tmp_path / "first", metadata={"hour": 1})
    version = artefact_version(first)
    shutil.copytree(first, tmp_path / "run" / "model")
    assert artefact_version(tmp_path / "run") == version
    assert artefact_version(saved(tmp_path / "again", metadata={"hour": 2})) == version
    assert artefact_version(saved(tmp_path / "other", seed=4)) != version
    recommender = Recommender.load(tmp_path / "run")
    items, users = recommender.vectors("item"), recommender.vectors("user")
    assert items.version == users.version == recommender.version == version
    assert recommender.vectors_of({"new": ["ann"]}).version == version
    file = recommender.export_vectors(tmp_path / "items.parquet")
    assert read_vectors(file).version == version


def test_users_of_another_training_are_not_served(tmp_path, artefact):
    """Dimensions fit, ids fit: only the version tells the two models apart."""
    old, new = (Recommender.load(saved(tmp_path / str(seed), seed)) for seed in (3, 4))
    index = old.vectors().index().save(tmp_path / "index")
    parts = {"ranker": artefact, "index": index, "id_column": "user_id"}
    save_service(tmp_path / "served", queries=old.vectors("user"), **parts)
    two_stage = load_parts(tmp_path / "served").two_stage
    assert isinstance(two_stage, TwoStage) and two_stage.index.version == old.version
    with pytest.raises(ConfigError, match=f"version '{new.version}', .* items of '{old.version}'"):
        save_service(tmp_path / "served", queries=new.vectors("user"), **parts)
    again = load_parts(tmp_path / "served").two_stage
    assert isinstance(again, TwoStage) and again.queries is not None
    assert again.queries.version == old.version  # what was served is still there
