"""Start vectors: read from a recommender or a file, refused where numbers mean something else."""

import pytest
import torch
from safetensors.torch import save_file

from recsys.errors import ConfigError, DataError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.start_vectors import read_start_vectors
from recsys.models.graph.mf_bpr import MFBPR
from recsys.serving.recommender_folder import save_recommender
from recsys.testing.cf import NUM_ITEMS, NUM_USERS, tiny_interactions

TRAIN = tiny_interactions()
GRAPH = InteractionGraph.of(TRAIN)


def write(path, users=NUM_USERS, items=NUM_ITEMS, width=4):
    found = {"user": torch.randn(users, width), "item": torch.randn(items, width).double()}
    save_file(found, str(path))
    return found


def test_a_file_of_vectors(tmp_path):
    wanted = write(tmp_path / "any.safetensors")
    users, items = read_start_vectors(tmp_path / "any.safetensors", GRAPH, 4)
    assert torch.equal(users, wanted["user"]) and torch.equal(items, wanted["item"].float())


def test_a_recommender_of_the_same_pairs(tmp_path):
    model = MFBPR(MFBPR.Config(embedding_dim=4), GRAPH)
    model.reset_parameters(1)
    save_recommender(tmp_path / "model", model.eval(), TRAIN)
    for place in (tmp_path, tmp_path / "model", tmp_path / "model" / "vectors.safetensors"):
        users, items = read_start_vectors(place, GRAPH, 4)
        assert torch.equal(torch.cat([users, items]), torch.cat(model.vectors()))
    other = InteractionGraph.of(TRAIN.take(TRAIN.user != 3))
    with pytest.raises(ConfigError, match="numbers mean other users and items"):
        read_start_vectors(tmp_path, other, 4)
    (tmp_path / "model" / "train.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match=r"train\.parquet cannot be read"):
        read_start_vectors(tmp_path, GRAPH, 4)


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(DataError, match="one seed of a run"):
        read_start_vectors(tmp_path, GRAPH, 4)
    write(tmp_path / "few.safetensors", items=3)
    with pytest.raises(ConfigError, match=r"`item` of shape \(20, 4\).*got \(3, 4\)"):
        read_start_vectors(tmp_path / "few.safetensors", GRAPH, 4)
    save_file({"rows": torch.zeros(2)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(ConfigError, match=r"got only \['rows'\]"):
        read_start_vectors(tmp_path / "other.safetensors", GRAPH, 4)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_start_vectors(tmp_path / "cut.safetensors", GRAPH, 4)
