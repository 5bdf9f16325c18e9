"""How benchmarks of several ranks are run and what they print: the machine, progress, tables.

Import it by its bare name: a benchmark is run as a script, so its own folder is searched first.
"""

import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "TORCH_LOGS": "-all"}
"""Environment of every process: one thread a rank, no warnings."""


def processor() -> str:
    """Its name, as the system has it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((s.partition(":")[2].strip() for s in lines if s.startswith("model name")), "?")


def machine() -> str:
    """A line about where this runs."""
    return (
        f"machine: {os.cpu_count()} cores ({processor()}), torch {torch.__version__}, "
        f"1 torch thread a rank, {platform.system()} {platform.release()}, "
        f"load before the first run {os.getloadavg()[0]:.1f}"
    )


def say(text: str) -> None:
    """A progress line."""
    print(f"  {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def interleaved(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Every name once a round, every second round backwards."""
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            yield number, name


def spread(values: Sequence[float], form: str) -> str:
    """Median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def table(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows under their head, columns aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip(), flush=True)
