"""``recsys index``: vectors of a run into an index of its version, which a server answers by."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from recsys.data.encoder import FeatureEncoder, FitState
from recsys.data.transforms import NumberFit
from recsys.data.vocabulary import Vocabulary
from recsys.models.aspect.aspect_embedding import AspectEmbedding
from recsys.models.ctr.two_tower import TwoTower
from recsys.retrieval.index import Index
from recsys.retrieval.versions import VersionedIndex
from recsys.schema import Categorical, Label, Numeric, Schema
from recsys.serving.artefact import save_artefact
from recsys.serving.aspect_folder import save_aspects
from recsys.serving.folder import artefact_version
from recsys.serving.recommender import Recommender
from recsys.serving.service import Service
from recsys.serving.towers import Towers
from recsys.serving.vectors import Vectors
from recsys.testing.aspects import tiny_aspects
from recsys.testing.data import fill_weights
from tests.cli.conftest import cli


def towers(folder: Path, shift: float = 0.0) -> Path:
    """Items have ids with zeros in front, which only text keeps, and a price."""
    schema = Schema(
        features=(
            Categorical(name="user", num_embeddings=4),
            Categorical(name="item", column="sku", num_embeddings=8),
            Numeric(name="price", scale="none", fill=0.0),
        ),
        labels=(Label(name="click"),),
    )
    skus = pa.array([f"00{n}" for n in range(6)])
    known = {
        "user": Vocabulary(pa.array(["ann", "bob"]), np.array([2, 1])),
        "item": Vocabulary(skus, np.arange(6, 0, -1)),
    }
    fit = NumberFit(count=8, mean=1.0, sd=1.0, minimum=0.0, maximum=2.0)
    encoder = FeatureEncoder(schema, FitState(numbers={"price": fit}, null_values=("", "?")), known)
    config = TwoTower.Config(
        item_features=("item", "price"), item_id="item", embedding_dim=4, output_dim=3
    )
    model = TwoTower(config, schema)
    fill_weights(model)
    model.log_scale.data += shift
    return save_artefact(folder, model.eval(), encoder)


ITEMS = pa.table({"sku": [f"00{n}" for n in range(6)], "price": [3.5, 1.0, 2.0, None, 5.0, 4.0],
                  "shop": ["a", "b", "a", "b", "a", "b"]})  # fmt: skip


def test_a_filter_and_its_items(recommending: tuple[Path, str], tmp_path: Path) -> None:
    run_dir = recommending[0]
    model = Recommender.load(run_dir)
    ids = model.items.values.tolist()
    priced = pa.table({"item": [*ids[:-1], -7], "price": [*range(len(ids))]})
    pyarrow.csv.write_csv(priced.slice(3).append_column("x", [["y"] * (len(ids) - 3)]),
                          tmp_path / "items.csv")  # fmt: skip
    result = cli("index", run_dir, "-o", tmp_path / "index", "--codes", "sq8", "--items",
                 tmp_path / "items.csv", "--id-column", "item")  # fmt: skip
    version = artefact_version(run_dir)
    assert result.stdout == (
        f"40 items of 4 values in {tmp_path / 'index'}, version {version}; sq8: 6 bytes an item\n"
    )
    assert "4 of 40 items have no row" in result.stderr and "1 rows are of no item" in result.stderr
    index = Index.load(tmp_path / "index", version=version)
    assert index.ids.tolist() == ids and index.meta is not None
    assert index.meta.to_pydict() == {
        "price": [None] * 3 + list(range(3, 39)) + [None],
        "x": [None] * 3 + ["y"] * 36 + [None],
    }
    users = model.vectors("user")
    found = index.search(users, 7, exact=True)
    wanted = model.recommend(users.ids, 7, exclude_seen=False)
    for hits, expected in zip(found, wanted):
        np.testing.assert_allclose(hits.scores, [score for _, score in expected], rtol=1e-5)
    popular = model.recommend([-5], 3, unknown="popular", exclude_seen=False)[0]
    assert [(i, s) for i, s in zip(*index.search(np.zeros(4), 3)[0][:2])] == popular
    with Service() as service:
        service.load(tmp_path / "index")
        body = {"queries": [users.values[0].tolist()], "k": 5, "version": version,
                "where": {"price": {"lt": 6}}}  # fmt: skip
        answer = json.loads(service.answer("search", json.dumps(body).encode()).body)
        assert sorted(answer["lists"][0]["items"]) == sorted(ids[3:6])
        body["version"] = "other"
        assert service.answer("search", json.dumps(body).encode()).status == 422


def test_new_items_are_placed_by_their_content(
    recommending: tuple[Path, str], tmp_path: Path
) -> None:
    run_dir = recommending[0]
    model = Recommender.load(run_dir)
    known = model.vectors("item")
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0].astype(np.float32)
    new = np.array([9001, 9000])
    wanted = known.values[[3, 5]] + 0.5 * known.values[[7, 9]]
    taken = model.model.graph.item_degrees().numpy() > 0
    assert (~taken).sum() == 1
    means = known.values.copy()
    means[~taken] = [0.3, -0.2, 0.1, 0.2]  # what its content says of the item that nobody has
    ids = np.concatenate([new, known.ids[::-1]])  # in another order than the model's
    content = np.concatenate([wanted, means[::-1]]) @ turn + 3
    for ending in ("parquet", "safetensors"):
        file = Vectors(ids, content).write(tmp_path / f"content.{ending}")
        result = cli("index", run_dir, "-o", tmp_path / "index", "--content", file)
        assert "2 new items and 1 that nobody has" in result.stderr
        index = Index.load(tmp_path / "index", version=model.version)
        assert index.ids.tolist() == [*known.ids.tolist(), 9001, 9000]
        np.testing.assert_array_equal(index.vectors()[:-2][taken], known.values[taken])
        guessed = np.concatenate([index.vectors()[:-2][~taken], index.vectors()[-2:]])
        expected = np.concatenate([means[~taken], wanted])
        np.testing.assert_allclose(guessed, expected, atol=0.02 * np.abs(wanted).max())
    popular = index.search(np.zeros(4), len(index))[0].ids.tolist()
    assert popular[-2:] == [9001, 9000] or popular[-2:] == [9000, 9001]
    few = Vectors(ids[:12], content[:12]).write(tmp_path / "few.parquet")
    said = cli("index", run_dir, "-o", tmp_path / "x", "--content", few, code=2).stderr
    assert "at least 20" in said and not (tmp_path / "x").exists()
    texts = Vectors(np.array([f"i{n}" for n in ids]), content).write(tmp_path / "texts.parquet")
    said = cli("index", run_dir, "-o", tmp_path / "x", "--content", texts, code=2).stderr
    assert "expected ids like those of the model" in said
    items = ("--items", tmp_path / "items.parquet", "--content", few)
    pq.write_table(ITEMS, tmp_path / "items.parquet")
    said = cli("index", towers(tmp_path / "run"), "-o", tmp_path / "x", *items, code=2).stderr
    assert said.startswith("ConfigError: --content: two towers")


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_two_towers_and_rows_of_items(tmp_path: Path, ending: str) -> None:
    run, file = towers(tmp_path / "run"), tmp_path / f"items.{ending}"
    if ending == "parquet":
        pq.write_table(ITEMS, file)
    else:
        options = pyarrow.csv.WriteOptions(delimiter="," if ending == "csv" else "\t")
        pyarrow.csv.write_csv(ITEMS, file, options)
    cli("index", run, "-o", tmp_path / "index", "--items", file)
    index, model = Index.load(tmp_path / "index"), Towers.load(run)
    assert index.ids.tolist() == ITEMS["sku"].to_pylist() and index.version == model.version
    np.testing.assert_allclose(index.vectors(), model.items(ITEMS).values, atol=1e-7)
    assert index.meta is not None and index.meta.equals(ITEMS.drop(["sku"]))
    queries = model.queries([{"user": "ann"}, {"user": "bob"}])
    found = index.search(queries, 6, where=pc.field("price") >= 3, version=model.version)
    assert [sorted(hits.ids.tolist()) for hits in found] == [["000", "004", "005"]] * 2


def test_an_aspect(tmp_path: Path) -> None:
    config = AspectEmbedding.Config.model_validate(
        {"embedding_dim": 8, "vector_dim": 4, "text": {"num_buckets": 50}}
    )
    model = AspectEmbedding(config, tiny_aspects())
    model.reset_parameters(0)
    run = save_aspects(tmp_path / "run", model.eval())
    cli("index", run, "-o", tmp_path / "index", "--aspect", "colour")
    index = Index.load(tmp_path / "index", version=f"{artefact_version(run)}/colour")
    np.testing.assert_allclose(index.vectors(), model.vectors("colour").numpy(), atol=1e-6)
    assert cli("index", run, "-o", tmp_path / "x", code=2).stderr == (
        "ConfigError: --aspect: expected one of colour, kind, got none.\n"
    )
    said = cli("index", run, "-o", tmp_path / "x", "--aspect", "smell", code=2).stderr
    assert "smell" in said and not (tmp_path / "x").exists()


def test_a_new_version_beside_the_old_one(tmp_path: Path) -> None:
    old, new, newest = (towers(tmp_path / name, n) for n, name in enumerate(("old", "new", "last")))
    pq.write_table(ITEMS, tmp_path / "items.parquet")
    rows = ("--items", tmp_path / "items.parquet")
    cli("index", old, "-o", tmp_path / "monday", *rows)
    result = cli("index", new, "-o", tmp_path / "both", *rows, "--beside", tmp_path / "monday")
    names = [artefact_version(folder) for folder in (old, new, newest)]
    assert len(set(names)) == 3 and result.stdout.endswith(f"versions {names[0]}, {names[1]}\n")
    assert VersionedIndex.load(tmp_path / "both").versions == (names[0], names[1])
    cli("index", newest, "-o", tmp_path / "both", *rows, "--beside", tmp_path / "both")
    with Service() as service:
        service.load(tmp_path / "both")
        for name in names:
            body = {"queries": [[1.0, 2.0, 3.0]], "k": 2, "version": name}
            assert service.answer("search", json.dumps(body).encode()).status == 200


def test_a_file_of_vectors(recommending: tuple[Path, str], tmp_path: Path) -> None:
    model = Recommender.load(recommending[0])
    file = model.export_vectors(tmp_path / "items.safetensors")
    cli("index", file, "-o", tmp_path / "index")
    assert Index.load(tmp_path / "index").version == model.version


def test_what_is_wrong_is_told(
    trained: tuple[Path, str], recommending: tuple[Path, str], tmp_path: Path
) -> None:
    run_dir, out = recommending[0], ("-o", tmp_path / "index")
    pq.write_table(ITEMS, tmp_path / "items.parquet")
    (tmp_path / "items.csv").write_text("item,x\n-1,1\n-2,2\n")
    (tmp_path / "holes.csv").write_text("item,x\n-1,1\n,2\n")
    (tmp_path / "twice.csv").write_text("item,x\n-1,1\n-1,2\n")
    items = "--items", tmp_path / "items.parquet"
    for arguments, told in (
        ((run_dir, "--codes", "sq"), "got 'sq'"),
        ((run_dir, "--codes", "sq5"), "`bits` must be 4 or 8"),
        ((run_dir, "--id-column", "sku"), "expected --items FILE with it"),
        ((run_dir, "--aspect", "colour"), "expected a model of aspects"),
        ((run_dir, *items), "--id-column: expected the column"),
        ((run_dir, *items, "--id-column", "skus"), "Did you mean `sku`?"),
        ((run_dir, *items, "--id-column", "shop"), "whole numbers in this model"),
        ((run_dir, "--items", tmp_path / "items.csv", "--id-column", "item"), "none of its 2 ids"),
        ((run_dir, "--items", tmp_path / "holes.csv", "--id-column", "item"), "in every row"),
        (
            (run_dir, "--items", tmp_path / "twice.csv", "--id-column", "item"),
            "item` must differ: -1 comes again in row 2",
        ),
        ((run_dir, "--items", tmp_path / "no.csv", "--id-column", "item"), "rows of items"),
        ((run_dir, "--beside", tmp_path / "no"), "no index.json"),
        ((trained[0],), "vectors of users and of items, got LR"),
        ((towers(tmp_path / "run"),), "--items FILE with the columns sku, price, got none"),
        ((tmp_path / "items.csv",), "expected vectors as"),
        ((tmp_path / "none",), "no model.json"),
    ):
        assert told in cli("index", *arguments, *out, code=2).stderr, told
        assert not (tmp_path / "index").exists()
