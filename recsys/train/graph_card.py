"""MODEL_CARD.md of a model of a graph: the parts that cards of all such models have.

Stability: internal
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from recsys.aspect_config import AspectExperiment
from recsys.cf_config import CFExperiment
from recsys.node_config import NodeExperiment
from recsys.train.model_card import environment_section, pictures_section, table, write_sections
from recsys.train.seed_result import SeedResult

_Data = TypeVar("_Data")
_Found = TypeVar("_Found")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class GraphCard(abc.ABC, Generic[_Data, _Found]):
    """What a card tells. A subclass says it for its data and its metrics.

    Args:
        experiment: The resolved configuration.
        data: What was learned from.
        evaluations: By split.
        result: Of the training.
        step: Of the weights.
        environment: From `recsys.train.environment`.
        pictures: PNG files beside the card.
    """

    experiment: CFExperiment | NodeExperiment | AspectExperiment
    data: _Data
    evaluations: Mapping[str, _Found]
    result: SeedResult
    step: int
    environment: Mapping[str, Any]
    pictures: Sequence[Path]

    def write(self, directory: Path) -> Path:
        """Writes ``MODEL_CARD.md``.

        Args:
            directory: The run folder.
        """
        experiment = self.experiment
        model = experiment.model.class_path.rpartition(".")[2]
        facts = {
            "model": f"`{experiment.model.class_path}`",
            "data set": f"`{experiment.dataset.class_path}`",
            "seed": str(self.result.seed),
            "training": self._training(),
        }
        lines = "\n".join(f"- {name}: {text}" for name, text in facts.items())
        return write_sections(directory, [
            f"# {experiment.name or model}",
            f"{model} {self._purpose()}.\n\n{lines}",
            f"## Use\n\n{self._use()}",
            f"## Data\n\n{self._data()}",
            *(self._metrics(name, found) for name, found in self.evaluations.items()),
            self._size(),
            pictures_section(directory, self.pictures),
            environment_section(self.environment),
        ])  # fmt: skip

    @abc.abstractmethod
    def _purpose(self) -> str:
        """``that ...``: what the model does."""

    @abc.abstractmethod
    def _use(self) -> str:
        """What it is for, what not, and how it is loaded."""

    @abc.abstractmethod
    def _data(self) -> str:
        """What was learned from."""

    @abc.abstractmethod
    def _metrics(self, name: str, found: _Found) -> str:
        """A section about one split."""

    def _training(self) -> str:
        fit = self.result.fit
        if not fit.steps:
            return f"fitted in closed form in {fit.seconds:.1f} s"
        return (
            f"{fit.steps:,} steps, {fit.seconds:,.0f} s without evaluation, {fit.stopped}; "
            f"the weights are those of step {self.step:,}"
        )

    def _size(self) -> str:
        rows = [[name, f"{size:,}"] for name, size in self.result.table_bytes.items() if size]
        counts = self.result.num_parameters.items()
        parameters = ", ".join(f"{count:,} {name}" for name, count in counts)
        found = f"## Size\n\nParameters: {parameters}."
        return found + ("\n\n" + table(["tables", "bytes"], rows) if rows else "")
