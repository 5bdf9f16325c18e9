"""Plans for torchrec: by hand on CPU, by torchrec's planner on CUDA.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import distributed, nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.sharding_plan import (
    column_wise,
    construct_module_sharding_plan,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import ModuleSharder, ShardingPlan

from recsys.embeddings.optimizer import STATES, EmbeddingOptimizerConfig
from recsys.embeddings.sharding import ALIGN, Placement, TablePlan, place
from recsys.embeddings.store import PhysicalTable
from recsys.errors import ShardingError


def padded(dim: int) -> int:
    """The width a table of this width is stored with."""
    return -(-dim // ALIGN) * ALIGN


def stored_name(table: PhysicalTable) -> str:
    """Name inside torchrec, where dots separate modules and ``@`` features from tables."""
    return table.name.replace(".", "/", 1).replace("@", "/", 1)


def table_of(path: str) -> str:
    """``<group>.<table>`` of a parameter's path in torchrec, ``ebc.embedding_bags.g/t.weight``."""
    return path.removesuffix(".weight").rsplit(".", 1)[-1].replace("/", ".", 1).replace("/", "@", 1)


def sharders() -> list[ModuleSharder[Any]]:
    """Stock sharders; an index outside its table is fatal, not silent."""
    fused = {"bounds_check_mode": BoundsCheckMode.FATAL}
    return [EmbeddingBagCollectionSharder(dict(fused)), EmbeddingCollectionSharder(dict(fused))]


def stored_bytes(table: PhysicalTable, config: EmbeddingOptimizerConfig) -> int:
    """Bytes of weights and optimizer state of one table, over all ranks."""
    rows, dim = table.spec.num_embeddings, padded(table.spec.embedding_dim)
    state = 1 if config.kind == "rowwise_adagrad" else dim
    return 4 * rows * (dim + state * len(STATES[config.kind]))


def make_plan(
    modules: dict[str, nn.Module],
    tables: Sequence[PhysicalTable],
    config: EmbeddingOptimizerConfig,
    placement: str,
    device: torch.device,
) -> tuple[TablePlan, ShardingPlan]:
    """Places every table.

    Args:
        modules: torchrec modules on meta, by name in their parent.
        tables: What they hold.
        config: Decides the state's size and the kernel.
        placement: ``auto``, ``row_wise``, ``table_wise`` or ``column_wise`` (CPU).
        device: Where the shards live.

    Returns:
        The plan to print and the one for torchrec.
    """
    world = distributed.get_world_size()
    sizes = [stored_bytes(table, config) for table in tables]
    if device.type == "cuda":
        return _planned(modules, tables, sizes, world)
    force = None if placement == "auto" else placement
    if force == "column_wise" and config.kind == "rowwise_adagrad":
        raise ShardingError(
            "placement=column_wise with kind=rowwise_adagrad would be another algorithm (one "
            "number a row on every rank). Use kind=adagrad or sgd, or row_wise."
        )
    plan = place(tables, sizes, world, force)  # type: ignore[arg-type]
    kernel = "dense" if config.mode == "dense" else "fused"
    by_name = {table.name: stored_name(table) for table in tables}
    rules = {by_name[item.table]: _rule(item, kernel) for item in plan.placements}
    bags, rows = sharders()
    made = {}
    for name, module in modules.items():
        held = {key.split(".")[-2] for key, _ in module.named_parameters()}
        made[name] = construct_module_sharding_plan(
            module,
            {table: rule for table, rule in rules.items() if table in held},
            sharder=bags if name == "ebc" else rows,
            local_size=world,
            world_size=world,
            device_type=device.type,
        )
    return plan, ShardingPlan(made)


def _rule(item: Placement, kernel: str) -> Any:
    """A placement in torchrec's words."""
    if item.kind == "row_wise":
        return row_wise(compute_kernel=kernel)
    if item.kind == "column_wise":
        return column_wise(ranks=list(item.ranks), compute_kernel=kernel)
    return table_wise(rank=item.ranks[0], compute_kernel=kernel)


def _planned(
    modules: dict[str, nn.Module], tables: Sequence[PhysicalTable], sizes: list[int], world: int
) -> tuple[TablePlan, ShardingPlan]:
    """Torchrec's own planner, for CUDA."""
    parent = nn.Module()
    for name, module in modules.items():
        parent.add_module(name, module)
    planner = EmbeddingShardingPlanner(topology=Topology(world_size=world, compute_device="cuda"))
    plan = planner.collective_plan(parent, sharders(), distributed.group.WORLD)
    found = {
        table_of(table): choice
        for module in plan.plan.values()
        for table, choice in cast(dict[str, Any], module).items()
    }
    placements = []
    for table, size in zip(tables, sizes):
        choice = found[table.name]
        ranks = tuple(choice.ranks or range(world))
        placements.append(Placement(table.name, choice.sharding_type, ranks, size))
    return TablePlan(tuple(placements), world), plan
