"""Collaborative filters: splits of interactions, one graph, lists judged on the frozen tables.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch

from recsys.cf import CFModel, EmbeddingModel
from recsys.cf_config import CFExperiment
from recsys.embeddings.compression.budget import full_bytes
from recsys.embeddings.scheme import Dtype, Scheme
from recsys.errors import ConfigError, DataError
from recsys.evaluate.ranking import RankingOptions, evaluate_ranking
from recsys.evaluate.stored_ranking import seen_and_relevant
from recsys.serving.freeze import freeze_model
from recsys.serving.recommender_folder import load_recommender
from recsys.train.graph_job import check_phases
from recsys.tune.workload import Judged, Workload, served_bytes


class FilterWorkload(Workload):
    """See `Workload`.

    Args:
        experiment: Names the data.
        cache_dir: Where data is fetched to.

    Raises:
        DataError: The data is bad, or has no validation split to choose by.
    """

    def __init__(self, experiment: CFExperiment, cache_dir: Path) -> None:
        dataset = experiment.dataset.build()
        self._fitted = experiment.fitted
        self._splits = dataset.splits(cache_dir)
        if not len(self._splits.train) or seen_and_relevant(self._splits, "valid") is None:
            raise DataError(
                f"{experiment.dataset.class_path}: expected a training and a validation split, "
                f"got {len(self._splits.train):,} training interactions and "
                f"{len(self._splits.valid or ()):,} to choose by. Give `dataset.split` a share of "
                "`valid`."
            )
        self._graph = dataset.graph(self._splits.train, cache_dir, experiment.weighted)

    @property
    def has_tables(self) -> bool:
        """See `Workload`; fitted models have none."""
        return not self._fitted

    def plan(self, experiment: CFExperiment) -> EmbeddingModel:
        """See `Workload`. Nothing is propagated on it: it has tables and no adjacency."""
        cls, name = experiment.model.model_class, experiment.model.class_path
        if not issubclass(cls, EmbeddingModel):
            raise ConfigError(f"{name} has no embedding tables, so there is nothing to compress.")
        model = cls.__new__(cls)
        with torch.device("meta"):  # what a subclass builds beside its tables is read from values
            EmbeddingModel.__init__(model, cast(Any, experiment.model.config), self._graph)
        check_phases(model)
        return model

    def refused(self, schemes: Mapping[str, Scheme]) -> str:
        """See `Workload`: there is one training."""
        several = any(len(scheme.phases()) > 1 for scheme in schemes.values())
        return "it has several trainings, and collaborative filters have one" * several

    def trained(self, experiment: CFExperiment, threads: int, lean: bool) -> CFExperiment:
        """See `Workload`."""
        train = experiment.train.model_copy(update={"num_threads": threads})
        update = {"bootstrap_samples": 0}
        if lean:
            update["slice_groups"] = 0
        evaluation = experiment.evaluation.model_copy(update=update)
        return experiment.model_copy(update={"train": train, "evaluation": evaluation})

    def judge(
        self,
        folder: Path,
        experiment: CFExperiment,
        dtypes: Sequence[Dtype],
        precision: Literal["fp32", "bf16"] | None = None,
    ) -> Judged:
        """See `Workload`. Vectors are computed anew from the frozen tables."""
        del precision
        model = load_recommender(folder, experiment.model.model_class).model
        found = Judged(
            full_bytes=0, parameters=0, infer_bytes={}, metrics={}, refused={}, lookups={}
        )
        if not isinstance(model, EmbeddingModel):
            found.metrics["fp32"] = self._metrics(model, experiment)
            found.refused.update(
                {dtype: f"{type(model).__name__} has no tables to store so."
                 for dtype in dtypes if dtype != "fp32"}
            )  # fmt: skip
            return found
        groups = model.embeddings.groups.values()
        found = dataclasses.replace(found, full_bytes=sum(map(full_bytes, groups)))
        for dtype in dict.fromkeys(dtypes):
            try:
                frozen = freeze_model(model, dtype)
            except ConfigError as error:
                found.refused[dtype] = str(error)
                continue
            found.infer_bytes[dtype] = served_bytes(frozen)
            if dtype == "fp32":
                tables = frozen.embeddings.bytes("infer").tables
                found = dataclasses.replace(found, parameters=tables // 4)
            found.metrics[dtype] = self._metrics(frozen, experiment)
        return found

    def _metrics(self, model: CFModel, experiment: CFExperiment) -> dict[str, dict[str, float]]:
        """By split: validation against what was trained on, test against both."""
        ks = experiment.evaluation.ks
        options = RankingOptions(ks=ks, bootstrap_samples=0, slice_groups=0)
        found = {}
        for split in ("valid", "test"):
            pairs = seen_and_relevant(self._splits, split, experiment.evaluation.hide)
            if pairs is not None:
                found[split] = evaluate_ranking(model, *pairs, options, self._splits.given).metrics
        return found
