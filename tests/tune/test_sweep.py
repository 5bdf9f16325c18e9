"""Sweep files: what they say, and what they must not."""

from pathlib import Path

import pytest

from recsys.errors import ConfigError
from recsys.tune.sweep import bytes_of, load_sweep

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("64MB", 64_000_000), ("1.5 GiB", 3 << 29), ("100", 100), (7, 7), (".5kb", 500)],
)
def test_bytes(text, expected):
    assert bytes_of(text) == expected


def test_bytes_without_a_unit_we_know():
    with pytest.raises(ConfigError, match=r"say 64MB or 1.5GiB, got '3 parsecs'"):
        bytes_of("3 parsecs")


@pytest.mark.parametrize("path", sorted((ROOT / "configs/sweeps").glob("tune_*.yaml")))
def test_files_that_come_with_recsys_load(path):
    sweep = load_sweep(path)
    base = sweep.experiment(path.parent)
    assert base.train.num_epochs == sweep.set.get("train.num_epochs", base.train.num_epochs)


def test_a_file_with_changes(tmp_path, sweep_of):
    sweep = sweep_of(set={"train.num_epochs": 5, "model.embedding_dim": 4})
    found = sweep.experiment(tmp_path)
    assert (found.train.num_epochs, found.model.config.embedding_dim) == (5, 4)
    (tmp_path / "sweep.yaml").write_text(
        "config: config.json\nlimits: {bytes: 2kB}\nspace: {train.batch_size: {int: [1, 2]}}\n"
    )
    sweep = load_sweep(tmp_path / "sweep.yaml", ("trials=7", "limits.ratio=0.5"))
    assert (sweep.trials, sweep.limits.bytes, sweep.limits.ratio) == (7, 2000, 0.5)
    assert sweep.objectives == ("auc",) and sweep.directions == ["maximize"]


def test_groups_by_rows(tmp_path, sweep_of):
    space = {"model.tables.@big.embedding_dim": {"choice": [2, 4]}}
    sweep = sweep_of(space=space, groups={"big": {"min_rows": 100}, "two": ["C1", "C2"]})
    found = sweep.space_of(sweep.experiment(tmp_path), {"C1": 99, "C2": 100, "C3": 5000})
    assert found.parameters[0].places == (
        "model.tables.C2.embedding_dim",
        "model.tables.C3.embedding_dim",
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"objectives": ["auk"]}, "no objective `auk`. Did you mean `auc`"),
        ({"objectives": ["bytes", "auc"]}, "the first must be a metric"),
        ({"objectives": ["auc", "auc"]}, "expected different ones"),
        ({"pruner": {"kind": "asha"}}, "asha judges one objective, and there are 2"),
        ({"sampler": {"kind": "cmaes"}}, "cmaes has one objective"),
        ({"objectives": ["auc"], "sampler": {"kind": "nsga2"}}, "searches a front"),
        ({"limits": {"bytes": "3 parsecs"}}, "say 64MB"),
        ({"groups": {"a": ["C1", "C77"]}}, "groups.a: the data has no table `C77`"),
    ],
)
def test_what_does_not_go_together(tmp_path, sweep_of, fields, text):
    with pytest.raises((ConfigError, ValueError), match=text):
        sweep = sweep_of(**fields)
        sweep.space_of(sweep.experiment(tmp_path), {"C1": 9, "C2": 9})
