"""``recsys compress``: what is handed over; the comparison itself is tested in tests/tune."""

from pathlib import Path

from tests.cli.conftest import cli


def test_compress_hands_over_what_was_asked(config: Path, tmp_path: Path, monkeypatch) -> None:
    seen = {}

    def compare(experiment, schemes, folder, options):
        seen.update(seeds=experiment.seeds, schemes=set(schemes), folder=folder, options=options)

    monkeypatch.setattr("recsys.tune.compression.compare", compare)
    report = "recsys.tune.compression_report"
    monkeypatch.setattr(f"{report}.write_report", lambda comparison, budgets: [tmp_path / "t.md"])
    monkeypatch.setattr(f"{report}.report_text", lambda comparison, budgets: f"at {budgets}")
    said = cli(
        "compress", "--config", config, "--budget", "0.5, 0.1", "--schemes", "hash, unified",
        "--seeds", "1,2", "--dtypes", "fp32,int8", "--jobs", 2, "--out", tmp_path,
        "--cache-dir", tmp_path / "cache",
    ).output  # fmt: skip
    assert said == f"at (0.5, 0.1)\nsaved: {tmp_path / 't.md'}\n"
    assert seen["seeds"] == (1, 2) and seen["schemes"] == {"hash", "unified"}
    assert seen["folder"] == tmp_path and seen["options"].budgets == (0.5, 0.1)
    assert seen["options"].jobs == 2 and seen["options"].cache_dir == tmp_path / "cache"


def test_a_budget_is_a_number(config: Path) -> None:
    error = cli("compress", "--config", config, "--budget", "0.1,little", code=2).stderr
    assert error == (
        "ConfigError: --budget 0.1,little: expected numbers by commas, say 0.1,0.01.\n"
    )


def test_compress_takes_collaborative_filters(tmp_path: Path, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr("recsys.tune.compression.compare", lambda *given: seen.append(given))
    report = "recsys.tune.compression_report"
    monkeypatch.setattr(f"{report}.write_report", lambda comparison, budgets: [])
    monkeypatch.setattr(f"{report}.report_text", lambda comparison, budgets: "")
    path = Path(__file__).parents[2] / "configs/graph/light_gcn.yaml"
    cli("compress", "--config", path, "--set", "train.monitor=recall@10", "--schemes", "hash")
    ((experiment, _, folder, _),) = seen
    assert experiment.train.monitor == "recall@10" and folder == Path("runs/compress-light_gcn")
