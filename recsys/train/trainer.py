"""The training loop: batches, evaluations, checkpoints, and going on after a stop.

Stability: caller
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.embeddings.scheme import Phase
from recsys.errors import DataError, TrainingError
from recsys.train.checkpoint import Checkpoint, CheckpointStore
from recsys.train.diagnosis import TrainingWarning
from recsys.train.display import Display, Show
from recsys.train.interruption import Interruption
from recsys.train.pipeline import OneByOne, Pipeline, Stretch, sparse_dist
from recsys.train.ranks import Ranks
from recsys.train.saving import TrainingCheckpoints
from recsys.train.schedule import Schedule
from recsys.train.state import Progress
from recsys.train.step import TrainStep
from recsys.train.storage import Place
from recsys.train.task import Task
from recsys.train.tracking import Tracker

_ONLY = Phase("train")
_POLL_STEPS = 10  # with several ranks: steps between two questions whether one wants to stop


class Loader(Protocol):
    """What the trainer needs of a training loader."""

    def __iter__(self) -> Iterator[Any]:
        """One pass over the split."""
        ...

    def __len__(self) -> int:
        """Batches of a whole pass, the same on every rank."""
        ...

    def batches_left(self) -> int:
        """Batches from the position to the end of the pass, the same on every rank."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of rows."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The exact position, as JSON values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a position; the next pass starts there."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class FitResult:
    """How a training ended.

    Args:
        steps: Batches trained.
        rows: Rows trained, on all ranks.
        seconds: Wall time of training without evaluation and checkpoints.
        best: Validation metrics of the best evaluation, empty without a validation split.
        best_step: Its step.
        stopped: Why: ``finished``, ``early stop`` or the name of a signal.
    """

    steps: int
    rows: int
    seconds: float
    best: dict[str, float]
    best_step: int
    stopped: str

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended it, so that it can be resumed."""
        return self.stopped.startswith("SIG")

    @property
    def rows_per_second(self) -> float:
        """Training speed on all ranks together."""
        return self.rows / self.seconds if self.seconds else math.nan


class Trainer:
    """Trains one model.

    With a process group (made by the caller) every rank runs the same code on its part of the
    data; dense gradients are averaged, metrics are those of all rows, rank 0 writes.

    Args:
        task: Has the model (on the device to train on, start values drawn) and how it is trained.
        tables: What ``model.embeddings.attach_optimizer`` gave; None for a model without tables.
        run_dir: For ``metrics.jsonl`` and ``checkpoints/``.
        storage: For ``checkpoints/`` instead, where ranks do not share ``run_dir``.
        show: How to show progress.
        phase: Which training of a method with several; by default the only one.
        trained: Whether the model goes on from an earlier training. Then its start is judged too
            and may stay the best: on logs of rare ids a second pass over the same rows only
            learns them by heart.
        on_evaluation: Called on every rank with the step and the validation metrics.

    Raises:
        TrainingError: In fit: the loss or a prediction is not finite, predictions stay constant,
            ranks have unequal data. The text names the likely cause.
        CheckpointError: In fit: nothing to resume from, or a checkpoint of another job.
    """

    def __init__(
        self,
        task: Task,
        tables: EmbeddingOptimizer | None,
        run_dir: Path | str,
        show: Show = "auto",
        phase: Phase = _ONLY,
        trained: bool = False,
        on_evaluation: Callable[[int, Mapping[str, float]], None] | None = None,
        storage: Place | None = None,
    ) -> None:
        self.task, self.model = task, task.model
        self.config, self.run_dir = task.config, Path(run_dir)
        config = self.config
        self.phase, self._trained, self._on_evaluation = phase, trained, on_evaluation
        self.ranks = Ranks.current()
        self.tables = tables
        folder = (self.run_dir if storage is None else storage) / "checkpoints"
        self.checkpoints = CheckpointStore(folder, config.keep_checkpoints)
        self._saved_step = -1
        self.progress = Progress()
        self._train_step = TrainStep(task, tables, self.ranks)
        pipeline = sparse_dist(
            getattr(config, "pipeline", "none"),
            self._train_step,
            self._forward,
            phase.trains_architecture,
        )
        self._pipeline: Pipeline = pipeline or OneByOne(self._train, self._train_step)
        self._saving = TrainingCheckpoints(
            self.checkpoints, self._train_step, self.ranks, config.background_checkpoints
        )
        self._show: Show = show if self.ranks.first else "none"
        self._best: dict[str, float] = {}
        self._window = torch.zeros((), dtype=torch.float64, device=self._train_step.device)
        self._window_steps = 0

    # ------------------------------------------------------------------------------- the run

    def fit(self, train: Loader, valid: Any | None = None, *, resume: bool = False) -> FitResult:
        """Trains until the last epoch, an early stop or a signal.

        Args:
            train: The training split.
            valid: The validation split, as the task judges it; without it there is no best and no
                early stop.
            resume: Go on from the last checkpoint, exactly as if never stopped. With another number
                of ranks, the rows of the epoch that are left are shared out anew; a step then has
                more or fewer rows.
        """
        self._loader, self._valid = train, valid
        if len(train) == 0:
            raise DataError("the training split gives no batch: expected at least one row.")
        self.ranks.check_equal(len(train), "training batches")
        found = self._saving.restore() if resume else None
        notes = [] if found is None else self._go_on(found)
        self._num_steps = self._count_steps()
        self._schedule = Schedule(self.config, self._num_steps)
        if found is not None:
            self._schedule.load_state_dict(found.state["schedule"])
        first = self.run_dir if self.ranks.first else None
        start = self.progress.step
        with (
            Interruption() as self._interruption,
            Tracker(first, start if resume else None) as self._tracker,
            Display(self._show, self._num_steps, start) as self._display,
        ):
            for note in notes:
                self._display.say(note)
            if self._trained and self.progress.evaluations == 0 and self.progress.step == 0:
                self._evaluate()
            self.model.train()
            while not self._ended():
                self._epoch()
            self._saving.wait()
        return self._result()

    def _batches_of_epoch(self) -> int:
        """Batches of the current epoch, done and to be done."""
        batch = self.progress.batch
        return batch + self._loader.batches_left() if batch else len(self._loader)

    def _count_steps(self) -> int:
        """Steps of the whole training."""
        progress, config = self.progress, self.config
        epochs = config.num_epochs - progress.epoch
        steps = progress.step + epochs * len(self._loader)
        if progress.batch:
            steps += self._loader.batches_left() - len(self._loader)
        return int(min(steps, config.max_steps or math.inf))

    def _ended(self) -> bool:
        if not self.progress.stopped and self.progress.step >= self._num_steps:
            self.progress.stopped = "finished"
        return bool(self.progress.stopped)

    def _epoch(self) -> None:
        """From wherever the epoch is to its end or the end of the run."""
        progress, config = self.progress, self.config
        if progress.batch == 0:
            self._loader.set_epoch(progress.epoch)
        self.task.begin_epoch(progress.epoch)
        self._num_batches = self._batches_of_epoch()
        marks = {self._num_batches}
        if config.epochs_per_evaluation == 1:
            marks = _evaluation_marks(self._num_batches, config.evaluations_per_epoch)
        batches = iter(self._loader)
        while progress.batch < self._num_batches:
            mark = min(mark for mark in marks if mark > progress.batch)
            stop = self._stretch(
                batches, min(mark - progress.batch, self._num_steps - progress.step)
            )
            if progress.batch < mark and progress.step < self._num_steps and not stop:
                raise TrainingError(
                    f"the training loader promised {self._num_batches:,} batches an epoch and "
                    f"ended after {progress.batch:,}. Make its `__len__` right."
                )
            at_mark = progress.batch == mark
            if progress.batch == self._num_batches:
                progress.epoch, progress.batch = progress.epoch + 1, 0
            due = at_mark and (progress.batch or progress.epoch % config.epochs_per_evaluation == 0)
            if due or progress.step >= self._num_steps:
                self._evaluate()
            self.task.forget()
            if stop and not progress.stopped:
                self._interrupted(stop)
            if self._ended() or progress.batch == 0:
                return

    def _stretch(self, batches: Iterator[Any], count: int) -> str:
        """Trains up to a number of batches; fewer if a signal comes, whose name is returned."""
        progress, stop = self.progress, ""
        clock = time.perf_counter()
        stretch = Stretch(batches, count)
        end = progress.step + count
        for batch, loss in self._pipeline.run(stretch):
            self._window += loss
            self._window_steps += 1
            self.task.watch(batch)
            progress.step += 1
            progress.batch += 1
            progress.rows += batch.batch_size * self.ranks.world_size
            self._display.step()
            if not stop and (stop := self._stop_asked()):
                stretch.end()
            if progress.step == end or progress.step % self.config.log_every:
                continue
            progress.seconds += time.perf_counter() - clock
            self._look(progress.epoch)
            self.task.forget()
            clock = time.perf_counter()
        progress.seconds += time.perf_counter() - clock
        if self._window_steps:
            self._look(progress.epoch)
        return stop

    def _forward(self, batch: Any) -> Tensor:
        """The loss of a batch whose turn it is."""
        return self._train_step.forward(batch, self._schedule.factor(self.progress.step))

    def _train(self, batch: Any) -> Tensor:
        """One step on a batch; every few batches train the structure alone where a phase says."""
        step, phase = self.progress.step, self.phase
        factor = self._schedule.factor(step)
        alone = phase.trains_architecture and (step + 1) % phase.architecture_every == 0
        if alone and self._train_step.architecture:
            factor *= phase.architecture_learning_rate
            return self._train_step.train_architecture(batch, factor)
        return self._train_step(batch, factor)

    def _stop_asked(self) -> str:
        """The signal that came, the same on all ranks."""
        if self.ranks.world_size == 1:
            return self._interruption.name
        if self.progress.step % _POLL_STEPS or not self.ranks.any(bool(self._interruption.name)):
            return ""
        return self._interruption.name or "SIGTERM"

    def _look(self, epoch: int) -> None:
        """Reads the loss (the only time the loop waits for the device) and shows it."""
        loss = self.ranks.mean(float(self._window) / self._window_steps)
        progress = self.progress
        if not math.isfinite(loss):
            first = progress.step - self._window_steps + 1
            raise TrainingError(self._blame(f"loss {loss} in steps {first:,} to {progress.step:,}"))
        self._window.zero_()
        self._window_steps = 0
        speed = progress.rows / progress.seconds
        left = (self._num_steps - progress.step) * progress.seconds / progress.step
        phase = "" if self.phase.name == _ONLY.name else f" of {self.phase.name}"
        label = f"{epoch + 1}/{self.config.num_epochs}{phase}"
        self._display.look(label, progress.step, loss, speed, left)
        factor = self._schedule.factor(progress.step - 1)
        rates = {"learning_rate": self.config.learning_rate * factor}
        if self.tables is not None:
            rates["embedding_learning_rate"] = self.tables.config.learning_rate * factor
        values = {"epoch": epoch, "loss": loss, **rates, "rows_per_second": speed}
        self._tracker.log("train", progress.step, values)

    def _blame(self, place: str) -> str:
        return self.task.blame(place) + (
            " Checkpoints from before are kept." if self.checkpoints.exists() else ""
        )

    # ------------------------------------------------------------------------------- evaluation

    def _evaluate(self) -> None:
        """Metrics, best, early stop, schedule, checkpoint: in this order."""
        progress, config = self.progress, self.config
        values: dict[str, float] = {}
        improved = False
        if self._valid is not None:
            values = self._judge_valid(self._valid)
            start = progress.step == 0
            if self._counts():
                value, higher = values[self.task.monitor], self.task.higher_is_better()
                improved = progress.judge(value, higher, 0.0, start)
            else:
                progress.evaluations += 1
            if improved:
                self._best = values
            if not start and self._schedule.evaluated(progress.without_best == 0):
                self._display.say(f"step {progress.step:,}: plateau, learning rates lowered")
            patience = config.early_stop_patience
            if patience and progress.without_best >= patience:
                progress.stopped = "early stop"
        else:
            progress.evaluations += 1
        over = bool(progress.stopped) or progress.step >= self._num_steps
        if improved or over or progress.evaluations % config.checkpoint_every == 0:
            self._save(improved)
        if self._on_evaluation is not None:
            self._on_evaluation(progress.step, values)

    def _counts(self) -> bool:
        """Whether weights as they are now may be the best."""
        if self.phase.keeps != "settled" or self.model.embeddings.settled():
            return True
        return self.progress.step >= self._num_steps

    def _judge_valid(self, valid: Any) -> dict[str, float]:
        progress, monitor = self.progress, self.task.monitor
        start = time.perf_counter()
        factor = self._schedule.factor(progress.step - 1)
        found = self.task.judge(valid, progress.step, factor)
        if progress.step:
            self._check(found.problem)
        names = dict.fromkeys((*found.shown, monitor))
        shown = [f"{name} {found.values[name]:.5f}" for name in names if name in found.values]
        took = time.perf_counter() - start
        self._display.say(f"step {progress.step:,}  valid  {'  '.join(shown)}  ({took:.1f} s)")
        self._tracker.log("valid", progress.step, {**found.values, "seconds": took})
        return found.values

    def _check(self, problem: str) -> None:
        """Warns once, gives up when a second evaluation in a row says the same."""
        self.progress.constant = self.progress.constant + 1 if problem else 0
        text = f"step {self.progress.step:,}: {problem}"
        if self.progress.constant > 1:
            raise TrainingError(text)
        if problem and self.ranks.first:
            warnings.warn(text, TrainingWarning, stacklevel=2)

    # ------------------------------------------------------------------------------- checkpoints

    def _save(self, best: bool) -> None:
        progress = self.progress
        position = {
            "progress": progress.to_json(),
            "schedule": self._schedule.state_dict(),
            "loader": self._loader.state_dict() if progress.batch else None,
            "best": self._best,
        }
        self._saving.save(progress.step, position, best)
        self._saved_step = progress.step

    def _go_on(self, found: Checkpoint) -> list[str]:
        """Takes over the position of a checkpoint; says what there is to say."""
        self.progress = Progress.from_json(found.state["progress"])
        if self.progress.stopped != "early stop":
            self.progress.stopped = ""
        if found.state["loader"] is not None:
            self._loader.load_state_dict(found.state["loader"])
        self._best = found.state["best"]
        notes = [f"damaged, skipped: {note}" for note in found.notes]
        before, now = found.state["world_size"], self.ranks.world_size
        ranks = "" if before == now else f", saved by {before} rank(s) and now on {now}"
        return [*notes, f"resumed from step {self.progress.step:,}, {found.path}{ranks}"]

    def _interrupted(self, name: str) -> None:
        self.progress.stopped = name
        if self._saved_step != self.progress.step:  # else this very step is being saved, as best
            self._save(best=False)
        self._saving.wait()
        self._display.say(
            f"{name}: stopped after step {self.progress.step:,}, saved in "
            f"{self.checkpoints.directory}. Run again with --resume to go on exactly from here."
        )

    def load_best(self) -> Checkpoint:
        """Puts the best weights into the model, or the last (no validation, or the phase says so).

        Returns:
            Where they are from. Tables that ranks wrote in parts are not read whole there, so that
            nobody has to hold one.
        """
        found = self._best_checkpoint()
        self.model.load_state_dict(found.tensors["model"])
        return found

    def _best_checkpoint(self) -> Checkpoint:
        last = self.phase.keeps == "last" or self.checkpoints.best() is None
        return self.checkpoints.load("last" if last else "best", self.ranks)

    def _result(self) -> FitResult:
        p = self.progress
        return FitResult(p.step, p.rows, p.seconds, self._best, p.best_step, p.stopped)


def _evaluation_marks(num_batches: int, evaluations: int) -> set[int]:
    """After how many batches of an epoch to evaluate; the last one always."""
    parts = min(evaluations, num_batches)
    return {round(num_batches * (part + 1) / parts) for part in range(parts)}
