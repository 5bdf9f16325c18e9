"""The command line: its flags are few and pinned, its errors short, and a run goes all the way."""

import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result

from recsys import __version__
from recsys.cli import main
from recsys.data.encoder import FeatureEncoder, FitState
from recsys.data.vocabulary import Vocabulary
from recsys.errors import ConfigError
from recsys.models.ctr.lr import LR
from recsys.schema import Categorical, Label, Schema
from recsys.serving.artefact import save_artefact, stored_bytes
from recsys.serving.predictor import Predictor

ROOT = Path(__file__).parent.parent


def cli(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


@pytest.fixture(autouse=True)
def quiet_logging():
    yield
    logger = logging.getLogger("recsys")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)
    logging.captureWarnings(False)


# ------------------------------------------------------------------------------------ the flags

FLAGS = {
    "": ["--debug", "--log-json", "--version"],
    "compress": [
        "--budget", "--cache-dir", "--config", "--dtypes", "--jobs", "--out", "--schemes",
        "--seeds", "--set",
    ],
    "evaluate": ["--cache-dir", "--columns", "--data", "--json", "--split", "RUN_DIR"],
    "export": ["--freeze", "--out", "--to", "-o", "RUN_DIR"],
    "fetch": ["--cache-dir", "--set", "DATASET"],
    "predict": [
        "--batch-size", "--columns", "--keep", "--negative-rate", "--num-threads", "--out", "-o",
        "INPUT", "RUN_DIR",
    ],
    "train": [
        "--address", "--cache-dir", "--config", "--ranks", "--ray", "--resume", "--run-dir",
        "--seeds", "--set", "--workers",
    ],
}  # fmt: skip
"""Every new flag is a promise: extend this list knowingly; settings belong into the YAML."""


def test_flags_are_pinned() -> None:
    commands: dict[str, click.Command] = {"": main, **main.commands}
    found = {}
    for name, command in commands.items():
        names = [option for p in command.params for option in p.opts if option[0] == "-"]
        names += [p.make_metavar(click.Context(command)) for p in command.params
                  if isinstance(p, click.Argument)]  # fmt: skip
        found[name] = sorted(names)
    assert found == {name: sorted(flags) for name, flags in FLAGS.items()}


@pytest.mark.parametrize("command", sorted(FLAGS))
def test_help_teaches_by_example(command: str) -> None:
    text = cli(*([command] if command else []), "--help").output
    assert f"recsys {command}".strip() in text.split("Examples:")[1]
    if command:
        options = main.commands[command].params
        assert all(o.help for o in options if isinstance(o, click.Option))


def test_examples_in_the_help_name_real_things() -> None:
    text = "".join(cli(command, "--help").output for command in main.commands)
    for config in re.findall(r"configs/\S+\.yaml", text):
        assert (ROOT / config).is_file(), config
    flags = {flag for names in FLAGS.values() for flag in names} | {"--help", "--nproc-per-node"}
    assert set(re.findall(r"(?<=\s)--[a-z-]+", text)) <= flags


def test_train_on_ray_hands_over_what_was_asked(tmp_path: Path, monkeypatch) -> None:
    ray_train = pytest.importorskip("recsys.train.ray_train", reason="needs ray")
    seen = {}

    def run_on_ray(experiment, run_dir, options, cluster):
        seen.update(seeds=experiment.seeds, run_dir=run_dir, options=options, cluster=cluster)
        return SimpleNamespace(metrics={"valid": {"auc": 0.75}})

    monkeypatch.setattr(ray_train, "run_on_ray", run_on_ray)
    found = cli(
        "train", "--config", ROOT / "configs/ctr/lr.yaml", "--run-dir", tmp_path, "--ray",
        "--workers", 3, "--address", "auto", "--resume", "--cache-dir", tmp_path / "cache",
    )  # fmt: skip
    assert "0.75" in found.output and f"saved in {tmp_path}" in found.output
    assert seen["cluster"].workers == 3 and seen["cluster"].address == "auto"
    assert seen["options"].resume and seen["options"].cache_dir == tmp_path / "cache"
    assert seen["run_dir"] == tmp_path and seen["seeds"] == (1,)


def test_version() -> None:
    assert cli("--version").output == f"recsys, version {__version__}\n"


def test_python_m_recsys_is_recsys() -> None:
    command = [sys.executable, "-m", "recsys", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == f"recsys, version {__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from recsys.cli import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pyarrow', 'pandas', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --------------------------------------------------------------------------------- the whole way


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "small.yaml"
    path.write_text(
        "dataset: {class: recsys.datasets.synthetic.Synthetic, num_rows: 3000, valid_rows: 600,\n"
        "          test_rows: 600}\n"
        "model: {class: recsys.models.ctr.lr.LR}\n"
        "train: {batch_size: 256, evaluations_per_epoch: 1, bootstrap_samples: 20,\n"
        "        num_threads: 1}\n"
    )
    return path


@pytest.fixture(scope="module")
def trained(config: Path) -> tuple[Path, str]:
    """A run folder and what training said."""
    cache = config.parent / "cache"
    run_dir = config.parent / "run"
    result = cli("train", "--config", config, "--run-dir", run_dir, "--cache-dir", cache,
                    "--set", "train.learning_rate=1e-2")  # fmt: skip
    return run_dir, result.output


def raw_rows(trained: tuple[Path, str], rows: int = 50) -> pa.Table:
    (path,) = (trained[0].parent / "cache").glob("synthetic-*/test.parquet")
    return pq.read_table(path).slice(0, rows)


def test_train_saves_and_says_so(trained: tuple[Path, str]) -> None:
    run_dir, said = trained
    resolved = json.loads((run_dir / "config.json").read_text())
    assert resolved["train"]["learning_rate"] == 0.01
    assert resolved["dataset"]["num_rows"] == 3000
    assert (run_dir / "MODEL_CARD.md").is_file() and (run_dir / "model/model.json").is_file()
    assert re.search(r"^valid +0\.\d+", said, re.M) and re.search(r"^test +0\.\d+", said, re.M)
    assert f"saved in {run_dir}" in said


def test_evaluate_repeats_what_training_measured(trained: tuple[Path, str]) -> None:
    run_dir, _ = trained
    cache = run_dir.parent / "cache"
    stored = json.loads((run_dir / "evaluation.json").read_text())
    expected = {part["split"]: part["metrics"] for part in stored}
    for split in ("valid", "test"):
        text = cli("evaluate", run_dir, "--split", split, "--cache-dir", cache, "--json").output
        found = json.loads(text)
        assert found["rows"] == 600
        assert found["metrics"]["auc"] == pytest.approx(expected[split]["auc"], abs=1e-9)
    table = cli("evaluate", run_dir, "--cache-dir", cache).output
    assert table.startswith("test: 600 rows\n")
    assert f"{expected['test']['auc']:.5f}" in table


def test_evaluate_raw_files(trained: tuple[Path, str], tmp_path: Path) -> None:
    run_dir, _ = trained
    (path,) = (run_dir.parent / "cache").glob("synthetic-*/test.parquet")
    found = json.loads(cli("evaluate", run_dir, "--data", path, "--json").output)
    stored = json.loads((run_dir / "evaluation.json").read_text())
    (expected,) = (part["metrics"] for part in stored if part["split"] == "test")
    assert found["metrics"]["logloss"] == pytest.approx(expected["logloss"], abs=1e-7)
    error = cli("evaluate", run_dir, "--data", path, "--split", "test", code=2)
    assert "--split and --data exclude each other" in error.stderr


def test_predict_equals_the_predictor(trained: tuple[Path, str], tmp_path: Path) -> None:
    run_dir, _ = trained
    rows = raw_rows(trained)
    expected = Predictor.load(run_dir).predict(rows)
    source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(rows, source)
    keep = rows.column_names[0]
    said = cli("predict", run_dir, source, "-o", out, "--keep", keep, "--batch-size", 7).output
    assert said == f"50 rows predicted to {out}\n"
    table = pq.read_table(out)
    assert table.column_names == [keep, "prediction"]
    assert table[keep].to_pylist() == rows[keep].to_pylist()
    np.testing.assert_allclose(table["prediction"].to_numpy(), expected, rtol=1e-6)
    cli("predict", run_dir, source, "-o", out, "--negative-rate", 0.5, "--num-threads",
           torch.get_num_threads())  # fmt: skip
    corrected = pq.read_table(out)["prediction"].to_numpy()
    np.testing.assert_allclose(corrected, expected / (expected + (1 - expected) / 0.5), rtol=1e-5)


def test_predict_and_evaluate_a_file_without_header(tmp_path: Path) -> None:
    user = Categorical(name="user", num_embeddings=4)
    schema = Schema(features=(user,), labels=(Label(name="click"),))
    users = Vocabulary(pa.array(["ann", None]), np.array([2, 1]))
    encoder = FeatureEncoder(schema, FitState(null_values=("?",)), {"user": users})
    model = LR(LR.Config(), schema)
    table = torch.tensor([[0.0], [0.5], [1.0], [-2.0]])  # pad, unknown, ann, missing
    model.load_state_dict({"embeddings.linear.user.weight": table, "bias": torch.zeros(1)})
    save_artefact(tmp_path / "run" / "model", model, encoder)
    source, out = tmp_path / "in.tsv", tmp_path / "out.parquet"
    source.write_text("1\tann\n0\t?\n1\teve\n")
    cli("predict", tmp_path / "run", source, "-o", out, "--columns", "click, user")
    logits = np.array([1.0, -2.0, 0.5])  # "?" meant missing in training, so it does here
    probs = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(pq.read_table(out)["prediction"].to_numpy(), probs, rtol=1e-6)
    said = cli("evaluate", tmp_path / "run", "--data", source, "--columns", "click,user", "--json")
    found = json.loads(said.output)["metrics"]
    loss = -np.log([probs[0], 1 - probs[1], probs[2]]).mean()
    assert found["logloss"] == pytest.approx(loss, rel=1e-6) and found["auc"] == 1.0


def test_export_writes_a_program(trained: tuple[Path, str], tmp_path: Path) -> None:
    out = tmp_path / "model.pt2"
    assert f"exported to {out}" in cli("export", trained[0], "-o", out).output
    assert out.is_file() and (tmp_path / "model.pt2.json").is_file()


def test_export_freezes_into_a_folder(trained: tuple[Path, str], tmp_path: Path) -> None:
    out = tmp_path / "frozen"
    said = cli("export", trained[0], "--freeze", "int8", "--to", out).output
    assert f"frozen in int8 to {out}: tables of {stored_bytes(out):,} bytes" in said
    assert stored_bytes(out) == Predictor.load(out).model.embeddings.bytes("infer").total
    error = cli("export", trained[0], "--freeze", "int3", "--to", out, code=2)
    assert "frozen tables are stored as fp32, fp16, int8, int4, int2; got 'int3'" in error.stderr
    error = cli("export", trained[0], "--to", tmp_path / "folder", code=2)
    assert "A folder needs a dtype" in error.stderr


def test_resume_and_a_second_run_in_the_same_folder(trained, config: Path, tmp_path: Path) -> None:
    run_dir, _ = trained
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    again = ["train", "--config", config, "--run-dir", copy, "--cache-dir",
             config.parent / "cache", "--set", "train.learning_rate=1e-2"]  # fmt: skip
    error = cli(*again, code=2)
    assert error.stderr.startswith("ConfigError: ") and "--resume" in error.stderr
    cli(*again, "--resume", "--set", "train.num_epochs=2")
    before = json.loads((run_dir / "result.json").read_text())
    after = json.loads((copy / "result.json").read_text())
    assert before != after


def test_several_seeds_are_summed_up(config: Path, tmp_path: Path) -> None:
    said = cli("train", "--config", config, "--seeds", "1,2", "--run-dir", tmp_path / "two",
                  "--cache-dir", config.parent / "cache").output  # fmt: skip
    lines = {line[:8].strip(): line.split() for line in said.splitlines()}
    assert float(lines["test sd"][2]) > 0
    error = cli("evaluate", tmp_path / "two", code=2).stderr
    assert "Give one:" in error or "config.json" in error


def test_interrupted_runs_end_with_130(config: Path, tmp_path: Path, monkeypatch) -> None:
    class Stopped:
        interrupted = True

    monkeypatch.setattr("recsys.train.run.run", lambda *arguments: Stopped())
    assert cli("train", "--config", config, "--run-dir", tmp_path, code=130).output == ""


# -------------------------------------------------------------------------------------- errors


def test_errors_are_one_message_and_exit_code_2(tmp_path: Path, config: Path) -> None:
    result = cli("train", "--config", tmp_path / "none.yaml", code=2)
    assert result.stderr == (
        f"ConfigError: {tmp_path}/none.yaml: there is no such file. Give the path of a YAML file.\n"
    )
    assert result.stdout == ""
    result = cli("train", "--config", config, "--set", "model.embeding_dim=1", code=2)
    assert result.stderr == (
        f"ConfigError: {config}: --set model.embeding_dim=1: `model.embeding_dim` is not a field "
        "of LR.Config. Did you mean `embedding_dim`?\n"
    )
    result = cli("predict", tmp_path, "x.csv", "-o", "y.parquet", code=2)
    assert result.stderr.startswith(f"CheckpointError: {tmp_path} has no model.json.")


def test_debug_shows_where_it_came_from(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--debug", "train", "--config", str(tmp_path / "no.yaml")])
    assert isinstance(result.exception, ConfigError)


def test_bad_usage_is_told_by_click() -> None:
    assert "Missing option '--config'" in cli("train", code=2).stderr
    assert "No such command 'trian'" in cli("trian", code=2).stderr


# --------------------------------------------------------------------------------------- fetch


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


# ------------------------------------------------------------------------------------- logging


def test_json_logging_is_one_object_a_line(tmp_path: Path, capsys) -> None:
    @main.command("say", hidden=True)
    def say() -> None:
        logging.getLogger("recsys.data").info("read %d rows", 7)
        try:
            raise ValueError("oh")
        except ValueError:
            logging.getLogger("recsys.data").exception("failed")

    try:
        lines = cli("--log-json", "say").stderr.splitlines()
        first, second = (json.loads(line) for line in lines)
        assert first["message"] == "read 7 rows" and first["level"] == "info"
        assert first["logger"] == "recsys.data" and second["exception"].endswith("ValueError: oh")
        plain = cli("say").stderr
        assert "INFO recsys.data: read 7 rows" in plain
    finally:
        del main.commands["say"]


def test_a_library_import_configures_no_logging() -> None:
    code = (
        "import logging, recsys.serving.predictor, recsys.train.run\n"
        "assert not logging.getLogger('recsys').handlers and not logging.getLogger().handlers"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
