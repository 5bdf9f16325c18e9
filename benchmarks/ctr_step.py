"""Where the CPU time of one CTR training step goes, against the raw kernels run alone.

    .venv/bin/python benchmarks/ctr_step.py                       # DeepFM, 26 tables x 100k x 16
    .venv/bin/python benchmarks/ctr_step.py --model DLRM --precision bf16
    .venv/bin/python benchmarks/ctr_step.py --kind adam --uniform

Every part is measured in process CPU time and reported as the median over `--steps` batches.
The raw kernels read the same indices and multiply matrices of the same sizes: FBGEMM's fused
tables, torch's embedding_bag, a plain gather and copy of as many bytes, and bare matrix products.
"""

import argparse
import contextlib
import functools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch.nn import functional

from recsys.base import CTRModel
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prepare import prepare
from recsys.data.source import GivenSplits, Source
from recsys.embeddings import kernels
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.layers.mlp import MLPConfig
from recsys.models.ctr.deep_fm import DeepFM
from recsys.models.ctr.dlrm import DLRM
from recsys.schema import Categorical, Label, Numeric, Schema
from recsys.types import Batch

FUSED = {
    "sgd": EmbOptimType.EXACT_SGD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
}


class CpuTimes:
    """CPU milliseconds of named parts, one sample a step."""

    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = defaultdict(list)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds the CPU time of the block to a part."""
        start = time.process_time()
        yield
        self.samples[name].append(1e3 * (time.process_time() - start))

    def median(self, name: str) -> float:
        """Median of a part."""
        return statistics.median(self.samples[name]) if name in self.samples else float("nan")


def schema(args: argparse.Namespace) -> Schema:
    numbers = [Numeric(name=f"I{i}") for i in range(args.dense)]
    ids = [
        Categorical(name=f"C{i}", dtype="int", num_embeddings=args.rows) for i in range(args.tables)
    ]
    return Schema(features=(*numbers, *ids), labels=(Label(name="label"),))


def draw_indices(args: argparse.Namespace, count: int, seed: int) -> np.ndarray:
    """Bounded Zipf over shuffled rows, or uniform."""
    random = np.random.default_rng(seed)
    if args.uniform:
        return random.integers(2, args.rows, count, dtype=np.int32)
    ranks = np.exp(random.random(count) * np.log(args.rows - 2)).astype(np.int64)
    return (2 + (ranks * 2654435761) % (args.rows - 2)).astype(np.int32)


def make_batches(args: argparse.Namespace, keys: tuple[str, ...]) -> list[Batch]:
    size, generator = args.batch_size, torch.Generator().manual_seed(0)
    return [
        Batch(
            dense=torch.randn(size, args.dense, generator=generator),
            values=torch.from_numpy(draw_indices(args, len(keys) * size, seed)),
            lengths=torch.ones(len(keys) * size, dtype=torch.int32),
            labels=torch.randint(0, 2, (size, 1), generator=generator).float(),
            keys=keys,
            value_counts=(size,) * len(keys),
        )
        for seed in range(8)
    ]


def time_steps(model: CTRModel, batches: list[Batch], args: argparse.Namespace) -> CpuTimes:
    """Whole training steps, split by what runs."""
    times = CpuTimes()
    config = EmbeddingOptimizerConfig(kind=args.kind, mode=args.mode)
    tables = model.embeddings.attach_optimizer(config)
    owned = {id(parameter) for parameter in model.embeddings.table_parameters()}
    dense = [parameter for parameter in model.parameters() if id(parameter) not in owned]
    optimizer = torch.optim.Adam(dense, fused=True)
    lookup = model.embeddings.forward

    def timed_lookup(batch: Batch) -> object:
        with times.part("lookup"):
            return lookup(batch)

    model.embeddings.forward = timed_lookup  # type: ignore[method-assign]
    for step in range(args.steps + 5):
        if step == 5:
            times.samples.clear()  # warm-up
        batch = batches[step % len(batches)]
        with times.part("step"):
            optimizer.zero_grad()
            tables.zero_grad()
            with (
                times.part("forward"),
                torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"),
            ):
                loss = model.loss(model(batch), batch).mean()
            with times.part("dense backward"):
                loss.backward()
            with times.part("table update"):
                tables.step()
            with times.part("dense optimizer"):
                optimizer.step()
    pairs = zip(times.samples["forward"], times.samples["lookup"])
    times.samples["dense forward"] = [whole - part for whole, part in pairs]
    return times


def time_loader(args: argparse.Namespace, described: Schema) -> float:
    """Milliseconds a batch to read prepared data, prefetch thread included."""
    rows = args.batch_size * 16
    columns = {f"I{i}": np.random.rand(rows).astype(np.float32) for i in range(args.dense)}
    columns |= {f"C{i}": draw_indices(args, rows, i) for i in range(args.tables)}
    columns["label"] = np.arange(rows) % 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.parquet"
        pq.write_table(pa.table(columns), path)
        source = Source(files=(str(path),), format="parquet")
        prepared = prepare(described, GivenSplits(train=source), Path(folder) / "prepared")
        config = LoaderConfig(batch_size=args.batch_size, shuffle=True)
        samples = []
        for _ in range(3):
            start = time.process_time()
            count = sum(1 for _ in BatchLoader(prepared, "train", config))
            samples.append(1e3 * (time.process_time() - start) / count)
    return min(samples)


def repeat(run: Callable[[int], object], steps: int) -> float:
    """Median CPU milliseconds of a call, after a warm-up."""
    times = CpuTimes()
    for step in range(steps + 3):
        with times.part("run"):
            run(step)
    return statistics.median(times.samples["run"][3:])


def raw_tables(batches: list[Batch], args: argparse.Namespace) -> dict[str, float]:
    """The embedding kernels alone, on the same indices."""
    count, dim, size = args.tables, args.dim, args.batch_size
    flat = torch.randn(count * args.rows, dim)
    first = (torch.arange(count) * args.rows).repeat_interleave(size)
    rows = [batch.values.long() + first for batch in batches]
    offsets, out = torch.arange(count * size), torch.empty(count * size, dim)
    source, gradient = torch.randn_like(out), torch.randn(size, count * dim)
    found = {
        "copy of the looked-up bytes": repeat(lambda i: out.copy_(source), args.steps),
        "torch.index_select of the rows": repeat(
            lambda i: torch.index_select(flat, 0, rows[i % 8], out=out), args.steps
        ),
        "torch embedding_bag, forward": repeat(
            lambda i: functional.embedding_bag(rows[i % 8], flat, offsets, mode="sum"), args.steps
        ),
    }
    if args.kind not in FUSED:
        return found
    shapes = [(args.rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)] * count
    fused = SplitTableBatchedEmbeddingBagsCodegen(
        shapes, optimizer=FUSED[args.kind], learning_rate=0.02
    )
    times, bounds = CpuTimes(), torch.arange(count * size + 1)
    for step in range(args.steps + 3):
        values = batches[step % 8].values.long()
        with times.part("forward"):
            output = fused(values, bounds)
        with times.part("update"):
            output.backward(gradient)
    found["fbgemm fused tables, forward"] = times.median("forward")
    found[f"fbgemm fused tables, update ({args.kind})"] = times.median("update")
    return found


def raw_products(model: CTRModel, args: argparse.Namespace) -> dict[str, float]:
    """The matrix products of the model's linear layers, nothing else."""
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    pairs = [
        (torch.randn(args.batch_size, layer.in_features, dtype=dtype), layer.weight.to(dtype))
        for layer in layers
    ]
    pairs = [(inputs, weight.detach()) for inputs, weight in pairs]
    outputs = [inputs @ weight.T for inputs, weight in pairs]

    def forward(_: int) -> None:
        for inputs, weight in pairs:
            torch.mm(inputs, weight.T)

    def backward(_: int) -> None:
        for (inputs, weight), output in zip(pairs, outputs):
            torch.mm(output, weight)
            torch.mm(output.T, inputs)

    return {
        "matrix products, forward": repeat(forward, args.steps),
        "matrix products, backward": repeat(backward, args.steps),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=("DeepFM", "DLRM"), default="DeepFM")
    parser.add_argument("--kind", default="rowwise_adagrad")
    parser.add_argument("--mode", choices=("sparse", "dense"), default="sparse")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--tables", type=int, default=26)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--dense", type=int, default=13)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--uniform", action="store_true", help="uniform indices, not Zipf")
    parser.add_argument("--torch-tables", action="store_true", help="without the C kernels")
    return parser.parse_args()


def build(args: argparse.Namespace, described: Schema) -> CTRModel:
    layers = MLPConfig(hidden_units=(256, 128))
    if args.model == "DeepFM":
        return DeepFM(DeepFM.Config(embedding_dim=args.dim, mlp=layers), described)
    bottom = MLPConfig(hidden_units=(64,))
    config = DLRM.Config(embedding_dim=args.dim, bottom_mlp=bottom, top_mlp=layers)
    return DLRM(config, described)


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    if args.torch_tables:
        kernels.library = functools.cache(lambda: None)  # type: ignore[assignment]
    described = schema(args)
    model = build(args, described)
    batches = make_batches(args, described.keys)
    distinct = sum(len(part.unique()) for part in batches[0].values.view(args.tables, -1))
    times = time_steps(model, batches, args)
    loader = time_loader(args, described)
    whole = times.median("step") + loader
    compiled = "C kernels" if kernels.library() else "torch operations"
    print(
        f"{args.model}, {args.tables} tables x {args.rows:_} x {args.dim}, batch "
        f"{args.batch_size}, {args.kind} ({args.mode}, {compiled}), {args.precision}, "
        f"{args.threads} thread(s); distinct rows {distinct / batches[0].values.numel():.0%}"
    )
    print(f"{'part of a step':40} {'CPU-ms':>8} {'share':>6}")
    parts = ("lookup", "dense forward", "dense backward", "table update", "dense optimizer")
    for name in parts:
        print(f"{name:40} {times.median(name):8.2f} {times.median(name) / whole:6.0%}")
    print(f"{'loader':40} {loader:8.2f} {loader / whole:6.0%}")
    print(f"{'all':40} {whole:8.2f}        {1e3 * args.batch_size / whole:_.0f} rows/CPU-s")
    print(f"\n{'raw kernels alone':40} {'CPU-ms':>8}")
    for name, value in {**raw_tables(batches, args), **raw_products(model, args)}.items():
        print(f"{name:40} {value:8.2f}")


if __name__ == "__main__":
    main()
