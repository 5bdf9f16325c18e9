"""A collaborative filter on disk: equal when it is back, and nothing damaged or foreign loads."""

from __future__ import annotations

import hashlib
import json
import pickletools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.cf import CFModel
from recsys.cf_fitted import FittedModel
from recsys.errors import CheckpointError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Interactions, Names
from recsys.graph.knowledge import KnowledgeGraph
from recsys.models.graph.ease import EASE
from recsys.models.graph.item_knn import ItemKNN
from recsys.models.graph.light_gcn import LightGCN
from recsys.serving.artefact import load_artefact
from recsys.serving.recommender_folder import load_recommender, save_recommender
from tests.serving.test_artefact import rewrite

USERS, ITEMS = Names(["ann", "bob", "cid"]), Names(["a", "b", "c", "d", "e"])


def pairs(user: list[int], item: list[int], weight: list[float] | None = None) -> Interactions:
    weights = None if weight is None else np.array(weight, np.float32)
    return Interactions(USERS, ITEMS, np.array(user), np.array(item), weight=weights)


WEIGHTS = [1.0, 2.0, 1.0, 0.5, 1.0, 3.0]
TRAIN = pairs([0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 3], WEIGHTS)
VALID, TEST = pairs([0, 1], [2, 0]), pairs([1], [3])


def knowledge() -> KnowledgeGraph:
    entities = Names([*ITEMS.values, "red", "blue"])
    return KnowledgeGraph(
        entities, Names(["colour", "near"]), 5, np.array([0, 1, 2]), np.array([0, 0, 1]),
        np.array([5, 6, 3]),
    )  # fmt: skip


def built(cls: type[CFModel] = LightGCN, known: bool = False, weighted: bool = False, **options):
    graph = InteractionGraph.of(TRAIN, knowledge() if known else None, weighted)
    model = cls(cls.Config(**options), graph)
    model.reset_parameters(3)
    if isinstance(model, FittedModel):
        model.fit(lambda line: None)
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = built(known=True, weighted=True, embedding_dim=4)
    return save_recommender(tmp_path / "model", model, TRAIN, [VALID, TEST], {"seed": 3})


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("cls", "options"), [(LightGCN, {"embedding_dim": 4}), (EASE, {"l2": 1.0}), (ItemKNN, {})]
)
def test_scores_come_back_bit_for_bit(tmp_path, cls, options, weighted):
    model = built(cls, weighted=weighted, **options)
    save_recommender(tmp_path / "m", model, TRAIN, [VALID], {"a": 1})
    before = torch.random.get_rng_state()
    stored = load_recommender(tmp_path / "m")
    assert torch.equal(torch.random.get_rng_state(), before), "loading draws nothing"
    assert type(stored.model) is cls and not stored.model.training
    assert stored.model.config == model.config and stored.metadata == {"a": 1}
    everybody = torch.arange(3)
    assert torch.equal(stored.model.scores(everybody), model.scores(everybody))
    mine, theirs = model.state_dict(), stored.model.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    weight = stored.model.graph.weight
    assert (None if weight is None else weight.tolist()) == (WEIGHTS if weighted else None)


def test_what_was_seen_and_who_it_was_come_back(folder):
    stored = load_recommender(folder)
    assert stored.train.users.values.tolist() == USERS.values.tolist()
    assert stored.train.items.values.tolist() == ITEMS.values.tolist()
    assert stored.train.keys.tolist() == TRAIN.keys.tolist()
    wanted = np.sort(np.concatenate([TRAIN.keys, VALID.keys, TEST.keys]))
    assert stored.seen.keys.tolist() == wanted.tolist()


@pytest.mark.parametrize("ids", [[30, 10, 20], np.array([2**40, 5, -1])])
def test_ids_that_are_numbers_stay_numbers(tmp_path, ids):
    train = Interactions(Names(ids), ITEMS, TRAIN.user, TRAIN.item)
    save_recommender(tmp_path / "m", built(), train)
    found = load_recommender(tmp_path / "m").train.users.values
    assert found.tolist() == list(ids) and found.dtype == np.int64


def test_knowledge_comes_back_and_may_be_computed_with(folder):
    found, wanted = load_recommender(folder).model.graph.knowledge, knowledge()
    assert found is not None and found.num_items == 5
    assert found.entities.values.tolist() == wanted.entities.values.tolist()
    assert found.relations.values.tolist() == wanted.relations.values.tolist()
    for name in ("head", "relation", "tail"):
        values = getattr(found, name)
        assert values.tolist() == getattr(wanted, name).tolist()
        assert values.dtype == np.int64 and values.flags.writeable, "torch takes it as it is"


def test_without_weights_it_serves_the_same_scores(folder):
    whole, light = load_recommender(folder), load_recommender(folder, weights=False)
    everybody = torch.arange(3)
    assert torch.equal(light.model.scores(everybody), whole.model.scores(everybody))


def test_holds_data_only(folder):
    found = {p.relative_to(folder).as_posix(): p.read_bytes()
             for p in folder.rglob("*") if p.is_file()}  # fmt: skip
    assert set(found) == {
        "model.json", "model.safetensors", "vectors.safetensors", "users.parquet",
        "items.parquet", "train.parquet", "seen.parquet", "knowledge/triples.parquet",
        "knowledge/entities.parquet", "knowledge/relations.parquet",
    }  # fmt: skip
    for name, content in found.items():
        with pytest.raises(ValueError):
            list(pickletools.genops(content))
        assert not content.startswith(b"PK"), name
    listed = json.loads(found["model.json"])["files"]
    assert listed == {
        name: hashlib.sha256(content).hexdigest()
        for name, content in found.items()
        if name != "model.json"
    }


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors", "vectors.safetensors", "users.parquet", "items.parquet",
        "train.parquet", "seen.parquet", "knowledge/triples.parquet",
        "knowledge/entities.parquet", "knowledge/relations.parquet",
    ],
)  # fmt: skip
def test_damage_names_the_file(folder, name):
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(f"{path} is damaged: its checksum")):
        load_recommender(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=re.escape(f"{path} is missing")):
        load_recommender(folder)


def test_another_version_names_the_one_to_use(folder):
    rewrite(folder, format_version=2)
    with pytest.raises(CheckpointError, match=r"expected format version 1, got 2\. Load it with"):
        load_recommender(folder)


def test_a_file_slipped_in_is_refused(folder):
    shutil.copy(folder / "items.parquet", folder / "knowledge/extra.parquet")
    with pytest.raises(CheckpointError, match=r"extra\.parquet does not belong to this model"):
        load_recommender(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "vectors.safetensors", "seen.parquet"])
def test_files_that_a_model_needs_must_be_listed(folder, name):
    listed = json.loads((folder / "model.json").read_text())["files"]
    del listed[name]
    (folder / name).unlink()
    rewrite(folder, files=listed)
    with pytest.raises(CheckpointError, match=re.escape(f"{folder / name} is missing")):
        load_recommender(folder)


@pytest.mark.parametrize("path", ["os.system", "recsys.cf.EmbeddingModel", "tests.x.Own", 7])
def test_classes_outside_recsys_models_are_not_resolved(folder, path, monkeypatch):
    rewrite(folder, **{"class": path})
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"imported {name}"))
    with pytest.raises(CheckpointError, match="An artefact may only name classes under"):
        load_recommender(folder)


def test_a_config_and_weights_that_do_not_fit_are_named(folder):
    rewrite(folder, config={"embedding_dim": 4, "num_layer": 2})
    with pytest.raises(CheckpointError, match=r"`num_layer` is not a field of LightGCN\.Config"):
        load_recommender(folder)
    rewrite(folder, config={"embedding_dim": 8})
    with pytest.raises(CheckpointError, match=r"the weights do not fit .*LightGCN"):
        load_recommender(folder)


def test_pairs_of_users_that_the_ids_do_not_have_are_refused(folder):
    manifest = json.loads((folder / "model.json").read_text())
    few = Interactions(Names(["x"]), ITEMS, np.array([0]), np.array([0]))
    other = save_recommender(folder.parent / "few", tiny(few), few)
    shutil.copy(other / "users.parquet", folder / "users.parquet")
    digest = hashlib.sha256((folder / "users.parquet").read_bytes()).hexdigest()
    rewrite(folder, files={**manifest["files"], "users.parquet": digest})
    with pytest.raises(CheckpointError, match="expected numbers of users from 0 to 0"):
        load_recommender(folder)


def tiny(train: Interactions) -> LightGCN:
    model = LightGCN(LightGCN.Config(embedding_dim=2), InteractionGraph.of(train))
    model.reset_parameters(0)
    return model.eval()


def test_a_saved_one_is_replaced_and_a_failed_save_leaves_it(folder, monkeypatch):
    save_recommender(folder, built(), TRAIN, metadata={"seed": 4})
    assert load_recommender(folder).metadata == {"seed": 4}

    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr("recsys.serving.recommender_folder._write_pairs", full)
    with pytest.raises(OSError, match="No space"):
        save_recommender(folder, built(), TRAIN, metadata={"seed": 5})
    assert load_recommender(folder).metadata == {"seed": 4}
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_models_of_the_other_kind_are_told_apart(folder, artefact):
    with pytest.raises(CheckpointError, match=r"holds LightGCN, a collaborative filter, .*recomm"):
        load_artefact(folder)
    with pytest.raises(CheckpointError, match=r"holds LR, a model that predicts clicks, .*predict"):
        load_recommender(artefact)
