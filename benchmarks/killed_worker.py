"""What a killed rank costs: seconds until its job is where it was, and steps done again.

    .venv/bin/python benchmarks/killed_worker.py
    .venv/bin/python benchmarks/killed_worker.py --no-ray --rounds 5
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/killed_worker.py --no-ray --rows 4000 \
        --batch 64 --rounds 1                                                    # a quick look

Trains two ranks and lets rank 1 end itself by SIGKILL half-way between two checkpoints, once under
torchrun and once under Ray, which start all ranks anew. Every rank notes the time of what it does.
Recovery is the time from the kill to the end of the first step afterwards:
``noticing`` until the new process of rank 0 is there (the survivor fails, the launcher sees it and
meets again), ``start`` until its job begins (imports, process group, cached data; with Ray all
until then counts here where the process waited in Ray's pool already), ``tables`` until they are
made, ``loading`` the checkpoint (hashing it included), ``step`` the first step. ``lost`` are steps
that were done and are done again. Metrics must be those of a run that nobody disturbed, bit by bit.
"""

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import distributed

from printing import QUIET, interleaved, machine, say, spread, table
from rank_jobs import config_options, experiment_of, prepared_of
from recsys.train.ranks import Ranks


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
    from recsys.train.click_job import ClickJob
    from recsys.train.saving import TrainingCheckpoints
    from recsys.train.step import TrainStep

    file = (Path(folder) / f"{os.getpid()}.jsonl").open("a", buffering=1)
    marker, at = Path(folder) / "killed", {"step": 0}

    def note(event: str) -> None:
        rank = Ranks.current().rank if distributed.is_initialized() else -1
        found = {"event": event, "time": time.time(), "rank": rank, "step": at["step"]}
        file.write(json.dumps(found) + "\n")

    file.write(json.dumps({"event": "made", "time": created(), "rank": -1, "step": 0}) + "\n")
    job, restore = ClickJob.run, TrainingCheckpoints.restore
    forward, update = TrainStep.forward, TrainStep.update

    def run(self: Any) -> Any:
        note("job")
        return job(self)

    def resumed(self: Any, *arguments: Any) -> Any:
        note("resume")
        found = restore(self, *arguments)
        at["step"] = found.state["progress"]["step"]
        note("resumed")
        return found

    def begun(self: Any, *arguments: Any) -> Any:
        if at["step"] + 1 == kill_at and Ranks.current().rank == 1 and not marker.exists():
            marker.touch()
            note("kill")
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(self, *arguments)

    def stepped(self: Any) -> None:
        update(self)
        at["step"] += 1
        if Ranks.current().first:
            note("step")

    for cls, name, mine in (
        (ClickJob, "run", run),
        (TrainingCheckpoints, "restore", resumed),
        (TrainStep, "forward", begun),
        (TrainStep, "update", stepped),
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
    experiment = experiment_of(
        args, f"train.batch_size={args.batch}", "train.num_epochs=1", "train.checkpoint_every=1",
        f"train.evaluations_per_epoch={args.checkpoints}",
    )  # fmt: skip
    cache, config = args.cache or folder / "cache", folder / "config.json"
    prepared = prepared_of(experiment, cache)
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
    for round_, kind in interleaved(kinds, args.rounds):
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
            spread([1e3 * one["usual step"] for one in mine], ".1f"),
            spread([one["whole"] for one in mine], ".1f"),
            spread([one["more"] for one in mine], ".1f"),
            str(equal[kind]),
        ))  # fmt: skip
    table(rows)


def parse() -> argparse.Namespace:
    parser = config_options("Recovery after a kill.", rounds=3)
    parser.add_argument("--batch", type=int, default=1024, help="rows, on each rank")
    parser.add_argument("--checkpoints", type=int, default=4, help="of the run")
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the runs lie; by default /tmp")
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
        kill(args, Path(folder))


if __name__ == "__main__":
    main()
