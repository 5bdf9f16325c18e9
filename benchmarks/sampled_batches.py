"""A step of LightGCN over drawn neighbours against one over the whole graph, by size of the graph.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/sampled_batches.py
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/sampled_batches.py --nodes 100000,1000000

Random graphs of half users, half items, ten edges a node, popular items more often; batch 2,048,
d = 64. The whole graph has three layers and dense Adam; drawn neighbours have fan-outs 10, 5, 5 or
5, 3, and row-wise Adagrad on the rows they touch; matrix factorization, without neighbours, too.
CPU milliseconds of a step (median), and the peak memory of the process that trains.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

import torch

from printing import QUIET, machine, say, table
from recsys.cf_config import CFEmbeddingConfig, CFTrainConfig, RankingConfig
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.sampling import PairLoader
from recsys.models.graph.light_gcn import LightGCN
from recsys.models.graph.mf_bpr import MFBPR
from recsys.train.backend import attach_tables
from recsys.train.ranking_task import RankingTask
from recsys.train.ranks import Ranks
from recsys.train.step import TrainStep

EDGES_A_NODE = 5  # of the pairs; every pair is an edge of two nodes


def graph_of(nodes: int) -> InteractionGraph:
    """Pairs in the order of users and items."""
    generator, half = torch.Generator().manual_seed(0), nodes // 2
    user = torch.arange(half).repeat_interleave(2 * EDGES_A_NODE)
    item = (half * torch.rand(len(user), generator=generator) ** 2).long()
    keys = torch.unique(user * half + item)
    return InteractionGraph(half, half, keys // half, keys % half)


CASES = {"whole": None, "drawn 10, 5, 5": (10, 5, 5), "drawn 5, 3": (5, 3), "none": None}
"""Fan-outs by what a step is over."""


def measure(nodes: int, case: str, steps: int) -> None:
    """Prints milliseconds of a step and GiB at the peak."""
    torch.set_num_threads(1)
    graph, fanouts = graph_of(nodes), CASES[case]
    model: LightGCN | MFBPR = MFBPR(MFBPR.Config(), graph)
    if case != "none":
        layers = len(fanouts) if fanouts else 3
        model = LightGCN(LightGCN.Config(num_layers=layers, fanouts=fanouts), graph)
    model.reset_parameters(0)
    config = CFEmbeddingConfig()
    if case != "whole":
        config = CFEmbeddingConfig(kind="rowwise_adagrad", mode="sparse", learning_rate=0.05)
    tables, ranks = attach_tables(model, config, "local"), Ranks.current()
    step = TrainStep(RankingTask(model, CFTrainConfig(), RankingConfig(), tables, ranks),
                     tables, ranks)  # fmt: skip
    model.train()
    times = []
    for number, batch in enumerate(PairLoader(graph, batch_size=2048)):
        start = time.process_time()
        step(batch, 1.0)
        times.append(1000 * (time.process_time() - start))
        if number + 1 == steps:
            break
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{graph.num_edges} {statistics.median(times):.1f} {peak:.2f}")


def main() -> None:
    """Every case in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", default="100000,1000000,4000000", help="comma between them")
    parser.add_argument("--steps", type=int, default=8, help="of each case")
    parser.add_argument("--one", help="used by the benchmark itself")
    args = parser.parse_args()
    if args.one:
        nodes, _, case = args.one.partition(":")
        measure(int(nodes), case, args.steps)
        return
    print(machine())
    rows = [("nodes", "pairs", "step over", "CPU ms", "peak GiB")]
    for nodes in map(int, args.nodes.split(",")):
        for case in CASES:
            say(f"{nodes:,} nodes, {case}")
            command = [sys.executable, __file__, "--steps", str(args.steps)]
            output = subprocess.run(
                [*command, "--one", f"{nodes}:{case}"], capture_output=True, text=True, check=True,
                env={**os.environ, **QUIET},
            ).stdout  # fmt: skip
            edges, cpu, peak = output.split()
            rows.append((f"{nodes:,}", f"{int(edges):,}", case, cpu, peak))
    table(rows)


if __name__ == "__main__":
    main()
