"""One seed of a collaborative filter, on one rank: build, fit or train, judge, save.

Stability: internal
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.cf import CFModel, EmbeddingModel
from recsys.cf_config import CFExperiment
from recsys.cf_fitted import FittedModel
from recsys.embeddings.backend import Backend
from recsys.errors import ConfigError, DataError
from recsys.evaluate.ranking import RankingEvaluation, evaluate_ranking
from recsys.evaluate.stored_ranking import options_of, seen_and_relevant
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import InteractionSplits
from recsys.serving.recommender_folder import save_recommender
from recsys.train.graph_job import GraphJob, Trained
from recsys.train.ranking_card import RankingCard
from recsys.train.ranking_plots import draw_ranking
from recsys.train.ranking_task import RankingTask, Validation
from recsys.train.ranks import Ranks
from recsys.train.state import seed_everything
from recsys.train.trainer import FitResult

_Data = tuple[InteractionSplits, InteractionGraph]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RankingJob(GraphJob[_Data, CFModel, RankingEvaluation]):
    """See `GraphJob`."""

    experiment: CFExperiment

    def _data(self, ranks: Ranks) -> _Data:
        dataset = self.experiment.dataset.build()
        splits = dataset.splits(self.cache_dir)
        if len(splits.train) == 0:
            raise DataError(
                f"{self.experiment.dataset.class_path}: the training split has no interaction. "
                "Lower the k-core or the share of validation and test."
            )
        graph = dataset.graph(splits.train, self.cache_dir, self.experiment.weighted)
        users, items = splits.train.num_users, splits.train.num_items
        parts = ", ".join(f"{name} {len(part):,}" for name, part in splits.items())
        self._say_data(f"{users:,} users, {items:,} items; {parts} interactions", splits.report)
        return splits, graph

    def _model(self, data: _Data) -> CFModel:
        return self.experiment.model.build(data[1])

    def _train(self, model: CFModel, data: _Data, backend: Backend, ranks: Ranks) -> Trained:
        if isinstance(model, FittedModel):
            return Trained(self._fit(model))
        if not isinstance(model, EmbeddingModel):
            raise ConfigError(
                f"model.class: {self.experiment.model.class_path} is neither fitted nor trained "
                "here. Derive it from FittedModel or EmbeddingModel."
            )
        train, splits = self.experiment.train, data[0]
        tables = self._attach(model, backend)
        # After the start values, which depend on the seed alone: dropout differs by rank.
        seed_everything((self.seed * 1_000_003 + ranks.rank) % 2**32)
        task = RankingTask(model, train, self.experiment.evaluation, tables, ranks, self.seed)
        loader = model.loader(
            self.experiment.sampling, train.batch_size, self.seed, ranks.rank, ranks.world_size
        )
        valid = None
        pairs = seen_and_relevant(splits, "valid")
        if pairs is not None:
            valid = Validation.of(*pairs, train.valid_users, self.seed, splits.given)
        return self._descend(task, tables, loader, valid, ranks)

    def _fit(self, model: FittedModel) -> FitResult:
        model.reset_parameters(self.seed)
        start = time.perf_counter()
        model.fit(self._say)
        seconds = time.perf_counter() - start
        self._say(f"fitted in {seconds:.1f} s")
        return FitResult(0, model.graph.num_edges, seconds, {}, -1, "finished")

    def _judge(self, model: CFModel, data: _Data, ranks: Ranks) -> dict[str, RankingEvaluation]:
        """Validation against what was trained on; test against both."""
        options = options_of(self.experiment.evaluation)
        if not ranks.first:
            options = dataclasses.replace(options, bootstrap_samples=0)
        found: dict[str, RankingEvaluation] = {}
        for name in ("valid", "test"):
            pairs = seen_and_relevant(data[0], name, self.experiment.evaluation.hide)
            if pairs is not None:
                found[name] = evaluate_ranking(model, *pairs, options, data[0].given)
        if isinstance(model, EmbeddingModel):
            model.vectors()  # every rank, for tables that are shared out
        return found

    def _save(
        self, folder: Path, model: CFModel, data: _Data, metadata: Mapping[str, Any],
        trained: Trained,
    ) -> None:  # fmt: skip
        splits = data[0]
        others = [part for part in (splits.valid, splits.test, splits.given) if part is not None]
        save_recommender(folder, model, splits.train, others, metadata, trained.state)

    def _report(
        self, data: _Data, found: Mapping[str, RankingEvaluation],
        lines: Sequence[Mapping[str, Any]],
    ) -> tuple[Sequence[Path], type[RankingCard]]:  # fmt: skip
        for name, each in found.items():
            each.per_user.write(self.directory / f"users-{name}.parquet")
        return draw_ranking(self.directory / "plots", lines, found), RankingCard
