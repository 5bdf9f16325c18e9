"""``recsys predict``: what the predictor says, for files with and without a header."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys.data.encoder import FeatureEncoder, FitState
from recsys.data.vocabulary import Vocabulary
from recsys.models.ctr.lr import LR
from recsys.schema import Categorical, Label, Schema
from recsys.serving.artefact import save_artefact
from recsys.serving.predictor import Predictor
from tests.cli.conftest import cli


def raw_rows(trained: tuple[Path, str], rows: int = 50) -> pa.Table:
    (path,) = (trained[0].parent / "cache").glob("synthetic-*/test.parquet")
    return pq.read_table(path).slice(0, rows)


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
