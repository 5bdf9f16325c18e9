"""The exported program computes the model's logits outside recsys, or is not written."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys.base import FlatInputs, RecModel
from recsys.data.encoder import FeatureEncoder, FitState
from recsys.data.vocabulary import Vocabulary
from recsys.errors import CheckpointError, ConfigError
from recsys.models.ctr.dcn_v2 import DCNv2
from recsys.schema import Categorical, Label, ModelConfig, MultiValued, Schema, Vector
from recsys.serving.artefact import load_artefact, save_artefact
from recsys.serving.export import export, sample_batch

RUN = """
import json, sys, torch
program = torch.export.load(sys.argv[1]).module()
dense, values, lengths = json.load(sys.stdin)
i32 = lambda x: torch.tensor(x, dtype=torch.int32)
print(json.dumps(program(torch.tensor(dense), i32(values), i32(lengths)).tolist()))
assert not [m for m in sys.modules if m.split(".")[0] == "recsys"]
"""


def test_program_runs_without_recsys(artefact: Path, tmp_path: Path, rows, expected) -> None:
    out = export(artefact, tmp_path / "served" / "model.pt2")
    batch = load_artefact(artefact).encoder.batch(pa.Table.from_pylist(rows))
    inputs = [batch.dense.tolist(), batch.values.tolist(), batch.lengths.tolist()]
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(out)],
        input=json.dumps(inputs), capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    logits = np.array(json.loads(done.stdout))[:, 0]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), expected, rtol=1e-6)


def test_sidecar_says_how_to_call_it(artefact: Path, tmp_path: Path) -> None:
    out = export(artefact, tmp_path / "model.pt2")
    found = json.loads((tmp_path / "model.pt2.json").read_text())
    assert found["keys"] == ["user", "hour", "tags"] and found["dense_columns"] == ["age"]
    assert found["inputs"] == {
        "dense": {"dtype": "float32", "shape": ["B", 1]},
        "values": {"dtype": "int32", "shape": ["L"]},
        "lengths": {"dtype": "int32", "shape": ["3 * B"]},
    }
    assert found["output"] == {"logits": {"dtype": "float32", "shape": ["B", 1]}}
    assert found["num_embeddings"] == {"user": 4, "hour": 5, "tags": 4}
    assert found["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert 0 <= found["largest_difference"] <= 1e-5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt2", "model.pt2.json", "run"]


def test_weights_of_bags_and_vectors(tmp_path: Path) -> None:
    schema = Schema(
        features=(
            Categorical(name="user", num_embeddings=3),
            MultiValued(name="tags", pooling="sum", weights="w", num_embeddings=3),
            Vector(name="text", dim=2),
        ),
        labels=(Label(name="click"), Label(name="buy")),
    )
    one = Vocabulary(pa.array(["a"]), np.array([1]))
    encoder = FeatureEncoder(schema, FitState(), {"user": one, "tags": one})
    torch.manual_seed(0)
    model = DCNv2(DCNv2.Config(embedding_dim=4, init_std=0.5), schema)
    out = export(save_artefact(tmp_path / "m", model, encoder), tmp_path / "m.pt2")
    found = json.loads((tmp_path / "m.pt2.json").read_text())
    assert found["dense_columns"] == ["text[0]", "text[1]"] and found["tasks"] == ["click", "buy"]
    assert found["inputs"]["value_weights"] == {"dtype": "float32", "shape": ["L"]}
    program = torch.export.load(out).module()
    inputs = FlatInputs.flatten(sample_batch(schema, 33, seed=9))
    with torch.no_grad():
        torch.testing.assert_close(program(*inputs), FlatInputs(model.eval())(*inputs))


def test_a_program_that_differs_is_not_written(artefact: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"differ from the model's by .* Nothing was written"):
        export(artefact, tmp_path / "model.pt2", tolerance=-1.0)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    with pytest.raises(ConfigError, match=r"expected a file that ends in \.pt2, got .*model\.onnx"):
        export(artefact, tmp_path / "model.onnx")


class Bare(RecModel):
    """A recommender that predicts no clicks."""

    class Config(ModelConfig):
        """None."""

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__(config, schema)
        self.weight = torch.nn.Parameter(torch.zeros(1))


def test_other_families_have_no_flat_inputs(tmp_path: Path, encoder: FeatureEncoder) -> None:
    folder = save_artefact(tmp_path / "m", Bare(Bare.Config(), encoder.schema), encoder)
    with pytest.raises(ConfigError, match="Bare is not a CTRModel; only those have flat inputs"):
        export(folder, tmp_path / "m.pt2", model_class=Bare)
