"""``recsys recommend``: every way to ask, and what the other commands say to its runs."""

import json
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest

from recsys.serving.recommender import Recommender
from tests.cli.conftest import cli


@pytest.fixture
def run_dir(recommending: tuple[Path, str]) -> Path:
    return recommending[0]


def rows(text: str) -> list[list[str]]:
    """Cells of a table on the screen."""
    return [line.split() for line in text.splitlines()[2:]]


def test_lists_of_users(run_dir: Path) -> None:
    found = rows(cli("recommend", run_dir, "--users", "3, 17", "--k", 2).output)
    wanted = Recommender.load(run_dir).recommend([3, 17], 2)
    assert [row[:3] for row in found] == [
        [str(user), str(place), str(wanted[number][place - 1][0])]
        for number, user in enumerate((3, 17))
        for place in (1, 2)
    ]


@pytest.mark.parametrize("ending", ["parquet", "csv", "json"])
def test_lists_of_all_users_in_a_file(run_dir: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / "new" / f"lists.{ending}"
    text = cli("recommend", run_dir, "--all-users", "--k", 3, "--out", out).output
    assert text == f"180 lines for 60 lists in {out}\n"
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    if ending == "parquet":
        found = pyarrow.parquet.read_table(out).to_pylist()
    elif ending == "csv":
        found = pyarrow.csv.read_csv(out).to_pylist()
    else:
        found = json.loads(out.read_text())
    wanted = Recommender.load(run_dir).recommend(range(60), 3).table().to_pylist()
    for row, expected in zip(found, wanted, strict=True):
        assert row["score"] == pytest.approx(expected.pop("score"), abs=1e-6)
        assert {name: row[name] for name in expected} == expected


def test_users_and_candidates_from_files(run_dir: Path, tmp_path: Path) -> None:
    users, items = tmp_path / "users.txt", tmp_path / "items.txt"
    users.write_text("5\n\n900\n")
    items.write_text("1\n2\n3\n4\n4000\n")
    arguments = ["recommend", run_dir, "--users-file", users, "--candidates", items, "--k", 2]
    assert "user 900 is not known" in cli(*arguments, code=2).stderr
    result = cli(*arguments, "--unknown", "popular")
    assert result.stderr.startswith("1 of 5 candidates are not items of the training data")
    lines = result.stdout.splitlines()
    assert lines[-1] == "1 lists are of the most popular items"
    assert [line.split()[0] for line in lines[2:-1]] == ["5", "5", "900", "900"]
    assert {line.split()[2] for line in lines[2:-1]} <= {"1", "2", "3", "4"}
    skipped = cli(*arguments, "--unknown", "skip").stdout.splitlines()
    assert [line.split()[0] for line in skipped[2:]] == ["5", "5"]


def test_somebody_new_likeness_and_reasons(run_dir: Path) -> None:
    loaded = Recommender.load(run_dir)
    one, two, item = (int(i) for i in loaded.model.graph.item_degrees().argsort()[-3:])
    found = rows(cli("recommend", run_dir, "--history", f"{one},{two}", "--k", 2).output)
    wanted = loaded.recommend_for([[one, two]], 2)[0]
    assert [row[2] for row in found] == [str(i) for i, _ in wanted]
    found = rows(cli("recommend", run_dir, "--similar-to", one, "--k", 2).output)
    assert [row[2] for row in found] == [str(i) for i, _ in loaded.similar_items([one], 2)[0]]
    text = cli("recommend", run_dir, "--users", "3", "--explain", item, "--k", 2).output
    assert text == loaded.explain(3, item, 2).text() + "\n"
    text = cli("recommend", run_dir, "--history", f"{one},{two}", "--explain", item).output
    assert text == loaded.explain(None, item, 10, history=[one, two]).text() + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--users-file, --all-users, --history, --text, --similar-to, got none of them"),
        (["--text", "java"], "knows users by their interactions, not by texts"),
        (["--all-users", "--users", "3"], "got --users and --all-users"),
        (["--users", "ann"], "user 'ann' is not known: ids of users are whole numbers"),
        (["--similar-to", "3", "--candidates", "none.txt"], "a text file with one id a line"),
        (["--users", "3", "--out", "x.xlsx"], "ends in .parquet, .csv or .json"),
        (["--all-users", "--explain", "3"], "--explain needs one user"),
        (["--users", "3,4", "--explain", "3"], "--explain needs one user"),
    ],
)
def test_wrong_questions(run_dir: Path, arguments: list[str], message: str) -> None:
    assert message in cli("recommend", run_dir, *arguments, code=2).stderr


def test_a_long_answer_is_cut_on_the_screen(run_dir: Path) -> None:
    text = cli("recommend", run_dir, "--all-users", "--k", 10).output
    assert text.endswith("... and 400 lines more; -o FILE writes all\n")


def test_commands_for_clicks_say_that_they_are(
    run_dir: Path, cf_config: Path, tmp_path: Path, trained: tuple[Path, str]
) -> None:
    wrong = "LightGCN, a collaborative filter, and this is for models that predict clicks"
    (tmp_path / "rows.csv").write_text("a\n1\n")
    out = tmp_path / "out"
    for arguments in (
        ["predict", run_dir, tmp_path / "rows.csv", "-o", out],
        ["export", run_dir, "-o", tmp_path / "x.pt2"],
        ["export", run_dir, "--freeze", "int8", "-o", out],
    ):
        assert wrong in cli(*arguments, code=2).stderr
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        f"config: {cf_config}\nspace: {{train.learning_rate: {{float: [1e-4, 1e-2]}}}}\n"
        "objectives: [auc, bytes]\ntrials: 2\n"
    )
    error = cli("tune", "--sweep", sweep, "--out", out, code=2).stderr
    assert "`auc` judges predicted clicks, and recsys.models.graph.light_gcn.LightGCN" in error
    assert not out.exists()
    error = cli("recommend", trained[0], "--users", "1", code=2).stderr
    assert "holds LR, a model that predicts clicks" in error and "`recsys predict`" in error
