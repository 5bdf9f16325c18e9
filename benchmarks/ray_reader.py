"""Rows a second of our reader and of Ray Data, on the same prepared rows.

    python benchmarks/ray_reader.py
    python benchmarks/ray_reader.py --rows 2000000 --rounds 3

Both read one epoch of a prepared split, in shuffled order, in batches of the same size, in one
process that does nothing else: `BatchLoader` gives ready batches of tensors; Ray Data gives Arrow
batches (`iter_batches`, local shuffle buffer as large as the loader's), which our `RowBlock` then
makes the same tensors of. The first batch is timed apart: Ray Data starts tasks on the cluster
first. Rounds are interleaved. The Ray cluster is started before and not timed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import ray
import ray.data

from recsys.data.blocks import RowBlock
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prepare import prepare
from recsys.data.prepared import Prepared
from recsys.datasets.synthetic import Synthetic
from recsys.types import Batch


def ours(prepared: Prepared, config: LoaderConfig) -> Iterator[Batch]:
    """One epoch of `BatchLoader`."""
    yield from BatchLoader(prepared, "train", config)


def with_ray(prepared: Prepared, config: LoaderConfig) -> Iterator[Batch]:
    """One epoch of Ray Data."""
    rows = ray.data.read_parquet(str(prepared.path("train")))
    batches = rows.iter_batches(
        batch_size=config.batch_size,
        batch_format="pyarrow",
        local_shuffle_buffer_size=config.buffer_rows,
        local_shuffle_seed=config.seed,
        prefetch_batches=config.prefetch,
    )
    for table in batches:
        assert isinstance(table, pa.Table)
        yield RowBlock.from_table(table, prepared.schema).to_batch()


def timed(make: Callable[[], Iterator[Batch]]) -> tuple[float, float, int]:
    """Seconds to the first batch and to the end, and rows."""
    start = time.perf_counter()
    rows, first = 0, 0.0
    for batch in make():
        first = first or time.perf_counter() - start
        rows += batch.batch_size
    return first, time.perf_counter() - start, rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    config = LoaderConfig(batch_size=args.batch_size, shuffle=True)
    with tempfile.TemporaryDirectory() as folder:
        data = Synthetic.Config(num_rows=args.rows, valid_rows=1000, test_rows=1000)
        dataset = Synthetic(data)
        cache = Path(folder)
        prepared = prepare(dataset.schema(), dataset.splits(cache), cache / "prepared")
        ray.init(address="local", include_dashboard=False, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        readers = {"BatchLoader": ours, "Ray Data": with_ray}
        found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in readers}
        for number in range(args.rounds):
            for name, reader in readers.items():
                found[name].append(timed(lambda read=reader: read(prepared, config)))
                first, total, rows = found[name][-1]
                print(f"round {number + 1}: {name} {rows / total:,.0f} rows/s", flush=True)
        ray.shutdown()
    print(f"\n{args.rows:,} rows, batches of {args.batch_size:,}, median of {args.rounds} rounds\n")
    print("| reader | first batch s | epoch s | rows/s |\n|---|---|---|---|")
    for name, times in found.items():
        first = statistics.median(time[0] for time in times)
        total = statistics.median(time[1] for time in times)
        print(f"| {name} | {first:.2f} | {total:.2f} | {times[0][2] / total:,.0f} |")


if __name__ == "__main__":
    main()
