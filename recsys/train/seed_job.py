"""One seed of a run, on one rank: what the jobs of models of all kinds do alike.

Stability: internal
"""

from __future__ import annotations

import abc
import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm import tqdm

from recsys.base import RecModel
from recsys.cf_config import AnyKind
from recsys.embeddings.backend import Backend, resolve_backend
from recsys.folders import write_json
from recsys.train.display import Show
from recsys.train.environment import environment
from recsys.train.ranks import Ranks
from recsys.train.seed_result import SeedResult
from recsys.train.storage import Place


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SeedJob(abc.ABC):
    """What to do for one seed.

    Args:
        experiment: What to train.
        seed: Of this job.
        directory: Its folder.
        resume: Go on from the last checkpoint if there is one.
        show: How to show progress.
        device: ``cpu`` or ``cuda``.
        on_evaluation: Called on every rank with the step and the validation metrics.
        storage: Where checkpoints lie instead, if ranks do not share the folder.
        report: Whether there are single results, plots and a model card beside the model.
    """

    experiment: AnyKind
    seed: int
    directory: Path
    resume: bool
    show: Show
    device: str
    on_evaluation: Callable[[int, Mapping[str, float]], None] | None = None
    storage: Place | None = None
    report: bool = True

    def run(self) -> SeedResult:
        """Trains or fits, takes the best weights, judges and saves them.

        A result in the folder makes it complete, so an older one is taken away first.

        Raises:
            RecsysError: Data is bad, or training went wrong.
        """
        ranks = Ranks.current()
        if ranks.first:
            self.directory.mkdir(parents=True, exist_ok=True)
            (self.directory / "result.json").unlink(missing_ok=True)
            write_json(self.directory / "environment.json", environment())
        start = time.perf_counter()
        backend = resolve_backend(self.experiment.embedding.backend, self.device, ranks.world_size)
        result = self._run(backend, ranks, start)
        if not result.fit.interrupted:
            if ranks.first:
                result.save()
            ranks.wait()
        return result

    @abc.abstractmethod
    def _run(self, backend: Backend, ranks: Ranks, start: float) -> SeedResult:
        """All but the frame; ``start`` is when the job began, by `time.perf_counter`."""

    # ---------------------------------------------------------------------- steps of subclasses

    def _say(self, text: str) -> None:
        if Ranks.current().first and self.show != "none":
            tqdm.write(text, file=sys.stderr)

    def _note_plan(self, model: RecModel) -> None:
        """Says and writes which rank holds which table, where they are shared out."""
        plan = getattr(model.embeddings.store, "plan", None)
        if plan is not None and Ranks.current().first:
            write_json(self.directory / "plan.json", plan.to_json())
            self._say(f"{plan}\n")
