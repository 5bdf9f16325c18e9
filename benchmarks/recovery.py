"""What a killed rank costs, and what checkpoints cost.

    .venv/bin/python benchmarks/recovery.py kill
    .venv/bin/python benchmarks/recovery.py kill --no-ray --rounds 5
    .venv/bin/python benchmarks/recovery.py checkpoints --sizes-mb 64,256,1024
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/recovery.py kill --no-ray --rows 4000 \
        --batch 64 --rounds 1                                                    # a quick look
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/recovery.py checkpoints --sizes-mb 8 --rounds 1

``kill`` trains two ranks and lets rank 1 end itself by SIGKILL half-way between two checkpoints,
once under torchrun and once under Ray, which start all ranks anew. Every rank notes the time of
what it does. Recovery is the time from the kill to the end of the first step afterwards:
``noticing`` until the new process of rank 0 is there (the survivor fails, the launcher sees it and
meets again), ``start`` until its job begins (imports, process group, cached data; with Ray all
until then counts here where the process waited in Ray's pool already), ``tables`` until they are
made, ``loading`` the checkpoint (hashing it included), ``step`` the first step. ``lost`` are steps
that were done and are done again. Metrics must be those of a run that nobody disturbed, bit by bit.

``checkpoints`` writes one table with its rowwise Adagrad state, from one rank, from two that wait
(``train.background_checkpoints: false``) and from two that go on. ``stands still`` is how long
training waits, ``written`` the time until the checkpoint counts, ``steps meanwhile`` their time
against that of steps before. Beside it a plain file of as many bytes in the same folder: written in
blocks of 16 MiB and forced to disk, read after the page cache forgot it, and hashed (SHA-256, one
thread, cached). Loading is what resuming does: hash, read, copy in; ``cold`` after the page cache
was told to forget the files (``posix_fadvise``; a cache of the host below is not reached).
"""

import argparse
import dataclasses
import hashlib
import itertools
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from recsys.base import CTRModel
from recsys.config import EmbeddingConfig, TrainConfig, load
from recsys.data.prepare import prepare
from recsys.embeddings.sharding import ShardingConfig
from recsys.layers.mlp import MLPConfig
from recsys.models.ctr.dlrm import DLRM
from recsys.schema import Categorical, Label, Numeric, Schema
from recsys.train.backend import attach_tables, materialize
from recsys.train.checkpoint import CheckpointStore
from recsys.train.launch import launch
from recsys.train.ranks import Ranks
from recsys.train.saving import TrainingCheckpoints
from recsys.train.step import TrainStep
from recsys.types import Batch

QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "TORCH_LOGS": "-all"}
BLOCK = 16 << 20


def machine() -> str:
    """A line about where this runs."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((s.partition(":")[2].strip() for s in lines if s.startswith("model name")), "?")
    return (
        f"machine: {os.cpu_count()} cores ({model}), torch {torch.__version__}, 1 torch thread a "
        f"rank, {platform.system()} {platform.release()}, load before the first run "
        f"{os.getloadavg()[0]:.1f}"
    )


def say(text: str) -> None:
    """A progress line."""
    print(f"  {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """Median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def table(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows under their head, columns aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip(), flush=True)


# ------------------------------------------------------------------------------------------ kill


def created() -> float:
    """When this process was made."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    up = time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")


def note_times(folder: str, kill_at: int) -> None:
    """Makes this rank note what it does, and rank 1 end itself, once.

    Args:
        folder: For the notes.
        kill_at: Before which step; -1 for never.
    """
    from recsys.train.job import SeedJob
    from recsys.train.saving import TrainingCheckpoints
    from recsys.train.step import TrainStep

    file = (Path(folder) / f"{os.getpid()}.jsonl").open("a", buffering=1)
    marker, at = Path(folder) / "killed", {"step": 0}

    def note(event: str) -> None:
        rank = Ranks.current().rank if distributed.is_initialized() else -1
        found = {"event": event, "time": time.time(), "rank": rank, "step": at["step"]}
        file.write(json.dumps(found) + "\n")

    file.write(json.dumps({"event": "made", "time": created(), "rank": -1, "step": 0}) + "\n")
    job, restore, step = SeedJob.run, TrainingCheckpoints.restore, TrainStep.__call__

    def run(self: Any) -> Any:
        note("job")
        return job(self)

    def resumed(self: Any, *arguments: Any) -> Any:
        note("resume")
        found = restore(self, *arguments)
        at["step"] = found.state["progress"]["step"]
        note("resumed")
        return found

    def stepped(self: Any, *arguments: Any) -> Any:
        if at["step"] + 1 == kill_at and Ranks.current().rank == 1 and not marker.exists():
            marker.touch()
            note("kill")
            os.kill(os.getpid(), signal.SIGKILL)
        loss = step(self, *arguments)
        at["step"] += 1
        if Ranks.current().first:
            note("step")
        return loss

    for cls, name, mine in (
        (SeedJob, "run", run),
        (TrainingCheckpoints, "restore", resumed),
        (TrainStep, "__call__", stepped),
    ):
        setattr(cls, name, mine)


def as_worker(kind: str, folder: str, kill_at: int, arguments: list[str]) -> None:
    """Body of a rank under torchrun, or of the driver of a Ray job."""
    from recsys.cli.main import main as command_line

    if kind == "ray":
        from recsys.train import ray_train

        inner = ray_train._loop

        def loop(config: dict[str, Any]) -> None:
            note_times(folder, kill_at)
            inner(config)

        ray_train._loop = loop
        arguments = [*arguments, "--ray", "--workers", "2"]
    else:
        note_times(folder, kill_at)
    sys.argv = ["recsys", *arguments]
    command_line()


def trained(kind: str, folder: Path, kill_at: int, arguments: list[str]) -> dict[str, Any]:
    """One run; its notes in order of time, its result and how long the command took."""
    notes = folder / "notes"
    notes.mkdir(parents=True)
    mine = [__file__, "worker", kind, str(notes), str(kill_at)]
    command = [sys.executable]
    if kind == "torchrun":
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += ["--max-restarts", "1"]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, *mine, *arguments, "--run-dir", str(folder / "run")],
        env={**os.environ, **QUIET}, capture_output=True, text=True,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{kind} failed:\n{done.stderr[-4000:]}")
    events = [
        {**json.loads(line), "process": path.stem}
        for path in notes.glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    result = json.loads((folder / "run/result.json").read_text())
    return {"seconds": seconds, "result": result, "events": sorted(events, key=lambda e: e["time"])}


def stages(events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Where the time between the kill and the first step afterwards went."""
    killed = next(event["time"] for event in events if event["event"] == "kill")
    before = [e for e in events if e["event"] == "step" and e["time"] <= killed]
    after = [e for e in events if e["rank"] == 0 and e["time"] > killed]
    # Rank 0 may end the step that it was in; its new life begins with a job.
    job = next(e for e in after if e["event"] == "job")
    life = [e for e in after if e["time"] >= job["time"] and e["process"] == job["process"]]
    made = next(e for e in events if e["event"] == "made" and e["process"] == job["process"])
    begin, end, step = (
        next(e for e in life if e["event"] == event) for event in ("resume", "resumed", "step")
    )
    noticed = max(killed, made["time"])
    steps = [b["time"] - a["time"] for a, b in itertools.pairwise(before[1:])]
    return {
        "noticing": noticed - killed,
        "start": job["time"] - noticed,
        "tables": begin["time"] - job["time"],
        "loading": end["time"] - begin["time"],
        "step": step["time"] - end["time"],
        "recovery": step["time"] - killed,
        "lost": before[-1]["step"] - end["step"],
        "usual step": statistics.median(steps),
    }


def kill(args: argparse.Namespace, folder: Path) -> None:
    """Recovery time and lost steps after a SIGKILL, by launcher."""
    small = max(1, min(args.rows // 10, 20_000))
    sizes = [f"dataset.num_rows={args.rows}", f"dataset.valid_rows={small}"]
    sizes += [f"dataset.test_rows={small}", f"train.batch_size={args.batch}"]
    sizes += ["train.num_epochs=1", "train.num_threads=1", "train.bootstrap_samples=0"]
    sizes += [f"train.evaluations_per_epoch={args.checkpoints}", "train.checkpoint_every=1"]
    experiment = load(args.config, [*sizes, *args.overrides])
    cache, config = args.cache or folder / "cache", folder / "config.json"
    dataset = experiment.dataset.build()
    prepared = prepare(
        dataset.schema(), dataset.splits(cache), cache / "prepared", experiment.prepare
    )
    say("data ready")
    experiment.save(config)
    count = -(-prepared.split_rows["train"] // (2 * args.batch))
    between = count / args.checkpoints
    kill_at = round(between * (args.checkpoints // 2) + between / 2) + 1
    arguments = ["train", "--config", str(config), "--cache-dir", str(cache)]
    kinds = ["torchrun"] if args.no_ray else ["torchrun", "ray"]
    os.environ["RAY_TMPDIR"] = str(folder / "r")
    (folder / "r").mkdir()
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    equal, number, held = dict.fromkeys(kinds, True), 0, 0
    for round_ in range(args.rounds):
        for kind in kinds if round_ % 2 == 0 else reversed(kinds):
            runs = []
            for name, step in (("whole", -1), ("killed", kill_at)):
                number += 1
                runs.append(trained(kind, folder / f"{kind}-{number}-{name}", step, arguments))
                say(f"round {round_ + 1} of {args.rounds}, {kind}, {name}: "
                    f"{runs[-1]['seconds']:.1f} s")  # fmt: skip
            one = stages(runs[1]["events"])
            one["whole"] = runs[0]["seconds"]
            one["more"] = runs[1]["seconds"] - runs[0]["seconds"]
            found[kind].append(one)
            equal[kind] &= runs[0]["result"]["metrics"] == runs[1]["result"]["metrics"]
            held = runs[1]["result"]["table_bytes"]["total"]
    print(
        f"\ntwo ranks, {count:,} steps of {2 * args.batch:,} rows, {args.checkpoints} checkpoints, "
        f"tables with optimizer state {held / 2**20:,.1f} MiB; rank 1 killed before step "
        f"{kill_at:,}; {args.rounds} rounds; seconds, median (range)"
    )
    parts = ("noticing", "start", "tables", "loading", "step", "recovery")
    rows: list[tuple[str, ...]] = [("launcher", *parts)]
    for kind in kinds:
        rows.append((kind, *(spread([one[part] for one in found[kind]], ".2f") for part in parts)))
    table(rows)
    print()
    rows = [
        ("launcher", "lost steps", "a usual step, ms", "whole run", "longer by", "same metrics")
    ]
    for kind in kinds:
        mine = found[kind]
        rows.append((
            kind, spread([one["lost"] for one in mine], ".0f"),
            spread([1e3 * one["usual step"] for one in mine]),
            spread([one["whole"] for one in mine]), spread([one["more"] for one in mine]),
            str(equal[kind]),
        ))  # fmt: skip
    table(rows)


# ----------------------------------------------------------------------------------- checkpoints

DIM, SIZE, WARM, USUAL = 16, 256, 4, 20


def batches_of(rows: int, seed: int) -> list[Batch]:
    """Random ones."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Batch(
            dense=torch.randn(SIZE, 1, generator=generator),
            values=torch.randint(1, rows, (SIZE,), generator=generator, dtype=torch.int32),
            lengths=torch.ones(SIZE, dtype=torch.int32),
            labels=torch.randint(0, 2, (SIZE, 1), generator=generator).float(),
            keys=("id",),
            value_counts=(SIZE,),
        )
        for _ in range(WARM)
    ]


@dataclasses.dataclass(frozen=True)
class SaveJob:
    """What a rank of the checkpoints part does."""

    rows: int
    background: bool
    folder: Path


def saving_rank(job: SaveJob) -> dict[str, float]:
    """Saves and loads one table; the times are those of the slowest rank."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ranks = Ranks.current()
    schema = Schema(
        features=(Categorical(name="id", num_embeddings=job.rows), Numeric(name="x")),
        labels=(Label(name="click"),),
    )
    mlp = MLPConfig(hidden_units=(32,))
    config = DLRM.Config(embedding_dim=DIM, bottom_mlp=mlp, top_mlp=mlp)
    tables_config = EmbeddingConfig(sharding=ShardingConfig(placement="row_wise"))
    model: CTRModel
    if ranks.world_size > 1:
        with torch.device("meta"):
            model = DLRM(config, schema)
        materialize(model, "cpu")
        tables = attach_tables(model, tables_config, "torchrec")
        model.reset_parameters(1)
    else:
        model = DLRM(config, schema)
        model.reset_parameters(1)
        tables = attach_tables(model, tables_config, "local")
    train = TrainStep(model, TrainConfig(batch_size=SIZE), tables, ranks)
    store = CheckpointStore(job.folder / "checkpoints")
    saving = TrainingCheckpoints(store, train, ranks, job.background)
    batches, found = batches_of(job.rows, ranks.rank), {}

    def step(number: int) -> float:
        start = time.perf_counter()
        train(batches[number % WARM], 1.0)
        return time.perf_counter() - start

    for number in range(WARM):
        step(number)
    usual = statistics.fmean([step(number) for number in range(USUAL)])
    ranks.wait()
    start = time.perf_counter()
    saving.save(1, {"progress": {"batch": 0}}, best=False)
    found["still"] = time.perf_counter() - start
    writer: Any = saving._writer
    running = None if writer is None else writer._running
    times = []
    if running is not None:
        while ranks.any(not running.done()):
            times.append(step(len(times)))
    saving.wait()
    found["written"] = time.perf_counter() - start
    found["slower"] = statistics.fmean(times) / usual if times else 0.0
    found["steps"] = len(times)
    files = [path for path in (job.folder / "checkpoints").rglob("*") if path.is_file()]
    found["bytes"] = sum(path.stat().st_size for path in files)
    for name in ("cold", "warm"):
        if name == "cold":
            forget(files)
        ranks.wait()
        start = time.perf_counter()
        saving.restore()
        found[name] = time.perf_counter() - start
    everyone = ranks.gather_objects(found)
    return {name: max(one[name] for one in everyone) for name in found}


def forget(files: Sequence[Path]) -> None:
    """Tells the page cache to drop what it holds of files that are on disk."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def plain(folder: Path, size: int) -> dict[str, float]:
    """What the disk and the hash do with as many bytes in one file."""
    path, block, found = folder / "plain", os.urandom(BLOCK), {}
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        left = size
        while left > 0:
            left -= file.write(block[: min(left, BLOCK)])
        os.fsync(file.fileno())
    found["write"] = time.perf_counter() - start
    forget([path])
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.read(BLOCK):
            pass
    found["read"] = time.perf_counter() - start
    start = time.perf_counter()
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    found["hash"] = time.perf_counter() - start
    path.unlink()
    return found


def checkpoints(args: argparse.Namespace, folder: Path) -> None:
    """Time to write and to load against bytes, beside a plain file."""
    kinds = {"1 rank": (1, False), "2 ranks": (2, False), "2 ranks, background": (2, True)}
    sizes = [int(size) << 20 for size in args.sizes_mb.split(",")]
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    disk: dict[int, list[dict[str, float]]] = {}
    for round_ in range(args.rounds):
        for size in sizes:
            rows = size // (4 * DIM)
            disk.setdefault(size, []).append(plain(folder, rows * 4 * (DIM + 1)))
            for name in kinds if round_ % 2 == 0 else reversed(kinds):
                ranks, background = kinds[name]
                out = folder / "run"
                one = launch(saving_rank, (SaveJob(rows, background, out),), ranks)
                shutil.rmtree(out)
                os.sync()  # what the last one left to write must not slow the next one
                found.setdefault((size, name), []).append(one)
                say(f"round {round_ + 1} of {args.rounds}, {size >> 20:,} MiB, {name}: "
                    f"written after {one['written']:.2f} s")  # fmt: skip
    print(f"\n{args.rounds} rounds; median (range); bytes are those of the checkpoint")
    rows_: list[tuple[str, ...]] = [
        ("plain file", "write + fsync, MB/s", "read cold, MB/s", "SHA-256, MB/s")
    ]
    for size in sizes:
        mega = size // (4 * DIM) * 4 * (DIM + 1) / 1e6
        speeds = ([mega / one[part] for one in disk[size]] for part in ("write", "read", "hash"))
        rows_.append((f"{mega:,.0f} MB", *(spread(list(values), ",.0f") for values in speeds)))
    table(rows_)
    print()
    lines: list[tuple[str, ...]] = [
        ("table", "written by", "checkpoint", "stands still, s", "written, s", "MB/s",
         "against plain write", "against write + hash", "steps meanwhile")
    ]  # fmt: skip
    loads: list[tuple[str, ...]] = [
        ("table", "read by", "cold, s", "warm, s", "cold MB/s", "cold against read + hash")
    ]
    for size in sizes:
        for name in kinds:
            mine, beside = found[size, name], disk[size]
            mega = mine[0]["bytes"] / 1e6
            slower = [one["slower"] for one in mine if one["steps"]]
            pairs = list(zip(mine, beside))
            lines.append((
                f"{size >> 20:,} MiB", name, f"{mega:,.0f} MB",
                spread([one["still"] for one in mine], ".2f"),
                spread([one["written"] for one in mine], ".2f"),
                spread([mega / one["written"] for one in mine], ",.0f"),
                spread([a["written"] / b["write"] for a, b in pairs], ".2f") + "x",
                spread([a["written"] / (b["write"] + b["hash"]) for a, b in pairs], ".2f") + "x",
                spread(slower, ".2f") + "x" if slower else "-",
            ))  # fmt: skip
            loads.append((
                f"{size >> 20:,} MiB", name,
                spread([one["cold"] for one in mine], ".2f"),
                spread([one["warm"] for one in mine], ".2f"),
                spread([mega / one["cold"] for one in mine], ",.0f"),
                spread([a["cold"] / (b["read"] + b["hash"]) for a, b in pairs], ".2f") + "x",
            ))  # fmt: skip
    table(lines)
    print()
    table(loads)


# ------------------------------------------------------------------------------------------ main


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Recovery after a kill; checkpoints.")
    parser.add_argument("part", choices=("kill", "checkpoints"))
    parser.add_argument("--config", type=Path, default=Path("configs/ctr/dlrm.yaml"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=V")
    parser.add_argument("--rows", type=int, default=400_000, help="of training")
    parser.add_argument("--batch", type=int, default=1024, help="rows, on each rank")
    parser.add_argument("--checkpoints", type=int, default=4, help="of the run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--sizes-mb", default="64,256,1024", help="of the table")
    parser.add_argument("--folder", type=Path, help="where the disk to measure is; by default /tmp")
    parser.add_argument("--cache", type=Path, help="keep the made data here for the next call")
    return parser.parse_args()


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        kind, notes, kill_at = sys.argv[2:5]
        as_worker(kind, notes, int(kill_at), sys.argv[5:])
        return
    args = parse()
    os.environ.update(QUIET)
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="rc-", dir=args.folder) as folder:
        {"kill": kill, "checkpoints": checkpoints}[args.part](args, Path(folder))


if __name__ == "__main__":
    main()
