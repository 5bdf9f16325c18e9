"""Frozen models: saved, loaded and served like any other, in the bytes that were promised."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.base import CTRModel, FlatInputs
from recsys.data.encoder import FeatureEncoder
from recsys.embeddings import kernels
from recsys.embeddings.compression.hash import Hash
from recsys.embeddings.compression.plan import CompressionConfig
from recsys.embeddings.compression.unified import UnifiedEmbedding
from recsys.embeddings.memory import tensor_bytes
from recsys.embeddings.packed_store import PackedStore
from recsys.embeddings.row_format import BITS
from recsys.embeddings.scheme import Dtype, Full
from recsys.errors import CheckpointError, ConfigError
from recsys.models.ctr.deep_fm import DeepFM
from recsys.models.ctr.dlrm import DLRM
from recsys.models.ctr.lr import LR
from recsys.schema import Schema
from recsys.serving.artefact import load_artefact, save_artefact, stored_bytes
from recsys.serving.export import export
from recsys.serving.freeze import freeze_artefact, freeze_model
from recsys.serving.predictor import Predictor
from recsys.testing.data import SCHEMA_KINDS, fill_weights, random_batch, tiny_schema

DTYPES: tuple[Dtype, ...] = tuple(BITS)
PLAIN = DeepFM.Config(embedding_dim=16)
COMPRESSIONS = {
    "none": None,
    "full": CompressionConfig(scheme=Full()),
    "hash": CompressionConfig(scheme=Hash(), ratio=0.7, exact_rows=0),
    "unified": CompressionConfig(scheme=UnifiedEmbedding(), ratio=0.7, exact_rows=4),
}


def trained(config: DeepFM.Config, schema: Schema, steps: int = 60) -> DeepFM:
    """A few steps on 64 rows with labels that depend on the first feature."""
    model = DeepFM(config, schema)
    model.reset_parameters(1)
    batch = random_batch(schema, 64, seed=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(model(batch), batch).mean().backward()
        optimizer.step()
    return model.eval()


def probabilities(model: CTRModel, schema: Schema) -> torch.Tensor:
    with torch.no_grad():
        return model(random_batch(schema, 50, seed=4)).sigmoid()


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_fp32_predicts_the_same_and_int8_nearly(name: str) -> None:
    schema = tiny_schema("mixed")
    model = trained(PLAIN.model_copy(update={"compression": COMPRESSIONS[name]}), schema)
    exact = probabilities(model, schema)
    assert exact.std() > 0.1  # it has learned something
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert torch.equal(probabilities(freeze_model(model), schema), exact)
    errors = {
        dtype: (probabilities(freeze_model(model, dtype), schema) - exact).abs().mean().item()
        for dtype in ("fp16", "int8", "int4", "int2")
    }
    assert 0 < errors["fp16"] < errors["int8"] < 2e-3
    assert errors["int8"] < errors["int4"] < errors["int2"]
    assert model.embeddings.dtype is None and model.embeddings.table_parameters()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("kind", SCHEMA_KINDS)
def test_every_kind_of_schema(kind) -> None:
    schema = tiny_schema(kind)
    model = fill_weights(DLRM(DLRM.Config(embedding_dim=8), schema)).eval()
    assert isinstance(model, DLRM)
    frozen = freeze_model(model)
    assert type(frozen) is DLRM
    assert torch.equal(probabilities(frozen, schema), probabilities(model, schema))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["none", "hash", "unified"])
def test_disk_is_what_bytes_said(
    name: str, dtype: Dtype, encoder: FeatureEncoder, tmp_path: Path, rows: list[dict]
) -> None:
    """Said before, in memory, on disk, after loading; and the loaded model predicts the same."""
    config = DLRM.Config(embedding_dim=8, compression=COMPRESSIONS[name])
    model = fill_weights(DLRM(config, encoder.schema)).eval()
    said = model.embeddings.bytes("infer", dtype=dtype).total
    frozen = freeze_model(model, dtype)
    folder = save_artefact(tmp_path / "frozen", frozen, encoder)
    loaded = load_artefact(folder).model
    tables = loaded.embeddings
    assert isinstance(tables.store, PackedStore) and tables.dtype == dtype
    held = tensor_bytes([*tables.parameters(), *tables.buffers()])
    assert said == frozen.embeddings.bytes("infer").total == held == stored_bytes(folder)
    assert loaded.config == frozen.config and loaded.config.compression is not None
    assert loaded.config.compression.dtype == dtype
    mine, theirs = frozen.state_dict(), loaded.state_dict()
    assert list(mine) == list(theirs) and all(torch.equal(mine[k], theirs[k]) for k in mine)
    found = Predictor.load(folder).predict(rows)
    np.testing.assert_array_equal(found, Predictor(frozen, encoder).predict(rows))


def test_an_artefact_is_frozen(artefact: Path, tmp_path: Path, rows, expected) -> None:
    """A logistic regression has rows of width 1: fp16 below fp32."""
    found = freeze_artefact(artefact, tmp_path / "small", "int8")
    assert (found.table_bytes, found.trained_bytes) == (13 * 2, 13 * 4)
    predictor = Predictor.load(found.folder)
    assert predictor.metadata == {"seed": 1, "frozen": "int8"}
    np.testing.assert_allclose(predictor.predict(rows), expected, atol=1e-3)
    exact = freeze_artefact(artefact, tmp_path / "exact", "fp32")
    both = [Predictor.load(folder).predict(rows) for folder in (exact.folder, artefact)]
    np.testing.assert_array_equal(*both)
    with pytest.raises(ConfigError, match="frozen already, in int8"):
        freeze_artefact(found.folder, tmp_path / "again", "int4")
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="holds other files and is not overwritten"):
        freeze_artefact(artefact, other)


def test_loads_without_a_compiler(
    encoder: FeatureEncoder, tmp_path: Path, rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fill_weights(DLRM(DLRM.Config(embedding_dim=8), encoder.schema)).eval()
    folder = save_artefact(tmp_path / "frozen", freeze_model(model, "int4"), encoder)
    compiled = Predictor.load(folder).predict(rows)
    monkeypatch.setattr(kernels, "library", lambda: None)
    np.testing.assert_allclose(Predictor.load(folder).predict(rows), compiled, rtol=1e-6)


def test_a_trained_state_does_not_fit_a_frozen_model() -> None:
    schema = tiny_schema("categorical")
    model = DLRM(DLRM.Config(embedding_dim=16), schema)
    frozen = freeze_model(model, "int8")
    with pytest.raises(CheckpointError, match=r"held as torch\.uint8 rows of 20 \(frozen in int8"):
        frozen.load_state_dict(model.state_dict())
    with pytest.raises(CheckpointError, match="held as floats, for training"):
        model.load_state_dict(frozen.state_dict())
    model.load_state_dict(freeze_model(model).state_dict())


@pytest.mark.parametrize("dtype", ["fp16", "int4"])
def test_exports_with_packed_rows(dtype: Dtype, encoder: FeatureEncoder, tmp_path: Path) -> None:
    """The program decodes the packed rows itself and agrees with the frozen model."""
    config = DLRM.Config(embedding_dim=16, compression=COMPRESSIONS["hash"])
    model = fill_weights(DLRM(config, encoder.schema)).eval()
    folder = save_artefact(tmp_path / "model", model, encoder)
    path = export(folder, tmp_path / f"{dtype}.pt2", dtype=dtype)
    tables = freeze_model(model, dtype).embeddings.bytes("infer").tables
    program = torch.export.load(path)
    kinds = (torch.float16,) if dtype == "fp16" else (torch.uint8, torch.float16)
    packed = [t for t in program.state_dict.values() if t.dtype in kinds]
    assert sum(t.nbytes for t in packed) == tables


def test_traces_and_pickles() -> None:
    """What a server may do with any model."""
    schema = tiny_schema("mixed")
    model = freeze_model(fill_weights(DLRM(DLRM.Config(embedding_dim=8), schema)).eval(), "int4")
    batch = random_batch(schema, 8)
    with torch.no_grad():
        expected = model(batch)
        assert torch.equal(pickle.loads(pickle.dumps(model))(batch), expected)
        flat = FlatInputs(model).eval()
        traced = torch.fx.symbolic_trace(flat, concrete_args={"value_weights": None})
        torch.testing.assert_close(traced(*FlatInputs.flatten(batch)), expected)


def test_an_unknown_dtype_is_refused(encoder: FeatureEncoder) -> None:
    model = LR(LR.Config(), encoder.schema)
    with pytest.raises(ConfigError, match="got 'fp8'"):
        freeze_model(model, "fp8")  # pyright: ignore[reportArgumentType]
