"""Every example runs as its first lines say, keeps what it says, and finds what was planted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
Check = Callable[[Path], None]
SMALL = "dataset.num_rows=60000"


def metric(run: Path, name: str) -> float:
    """On the test split, or on that of validation where there is none."""
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    return float(metrics.get("test", metrics.get("valid"))[name])


def ahead(name: str, better: str, worse: str, factor: float) -> Check:
    """One run is better than another by a factor."""

    def check(out: Path) -> None:
        best, other = metric(out / better, name), metric(out / worse, name)
        assert best > factor * other, f"{better} {best:.4f}, {worse} {other:.4f}"

    return check


def better_than_chance(out: Path) -> None:
    assert metric(out, "auc") > 0.55


def has_a_front(out: Path) -> None:
    assert "embedding_dim" in (out / "best.yaml").read_text()


def nothing_else(out: Path) -> None:
    """That it ran to its end, with what it names, is what there is to check."""


def trained_stages(out: Path) -> None:
    assert metric(out / "ranker", "auc") > 0.55


CASES: dict[str, tuple[list[str], list[str], Check]] = {
    "serve": (["--folder", "out"], ["service.json"], nothing_else),
    "train_ctr": (
        ["--run-dir", "out", "--set", SMALL],
        ["MODEL_CARD.md", "predictions.parquet"],
        better_than_chance,
    ),
    "train_graph": (
        ["--run-dir", "out"], ["recall.png"], ahead("ndcg@20", "light_gcn", "most_pop", 1.5),
    ),
    "recommend_bundles": (
        ["--run-dir", "out"], ["bundles.png"], ahead("recall@20", "cross_cbr", "most_pop", 1.5),
    ),
    "complete_bundles": (
        ["--run-dir", "out"], ["completion.png"], ahead("recall@20", "clhe", "text_pool", 1.2),
    ),
    "aspect_search": (
        ["--run-dir", "out"], ["aspects.png"], ahead("map@10", "heads", "one_head", 2.0),
    ),
    "retrieve_and_rank": (["--out", "out"], ["index/index.json"], trained_stages),
    "compress_tables": (
        ["--out", "out", "--set", SMALL, "--schemes", "hash", "--budget", "0.1", "--jobs", "1"],
        ["report.md", "compression.png"],
        nothing_else,
    ),
    "search_embeddings": (
        ["--out", "out", "--trials", "3", "--workers", "1"],
        ["report.html", "best.yaml"],
        has_a_front,
    ),
    "train_ray": (
        ["--run-dir", "out", "--set", SMALL, "--workers", "1"], ["MODEL_CARD.md"],
        better_than_chance,
    ),
}  # fmt: skip


def test_every_example_is_here() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(CASES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.ray) if name == "train_ray" else name for name in CASES],
)
def test_it_runs(name: str, tmp_path: Path) -> None:
    arguments, kept, check = CASES[name]
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments], cwd=tmp_path,
        capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    for place in kept:
        assert (tmp_path / "out" / place).stat().st_size > 0
    check(tmp_path / "out")
