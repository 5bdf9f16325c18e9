"""One seed of a model of aspects: build, train, judge, save.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.aspect_config import AspectExperiment
from recsys.aspect_model import AspectModel
from recsys.embeddings.backend import Backend
from recsys.errors import ConfigError
from recsys.evaluate.aspects import AspectEvaluation, evaluate_aspects
from recsys.evaluate.stored_aspects import aspect_items, options_of
from recsys.graph.aspect_batches import AspectLoader
from recsys.graph.aspects import SPLITS, AspectTable
from recsys.serving.aspect_folder import save_aspects
from recsys.train.aspect_card import AspectCard
from recsys.train.aspect_plots import draw_aspects
from recsys.train.aspect_task import AspectTask
from recsys.train.graph_job import GraphJob, Trained
from recsys.train.ranks import Ranks
from recsys.train.state import seed_everything


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AspectJob(GraphJob[AspectTable, AspectModel, AspectEvaluation]):
    """See `GraphJob`; in one process.

    Raises:
        ConfigError: On `run`, there are several ranks.
    """

    experiment: AspectExperiment

    def _data(self, ranks: Ranks) -> AspectTable:
        if ranks.world_size > 1:
            raise ConfigError(
                f"a model of aspects is trained in one process, got {ranks.world_size} ranks. "
                "Leave --ranks, torchrun and --ray out."
            )
        table = aspect_items(self.experiment, self.cache_dir)
        parts = ", ".join(f"{name} {len(table.members(name)):,}" for name in SPLITS)
        text = f"{len(table):,} items ({parts}), aspects: {', '.join(table.aspects)}"
        self._say_data(text, table.report)
        return table

    def _model(self, data: AspectTable) -> AspectModel:
        return self.experiment.model.build(data)

    def _train(
        self, model: AspectModel, data: AspectTable, backend: Backend, ranks: Ranks
    ) -> Trained:
        train, tables = self.experiment.train, self._attach(model, backend)
        seed_everything(self.seed * 1_000_003 % 2**32)
        loader = AspectLoader(data, train.batch_size, self.seed, self.device)
        task = AspectTask(model, train, self.experiment.evaluation, tables)
        valid = "valid" if len(data.members("valid")) else None
        return self._descend(task, tables, loader, valid, ranks)

    def _judge(
        self, model: AspectModel, data: AspectTable, ranks: Ranks
    ) -> dict[str, AspectEvaluation]:
        options = options_of(self.experiment.evaluation)
        return {
            name: evaluate_aspects(model, name, options)
            for name in ("valid", "test")
            if len(data.members(name))
        }

    def _save(
        self, folder: Path, model: AspectModel, data: AspectTable, metadata: Mapping[str, Any],
        trained: Trained,
    ) -> None:  # fmt: skip
        save_aspects(folder, model, metadata)

    def _report(
        self, data: AspectTable, found: Mapping[str, AspectEvaluation],
        lines: Sequence[Mapping[str, Any]],
    ) -> tuple[Sequence[Path], type[AspectCard]]:  # fmt: skip
        return draw_aspects(self.directory / "plots", lines, list(found.values())), AspectCard
