"""Sizing on paper: memory a rank, bytes a step, rows a second, checkpoints, goodput.

Nothing is measured here. Every assumption is an argument with a default, every formula a line of
`size`; docs/cluster.md explains them. Pure Python, no torch, no GPU.

    python benchmarks/sizing.py                                     # 1 to 1024 GPUs, 1e9 rows
    python benchmarks/sizing.py --rows 1e10
    python benchmarks/sizing.py --ranks 64 --placement all
    python benchmarks/sizing.py --rows 1e9 --keep-rows 0.1          # hashed to a tenth
    python benchmarks/sizing.py --failures                          # checkpoints and goodput

Letters: B rows a rank and step, W ranks, G ranks a host, H = W / G hosts, F tables of equal size
with one feature each, L ids a row and feature, D width, c column parts of a table.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence

PLACEMENTS = (
    "data_parallel", "table_wise", "column_wise", "row_wise", "table_row_wise", "grid_shard",
)  # fmt: skip
STATE_NUMBERS = {"sgd": (0, 0), "rowwise_adagrad": (1, 0), "adagrad": (0, 1), "adam": (0, 2)}
"""Optimizer state of a table: numbers a row, and numbers an element."""
COLLECTIVES = 9
"""Calls that wait for each other in a step: sizes, lengths and ids out, vectors back, gradients
back, the sum of row weights, the dense gradients; vectors and gradients of table_row_wise and
grid_shard take two each."""


@dataclasses.dataclass(frozen=True)
class Job:
    """The model, the cluster and what is assumed of it. Bandwidths are bytes a second, one way."""

    rows: float = 1e9
    features: int = 26
    dim: int = 128
    pooling: float = 1.0
    vectors: int = 1
    keep_rows: float = 1.0
    optimizer: str = "rowwise_adagrad"
    columns: int = 4
    batch: float = 4096
    dense_weights: float = 2.4e6
    dense_states: int = 2
    activations: float = 4000
    host_gpus: int = 8
    memory: float = 80e9
    usable: float = 0.9
    host_memory: float = 2e12
    save_copies: float = 1.0
    flops: float = 67e12
    flops_share: float = 0.5
    hbm: float = 3.35e12
    hbm_share: float = 0.5
    nvlink: float = 450e9
    network: float = 50e9
    link_share: float = 0.7
    latency: float = 30e-6
    fixed: float = 2e-3
    storage_host: float = 2e9
    storage_all: float = 100e9
    copy: float = 25e9
    verify: float = 1.5e9
    restart: float = 120.0
    mtbf_hours: float = 50_000
    interval: float = 1800.0
    background: bool = True


@dataclasses.dataclass(frozen=True)
class Size:
    """What `size` finds for the busiest rank. Bytes, bytes a step and seconds a step."""

    ranks: int
    placement: str
    tables: float
    state: float
    dense: float
    buffers: float
    local: float
    remote: float
    reduced: float
    compute: float
    communication: float
    host_bytes: float

    @property
    def memory(self) -> float:
        """Bytes of the GPU."""
        return self.tables + self.state + self.dense + self.buffers

    @property
    def saved(self) -> float:
        """Bytes of a checkpoint that this rank writes."""
        return self.tables + self.state

    def step(self, overlap: bool) -> float:
        """One after the other, or all that can be hidden is hidden."""
        both = self.compute, self.communication
        return max(both) if overlap else sum(both)


def busiest(job: Job, placement: str, ranks: int) -> tuple[int, int, int]:
    """Shards on the busiest owner, column parts of a table, and ranks that make one owner.

    An owner is a rank (table_wise, column_wise), a host (table_row_wise, grid_shard) or all ranks.
    """
    parts = job.columns if placement in ("column_wise", "grid_shard") else 1
    together = {
        "table_wise": 1,
        "column_wise": 1,
        "table_row_wise": min(ranks, job.host_gpus),
        "grid_shard": min(ranks, job.host_gpus),
    }.get(placement, ranks)
    owners = ranks // together
    return math.ceil(job.features * parts / owners), parts, together


def exchanged(job: Job, placement: str, ranks: int) -> tuple[float, float, float]:
    """Bytes that the busiest rank sends in a step within its host, and to others; bytes it holds.

    It holds the vectors that it looks up before they are sent. They go back and their gradients
    come again on the same way, so they count twice. With tables that are cut by rows every rank has
    a part of every sum of its owner's tables, for all rows of all ranks: a reduce-scatter, whose
    bytes grow with the number of ranks that make the owner.
    """
    if ranks == 1 or placement == "data_parallel":
        return 0.0, 0.0, 0.0
    shards, parts, together = busiest(job, placement, ranks)
    group, hosts = min(ranks, job.host_gpus), max(1, ranks // job.host_gpus)
    near, far = (group - 1) / ranks, (ranks - group) / ranks
    # Ids go to every column part, lengths also to every rank that has some of the rows.
    ids = 4 * job.batch * job.features * parts * (job.pooling + together)
    held = 4 * ranks * job.batch * shards * job.vectors * job.dim / parts
    if placement in ("table_wise", "column_wise"):  # all-to-all
        return near * (ids + 2 * held), far * (ids + 2 * held), held
    if placement == "row_wise":  # reduce-scatter: rings enter and leave a host once a GPU
        around = 2 * held * (ranks - 1) / ranks
        inside = (group - 1) / group if hosts > 1 else 1.0
        outside = 1 / group if hosts > 1 else 0.0
        return near * ids + inside * around, far * ids + outside * around, held
    within = 2 * held * (group - 1) / group  # reduce-scatter in the host, then all-to-all
    between = 2 * held / group * (hosts - 1) / hosts
    return near * ids + within, far * ids + between, held


def all_reduced(job: Job, placement: str, ranks: int) -> float:
    """Bytes that a rank sends for the sum of dense gradients: a ring, 2 (W - 1) / W of them."""
    numbers = job.dense_weights
    if placement == "data_parallel":
        numbers += job.rows * job.keep_rows * job.dim * job.vectors
    return 4 * numbers * 2 * (ranks - 1) / ranks


def size(job: Job, placement: str, ranks: int) -> Size:
    """All figures of one placement on a number of ranks."""
    shards, parts, together = busiest(job, placement, ranks)
    # Rows times width that the busiest rank holds, of tables of equal size.
    rows = job.rows * job.keep_rows * job.vectors / job.features * shards / together
    if placement == "data_parallel":
        rows = job.rows * job.keep_rows * job.vectors
    width = job.dim / parts
    by_row, by_element = STATE_NUMBERS[job.optimizer]
    tables, state = 4 * rows * width, 4 * rows * (by_row + by_element * width)
    near, far, held = exchanged(job, placement, ranks)
    reduced = all_reduced(job, placement, ranks)
    own = 4 * job.batch * job.features * job.vectors * job.dim
    dense = 4 * job.dense_weights * (3 + job.dense_states)  # weights, gradients, their flat copy
    buffers = 2 * (held + own) + 2 * 4 * job.batch * job.activations
    if placement == "data_parallel":
        dense += 2 * tables  # gradients of whole tables and their flat copy
    # Each looked-up vector is read, then read and written by the update; what is held is written
    # and its gradient read.
    looked = job.batch * job.features * job.pooling * job.vectors * job.dim
    if together < ranks:
        looked = ranks * job.batch * shards * job.pooling * job.vectors * width / together
    touched = 4 * 3 * looked + 2 * max(held, own)
    if placement == "data_parallel":
        touched += 4 * tables  # the update passes over whole tables
    arithmetic = 6 * job.dense_weights * job.batch / (job.flops * job.flops_share)
    compute = job.fixed + arithmetic + touched / (job.hbm * job.hbm_share)
    group, hosts = min(ranks, job.host_gpus), max(1, ranks // job.host_gpus)
    across = reduced / group if hosts > 1 else 0.0
    communication = 0.0
    if ranks > 1:
        local = (near + reduced - across) / (job.nvlink * job.link_share)
        remote = (far + across) / (job.network * job.link_share)
        # NVLink and network work side by side in an all-to-all, one after the other else.
        side_by_side = placement in ("table_wise", "column_wise")
        moved = max(local, remote) if side_by_side else local + remote
        communication = COLLECTIVES * job.latency + moved
    return Size(
        ranks=ranks,
        placement=placement,
        tables=tables,
        state=state,
        dense=dense,
        buffers=buffers,
        local=near,
        remote=far,
        reduced=reduced,
        compute=compute,
        communication=communication,
        host_bytes=group * (tables + state) * (job.save_copies if ranks > 1 else 1.0),
    )


def fits(job: Job, found: Size) -> str:
    """Whether it fits the GPU and, while a checkpoint is written, the host.

    Cut columns with rowwise Adagrad are another algorithm, see docs/sharding.md.
    """
    if job.optimizer == "rowwise_adagrad" and found.placement in ("column_wise", "grid_shard"):
        return "refused"
    if found.memory > job.usable * job.memory:
        return "no"
    return "yes" if found.host_bytes <= job.usable * job.host_memory else "not host"


def chosen(job: Job, ranks: int) -> Size:
    """The fastest placement that fits; where none does, the smallest."""
    found = [size(job, placement, ranks) for placement in PLACEMENTS]
    good = [one for one in found if fits(job, one) == "yes"]
    if good:
        return min(good, key=lambda one: one.step(overlap=False))
    return min((one for one in found if fits(job, one) != "refused"), key=lambda one: one.memory)


@dataclasses.dataclass(frozen=True)
class Survival:
    """Seconds of checkpoints and failures, and the share of time that trains."""

    write: float
    stop: float
    load: float
    mtbf: float
    best_interval: float
    goodput: float


def survival(job: Job, found: Size) -> Survival:
    """What checkpoints and failures cost a job of this size."""
    ranks, group = found.ranks, min(found.ranks, job.host_gpus)
    by_row, by_element = STATE_NUMBERS[job.optimizer]
    rows = job.rows * job.keep_rows * job.vectors
    whole = 4 * rows * (job.dim * (1 + by_element) + by_row)
    moved = max(found.saved * group / job.storage_host, whole / job.storage_all)
    write = moved + found.saved / job.verify  # each rank reads and hashes what it wrote
    stop = found.saved / job.copy if job.background and ranks > 1 else write
    # The next checkpoint waits for the one before.
    cost = stop + (max(0.0, write - job.interval) if job.background else 0.0)
    load = job.restart + found.saved / job.verify + moved  # each rank checks its share
    mtbf = job.mtbf_hours * 3600 / ranks
    lost = job.interval / 2 + write  # a checkpoint counts when it is written
    goodput = 1 / (1 + cost / job.interval + (lost + load) / mtbf)
    return Survival(write, stop, load, mtbf, math.sqrt(2 * stop * mtbf), goodput)


def speed_rows(job: Job, found: Sequence[Size]) -> list[list[str]]:
    """The table of memory and speed."""
    head = [
        "GPUs", "placement", "tables+state GB", "buffers GB", "fits",
        "NVLink MB", "network MB", "all-reduce MB", "compute ms", "comm ms",
        "Mrows/s sum", "Mrows/s max", "bound",
    ]  # fmt: skip
    rows = [head]
    for one in found:
        good = fits(job, one)
        speeds = [job.batch * one.ranks / one.step(hidden) / 1e6 for hidden in (False, True)]
        bound = "communication" if one.communication > one.compute else "compute"
        rows.append(
            [
                str(one.ranks), one.placement, _short(one.saved / 1e9),
                _short((one.buffers + one.dense) / 1e9), good,
                _short(one.local / 1e6), _short(one.remote / 1e6), _short(one.reduced / 1e6),
                _short(one.compute * 1e3), _short(one.communication * 1e3),
                *([_short(speed) for speed in speeds] if good == "yes" else ["-", "-"]),
                bound if good == "yes" else "-",
            ]
        )  # fmt: skip
    return rows


def failure_rows(job: Job, found: Sequence[Size]) -> list[list[str]]:
    """The table of checkpoints and failures."""
    head = [
        "GPUs", "placement", "GB a rank", "write s", "stop s", "restart s", "failure every h",
        "best interval s", "goodput",
    ]  # fmt: skip
    rows = [head]
    for one in found:
        if fits(job, one) != "yes":
            continue
        lives = survival(job, one)
        rows.append(
            [
                str(one.ranks), one.placement, _short(one.saved / 1e9), _short(lives.write),
                _short(lives.stop), _short(lives.load), _short(lives.mtbf / 3600),
                _short(lives.best_interval), f"{lives.goodput:.1%}",
            ]
        )  # fmt: skip
    return rows


def _short(value: float) -> str:
    """Three digits."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 3)}f}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


HELP = {
    "rows": "rows of all tables together, before compression",
    "features": "categorical features F; one table each, all of equal size",
    "dim": "width D of a table",
    "pooling": "ids a row and feature L",
    "vectors": "tables that are read for one id (2 for a sum or product of two)",
    "keep_rows": "share of the rows that hashing leaves",
    "optimizer": "of the tables",
    "columns": "parts c that column_wise and grid_shard cut a table into",
    "batch": "rows a rank and step B",
    "dense_weights": "weights of the dense layers",
    "dense_states": "numbers a dense weight that its optimizer keeps (Adam 2)",
    "activations": "numbers a row that the dense layers keep for backward",
    "host_gpus": "GPUs a host G",
    "memory": "bytes of a GPU",
    "usable": "share of memory that may be planned with",
    "host_memory": "bytes of a host",
    "save_copies": "copies of a rank's tables and state in host memory while they are written",
    "flops": "peak of the dense layers' precision (H100 SXM: fp32 67e12, bf16 989e12)",
    "flops_share": "share of the peak that is reached",
    "hbm": "memory bandwidth of a GPU",
    "hbm_share": "share of it that is reached",
    "nvlink": "within a host, a GPU, one way",
    "network": "between hosts, a GPU, one way (400 Gb/s)",
    "link_share": "share of both that is reached",
    "latency": "seconds of a collective call without data",
    "fixed": "seconds a step that do not depend on its size (Python, kernel launches)",
    "storage_host": "bytes a second a host writes or reads",
    "storage_all": "bytes a second of the whole storage",
    "copy": "GPU to host memory, a GPU",
    "verify": "bytes a second that a rank reads and hashes",
    "restart": "seconds until a failure is seen and all ranks run again, without loading",
    "mtbf_hours": "GPU-hours between two failures",
    "interval": "seconds between two checkpoints",
}


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--ranks", default="1,8,64,256,1024", help="numbers of GPUs, by comma")
    found.add_argument("--placement", choices=("auto", "all", *PLACEMENTS), default="auto",
                       help="auto: the fastest that fits")  # fmt: skip
    found.add_argument("--global-batch", type=float, help="rows a step of all ranks, not --batch")
    found.add_argument("--failures", action="store_true", help="print checkpoints and goodput")
    found.add_argument("--blocking", action="store_true", help="no checkpoints in the background")
    for field in dataclasses.fields(Job):
        if field.name == "background":
            continue
        choices = sorted(STATE_NUMBERS) if field.name == "optimizer" else None
        found.add_argument(
            "--" + field.name.replace("_", "-"),
            type=type(field.default),
            choices=choices,
            default=field.default,
            help=f"{HELP[field.name]} (default {field.default})",
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    given = vars(parser().parse_args(arguments))
    names = {field.name for field in dataclasses.fields(Job)}
    job = Job(
        **{name: value for name, value in given.items() if name in names},
        background=not given["blocking"],
    )
    rows: list[list[str]] = []
    for text in given["ranks"].split(","):
        ranks = int(text)
        if ranks > job.host_gpus and ranks % job.host_gpus:
            raise SystemExit(f"--ranks {ranks}: expected whole hosts of {job.host_gpus} GPUs.")
        mine = job
        if given["global_batch"]:
            mine = dataclasses.replace(job, batch=given["global_batch"] / ranks)
        wanted = PLACEMENTS if given["placement"] == "all" else (given["placement"],)
        found = [
            chosen(mine, ranks) if placement == "auto" else size(mine, placement, ranks)
            for placement in wanted
        ]
        table = failure_rows(mine, found) if given["failures"] else speed_rows(mine, found)
        rows += table[1:] if rows else table
    print(markdown(rows))


if __name__ == "__main__":
    main()
