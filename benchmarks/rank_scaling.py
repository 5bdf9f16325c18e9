"""What two ranks give and what their communication takes.

    .venv/bin/python benchmarks/rank_scaling.py
    .venv/bin/python benchmarks/rank_scaling.py --set model.embedding_dim=64 --rounds 7
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/rank_scaling.py --rows 4000 --batch 256 \
        --steps 5 --rounds 1                                                     # a quick look

Trains one config in fresh processes, each on a core of its own with one thread; every ratio is of
runs that were interleaved in rounds:

- ``local 1``, ``torchrec 1``: one rank, without and with torchrec, one core;
- ``alone 2``: two processes that know nothing of each other, a core each: what the cores share
  (memory, caches, the host) without any communication, the ceiling of the rest;
- ``strong 2``: two ranks that share out the batch of one; ``weak 2``: two with a whole batch each;
  both also ``ahead``, with the pipeline that sends the next batch's indices ahead.

A step's time is from update to update in the trainer's loop, after warm steps.
Efficiency is rate(2) / (2 rate(1)) of the same round.

The **communication share** is the part of the wall time that a rank's training thread spends
inside ``torch.distributed``: in calls that start or do a collective and in ``Work.wait``. Autograd
runs on the same thread on CPU, so collectives of backward are in it. Both ranks make the same calls
in the same order; of every call the shorter time of the two is the ``exchange``, and what a rank
spends above it is ``waiting`` for the other one. Not in it: packing and unpacking by torchrec
around its collectives, and what gloo's threads take from the core while the training thread
computes; their CPU time is a column of its own.
"""

import argparse
import collections
import dataclasses
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from printing import QUIET, interleaved, machine, say, spread, table
from rank_jobs import build, config_options, experiment_of, prepared_of
from recsys.base import CTRModel
from recsys.config import Experiment
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prepared import Prepared
from recsys.embeddings.backend import Backend
from recsys.train.click_task import ClickTask
from recsys.train.launch import launch
from recsys.train.ranks import Ranks
from recsys.train.step import TrainStep
from recsys.train.trainer import Trainer

_SENT: dict[str, int | None] = {  # position of what is sent
    "all_reduce": 0, "all_to_all_single": 1, "reduce_scatter": 1, "reduce_scatter_tensor": 1,
    "all_gather": 1, "all_gather_into_tensor": 1, "broadcast": 0, "barrier": None,
    "all_gather_object": None, "broadcast_object_list": None,
}  # fmt: skip


class Meter:
    """Times what this thread spends inside ``torch.distributed``.

    Collectives are wrapped where torchrec and recsys look them up, and ``Work.wait`` in its class.
    A blocking collective waits inside itself and counts once.
    """

    def __init__(self) -> None:
        self.on, self._depth = False, 0
        self.events: list[tuple[str, float, int]] = []
        self._thread = threading.get_ident()
        for name, place in _SENT.items():
            setattr(distributed, name, self._timed(name, getattr(distributed, name), place))
        work = distributed.Work
        work.wait = self._timed("wait", work.wait, None)  # type: ignore[method-assign]

    def _timed(self, name: str, inner: Callable[..., Any], place: int | None) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.on or self._depth or threading.get_ident() != self._thread:
                return inner(*args, **kwargs)
            self._depth += 1
            start = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                seconds = time.perf_counter() - start
                self._depth -= 1
                sent = 0 if place is None else _bytes(_sent(name, place, args, kwargs))
                self.events.append((f"{name} in {_caller()}", seconds, sent))

        return call


def _sent(name: str, place: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) > place:
        return args[place]
    return kwargs.get("tensor" if name in ("all_reduce", "broadcast", "all_gather") else "input")


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    return sum(_bytes(item) for item in value) if isinstance(value, list | tuple) else 0


def _caller() -> str:
    """The nearest function outside of torch.distributed and this file."""
    frame: Any = sys._getframe(2)
    while frame.f_back and any(
        part in frame.f_code.co_filename for part in ("torch/distributed/", __file__)
    ):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname.split('.<')[0]}"


def thread_seconds() -> dict[str, float]:
    """CPU time of this process's threads by name; gloo's by ``gloo``."""
    found: dict[str, float] = collections.defaultdict(float)
    for task in Path("/proc/self/task").iterdir():
        try:
            name, stat = (task / "comm").read_text().strip(), (task / "stat").read_text()
        except OSError:
            continue  # it has just ended
        ticks = stat.rpartition(")")[2].split()[11:13]
        name = "gloo" if "gloo" in name else name
        found[name] += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return found


@dataclasses.dataclass(frozen=True)
class ScalingJob:
    """What a rank does."""

    experiment: Experiment
    prepared: Path
    folder: Path
    kind: str
    batch: int
    steps: int
    warm: int


class Clock:
    """Notes when each step of the trainer ends; after the warm ones all ranks start together."""

    def __init__(self, warm: int, meter: Meter) -> None:
        self._warm, self._meter, self._done = warm, meter, 0
        self.stamps: list[float] = []
        self.cpu: list[dict[str, float]] = []
        inner = TrainStep.update

        def update(step: TrainStep) -> None:
            inner(step)
            self._stepped()

        TrainStep.update = update  # type: ignore[method-assign]

    def _stepped(self) -> None:
        self._done += 1
        if self._done == self._warm:
            distributed.barrier()
            self._meter.on = True
            self.cpu.append(thread_seconds())
        if self._done >= self._warm:
            self.stamps.append(time.perf_counter())

    def ended(self) -> None:
        """Called after the last step."""
        self._meter.on = False
        self.cpu.append(thread_seconds())


def scaling_rank(job: ScalingJob) -> list[dict[str, Any]]:
    """Trains some steps on a core of its own; what every rank found."""
    warnings.simplefilter("ignore")
    everyone, core = Ranks.current(), Ranks.current().rank % (os.cpu_count() or 1)
    for task in Path("/proc/self/task").iterdir():  # gloo's threads are there already
        os.sched_setaffinity(int(task.name), {core})
    torch.set_num_threads(1)
    backend: Backend = "local" if job.kind in ("local 1", "alone 2") else "torchrec"
    if job.kind == "alone 2":
        Ranks.current = classmethod(lambda cls: cls())  # type: ignore[method-assign,assignment]
    ranks, meter = Ranks.current(), Meter()
    prepared, experiment = Prepared.load(job.prepared), job.experiment
    seed = experiment.seeds[0]

    def make() -> CTRModel:
        model = experiment.model.build(prepared.schema)
        assert isinstance(model, CTRModel)
        return model

    model, tables = build(make, experiment.embedding, backend, seed)
    settings = {
        "batch_size": job.batch, "num_epochs": 10**6, "max_steps": job.warm + job.steps,
        "background_checkpoints": False, "evaluations_per_epoch": 1, "checkpoint_every": 10**9,
        "pipeline": "sparse_dist" if job.kind.endswith("ahead") else "none",
    }  # fmt: skip
    config = experiment.train.model_copy(update=settings)
    options = LoaderConfig(batch_size=job.batch, shuffle=True, seed=seed)
    loader = BatchLoader(prepared, "train", options, ranks.rank, ranks.world_size)
    clock = Clock(job.warm, meter)
    folder = job.folder / str(everyone.rank) if job.kind == "alone 2" else job.folder
    trainer = Trainer(
        ClickTask(model, config, tables, Ranks.current()), tables, folder, show="none"
    )
    trainer._save = lambda best: clock.ended()  # the last thing; it would write the tables
    trainer.fit(loader)
    stamps, wall = clock.stamps, clock.stamps[-1] - clock.stamps[0]
    before, after = clock.cpu
    found = {
        "seconds": wall,
        "rate": job.steps * job.batch / wall,
        "step": statistics.median(b - a for a, b in itertools.pairwise(stamps)),
        "gloo": (after.get("gloo", 0.0) - before.get("gloo", 0.0)) / wall,
        "events": meter.events,
    }
    return everyone.gather_objects(found)


def shares(found: Sequence[dict[str, Any]], steps: int) -> dict[str, Any]:
    """What collectives took of the time of two ranks."""
    lists = [rank["events"] for rank in found]
    wall = statistics.fmean(rank["seconds"] for rank in found)
    names = [[name for name, _, _ in events] for events in lists]
    total = statistics.fmean(sum(s for _, s, _ in events) for events in lists)
    calls: dict[str, list[float]] = {}
    if any(other != names[0] for other in names[1:]):
        raise RuntimeError("the ranks made different collectives; the split would be wrong.")
    exchange = 0.0
    for events in zip(*lists):
        least = min(s for _, s, _ in events)
        exchange += least
        line = calls.setdefault(events[0][0], [0.0, 0.0, 0.0, 0.0])
        line[0] += 1 / steps
        line[1] += statistics.fmean(s for _, s, _ in events) / wall
        line[2] += least / wall
        line[3] += statistics.fmean(b for _, _, b in events) / steps
    return {
        "share": total / wall,
        "exchange": exchange / wall,
        "waiting": (total - exchange) / wall,
        "gloo": statistics.fmean(rank["gloo"] for rank in found),
        "calls": calls,
    }


def scaling(args: argparse.Namespace, folder: Path) -> None:
    """Rows a second by kind, efficiency, and the share of communication."""
    experiment = experiment_of(args)
    prepared = prepared_of(experiment, args.cache or folder / "cache")
    half = args.batch // 2
    kinds = {"local 1": (1, args.batch), "torchrec 1": (1, args.batch), "alone 2": (2, args.batch),
             "strong 2": (2, half), "strong 2 ahead": (2, half),
             "weak 2": (2, args.batch), "weak 2 ahead": (2, args.batch)}  # fmt: skip
    kinds = {k: v for k, v in kinds.items() if args.kinds == "all" or k in args.kinds.split(",")}
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    steps: dict[str, list[float]] = {name: [] for name in kinds}
    talk: dict[str, list[dict[str, Any]]] = {}
    for number, (round_, name) in enumerate(interleaved(list(kinds), args.rounds)):
        ranks, batch = kinds[name]
        out = folder / f"scaling-{number}"
        job = ScalingJob(
            experiment, prepared.directory, out, name, batch, args.steps, max(1, args.warm)
        )
        found = launch(scaling_rank, (job,), ranks)
        rates[name].append(sum(rank["rate"] for rank in found))
        steps[name].append(statistics.fmean(rank["step"] for rank in found) * 1e3)
        if ranks > 1 and name != "alone 2":
            talk.setdefault(name, []).append(shares(found, args.steps))
        say(f"round {round_ + 1} of {args.rounds}, {name}: {rates[name][-1]:,.0f} rows/s")
    model = experiment.model.class_path.rpartition(".")[2]
    print(
        f"\n{model}, {args.rows:,} rows, batch {args.batch:,} (strong: {half:,} a rank), "
        f"{args.steps} steps after {args.warm}, {args.rounds} rounds; median (range)"
    )
    table(
        [("kind", "rows/s", "ms a step")]
        + [(name, spread(rates[name], ",.0f"), spread(steps[name], ".1f")) for name in kinds]
    )
    print()
    ratios = [
        (f"{two} against {one}", two, one)
        for two in ("alone 2", "strong 2", "strong 2 ahead", "weak 2", "weak 2 ahead")
        for one in ("local 1", "torchrec 1")
        if two in rates and one in rates and (two, one) != ("alone 2", "torchrec 1")
    ]
    rows = [("rate(2) / (2 rate(1))", "efficiency")]
    for title, two, one in ratios:
        rows.append((title, spread([b / (2 * a) for a, b in zip(rates[one], rates[two])], ".2f")))
    if {"local 1", "torchrec 1"} <= rates.keys():
        pairs = zip(rates["local 1"], rates["torchrec 1"])
        rows.append(("torchrec 1 / local 1 (not halved)", spread([b / a for a, b in pairs], ".2f")))
    for name in ("strong 2", "weak 2"):
        if {name, f"{name} ahead"} <= rates.keys():
            pairs = zip(rates[name], rates[f"{name} ahead"])
            rows.append((f"{name} ahead / {name}", spread([b / a for a, b in pairs], ".2f")))
    table(rows)
    for name, found in talk.items():
        print(f"\ncommunication of {name}, share of the wall time, mean of both ranks")
        parts = ("share", "exchange", "waiting", "gloo")
        heads = ("in collectives", "exchange", "waiting", "CPU of gloo's threads")
        table([heads, tuple(spread([one[part] for one in found], ".1%") for part in parts)])
        last = found[-1]["calls"]
        order = sorted(last, key=lambda call: -last[call][1])[: args.calls]
        print("calls of the last round, largest first")
        table(
            [("call", "a step", "share", "exchange", "bytes sent a step")]
            + [
                (call, f"{count:.1f}", f"{share:.1%}", f"{exchange:.1%}", f"{sent:,.0f}")
                for call, (count, share, exchange, sent) in ((c, last[c]) for c in order)
            ]
        )


def parse() -> argparse.Namespace:
    parser = config_options("Rows a second and communication of two ranks.", rounds=5)
    parser.add_argument("--batch", type=int, default=4096, help="rows, over all ranks (strong)")
    parser.add_argument("--steps", type=int, default=60, help="timed")
    parser.add_argument("--warm", type=int, default=10, help="steps before, not timed")
    parser.add_argument("--kinds", default="all", help="say 'local 1,strong 2'")
    parser.add_argument("--calls", type=int, default=12, help="collectives listed")
    return parser.parse_args()


def main() -> None:
    args = parse()
    os.environ.update(QUIET)
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="rk-") as folder:
        scaling(args, Path(folder))


if __name__ == "__main__":
    main()
