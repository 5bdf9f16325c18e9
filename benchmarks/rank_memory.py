"""A table that one rank's memory cannot hold, and what three ranks take that train it.

    .venv/bin/python benchmarks/rank_memory.py --table-mb 1200 --room 0.6
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/rank_memory.py --table-mb 384 --steps 3  # quick

Caps every rank by ``RLIMIT_DATA`` (private writable memory; ``RLIMIT_AS`` also counts address space
that nobody touches) at what it takes after training a tiny table plus ``--room`` of a big one:
three ranks train it row-wise, one rank cannot hold it. ``need`` is what a rank takes
at its peak without a cap, sampled every few milliseconds, in sizes of its part. Capped ranks build
the table and train; a checkpoint (written while they wait) needs what the last column says.
"""

import argparse
import dataclasses
import os
import resource
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from printing import QUIET, machine, say, table
from rank_jobs import DIM, one_table, one_table_batches
from recsys.embeddings.backend import Backend
from recsys.errors import RecsysError, ShardingError, TrainingError
from recsys.train.checkpoint import CheckpointStore
from recsys.train.launch import launch
from recsys.train.ranks import Ranks
from recsys.train.saving import TrainingCheckpoints
from recsys.train.step import TrainStep


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
    """What a rank does."""

    rows: int
    room: int | None
    rank_memory: int | None
    backend: Backend
    steps: int
    folder: Path


def some_steps(
    rows: int, steps: int, backend: Backend, rank_memory: int | None
) -> tuple[TrainStep, float]:
    """A model of one table, trained a little, and its last loss."""
    step, loss = one_table(rows, backend, rank_memory), torch.zeros(())
    for batch in one_table_batches(rows, steps):
        loss = step(batch, 1.0)
    return step, float(loss)


def save(step: TrainStep, folder: Path) -> None:
    """A checkpoint, as the trainer writes it with several ranks that wait."""
    saving = TrainingCheckpoints(CheckpointStore(folder), step, step.ranks, background=False)
    saving.save(1, {}, best=False)


def memory_rank(job: MemoryJob) -> list[dict[str, Any]]:
    """Trains a table with so much room; what every rank found."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ranks, found = Ranks.current(), dict[str, Any](loss="", failed="", save_failed="")
    tiny, _ = some_steps(100, 2, job.backend, None)
    if ranks.world_size > 1:
        save(tiny, job.folder / "tiny")
    base, before = taken(), resource.getrlimit(resource.RLIMIT_DATA)
    found["base"] = base
    if job.room is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (base + job.room, before[1]))
    try:
        with Peak() as peak:
            step, loss = some_steps(job.rows, job.steps, job.backend, job.rank_memory)
        found |= {"loss": f"{loss:.3f}", "train": peak.bytes - base}
        found["part"] = step.model.embeddings.bytes("train", step.tables).tables
        if ranks.world_size > 1 and job.room is None:
            with Peak() as peak:
                save(step, job.folder / "checkpoints")
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


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A table over ranks whose memory is capped.")
    parser.add_argument("--steps", type=int, default=60, help="trained under a cap")
    parser.add_argument("--table-mb", type=int, default=1200)
    parser.add_argument("--room", type=float, default=0.6, help="of the table's bytes")
    return parser.parse_args()


def main() -> None:
    args = parse()
    os.environ.update(QUIET)
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="rk-") as folder:
        memory(args, Path(folder))


if __name__ == "__main__":
    main()
