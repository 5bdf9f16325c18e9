"""A logistic regression over four features, small enough to compute on paper."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys.data.encoder import FeatureEncoder, FitState
from recsys.data.transforms import NumberFit
from recsys.data.vocabulary import Vocabulary
from recsys.models.ctr.lr import LR
from recsys.schema import Categorical, Label, MultiValued, Numeric, Schema
from recsys.serving.artefact import save_artefact


def toy_encoder(tasks: tuple[str, ...] = ("click",)) -> FeatureEncoder:
    schema = Schema(
        features=(
            Categorical(name="user", column="user_id", num_embeddings=4),
            Categorical(name="hour", dtype="int", num_embeddings=5),
            MultiValued(name="tags", separator="|", pooling="sum", num_embeddings=4),
            Numeric(name="age", scale="standardize", fill="mean"),
        ),
        labels=tuple(Label(name=task) for task in tasks),
    )
    vocabularies = {
        "user": Vocabulary(pa.array(["ann", "bob"]), np.array([5, 3])),
        "hour": Vocabulary(pa.array([12, 7, None], pa.int64()), np.array([4, 3, 1])),
        "tags": Vocabulary(pa.array(["x", "y"]), np.array([2, 1])),
    }
    state = FitState(
        numbers={"age": NumberFit(count=8, mean=30.0, sd=10.0, minimum=10.0, maximum=60.0)},
        null_values=("", "NA"),
    )
    return FeatureEncoder(schema, state, vocabularies)


def toy_model(encoder: FeatureEncoder) -> LR:
    """Task t has the weights below times t + 1."""
    model = LR(LR.Config(), encoder.schema)
    factor = torch.arange(1, encoder.schema.num_tasks + 1, dtype=torch.float32)
    weights = {
        "embeddings.linear.user.weight": [0.0, 0.1, 1.0, -1.0],  # pad oov ann bob
        "embeddings.linear.hour.weight": [0.0, 0.2, 0.5, 0.25, -0.5],  # pad oov 12 7 missing
        "embeddings.linear.tags.weight": [0.0, -0.1, 2.0, -2.0],  # pad oov x y
        "linear.weight": [0.3],
    }
    state = {name: torch.tensor(w).unsqueeze(1) * factor for name, w in weights.items()}
    model.load_state_dict({**state, "bias": 0.05 * factor})
    return model.eval()


ROWS = [
    {"user_id": "ann", "hour": 12, "tags": "x|y|x", "age": 40.0},
    {"user_id": "bob", "hour": None, "tags": "", "age": None},
    {"user_id": "new", "hour": 3, "tags": "q", "age": 10},
]
LOGITS = [
    0.05 + 1.0 + 0.5 + (2.0 - 2.0 + 2.0) + 0.3 * 1.0,
    0.05 - 1.0 - 0.5 + 0.0 + 0.0,
    0.05 + 0.1 + 0.2 - 0.1 - 0.3 * 2.0,
]


@pytest.fixture
def rows() -> list[dict]:
    return [dict(row) for row in ROWS]


@pytest.fixture
def expected() -> np.ndarray:
    return (1 / (1 + np.exp(-np.array(LOGITS)))).astype(np.float32)


@pytest.fixture
def encoder() -> FeatureEncoder:
    return toy_encoder()


@pytest.fixture
def model(encoder: FeatureEncoder) -> LR:
    return toy_model(encoder)


@pytest.fixture
def artefact(tmp_path: Path, model: LR, encoder: FeatureEncoder) -> Path:
    return save_artefact(tmp_path / "run" / "model", model, encoder, {"seed": 1})


@pytest.fixture
def two_tasks(tmp_path: Path) -> Path:
    encoder = toy_encoder(("click", "buy"))
    return save_artefact(tmp_path / "two", toy_model(encoder), encoder)
