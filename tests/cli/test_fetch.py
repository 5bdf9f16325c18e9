"""``recsys fetch``: data that is made here, and where to get the rest."""

from pathlib import Path

import pyarrow.parquet as pq

from recsys.datasets.planted_communities import PlantedCommunities
from tests.cli.conftest import cli


def test_fetch_makes_generated_data_and_lists_files(tmp_path: Path) -> None:
    said = cli("fetch", "synthetic", "--set", "num_rows=100", "--set", "valid_rows=50", "--set",
                  "test_rows=50", "--cache-dir", tmp_path).output  # fmt: skip
    assert said.startswith("recsys.datasets.synthetic.Synthetic\n")
    (train,) = tmp_path.glob("synthetic-*/train.parquet")
    assert f"train: {train} ({train.stat().st_size:,} bytes)" in said
    assert pq.read_metadata(train).num_rows == 100


def test_fetch_says_where_to_get_what_it_may_not_fetch(tmp_path: Path) -> None:
    error = cli("fetch", "frappe", "--cache-dir", tmp_path, code=2).stderr
    assert "github.com/hexiangnan/neural_factorization_machine" in error
    error = cli("fetch", "frapp", code=2).stderr
    assert "recsys has no data set `frapp`. Did you mean `frappe`?" in error
    error = cli("fetch", "frappe", "--set", "pth=3", code=2).stderr
    assert "--set pth=3: `pth` is not a field of Frappe.Config. Did you mean `path`?" in error
    error = cli("fetch", "os.system", code=2).stderr
    assert "`os.system` is not a Dataset class but a builtin function" in error


def test_interactions_are_counted(tmp_path: Path) -> None:
    text = cli("fetch", "planted_communities", "--set", "num_users=50", "--set", "num_items=40",
               "--cache-dir", tmp_path).output  # fmt: skip
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "recsys.datasets.planted_communities.PlantedCommunities"
    assert "50 users, 40 items" in lines
    splits = PlantedCommunities(PlantedCommunities.Config(num_users=50, num_items=40)).splits(
        tmp_path
    )
    for name, part in splits.items():
        assert f"{name}: {len(part):,} interactions" in lines
    assert any(line.startswith("knowledge: ") for line in lines)


def test_interactions_that_cannot_be_fetched_say_where_they_are(tmp_path: Path) -> None:
    error = cli("fetch", "user_item_lists", "--cache-dir", tmp_path, code=2).stderr
    assert "LightGCN-PyTorch" in error and "set `path` to it" in error
    error = cli("fetch", "planted_communities", "--set", "num_user=5", code=2).stderr
    assert "Did you mean `num_users`" in error


def test_a_graph_with_classes(tmp_path):
    output = cli(
        "fetch", "planted_nodes", "--set", "num_nodes=60", "--set", "num_tags=6", "--cache-dir",
        tmp_path,
    ).output  # fmt: skip
    assert "60 node, 6 tag; " in output and "5 classes" in output
    assert "train: 50 node" in output and "licence: none needed" in output


def test_bundles_aspects_and_concepts(tmp_path):
    output = cli(
        "fetch", "planted_bundles", "--set", "num_users=50", "--cache-dir", tmp_path
    ).output
    assert "50 users, 400 bundles, 300 items; " in output and "users' items" in output
    output = cli(
        "fetch", "planted_aspects", "--set", "num_items=50", "--cache-dir", tmp_path
    ).output
    assert "train: 35 items" in output and "labels:aspect 0: " in output
    for name, place in (("bundle_folder", "mysbupt/CrossCBR"), ("onet", "onetcenter.org"),
                        ("aspect_table", "Set `items` and `labels`")):  # fmt: skip
        assert place in cli("fetch", name, "--cache-dir", tmp_path, code=2).stderr
    (tmp_path / "ads.csv").write_text("".join(f"{n},coder,sql\n" for n in range(20)))
    output = cli("fetch", "skill2vec", "--set", f"path={tmp_path}", "--cache-dir", tmp_path).output
    assert "20 queries, 1 items, 1 concepts" in output and "train: 14 relevant pairs" in output
