"""What a search found: tables, experiments, page and words, on studies made by hand."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState

from recsys.config import Experiment, load
from recsys.folders import write_json
from recsys.tune.report import report_text, write_report
from recsys.tune.report_data import FEW, best_by_share, chosen, find, importances_of
from recsys.tune.report_plots import growth
from recsys.tune.space import Space
from recsys.tune.study import Study
from recsys.tune.sweep import Sweep

TABLES = {"C1": 1000, "C2": 10, "C3": 50, "C4": 60, "C5": 70}
SPACE = {
    "model.tables.*.embedding_dim": {"power_of_two": [1, 8]},
    "train.learning_rate": {"float": [1e-4, 1e-1], "log": True},
    "model.compression.scheme": {
        "one_of": {"full": {"kind": "full"},
                   "hash": {"kind": "hash", "multiplex": {"choice": [False, True]}}}
    },
    "serve.dtype": {"choice": ["fp32", "int8"]},
}  # fmt: skip
FULL_BYTES = 100_000


@pytest.fixture
def make_study(tmp_path):
    """A study without trials."""

    def make(objectives=("auc", "bytes"), **rest):
        base = Experiment.parse(
            {
                "dataset": {"class": "recsys.datasets.synthetic.Synthetic", "num_rows": 4000},
                "model": {"class": "recsys.models.ctr.fm.FM", "embedding_dim": 8},
                "seeds": [1, 2],
            }
        )
        sweep = Sweep(config=Path("fm.yaml"), space=SPACE, objectives=objectives, **rest)
        return Study(tmp_path / "moved", sweep, Space(base, SPACE, TABLES))

    return make


def add(study, state, values=None, widths=(8, 8, 8, 8, 8), rate=0.01, scheme="full", **attrs):
    """A trial with the attributes that a worker sets."""
    params = {f"model.tables.{t}.embedding_dim (log2)": w.bit_length() - 1
              for t, w in zip(TABLES, widths)}  # fmt: skip
    params |= {"train.learning_rate": rate, "model.compression.scheme": scheme}
    if scheme == "hash":
        params["model.compression.scheme.hash.multiplex"] = True
    params["serve.dtype"] = attrs.pop("dtype", "fp32")
    fixed = optuna.trial.FixedTrial(params)
    candidate = study.space.ask(fixed)
    number = len(study.inner.get_trials(deepcopy=False))
    attrs = {"settings": dict(candidate.settings), "dtype": candidate.dtype, "worker": "w", **attrs}
    if state != "rejected":
        attrs.setdefault("folder", f"trials/{number:05d}")
    states = {"complete": TrialState.COMPLETE, "failed": TrialState.FAIL}
    study.inner.add_trial(
        optuna.create_trial(
            state=states.get(state, TrialState.PRUNED), values=values, params=params,
            distributions=fixed.distributions, user_attrs=attrs,
        )
    )  # fmt: skip
    return number


def complete(study, auc, size, sd=None, **rest):
    facts = {
        "bytes": size, "ratio": size / FULL_BYTES, "lookup_us": 1.5,
        "valid": {"auc": auc, "logloss": 0.5}, "test": {"auc": auc - 0.01, "logloss": 0.51},
        "sd": {} if sd is None else {"valid": {"auc": sd}, "test": {"auc": sd}},
        "rows_per_second": 1e5, "seconds": 30.0,
    }  # fmt: skip
    known = {"auc": auc, "bytes": size, "lookup_us": 1.5, "logloss": 0.5}
    values = [known[name] for name in study.sweep.objectives]
    return add(study, "complete", values, facts=facts, **rest)


@pytest.fixture
def study(make_study):
    """Five complete trials, of which 0, 1 and 2 are the front, and one of every other state."""
    study = make_study()
    complete(study, 0.80, 60_000, sd=0.002)
    complete(study, 0.79, 20_000, widths=(2, 8, 4, 4, 4), rate=0.005)
    complete(study, 0.70, 4_000, widths=(1, 1, 1, 1, 1), scheme="hash", dtype="int8")
    complete(study, 0.78, 30_000)
    complete(study, 0.69, 50_000)
    facts = {"bytes": 900_000, "ratio": 9.0}
    why = "900,000 bytes, and at most 64,000 are allowed"
    add(study, "rejected", facts=facts, rejected=why)
    add(study, "failed", facts={"bytes": 10, "ratio": 0.0001, "seconds": 2.0},
        error="ValueError: <script>alert(1)</script>\nmore")  # fmt: skip
    add(study, "stopped", facts={"bytes": 9_000, "ratio": 0.09, "seconds": 8.0},
        stopped="auc 0.60000 at evaluation 4", stages={"2": [0.5, 9000], "4": [0.6, 9000]},
        )  # fmt: skip
    return study


def by_name(files):
    return {path.name: path for path in files}


def test_best_by_share_by_hand(study):
    found = {s.name: s.row and s.row.number for s in best_by_share(find(study))}
    assert found == {"any": 0, "50%": 1, "25%": 1, "10%": 2, "5%": 2}


def test_findings_by_hand(study):
    findings = find(study)
    assert [row.number for row in findings.front] == [0, 1, 2]
    assert findings.lagging == {7: 0.6}
    assert findings.seconds == 5 * 30 + 10
    assert findings.counts() == {"complete": 5, "stopped": 1, "rejected": 1, "failed": 1}
    base = study.space.base
    assert chosen(base, findings.front[1]) == (
        "embedding_dim 8: C2; 4: C3, C4, C5; 2: C1, train.learning_rate=0.005, "
        "model.compression.scheme=full"
    )
    assert chosen(base, findings.front[2]) == (
        "embedding_dim 1: 5 tables, train.learning_rate=0.01, "
        "model.compression.scheme=hash(multiplex=true), stored in int8"
    )


def test_hypervolume_by_hand(make_study):
    study = make_study()
    complete(study, 0.5, 100)
    complete(study, 0.7, 10_000)
    numbers, volumes = growth(find(study))
    # Scaled losses are (1, 0) and then (0, 1) as well, under the corner (1.05, 1.05).
    one = 0.05 * 1.05 / 1.05**2
    assert numbers == [0, 1]
    assert volumes == pytest.approx([one, 2 * one - 0.05**2 / 1.05**2])


def test_tables_of_trials(study):
    files = by_name(write_report(study))
    with files["trials.csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["complete"] * 5 + ["rejected", "failed", "stopped"]
    assert [row["front"] for row in rows] == ["True"] * 3 + ["False"] * 5
    first = rows[0]
    assert (first["auc"], first["bytes"], first["ratio"]) == ("0.8", "60000", "0.6")
    assert (first["valid_auc_sd"], first["test_logloss"]) == ("0.002", "0.51")
    assert (first["seconds"], first["lookup_us"], first["dtype"]) == ("30.0", "1.5", "fp32")
    assert rows[1]["model.tables.C1.embedding_dim"] == "2"
    assert rows[2]["model.compression.scheme.hash.multiplex"] == "True"
    assert first["model.compression.scheme.hash.multiplex"] == ""
    assert rows[5]["why"].startswith("900,000 bytes")
    assert rows[6]["why"].endswith("\nmore")
    assert (rows[5]["folder"], rows[6]["folder"]) == ("", "trials/00006")
    table = pq.read_table(files["trials.parquet"])
    assert table.column_names == list(first)
    assert table["auc"].to_pylist() == [0.8, 0.79, 0.7, 0.78, 0.69, None, None, None]


def test_experiments_train_what_was_tried(study):
    files = write_report(study)
    folder = study.directory
    front = sorted(path.name for path in files if path.parent.name == "front")
    assert front == ["0.yaml", "1.yaml", "2.yaml"]
    best = load(folder / "best.yaml")
    assert best == load(folder / "front" / "0.yaml")
    assert best.train.learning_rate == 0.01
    assert best.seeds == (1, 2)
    assert best.model_dump(mode="json")["model"]["tables"]["C1"]["embedding_dim"] == 8
    small = (folder / "front" / "2.yaml").read_text()
    assert small.startswith("# The tables were judged in int8. Store them so after training: "
                            "`recsys export RUN_DIR --freeze int8 --to FOLDER`.\n")  # fmt: skip
    assert not (folder / "best.yaml").read_text().startswith("# The tables")
    assert load(folder / "front" / "2.yaml").model_dump(mode="json")["model"]["compression"][
        "scheme"
    ]["kind"] == "hash"  # fmt: skip


def test_threads_of_the_trial_are_kept(study):
    where = study.directory / "trials" / "00000" / "seed-1"
    where.mkdir(parents=True)
    write_json(where / "config.json", {"train": {"num_threads": 1}})
    write_report(study)
    assert load(study.directory / "best.yaml").train.num_threads == 1
    assert load(study.directory / "front" / "1.yaml").train.num_threads is None


def test_trials_that_are_beaten_lose_their_file(study):
    write_report(study)
    number = complete(study, 0.85, 3_000)
    write_report(study)
    left = sorted(path.name for path in (study.directory / "front").iterdir())
    assert left == [f"{number}.yaml"]
    assert not list(study.directory.rglob("*.partial*"))


def test_page_is_one_safe_file(study):
    files = by_name(write_report(study))
    text = files["report.html"].read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not re.search(r"https?://", text)
    sources = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"'\s>]+)", text)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert text.count("<tr") == text.count("</tr>") == 1 + 5 + 1 + 3 + 1 + 8
    assert "0.80000 +- 0.00200" in text
    assert "<script>alert" not in files["report.md"].read_text()


def test_report_says_what_to_take(study):
    files = by_name(write_report(study))
    text = files["report.md"].read_text()
    assert "| 25% | 1 | 0.79000 | 0.78000 | 20,000 | 0.2000 | 1.5 | embedding_dim 8: C2;" in text
    assert f"5 complete trials are too few; {FEW} are needed." in text
    assert "![Front](plots/front.png)" in text
    for name in ("front.png", "history.png", "widths.png"):
        assert files[name].stat().st_size > 5000
    said = report_text(study)
    assert "Trials: 5 complete, 1 stopped, 1 rejected, 1 failed; 3 min of training" in said
    assert "Take trial 0 (best.yaml): valid auc 0.80000 with 60,000 bytes, 0.6 of the full" in said
    assert "failed, 1 x: ValueError: <script>" in said
    complete(study, 0.7995, 15_000)
    said = report_text(study)
    assert "trial 8 (front/8.yaml), -0.00050 with 15,000 bytes." in said


def test_nothing_complete(make_study):
    study = make_study(limits={"bytes": 64_000})
    assert report_text(study) == "No trial was started."
    write_report(study)
    for size in (900_000, 800_000):
        why = f"{size:,} bytes, and at most 64,000 are allowed"
        add(study, "rejected", facts={"bytes": size}, rejected=why)
    add(study, "failed", error="ValueError: no")
    add(study, "failed", facts={"bytes": 1})
    files = by_name(write_report(study))
    assert sorted(files) == ["report.html", "report.md", "trials.csv", "trials.parquet"]
    said = report_text(study)
    assert "nothing to recommend" in said
    assert "rejected, 2 x: 900,000 bytes, and at most 64,000 are allowed (and the like)" in said
    assert "failed, 1 x: ValueError: no" in said
    assert "no reason was kept" in said


@pytest.mark.parametrize("objectives", [("logloss",), ("auc", "bytes", "lookup_us")])
def test_one_objective_and_three(make_study, objectives):
    study = make_study(objectives, limits={"ratio": 0.5})
    for number in range(FEW):
        complete(study, 0.7 + 0.001 * number, 1000 * (number + 1), rate=0.001 * (number + 1))
    files = by_name(write_report(study))
    assert {"front.png", "history.png", "best.yaml"} <= set(files)
    # By logloss all are equal; a larger one is always better by AUC.
    assert len(find(study).front) == FEW
    found, why = importances_of(study)
    assert why == ("No setting was seen to make a difference." if len(objectives) == 1 else "")
    assert set(found) <= set(objectives)
    assert all(sum(scores.values()) == pytest.approx(1) for scores in found.values())


def test_trials_of_earlier_studies_may_lack_facts(make_study):
    study = make_study()
    add(study, "complete", [0.8, 500.0], source="runs/<old>", facts={}, folder="")
    add(study, "complete", [0.9, 800.0], source="runs/<old>", facts={"valid": {"auc": None}},
        folder="")  # fmt: skip
    files = by_name(write_report(study))
    assert "from runs/&lt;old&gt;" in files["report.html"].read_text()
    assert load(files["best.yaml"]).train.learning_rate == 0.01
    said = report_text(study)
    assert "2 known from earlier studies; 0 s of training" in said
    assert "Take trial 1 (best.yaml): valid auc 0.90000 with 800 bytes." in said
