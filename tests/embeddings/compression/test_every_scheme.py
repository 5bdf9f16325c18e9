"""One small DeepFM a scheme: planned, trained, frozen, saved, served and exported."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys.base import CTRModel, FlatInputs
from recsys.config import TrainConfig
from recsys.data.encoder import FeatureEncoder, FitState
from recsys.data.transforms import NumberFit
from recsys.data.vocabulary import Vocabulary
from recsys.embeddings.compression.budget import full_bytes
from recsys.embeddings.compression.plan import CompressionConfig
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Full, Scheme, SearchContext
from recsys.errors import ConfigError
from recsys.layers.mlp import MLPConfig
from recsys.models.ctr.deep_fm import DeepFM
from recsys.schema import Schema
from recsys.serving.artefact import load_artefact, save_artefact, stored_bytes
from recsys.serving.export import sample_batch
from recsys.serving.freeze import freeze_model
from recsys.serving.predictor import Predictor
from recsys.testing.data import random_batch, tiny_schema
from recsys.train.click_task import ClickTask
from recsys.train.phases import advance, in_phases, next_model, phases_of
from recsys.train.ranks import Ranks
from recsys.train.step import TrainStep
from recsys.tune.compression import all_schemes
from recsys.types import Batch

SCHEMES = all_schemes()
FACTOR = 60
INTEGERS = ("alpt", "low_precision")
CUT_LAST = ("deep_light",)  # what is above the budget is cut when they are frozen
# Schemes that keep every row and only store it in fewer bytes: 8 or 16 bits with scales.
REACHED = {"alpt": 0.5, "low_precision": 0.5, "qat": 0.25, "auto_dim": 0.25}
CONTEXT = SearchContext(validate=lambda: 0.5, say=lambda line: None, seed=0)


def tall_schema() -> Schema:
    """The tiny one with enough rows for a tenth of them to mean something."""
    schema = tiny_schema("weighted")
    features = [
        feature.model_copy(update={"num_embeddings": FACTOR * feature.num_embeddings})
        if hasattr(feature, "num_embeddings")
        else feature
        for feature in schema.features
    ]
    return schema.model_copy(update={"features": tuple(features)})


SCHEMA = tall_schema()


def make_encoder() -> FeatureEncoder:
    vocabularies = {
        name: Vocabulary(pa.array([f"{name}{i}" for i in range(rows - 2)]), np.ones(rows - 2))
        for name, rows in SCHEMA.num_embeddings().items()
    }
    numbers = {feature.name: NumberFit(count=2, sd=1.0) for feature in SCHEMA.numeric}
    return FeatureEncoder(SCHEMA, FitState(numbers=numbers), vocabularies)


def make_model(scheme: Scheme, ratio: float) -> DeepFM:
    compression = CompressionConfig.model_validate({"scheme": scheme, "ratio": ratio})
    config = DeepFM.Config(
        embedding_dim=16, init_std=0.1, mlp=MLPConfig(hidden_units=(8,)), compression=compression
    )
    model = DeepFM(config, SCHEMA)
    model.reset_parameters(1)
    return model


def trained(model: DeepFM, steps: int = 2) -> DeepFM:
    """Some steps in every phase, as the job does them."""
    phases, members = phases_of(model.embeddings.schemes), in_phases(model.embeddings.schemes)
    for number, phase in enumerate(phases):
        if number:
            successors = advance(model, members, phases[number - 1], phase, CONTEXT)
            model = next_model(model, successors, phase, seed=1)
        optimizer = EmbeddingOptimizerConfig(kind="rowwise_adagrad", learning_rate=0.1)
        tables = model.embeddings.attach_optimizer(optimizer)
        train = TrainConfig(learning_rate=0.01)
        step = TrainStep(ClickTask(model.train(), train, tables, Ranks()), tables, Ranks())
        for seed in range(steps):
            if phase.trains_architecture:
                step.train_architecture(random_batch(SCHEMA, 32, seed=100 + seed), 0.1)
            assert step(random_batch(SCHEMA, 32, seed=seed), 1.0).isfinite()
    return model.eval()


def logits(model: CTRModel, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model(batch)


def every_index(key: str) -> Batch:
    """Row i looks up index i of one feature and nothing else."""
    rows = SCHEMA.num_embeddings()[key]
    lengths = [torch.full((rows,), int(name == key)) for name in SCHEMA.keys]
    batch = random_batch(SCHEMA, rows)
    return dataclasses.replace(
        batch,
        values=torch.arange(rows, dtype=torch.int32),
        lengths=torch.cat(lengths).int(),
        value_counts=tuple(rows * (name == key) for name in SCHEMA.keys),
        value_weights=torch.ones(rows),
    )


def check_all_rows(trained_model: DeepFM, integers: bool) -> None:
    model = DeepFM(trained_model.config, SCHEMA).eval()  # no optimizer takes the gradients
    model.load_state_dict(trained_model.state_dict())
    optimizer = EmbeddingOptimizerConfig(kind="sgd", learning_rate=50.0)
    tables = model.embeddings.attach_optimizer(optimizer) if integers else None
    for group in ("embedding", "linear"):
        for key in SCHEMA.keys:
            model.zero_grad()
            rows = model.embeddings.all_rows(group, key)
            looked_up = model.embeddings(every_index(key))[group][key]
            torch.testing.assert_close(rows, looked_up, rtol=1e-6, atol=1e-7)
            assert rows.any() and not rows[0].any()
            rows.square().sum().backward()
            if tables is None:
                gradients = [p.grad for p in model.embeddings.parameters()]
                assert any(g is not None and g.any() for g in gradients)
            else:  # integer rows are no parameters: their optimizer alone knows the gradients
                tables.step()
                tables.zero_grad()
                assert not torch.equal(model.embeddings.all_rows(group, key), rows)


@torch.no_grad()
def check_cut(model: DeepFM, frozen: DeepFM) -> None:
    """Values are as trained or gone, and of a table the largest are those that stay."""
    for group in ("embedding", "linear"):
        for key in SCHEMA.keys:
            before = model.embeddings.all_rows(group, key)
            after = frozen.embeddings.all_rows(group, key)
            kept = after != 0
            torch.testing.assert_close(after[kept], before[kept])
            if kept.any() and not kept[1:].all():
                assert before[kept].abs().min() >= before[~kept].abs().max()


def check_export(frozen: DeepFM) -> None:
    flat = FlatInputs(frozen).eval()
    with torch.no_grad():
        program = flat.export(sample_batch(SCHEMA, 8, seed=0)).module()
    for size in (1, 7):
        inputs = FlatInputs.flatten(sample_batch(SCHEMA, size, seed=size))
        with torch.no_grad():
            torch.testing.assert_close(program(*inputs), flat(*inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("label", SCHEMES)
def test_from_plan_to_predictor(label: str, tmp_path: Path) -> None:
    scheme, ratio = SCHEMES[label], REACHED.get(label, 0.1)
    model = make_model(scheme, ratio)
    tables = model.embeddings
    whole = sum(full_bytes(specs) for specs in tables.groups.values())
    planned = tables.bytes("infer").total
    assert planned <= ratio * whole
    assert any(not isinstance(s, Full) for n, s in tables.schemes.items() if n[0] == "l")
    assert scheme.model_dump()["kind"] in {s.model_dump()["kind"] for s in tables.schemes.values()}

    before = {name: value.clone() for name, value in model.state_dict().items()}
    model = trained(model)
    assert any(not torch.equal(v, before[k]) for k, v in model.state_dict().items() if k in before)
    check_all_rows(model, label in INTEGERS)

    batch = random_batch(SCHEMA, 50, seed=9)
    frozen = freeze_model(model)
    if label in CUT_LAST:
        check_cut(model, frozen)
    else:
        torch.testing.assert_close(logits(frozen, batch), logits(model, batch))
    held = frozen.embeddings.bytes("infer").total
    assert held <= ratio * whole

    folder = save_artefact(tmp_path / "frozen", frozen, make_encoder())
    assert stored_bytes(folder) == held
    loaded = load_artefact(folder).model
    assert isinstance(loaded, DeepFM)
    assert loaded.embeddings.schemes == frozen.embeddings.schemes
    assert torch.equal(logits(loaded, batch), logits(frozen, batch))
    rows = [
        {"user": "user5", "topics": ["topics1", "topics200"], "topic_w": [0.5, 2.0], "age": 0.3},
        {"user": "nobody", "topics": [], "topic_w": [], "age": None},
    ]
    with pytest.raises(ConfigError, match="frozen in fp32 and cannot be trained"):
        TrainStep(ClickTask(frozen, TrainConfig(), None, Ranks()), None, Ranks())
    found = Predictor.load(folder).predict(rows)
    assert found.shape == (2,) and np.isfinite(found).all()
    np.testing.assert_array_equal(found, Predictor(frozen, make_encoder()).predict(rows))
    check_export(frozen)
