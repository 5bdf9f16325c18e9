"""What several ranks cost and give: scaling, communication, ways to start, memory.

Four parts, each with its own table; every ratio is of runs that were interleaved in rounds:

    .venv/bin/python benchmarks/ranks.py scaling
    .venv/bin/python benchmarks/ranks.py scaling --set model.embedding_dim=64 --rounds 7
    .venv/bin/python benchmarks/ranks.py starts --no-ray
    .venv/bin/python benchmarks/ranks.py memory --table-mb 1200 --room 0.6
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/ranks.py scaling --rows 4000 --batch 256 \
        --steps 5 --rounds 1                                                     # a quick look

``scaling`` trains one config in fresh processes, each on a core of its own with one thread:

- ``local 1``, ``torchrec 1``: one rank, without and with torchrec, one core;
- ``alone 2``: two processes that know nothing of each other, a core each: what the cores share
  (memory, caches, the host) without any communication, the ceiling of the rest;
- ``strong 2``: two ranks that share out the batch of one; ``weak 2``: two with a whole batch each.

A step's time is that of the trainer's loop (reading, forward, backward, update), after warm steps.
Efficiency is rate(2) / (2 rate(1)) of the same round.

The **communication share** is the part of the wall time that a rank's training thread spends
inside ``torch.distributed``: in calls that start or do a collective and in ``Work.wait``. Autograd
runs on the same thread on CPU, so collectives of backward are in it. Both ranks make the same calls
in the same order; of every call the shorter time of the two is the ``exchange``, and what a rank
spends above it is ``waiting`` for the other one. Not in it: packing and unpacking by torchrec
around its collectives, and what gloo's threads take from the core while the training thread
computes; their CPU time is a column of its own.

``starts`` gives the same work (two ranks) to ``recsys train --ranks``, to torchrun and to Ray, as
commands, and splits their time by the files that a run writes: ``begin`` is from the start of the
command to the job (processes, imports, process group, cached data), ``tables`` to the printed plan,
``train`` the steps, ``evals`` evaluations and checkpoints in between, ``report`` the files and the
plots, with the last evaluation, ``end`` what comes after.

``memory`` caps every rank by ``RLIMIT_DATA`` (private writable memory; ``RLIMIT_AS`` also counts
address space that nobody touches) at what it takes after training a tiny table plus ``--room``
of a big one: three ranks train it row-wise, one rank cannot hold it. ``need`` is what a rank takes
at its peak without a cap, sampled every few milliseconds, in sizes of its part. Capped ranks build
the table and train; a checkpoint (written while they wait) needs what the last column says.
"""

import argparse
import collections
import dataclasses
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import distributed

from recsys.base import CTRModel
from recsys.config import EmbeddingConfig, Experiment, TrainConfig, load
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prepare import prepare
from recsys.data.prepared import Prepared
from recsys.embeddings.backend import Backend
from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.embeddings.sharding import ShardingConfig
from recsys.errors import RecsysError, ShardingError, TrainingError
from recsys.layers.mlp import MLPConfig
from recsys.models.ctr.dlrm import DLRM
from recsys.schema import Categorical, Label, Numeric, Schema
from recsys.train.backend import attach_tables, is_meta, materialize
from recsys.train.checkpoint import CheckpointStore
from recsys.train.launch import launch
from recsys.train.ranks import Ranks
from recsys.train.state import seed_everything
from recsys.train.step import TrainStep
from recsys.train.trainer import Trainer
from recsys.types import Batch

QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "TORCH_LOGS": "-all"}


def machine() -> str:
    """A line about where this runs."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((s.partition(":")[2].strip() for s in lines if s.startswith("model name")), "?")
    load_average = os.getloadavg()[0]
    return (
        f"machine: {os.cpu_count()} cores ({model}), torch {torch.__version__}, 1 torch thread a "
        f"rank, {platform.system()} {platform.release()}, load before the first run "
        f"{load_average:.1f}"
    )


def say(text: str) -> None:
    """A progress line."""
    print(f"  {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def table(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows under their head, columns aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip(), flush=True)


def interleaved(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Every name once a round, every second round backwards."""
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            yield number, name


def experiment_of(args: argparse.Namespace, *more: str) -> Experiment:
    """The config with this benchmark's sizes."""
    small = max(1, min(args.rows // 10, 20_000))
    sizes = [f"dataset.num_rows={args.rows}", f"dataset.valid_rows={small}"]
    sizes += [f"dataset.test_rows={small}", "train.num_threads=1", "train.bootstrap_samples=0"]
    return load(args.config, [*sizes, *more, *args.overrides])


def prepared_of(experiment: Experiment, cache: Path) -> Prepared:
    """The data, made before anything is timed."""
    dataset = experiment.dataset.build()
    start = time.perf_counter()
    splits = dataset.splits(cache)
    found = prepare(dataset.schema(), splits, cache / "prepared", experiment.prepare)
    say(f"data ready after {time.perf_counter() - start:.0f} s")
    return found


def build(
    make: Callable[[], CTRModel], config: EmbeddingConfig, backend: Backend, seed: int
) -> tuple[CTRModel, EmbeddingOptimizer | None]:
    """A model on its tables' backend, as the training job builds it."""
    seed_everything(seed)
    if backend == "torchrec":
        with torch.device("meta"):
            model = make()
    else:
        model = make()
        model.reset_parameters(seed)
    bare = is_meta(model)
    if bare:
        materialize(model, "cpu")
    tables = attach_tables(model, config, backend)
    if bare:
        model.reset_parameters(seed)
    return model, tables


# ----------------------------------------------------------------------------------- collectives


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


# --------------------------------------------------------------------------------------- scaling


@dataclasses.dataclass(frozen=True)
class ScalingJob:
    """What a rank of the scaling part does."""

    experiment: Experiment
    prepared: Path
    folder: Path
    kind: str
    batch: int
    steps: int
    warm: int


class Clocked:
    """A training loader that notes when batches are asked for, over as many epochs as it takes."""

    def __init__(self, inner: BatchLoader, warm: int, meter: Meter) -> None:
        self._inner, self._warm, self._meter = inner, warm, meter
        self.stamps: list[float] = []
        self.cpu: list[dict[str, float]] = []

    def __len__(self) -> int:
        return len(self._inner)

    def __iter__(self) -> Iterator[Batch]:
        """Passes batches on; after the warm ones all ranks start together."""
        for batch in self._inner:
            if len(self.stamps) == self._warm:
                distributed.barrier()
                self._meter.on = True
                self.cpu.append(thread_seconds())
            self.stamps.append(time.perf_counter())
            yield batch

    def ended(self) -> None:
        """Called at the end of the last step."""
        self.stamps.append(time.perf_counter())
        self._meter.on = False
        self.cpu.append(thread_seconds())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


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
    }  # fmt: skip
    config = experiment.train.model_copy(update=settings)
    options = LoaderConfig(batch_size=job.batch, shuffle=True, seed=seed)
    inner = BatchLoader(prepared, "train", options, ranks.rank, ranks.world_size)
    loader = Clocked(inner, job.warm, meter)
    folder = job.folder / str(everyone.rank) if job.kind == "alone 2" else job.folder
    trainer = Trainer(model, config, tables, folder, show="none")
    trainer._save = lambda best: loader.ended()  # the last thing; it would write the tables
    trainer.fit(cast(Any, loader))  # the rest of a loader is passed on
    stamps, wall = loader.stamps[job.warm :], loader.stamps[-1] - loader.stamps[job.warm]
    before, after = loader.cpu[0], loader.cpu[-1]
    found = {
        "seconds": wall,
        "rate": job.steps * job.batch / wall,
        "step": statistics.median(b - a for a, b in itertools.pairwise(stamps)),
        "gloo": (after.get("gloo", 0.0) - before.get("gloo", 0.0)) / wall,
        "events": meter.events,
        "bytes": 0 if tables is None else model.embeddings.bytes("train", tables).tables,
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
             "strong 2": (2, half), "weak 2": (2, args.batch)}  # fmt: skip
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
        for two in ("alone 2", "strong 2", "weak 2")
        for one in ("local 1", "torchrec 1")
        if two in rates and one in rates and (two, one) != ("alone 2", "torchrec 1")
    ]
    rows = [("rate(2) / (2 rate(1))", "efficiency")]
    for title, two, one in ratios:
        rows.append((title, spread([b / (2 * a) for a, b in zip(rates[one], rates[two])])))
    if {"local 1", "torchrec 1"} <= rates.keys():
        pairs = zip(rates["local 1"], rates["torchrec 1"])
        rows.append(("torchrec 1 / local 1 (not halved)", spread([b / a for a, b in pairs])))
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


# ---------------------------------------------------------------------------------------- starts


def command_of(kind: str, train: list[str]) -> list[str]:
    """The command line that starts two ranks."""
    recsys = [sys.executable, "-m", "recsys", *train]
    if kind == "ranks":
        return [*recsys, "--ranks", "2"]
    if kind == "torchrun":
        run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return [*run, "--nproc-per-node", "2", "-m", "recsys", *train]
    return [*recsys, "--ray", "--workers", "2"]


def starts(args: argparse.Namespace, folder: Path) -> None:
    """The same work by each way to start ranks."""
    experiment = experiment_of(args, f"train.batch_size={args.batch // 2}")
    cache = args.cache or folder / "cache"
    prepared_of(experiment, cache)
    config = folder / "config.json"
    experiment.save(config)
    kinds = ["ranks", "torchrun"] if args.no_ray else ["ranks", "torchrun", "ray"]
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    (folder / "r").mkdir()
    environment = {**os.environ, **QUIET, "RAY_TMPDIR": str(folder / "r")}
    for number, (round_, kind) in enumerate(interleaved(kinds, args.rounds)):
        run = folder / f"start-{number}"
        train = ["train", "--config", str(config), "--cache-dir", str(cache), "--run-dir", str(run)]
        began, clock = time.time(), time.perf_counter()
        done = subprocess.run(
            command_of(kind, train), env=environment, capture_output=True, text=True
        )
        total = time.perf_counter() - clock
        if done.returncode:
            raise SystemExit(f"{kind} failed:\n{done.stderr[-3000:]}")
        result = json.loads((run / "result.json").read_text())
        seconds, plan = result["seconds"], (run / "plan.json").stat().st_mtime
        job = (run / "environment.json").stat().st_mtime
        one = {"whole": total, "begin": job - began, "tables": plan - job}
        one |= {"train": seconds["train"], "report": seconds["report"]}
        one["evals"] = seconds["fit"] - seconds["train"] - one["tables"]
        one["end"] = total - one["begin"] - seconds["fit"] - seconds["report"]
        one["rate"] = result["rows_per_second"]
        one["auc"] = result["metrics"]["valid"]["auc"]
        found[kind].append(one)
        say(
            f"round {round_ + 1} of {args.rounds}, {kind}: {total:.1f} s, {one['rate']:,.0f} rows/s"
        )
    print(
        f"\ntwo ranks, {args.rows:,} rows an epoch, batch {args.batch // 2:,} a rank, "
        f"{args.rounds} rounds; seconds, median (range)"
    )
    parts = ("begin", "tables", "train", "evals", "report", "end", "whole")
    lines: list[tuple[str, ...]] = [("start", "rows/s", *parts)]
    for kind in kinds:
        values = [spread([one[part] for one in found[kind]], ".1f") for part in parts]
        lines.append((kind, spread([one["rate"] for one in found[kind]], ",.0f"), *values))
    table(lines)
    lines = [("against torchrun", "rows/s", "whole", "all but train", "AUC equal")]
    for kind in kinds:
        pairs = list(zip(found[kind], found["torchrun"]))
        rest = [(a["whole"] - a["train"]) - (b["whole"] - b["train"]) for a, b in pairs]
        lines.append(
            (
                kind,
                spread([a["rate"] / b["rate"] for a, b in pairs]) + "x",
                spread([a["whole"] / b["whole"] for a, b in pairs]) + "x",
                spread(rest, "+.1f") + " s",
                str(all(a["auc"] == b["auc"] for a, b in pairs)),
            )
        )
    print()
    table(lines)


# ---------------------------------------------------------------------------------------- memory

DIM, SIZE = 16, 256


def taken() -> int:
    """Bytes that RLIMIT_DATA counts."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmData:")[2].split()[0])


class Peak:
    """The most that this process takes while it is open."""

    def __enter__(self) -> "Peak":
        self.bytes, self._over = taken(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.004):
            self.bytes = max(self.bytes, taken())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.bytes = max(self.bytes, taken())


@dataclasses.dataclass(frozen=True)
class MemoryJob:
    """What a rank of the memory part does."""

    rows: int
    room: int | None
    rank_memory: int | None
    backend: Backend
    steps: int
    folder: Path


def some_steps(
    rows: int, steps: int, backend: Backend, memory: int | None
) -> tuple[CTRModel, EmbeddingOptimizer | None, float]:
    """A model of one table, trained a little."""
    schema = Schema(
        features=(Categorical(name="id", num_embeddings=rows), Numeric(name="x")),
        labels=(Label(name="click"),),
    )
    mlp = MLPConfig(hidden_units=(32,))
    config = DLRM.Config(embedding_dim=DIM, bottom_mlp=mlp, top_mlp=mlp)
    sharding = ShardingConfig(placement="row_wise", rank_memory=memory)
    model, tables = build(
        lambda: DLRM(config, schema), EmbeddingConfig(sharding=sharding), backend, 1
    )
    step = TrainStep(model, TrainConfig(batch_size=SIZE), tables, Ranks.current())
    generator, loss = torch.Generator().manual_seed(Ranks.current().rank), torch.zeros(())
    for _ in range(steps):
        batch = Batch(
            dense=torch.randn(SIZE, 1, generator=generator),
            values=torch.randint(1, rows, (SIZE,), generator=generator, dtype=torch.int32),
            lengths=torch.ones(SIZE, dtype=torch.int32),
            labels=torch.randint(0, 2, (SIZE, 1), generator=generator).float(),
            keys=("id",),
            value_counts=(SIZE,),
        )
        loss = step(batch, 1.0)
    return model, tables, float(loss)


def save(model: CTRModel, tables: EmbeddingOptimizer | None, folder: Path) -> None:
    """A checkpoint, as the trainer writes it with several ranks; see its ``_save``."""
    assert tables is not None
    with model.embeddings.tables_apart():
        weights = model.state_dict()
    parts = {"model": list(model.embeddings.parts()), "tables": tables.parts()}
    CheckpointStore(folder).save(
        1, {"model": weights, "tables": tables.rest()}, {}, parts=parts, ranks=Ranks.current()
    )


def memory_rank(job: MemoryJob) -> list[dict[str, Any]]:
    """Trains a table with so much room; what every rank found."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ranks, found = Ranks.current(), dict[str, Any](loss="", failed="", save_failed="")
    tiny = some_steps(100, 2, job.backend, None)
    if ranks.world_size > 1:
        save(tiny[0], tiny[1], job.folder / "tiny")
    base, before = taken(), resource.getrlimit(resource.RLIMIT_DATA)
    found["base"] = base
    if job.room is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (base + job.room, before[1]))
    try:
        with Peak() as peak:
            model, tables, loss = some_steps(job.rows, job.steps, job.backend, job.rank_memory)
        found |= {"loss": f"{loss:.3f}", "train": peak.bytes - base}
        found["part"] = model.embeddings.bytes("train", tables).tables
        if ranks.world_size > 1 and job.room is None:
            with Peak() as peak:
                save(model, tables, job.folder / "checkpoints")
            found["save"] = peak.bytes - base
    except ShardingError:
        raise
    except (RuntimeError, MemoryError) as error:
        found["failed"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    return ranks.gather_objects(found)


def memory(args: argparse.Namespace, folder: Path) -> None:
    """A table over three ranks that one rank's cap cannot hold."""
    whole = args.table_mb << 20
    rows, room = whole // (4 * DIM), int(args.room * whole)
    print(
        f"\na table of {whole / 2**20:,.0f} MiB ({rows:,} rows of {DIM}), row-wise; a capped rank "
        f"may take {room / 2**20:,.0f} MiB beyond what it takes with a tiny table"
    )
    cases: list[tuple[str, int, Backend, int | None, int | None]] = [
        ("3 ranks, no cap", 3, "torchrec", None, None),
        ("3 ranks, capped", 3, "torchrec", room, None),
        ("3 ranks, capped, rank_memory", 3, "torchrec", room, room),
        ("1 rank, capped, local", 1, "local", room, None),
        ("1 rank, capped, torchrec", 1, "torchrec", room, 4 * whole),
        ("1 rank, rank_memory, torchrec", 1, "torchrec", None, room),
        ("1 rank, no cap, local", 1, "local", None, None),
    ]
    lines: list[tuple[str, ...]] = [
        ("case", "trained", "base", "part", "need: train", "need: with a checkpoint")
    ]
    notes = []
    for number, (name, ranks, backend, cap, memory_) in enumerate(cases):
        job = MemoryJob(rows, cap, memory_, backend, args.steps, folder / f"memory-{number}")
        start = time.perf_counter()
        try:
            found = launch(memory_rank, (job,), ranks)
        except (RecsysError, TrainingError) as error:
            lines.append((name, "refused", "", "", "", ""))
            notes.append(f"{name}: {type(error).__name__}: {error}")
            say(f"{name}: refused after {time.perf_counter() - start:.1f} s")
            continue
        failures = [rank["failed"] for rank in found if rank["failed"]]
        if failures:
            notes.append(f"{name}: {failures[0]}")
        lines.append((name, *memory_cells(found, bool(failures))))
        say(f"{name}: {lines[-1][1]} after {time.perf_counter() - start:.1f} s")
    table(lines)
    for note in notes:
        print(f"\n{note}")


def memory_cells(found: Sequence[dict[str, Any]], failed: bool) -> tuple[str, ...]:
    """The largest rank's figures as text."""
    mib = 2**20
    base = f"{max(rank['base'] for rank in found) / mib:,.0f} MiB"
    if failed:
        return ("failed", base, "", "", "")
    part = max(rank["part"] for rank in found)
    cells = []
    for stage in ("train", "save"):
        most = max(rank.get(stage, 0) for rank in found)
        cells.append(f"{most / mib:,.0f} MiB ({most / part:.1f} parts)" if most else "-")
    return (f"yes, loss {found[0]['loss']}", base, f"{part / mib:,.0f} MiB", *cells)


# ------------------------------------------------------------------------------------------ main


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Ranks: scaling, starts, memory.")
    parser.add_argument("part", choices=("scaling", "starts", "memory"))
    parser.add_argument("--config", type=Path, default=Path("configs/ctr/dlrm.yaml"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=V")
    parser.add_argument("--rows", type=int, default=400_000, help="of training")
    parser.add_argument("--batch", type=int, default=4096, help="rows, over all ranks (strong)")
    parser.add_argument("--steps", type=int, default=60, help="timed, or trained under a cap")
    parser.add_argument("--warm", type=int, default=10, help="steps before, not timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", default="all", help="of scaling, say 'local 1,strong 2'")
    parser.add_argument("--calls", type=int, default=12, help="collectives listed")
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--table-mb", type=int, default=1200)
    parser.add_argument("--room", type=float, default=0.6, help="of the table's bytes")
    parser.add_argument("--cache", type=Path, help="keep the made data here for the next call")
    return parser.parse_args()


def main() -> None:
    args = parse()
    os.environ.update(QUIET)
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="rk-") as folder:  # short: Ray's sockets lie in it
        part = {"scaling": scaling, "starts": starts, "memory": memory}[args.part]
        part(args, Path(folder))


if __name__ == "__main__":
    main()
