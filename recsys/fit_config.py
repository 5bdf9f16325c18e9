"""How anything is trained by gradient descent: the blocks that experiments of all kinds have.

Stability: caller
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.sharding import ShardingConfig
from recsys.schema import Frozen


class EmbeddingConfig(EmbeddingOptimizerConfig):
    """How the embedding tables are trained, and by what code."""

    backend: Literal["auto", "local", "torchrec"] = "auto"
    """``local``: one process, plain torch and C. ``torchrec``: sharded over all ranks. ``auto``:
    local for one CPU process, else torchrec."""
    sharding: ShardingConfig = ShardingConfig()
    """Which rank holds which table, on the torchrec backend."""


class DenseEmbeddingConfig(EmbeddingConfig):
    """How tables are trained whose rows are all used in every step."""

    kind: Literal["rowwise_adagrad", "adagrad", "sgd", "adam"] = "adam"
    """The optimizer."""
    mode: Literal["sparse", "dense"] = "dense"
    """``dense``: every row is moved in every step, by its momentum too. ``sparse``: the rows of a
    batch, for models without propagation."""
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    """Highest step size of the schedule."""


class FitConfig(Frozen):
    """How anything is trained by gradient descent, and how often it is looked at."""

    num_epochs: int = Field(default=1, ge=1)
    """Passes over the training rows at most."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many steps, whatever the epochs say."""
    optimizer: Literal["adam", "adamw", "sgd", "adagrad"] = "adam"
    """Of everything but the tables."""
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    """Highest step size of the schedule."""
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Decoupled for adamw, L2 for the others; never on the tables."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which all learning rates, the tables' too, rise from 0."""
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    """``cosine`` falls to 0 at the last step; ``plateau`` falls where ``monitor`` stalls."""
    plateau_factor: float = Field(default=0.1, gt=0, lt=1)
    """What ``plateau`` multiplies the learning rates by."""
    plateau_patience: int = Field(default=1, ge=1)
    """Evaluations without a better ``monitor`` before ``plateau`` acts."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; larger ones are scaled down. With ``embedding.mode=sparse``
    the tables are neither counted nor clipped, as in torchrec: their gradient never exists as a
    whole. With ``mode=dense`` they are."""
    evaluations_per_epoch: int = Field(default=4, ge=1)
    """Evaluations on the validation split, evenly spread, the last at the end of the epoch."""
    epochs_per_evaluation: int = Field(default=1, ge=1)
    """Epochs from one evaluation to the next; above 1 only ends of epochs are judged."""
    early_stop_patience: int | None = Field(default=None, ge=1)
    """Stop after so many evaluations without a better ``monitor``."""
    checkpoint_every: int = Field(default=1, ge=1)
    """Evaluations between two checkpoints; a new best and the end are always saved."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints to keep, beside the best. With 2 a damaged one has a predecessor."""
    background_checkpoints: bool = True
    """With several ranks: copy what is saved and go on training while it is written. Off, a
    checkpoint needs no memory for the copy."""
    num_threads: int | None = Field(default=None, ge=1)
    """Threads of torch; all cores otherwise."""
    log_every: int = Field(default=50, ge=1)
    """Steps between lines of metrics.jsonl."""
    deterministic: bool = False
    """Only operations that give the same bits every time; slower on GPUs."""
