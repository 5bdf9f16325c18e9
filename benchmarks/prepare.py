"""Speed and memory of prepare() and of the loader, on the files of the peers' CTR benchmark.

Make the files (platform and figures of the peers: reference ctr.md 5), then run. ``--repeat 10``
reads the training file ten times: more rows of the same vocabulary, to see that memory is flat.

    python ../shared/bench/ctr/gen_criteo_like.py --out .bench/ctr/data --rows 500000
    .venv/bin/python benchmarks/prepare.py --data .bench/ctr/data --loader
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from pathlib import Path

from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prepare import prepare
from recsys.data.source import GivenSplits, Source
from recsys.schema import Categorical, Label, Numeric, Schema


def criteo_schema() -> Schema:
    numbers = [Numeric(name=f"I{i}", log=True, scale="standardize") for i in range(1, 14)]
    ids = [Categorical(name=f"C{i}") for i in range(1, 27)]
    return Schema(features=(*numbers, *ids), labels=(Label(name="label"),))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path(".bench/ctr/data"))
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv")
    parser.add_argument("--repeat", type=int, default=1, help="read the training file so often")
    parser.add_argument("--loader", action="store_true", help="measure the loader too")
    arguments = parser.parse_args()
    sources = {}
    for split in ("train", "valid"):
        file = str(arguments.data / f"{split}.{arguments.format}")
        repeat = arguments.repeat if split == "train" else 1
        sources[split] = Source(files=(file,) * repeat, format=arguments.format)
    cache = Path(tempfile.mkdtemp(prefix="recsys-bench-"))
    imports = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    prepared = prepare(criteo_schema(), GivenSplits(**sources), cache)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rows = sum(prepared.split_rows.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = sum(path.stat().st_size for path in prepared.directory.rglob("*") if path.is_file())
    print(
        f"prepare: {rows:,} rows, {wall:.2f} s wall, {cpu:.2f} CPU-s, "
        f"{rows / cpu:,.0f} rows/CPU-s, {rows / wall:,.0f} rows/s, "
        f"peak RSS {peak / 2**20:.2f} GiB ({imports / 2**20:.2f} after imports), "
        f"{sum(prepared.schema.num_embeddings().values()):,} table rows, "
        f"{size / 1e6:.0f} MB written"
    )
    if arguments.loader:
        for shuffle in (False, True):
            loader = BatchLoader(prepared, "train", LoaderConfig(shuffle=shuffle))
            for _ in range(2):
                wall, cpu = time.perf_counter(), time.process_time()
                count = sum(batch.batch_size for batch in loader)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            print(
                f"loader shuffle={shuffle}: {count / wall:,.0f} rows/s, "
                f"{count / cpu:,.0f} rows/CPU-s"
            )
    shutil.rmtree(cache)


if __name__ == "__main__":
    main()
