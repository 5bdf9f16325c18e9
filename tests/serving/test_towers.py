"""Vectors of either side from its own columns; an index of them ranks as the model's forward."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from recsys.data.encoder import FeatureEncoder, FitState
from recsys.data.transforms import NumberFit
from recsys.data.vocabulary import Vocabulary
from recsys.embeddings.compression.plan import CompressionConfig
from recsys.errors import ConfigError, DataError
from recsys.layers.mlp import MLPConfig
from recsys.models.ctr.lr import LR
from recsys.models.ctr.two_tower import TwoTower
from recsys.retrieval.index import Index
from recsys.schema import Categorical, Label, MultiValued, Numeric, Schema, Vector
from recsys.serving.artefact import save_artefact
from recsys.serving.folder import artefact_version
from recsys.serving.freeze import freeze_model
from recsys.serving.predictor import Predictor
from recsys.serving.towers import Towers
from recsys.serving.two_stage import TwoStage
from recsys.serving.vectors import read_vectors
from recsys.testing.data import fill_weights

NUM_ITEMS = 60
USERS = [
    {"user_id": "ann", "hour": 12, "age": 40.0},
    {"user_id": "bob", "hour": None, "age": None},
    {"user_id": "new", "hour": 3, "age": 10.0},
]


def encoder() -> FeatureEncoder:
    """Item features stand between those of users, and tags have weights."""
    schema = Schema(
        features=(
            Numeric(name="price", scale="none", fill=0.0),
            Categorical(name="user", column="user_id", num_embeddings=4),
            Categorical(name="item", column="item_id", dtype="int", num_embeddings=NUM_ITEMS),
            Categorical(name="hour", dtype="int", num_embeddings=5),
            MultiValued(name="tags", weights="tag_w", separator="|", pooling="mean",
                        num_embeddings=5),
            Numeric(name="age", scale="standardize", fill="mean"),
            Vector(name="text", dim=2),
        ),
        labels=(Label(name="click"),),
    )  # fmt: skip
    ids = pa.array(range(100, 98 + NUM_ITEMS), pa.int64())
    vocabularies = {
        "user": Vocabulary(pa.array(["ann", "bob"]), np.array([5, 3])),
        "item": Vocabulary(ids, np.arange(len(ids), 0, -1)),
        "hour": Vocabulary(pa.array([12, 7, None], pa.int64()), np.array([4, 3, 1])),
        "tags": Vocabulary(pa.array(["x", "y", "z"]), np.array([3, 2, 1])),
    }
    numbers = {
        "price": NumberFit(count=8, mean=1.0, sd=1.0, minimum=0.0, maximum=2.0),
        "age": NumberFit(count=8, mean=30.0, sd=10.0, minimum=10.0, maximum=60.0),
    }
    return FeatureEncoder(schema, FitState(numbers=numbers, null_values=("",)), vocabularies)


def two_tower(numeric: str = "embed", **changes) -> TwoTower:
    config = {
        "item_features": ("item", "tags", "price", "text"),
        "item_id": "item",
        "embedding_dim": 4,
        "output_dim": 6,
        "numeric": numeric,
        "user_mlp": MLPConfig(hidden_units=(8,)),
        "item_mlp": MLPConfig(hidden_units=(8,)),
        **changes,
    }
    model = TwoTower(TwoTower.Config(**config), encoder().schema)
    fill_weights(model)
    return model


def item_table() -> pa.Table:
    random = np.random.default_rng(0)
    tags = ["|".join(random.choice(["x", "y", "z"], count, False)) for count in
            random.integers(0, 4, NUM_ITEMS)]  # fmt: skip
    weights = ["|".join("2.0" for _ in tag.split("|")) if tag else "" for tag in tags]
    return pa.table(
        {
            "item_id": pa.array(range(100, 100 + NUM_ITEMS)),  # the last two are new
            "price": random.uniform(0, 2, NUM_ITEMS).round(3),
            "tags": tags,
            "tag_w": weights,
            "text": random.normal(size=(NUM_ITEMS, 2)).round(3).tolist(),
            "title": ["unread"] * NUM_ITEMS,
        }
    )


def together(users: list[dict], items: pa.Table) -> pa.Table:
    """Every user with every item, as the log would have it."""
    rows = [{**user, **item} for user in users for item in items.drop(["title"]).to_pylist()]
    return pa.Table.from_pylist(rows)


@pytest.mark.parametrize("numeric", ["embed", "dense"])
def test_index_ranks_as_the_models_forward(tmp_path, numeric):
    """Top k of the index, by vectors of either side alone, equals sorting all pairs' logits."""
    model = two_tower(numeric)
    folder = save_artefact(tmp_path / "run" / "model", model, encoder(), {"seed": 3})
    towers = Towers.load(folder.parent, batch_size=17)
    assert towers.metadata == {"seed": 3} and towers.version == artefact_version(folder)
    assert set(towers.item_columns) == {"price", "item_id", "tags", "tag_w", "text"}
    assert towers.user_columns == ("user_id", "hour", "age")
    items = towers.items(item_table())
    assert items.ids.tolist() == list(range(100, 160)) and items.values.dtype == np.float32
    batch = encoder().batch(together(USERS, item_table()))
    with torch.no_grad():
        logits = model.eval()(batch)[:, 0].view(3, NUM_ITEMS)
    users = towers.users(USERS, "user_id")
    assert users.ids.tolist() == ["ann", "bob", "new"]
    np.testing.assert_array_equal(users.values, towers.queries(USERS))
    found = Index(items.values, items.ids).search(users.values, k=20)
    best = logits.argsort(dim=1, descending=True)[:, :20] + 100
    assert [hits.ids.tolist() for hits in found] == best.tolist()
    # The score is the similarity that the logit is made of.
    scale = model.log_scale.exp().item() / model.config.temperature
    scores = torch.tensor(np.stack([hits.scores for hits in found]))
    expected = logits.sort(dim=1, descending=True).values[:, :20]
    torch.testing.assert_close(scores * scale + model.bias.item(), expected, atol=1e-4, rtol=1e-4)
    # As a file they are what any index takes.
    again = read_vectors(items.write(tmp_path / "items.parquet"))
    np.testing.assert_array_equal(again.values, items.values)
    assert again.version == items.version == users.version == towers.version


def test_another_training_is_another_version(tmp_path):
    """Of the same shape, so that nothing but the version can tell them apart."""
    models = two_tower(), two_tower()
    with torch.no_grad():
        models[1].log_scale.add_(0.125)
    folders = [save_artefact(tmp_path / f"{n}", m, encoder()) for n, m in enumerate(models)]
    old, new = (Towers.load(folder) for folder in folders)
    assert old.version == Towers.load(folders[0]).version != new.version
    index = old.items(item_table()).index()
    queries = old.queries(USERS)
    assert len(index.search(queries, 3, version=old.version)) == 3
    with pytest.raises(DataError, match=f"model version '{new.version}', the index of"):
        index.search(new.queries(USERS), 3, version=new.version)
    with pytest.raises(DataError, match=f"model version '{new.version}', the index of"):
        index.search(new.users(USERS, "user_id"), 3)
    ranker = LR(LR.Config(), encoder().schema)
    stages = (Predictor(ranker, encoder()), index, "item_id")
    TwoStage(*stages, old.users(USERS, "user_id"))
    for queries in (
        new.users(USERS, "user_id"),
        Towers(two_tower(), encoder()).users(USERS, "user_id"),
    ):
        with pytest.raises(ConfigError, match=f"version .*, those of the items of '{old.version}'"):
            TwoStage(*stages, queries)


def test_all_forms_of_rows_agree():
    towers, table = Towers(two_tower(), encoder()), item_table()
    expected = towers.items(table)
    np.testing.assert_allclose(np.linalg.norm(expected.values, axis=1), 1, rtol=1e-6)
    forms = (
        table.to_pylist(),
        table.to_pydict(),
        table.to_pandas(),
        pd.DataFrame(table.to_pylist()),
    )
    for form in forms:
        found = towers.items(form)
        assert found.ids.tolist() == expected.ids.tolist()
        np.testing.assert_allclose(found.values, expected.values, atol=1e-6)
    texts = table.set_column(0, "item_id", table["item_id"].cast(pa.string()))
    assert towers.items(texts).ids.tolist() == expected.ids.tolist()
    np.testing.assert_allclose(
        towers.items(table.slice(3, 1)).values, expected.values[3:4], atol=1e-6
    )
    # A number as a string id is text.
    assert towers.users({"user_id": [7], "hour": [1], "age": [3]}, "user_id").ids.tolist() == ["7"]


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_frozen_compressed_tables(dtype):
    """Half a batch goes through packed and compressed tables too."""
    compression = CompressionConfig.model_validate({"scheme": {"kind": "unified"}, "ratio": 0.7})
    model = two_tower(compression=compression)
    expected = Towers(model, encoder()).items(item_table()).values
    found = Towers(freeze_model(model, dtype), encoder()).items(item_table()).values
    np.testing.assert_allclose(found, expected, atol=1e-6 if dtype == "fp32" else 0.05)


def test_two_stages(tmp_path):
    """Vectors find candidates, the ranker orders them: the item's columns come from the index."""
    towers, table = Towers(two_tower(), encoder()), item_table()
    items, users = towers.items(table), towers.users(USERS, "user_id")
    ranker = LR(LR.Config(), encoder().schema)
    fill_weights(ranker)
    predictor = Predictor(ranker, encoder())
    meta = table.drop(["item_id", "title"])
    service = TwoStage(predictor, Index(items.values, items.ids, meta), "item_id", users)
    assert service.context == towers.user_columns
    contexts = [{name: row[name] for name in towers.user_columns} for row in USERS]
    found = service.rank(service.vectors_of(["bob", "ann"]), [contexts[1], contexts[0]], 5, 12)
    for which, ranked in zip((1, 0), found):
        candidates = Index(items.values, items.ids).search(users.values[which], 12)[0].ids
        rows = together([USERS[which]], table.take(pa.array(candidates - 100)))
        chances = predictor.predict(rows)
        order = np.argsort(-chances, kind="stable")[:5]
        assert ranked.ids.tolist() == candidates[order].tolist()
        np.testing.assert_allclose(ranked.probabilities, chances[order], atol=1e-6)


def test_refusals():
    towers, table = Towers(two_tower(), encoder()), item_table()
    with pytest.raises(DataError, match=r"columns are missing: `tag_w`"):
        towers.items(table.drop(["tag_w"]))
    with pytest.raises(DataError, match=r"one row for every item, got 2 of 104. Keep one") as error:
        towers.items(pa.concat_tables([table, table.slice(4, 1)]))
    assert error.value.row == 5 and error.value.column == "item_id"
    holes = table.set_column(0, "item_id", pa.array([100, None, *range(102, 160)]))
    with pytest.raises(DataError, match=r"expected an id in every row, got none") as error:
        Towers(two_tower(), encoder(), batch_size=1).items(holes)
    assert error.value.row == 2
    with pytest.raises(DataError, match=r"expected rows of items, got none"):
        towers.items(table.slice(0, 0))
    with pytest.raises(DataError, match=r"`age`"):
        towers.queries([USERS[0], {**USERS[1], "age": "old"}])
    with pytest.raises(ConfigError, match=r"the user tower reads, got 'item_id'. Known: user_id"):
        towers.users(USERS, "item_id")
    no_id = Towers(two_tower(item_id=None, softmax_weight=0.0), encoder())
    with pytest.raises(ConfigError, match=r"the item tower reads, got None. Known: price"):
        no_id.items(table)
    assert no_id.items(table, "item_id").ids[0] == 100
    with pytest.raises(ConfigError, match=r"vectors of users and of items, got LR. Train"):
        Towers(LR(LR.Config(), encoder().schema), encoder())
    with pytest.raises(ConfigError, match=r"`batch_size` must be at least 1, got 0"):
        Towers(two_tower(), encoder(), batch_size=0)
