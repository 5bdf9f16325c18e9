"""One model on both backends, in a process of its own.

``python -m recsys.testing.torchrec_parity MODEL_CLASS CONFIG_JSON`` trains the model five steps on
the local backend and on one torchrec rank, compares every loss and every weight, and exits with
an error if they differ by more than 1e-6. It starts a process group, so tests run it as a
subprocess.

Stability: testing
"""

from __future__ import annotations

import importlib
import sys

import torch
from torch import distributed
from torch._C._distributed_c10d import HashStore

from recsys.base import CTRModel
from recsys.embeddings.optimizer import EmbeddingOptimizer, EmbeddingOptimizerConfig
from recsys.embeddings.torchrec_backend import ShardingOptions, to_torchrec
from recsys.testing.data import SchemaKind, random_batch, tiny_schema
from recsys.testing.training import dense_parameters, train_steps

CASES: tuple[tuple[SchemaKind, EmbeddingOptimizerConfig], ...] = (
    ("mixed", EmbeddingOptimizerConfig(kind="rowwise_adagrad", learning_rate=0.05)),
    ("shared", EmbeddingOptimizerConfig(kind="rowwise_adagrad", learning_rate=0.05)),
    ("weighted", EmbeddingOptimizerConfig(kind="rowwise_adagrad", learning_rate=0.05)),
    ("mixed", EmbeddingOptimizerConfig(kind="sgd", learning_rate=0.5)),
    ("mixed", EmbeddingOptimizerConfig(kind="adagrad", learning_rate=0.05)),
    ("mixed", EmbeddingOptimizerConfig(kind="sgd", mode="dense", learning_rate=0.5, l2=0.01)),
)
TOLERANCE = 1e-6


def difference(
    model_class: type[CTRModel],
    config: CTRModel.Config,
    kind: SchemaKind,
    tables: EmbeddingOptimizerConfig,
) -> float:
    """The largest difference of losses and weights after five steps.

    Args:
        model_class: Which model.
        config: Of the model.
        kind: Of `tiny_schema`.
        tables: How tables are trained. All other parameters: plain SGD, because Adam turns
            rounding of a gradient near zero into whole steps.
    """
    schema = tiny_schema(kind)
    batches = [random_batch(schema, batch_size=16, seed=seed) for seed in range(5)]
    runs = []
    for backend in ("local", "torchrec"):
        model = model_class(config, schema)
        model.reset_parameters(seed=1)
        owner: EmbeddingOptimizerConfig | EmbeddingOptimizer = tables
        if backend == "torchrec":
            options = ShardingOptions(weighted=kind == "weighted")
            owner = to_torchrec(model.embeddings, tables, options)
        sgd = torch.optim.SGD(dense_parameters(model), lr=0.05)
        losses = train_steps(model, batches, owner, sgd)
        state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        runs.append({**state, "losses": torch.tensor(losses)})
    local, sharded = runs
    if set(local) != set(sharded):
        raise ValueError(f"state dicts differ in {sorted(set(local) ^ set(sharded))}")
    return max(float((local[name] - sharded[name]).abs().max()) for name in local)


def main(path: str, config_json: str) -> None:
    """Compares and raises where the backends differ.

    Args:
        path: Import path of the model class.
        config_json: Its config.

    Raises:
        ValueError: They differ.
    """
    module, _, name = path.rpartition(".")
    model_class: type[CTRModel] = getattr(importlib.import_module(module), name)
    config = model_class.Config.model_validate_json(config_json)
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        found = {
            f"{kind}, {tables.kind} {tables.mode}": difference(model_class, config, kind, tables)
            for kind, tables in CASES
        }
    finally:
        distributed.destroy_process_group()
    sys.stdout.write(f"{found}\n")
    if max(found.values()) > TOLERANCE:
        raise ValueError(f"{name}: backends differ by {found}, allowed {TOLERANCE}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
