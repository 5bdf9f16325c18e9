"""What runs beside training: reading, and collectives, by a profile of two ranks.

    .venv/bin/python benchmarks/overlap.py --cache .bench/ranks
    .venv/bin/python benchmarks/overlap.py --trace overlap.json         # for ui.perfetto.dev

Trains one config on two ranks, a core and a thread each, under ``torch.profiler``, with
``train.pipeline`` none and sparse_dist. For each kind of collective, of rank 0:

- ``ms``: from its call to its end, in gloo's threads, a step;
- ``beside work``: the part of that during which the training thread did something else than to
  wait for a collective or for a batch. What is 100 % costs no time of the step but for the core;
- ``waited``: how long the training thread waited for it, a step.

Reading is in the same table: ``ms`` is what the reader's thread takes to make a batch.
"""

import argparse
import collections
import dataclasses
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.profiler import ProfilerActivity, profile, record_function

from printing import QUIET, machine, table
from rank_jobs import build, config_options, experiment_of, prepared_of
from recsys.base import CTRModel
from recsys.config import Experiment
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prepared import Prepared
from recsys.train.click_task import ClickTask
from recsys.train.launch import launch
from recsys.train.ranks import Ranks
from recsys.train.step import TrainStep
from recsys.train.trainer import Trainer
from recsys.types import Batch

_CALLS = ("all_reduce", "all_to_all_single", "reduce_scatter_tensor", "all_gather_into_tensor")
_SENDERS = {
    "SplitsAllToAllAwaitable": "how many ids, for each rank",
    "KJTAllToAllTensorsAwaitable": "ids to the ranks of their rows",
    "All2All_Pooled_Req.forward": "vectors back (whole tables)",
    "DefaultAll2AllSingle": "vectors back (whole tables)",
    "ReduceScatterBase_Req.forward": "vectors back (cut tables)",
    "All2All_Pooled_Wait.backward": "gradients of vectors (whole tables)",
    "ReduceScatterBase_Wait.backward": "gradients of vectors (cut tables)",
    "check_batch_size": "batch sizes",
    "WeightSum": "sum of row weights",
    "GradientAverage": "gradients of dense layers",
}
_READ, _NEXT = "reading a batch", "wait for a batch"


def _caller() -> str:
    """Who sends, in words."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_qualname
        for part, words in _SENDERS.items():
            if part in name:
                return words
        frame = frame.f_back
    return "other"


def ranged(name: str, batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches; what each one takes is a range of the profile."""
    while True:
        with record_function(name):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def annotate() -> None:
    """Puts ranges into the profile: who sends, who waits, who reads."""

    def sends(inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with record_function(f"send {_caller()}"):
                return inner(*args, **kwargs)

        return call

    for name in _CALLS:
        setattr(distributed, name, sends(getattr(distributed, name)))
    wait, batches = distributed.Work.wait, BatchLoader._batches

    def waits(*args: Any, **kwargs: Any) -> Any:
        with record_function("wait"):
            return wait(*args, **kwargs)

    def reads(*args: Any) -> Iterator[Batch]:
        return ranged(_READ, batches(*args))

    distributed.Work.wait = waits  # type: ignore[method-assign]
    BatchLoader._batches = reads  # type: ignore[method-assign]


class Watched:
    """A loader whose consumer's waiting is in the profile."""

    def __init__(self, inner: BatchLoader) -> None:
        self._inner = inner

    def __len__(self) -> int:
        return len(self._inner)

    def __iter__(self) -> Iterator[Batch]:
        """Passes batches on."""
        return ranged(_NEXT, iter(self._inner))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@dataclasses.dataclass(frozen=True)
class Job:
    """What a rank does."""

    experiment: Experiment
    prepared: Path
    folder: Path
    pipeline: str
    batch: int
    steps: int
    warm: int
    trace: Path | None


def rank(job: Job) -> list[tuple[str, float, float, float]]:
    """Lines of the table, on rank 0."""
    warnings.simplefilter("ignore")
    ranks = Ranks.current()
    for task in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(task.name), {ranks.rank % (os.cpu_count() or 1)})
    torch.set_num_threads(1)
    prepared, experiment = Prepared.load(job.prepared), job.experiment

    def make() -> CTRModel:
        model = experiment.model.build(prepared.schema)
        assert isinstance(model, CTRModel)
        return model

    model, tables = build(make, experiment.embedding, "torchrec", 1)
    config = experiment.train.model_copy(
        update={
            "batch_size": job.batch, "num_epochs": 10**6, "max_steps": job.warm + job.steps,
            "evaluations_per_epoch": 1, "checkpoint_every": 10**9, "pipeline": job.pipeline,
        }
    )  # fmt: skip
    annotate()
    options = LoaderConfig(batch_size=job.batch, shuffle=True)
    loader = Watched(BatchLoader(prepared, "train", options, ranks.rank, ranks.world_size))
    everything = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)  # type: ignore[attr-defined]
    profiler = profile(activities=[ProfilerActivity.CPU], experimental_config=everything)
    done, inner = [0], TrainStep.update

    def update(step: TrainStep) -> None:
        inner(step)
        done[0] += 1
        if done[0] == job.warm:
            distributed.barrier()
            profiler.start()
        elif done[0] == job.warm + job.steps - 2:  # the last two take nothing ahead
            profiler.stop()

    TrainStep.update = update  # type: ignore[method-assign]
    trainer = Trainer(
        ClickTask(model, config, tables, Ranks.current()), tables, job.folder, show="none"
    )
    trainer._save = lambda best: None  # it would write the tables
    trainer.fit(loader)  # type: ignore[arg-type]
    if not ranks.first:
        return []
    if job.trace is not None:
        profiler.export_chrome_trace(str(job.trace))
    return summary(profiler.events() or (), job.steps - 2)


Span = tuple[float, float]


def summary(events: Sequence[Any], steps: int) -> list[tuple[str, float, float, float]]:
    """Of every kind of collective, and of reading: ms, share beside work, ms waited, a step."""
    spans: dict[str, list[Span]] = collections.defaultdict(list)
    sent: list[tuple[float, float, str]] = []
    for event in events:
        span = event.time_range.start / 1e3, event.time_range.end / 1e3
        if event.name.startswith("send "):
            sent.append((*span, event.name.removeprefix("send ")))
        elif event.name in (_READ, _NEXT, "wait"):
            spans[event.name].append(span)
        elif event.name.startswith("gloo:"):
            spans["gloo"].append(span)
    idle = sorted(spans["wait"] + spans[_NEXT])
    found: dict[str, list[Span]] = collections.defaultdict(list)
    for start, end in spans["gloo"]:
        owner = next((name for low, high, name in sent if low <= start <= high), None)
        if owner is not None:
            found[owner].append((start, end))
    rows = []
    for name, ones in (*found.items(), (_READ, spans[_READ])):
        waiting = [(low, high) for low, high in idle if (low, high) not in ones]
        total = sum(end - start for start, end in ones)
        hidden = total - sum(common(one, waiting) for one in ones)
        if name == _READ:
            waited = sum(end - start for start, end in spans[_NEXT])
        else:
            waited = sum(common(one, spans["wait"]) for one in ones)
        rows.append((name, total / steps, hidden / total if total else 0.0, waited / steps))
    return sorted(rows, key=lambda row: -row[1])


def common(one: Span, others: Sequence[Span]) -> float:
    """How much of a span the others cover; they do not overlap each other."""
    return sum(max(0.0, min(one[1], high) - max(one[0], low)) for low, high in others)


def main() -> None:
    """Prints a table for each way."""
    parser = config_options("What runs beside training.", rounds=1)
    parser.add_argument("--batch", type=int, default=2048, help="rows a rank")
    parser.add_argument("--steps", type=int, default=60, help="profiled, and two")
    parser.add_argument("--warm", type=int, default=10, help="steps before")
    parser.add_argument("--trace", type=Path, help="write the profile of rank 0, pipelined, here")
    args: argparse.Namespace = parser.parse_args()
    os.environ.update(QUIET)
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="ov-") as folder:
        experiment = experiment_of(args)
        prepared = prepared_of(experiment, args.cache or Path(folder) / "cache")
        for pipeline in ("none", "sparse_dist"):
            trace = args.trace.absolute() if args.trace and pipeline == "sparse_dist" else None
            out = Path(folder) / pipeline
            job = Job(experiment, prepared.directory, out, pipeline, args.batch, args.steps,
                      args.warm, trace)  # fmt: skip
            rows = launch(rank, (job,), 2)
            print(f"\ntrain.pipeline={pipeline}, rank 0, {args.batch:,} rows a rank and step")
            heads = ("what", "ms a step", "beside work", "waited ms a step")
            lines = [(n, f"{ms:.2f}", f"{share:.0%}", f"{wait:.2f}") for n, ms, share, wait in rows]
            table([heads, *lines])


if __name__ == "__main__":
    main()
