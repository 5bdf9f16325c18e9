"""The inputs of a CTR model computed again, row by row, with numpy and the state dict alone.

A model's test pins its equation with these: they share no code with `recsys.base`.

Stability: testing
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recsys.base import CTRModel
from recsys.schema import KeyedFeature
from recsys.testing.data import bags
from recsys.types import Batch

Array = npt.NDArray[np.float64]


def weights_of(model: CTRModel) -> dict[str, Array]:
    """The state dict as float64 arrays.

    Args:
        model: Any CTR model.
    """
    return {
        name: tensor.detach().cpu().double().numpy() for name, tensor in model.state_dict().items()
    }


def fields(model: CTRModel, batch: Batch) -> Array:
    """The field vectors (B, F, D) that `CTRModel.inputs` should give.

    Args:
        model: A model with the group ``embedding``.
        batch: B rows.
    """
    config, schema, state = model.config, model.schema, weights_of(model)
    assert isinstance(config, CTRModel.Config)
    numbers = batch.dense.double().numpy()
    rows = []
    for row in range(batch.batch_size):
        vectors = []
        for feature in schema.keyed:
            table = feature.table_name
            vector = pooled(model, batch, row, feature, f"embeddings.embedding.{table}.weight")
            projection = state.get(f"projections.table:{table}.weight")
            vectors.append(vector if projection is None else projection @ vector)
        if config.numeric == "embed":
            for j in range(len(schema.numeric)):
                vector = numbers[row, j] * state["numeric.weight"][j]
                vectors.append(vector + (state["numeric.bias"][j] if config.numeric_bias else 0.0))
        start = len(schema.numeric)
        for feature in schema.vectors:
            columns = numbers[row, start : start + feature.dim]
            vectors.append(state[f"projections.vector:{feature.name}.weight"] @ columns)
            start += feature.dim
        rows.append(vectors)
    return np.array(rows).reshape(batch.batch_size, -1, config.embedding_dim)


def linear(model: CTRModel, batch: Batch) -> Array:
    """The first-order term (B, T) that `CTRModel.inputs` should give.

    Args:
        model: A model with the group ``linear``.
        batch: B rows.
    """
    state, numbers = weights_of(model), batch.dense.double().numpy()
    result = np.zeros((batch.batch_size, model.schema.num_tasks))
    for row in range(batch.batch_size):
        for feature in model.schema.keyed:
            name = f"embeddings.linear.{feature.table_name}.weight"
            result[row] += pooled(model, batch, row, feature, name)
        for j in range(model.schema.dense_width):
            result[row] += numbers[row, j] * state["linear.weight"][j]
    return result


def flat(model: CTRModel, batch: Batch) -> Array:
    """``x_0``: the fields side by side, then the numbers that are not embedded.

    Args:
        model: A model with the group ``embedding``.
        batch: B rows.
    """
    vectors = fields(model, batch).reshape(batch.batch_size, -1)
    assert isinstance(model.config, CTRModel.Config)
    if model.config.numeric == "embed":
        return vectors
    return np.concatenate([vectors, batch.dense.double().numpy()[:, : model.num_numeric]], axis=1)


def pooled(model: CTRModel, batch: Batch, row: int, feature: KeyedFeature, table: str) -> Array:
    """One bag of one row: the sum or mean of its table rows, times their weights.

    Args:
        model: Whose table.
        batch: Any batch.
        row: Position in the batch.
        feature: Which feature.
        table: Name in the state dict.
    """
    weight = weights_of(model)[table]
    total = np.zeros(weight.shape[1])
    bag = bags(batch, feature.name)[row].tolist()
    scales = np.ones(len(bag))
    if batch.value_weights is not None:
        scales = bags(batch, feature.name, batch.value_weights)[row].double().numpy()
    for index, scale in zip(bag, scales):
        total += scale * weight[index]
    stated = {getattr(f, "pooling", None) for f in model.schema.keyed
              if f.table_name == feature.table_name}  # fmt: skip
    return total / len(bag) if "mean" in stated and bag else total


def mlp(state: dict[str, Array], prefix: str, x: Array, last_plain: bool = True) -> Array:
    """A stack of Linear and ReLU layers, without norm and dropout.

    Args:
        state: See `weights_of`.
        prefix: Name of the `MLP` in the model.
        x: Input (B, H).
        last_plain: The last layer has no activation.
    """
    names = sorted(
        (n for n in state if n.startswith(f"{prefix}.layers.") and n.endswith(".weight")),
        key=lambda name: int(name.split(".")[-2]),
    )
    for name in names:
        x = x @ state[name].T + state[name.removesuffix("weight") + "bias"]
        if name != names[-1] or not last_plain:
            x = np.maximum(x, 0.0)
    return x
