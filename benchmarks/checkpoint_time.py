"""What checkpoints cost: how long training waits, and until they are written and loaded.

    .venv/bin/python benchmarks/checkpoint_time.py --sizes-mb 64,256,1024
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/checkpoint_time.py --sizes-mb 8 \
        --rounds 1                                                               # a quick look

Writes one table with its rowwise Adagrad state, from one rank, from two that wait
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
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from printing import QUIET, machine, say, spread, table
from rank_jobs import DIM, one_table, one_table_batches
from recsys.train.checkpoint import CheckpointStore
from recsys.train.launch import launch
from recsys.train.ranks import Ranks
from recsys.train.saving import TrainingCheckpoints

BLOCK = 16 << 20
WARM, USUAL = 4, 20  # steps before the save: not timed, timed


@dataclasses.dataclass(frozen=True)
class SaveJob:
    """What a rank does."""

    rows: int
    background: bool
    folder: Path


def saving_rank(job: SaveJob) -> dict[str, float]:
    """Saves and loads one table; the times are those of the slowest rank."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ranks = Ranks.current()
    train = one_table(job.rows, "torchrec" if ranks.world_size > 1 else "local")
    store = CheckpointStore(job.folder / "checkpoints")
    saving = TrainingCheckpoints(store, train, ranks, job.background)
    batches, found = one_table_batches(job.rows, WARM), {}

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


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time to write and to load a checkpoint.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes-mb", default="64,256,1024", help="of the table")
    parser.add_argument("--folder", type=Path, help="where the disk to measure is; by default /tmp")
    return parser.parse_args()


def main() -> None:
    args = parse()
    os.environ.update(QUIET)
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="rc-", dir=args.folder) as folder:
        checkpoints(args, Path(folder))


if __name__ == "__main__":
    main()
