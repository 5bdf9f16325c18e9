"""Plans for torchrec: by hand on CPU, by torchrec's planner on CUDA.

Stability: experimental
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Sequence
from typing import Any, cast

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import distributed, nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError
from torchrec.distributed.sharding_plan import (
    column_wise,
    construct_module_sharding_plan,
    data_parallel,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import ModuleSharder, ShardingPlan

from recsys.embeddings.host_memory import free_memory
from recsys.embeddings.optimizer import STATES, EmbeddingOptimizerConfig
from recsys.embeddings.sharding import ALIGN, Placement, ShardingConfig, TablePlan, place
from recsys.embeddings.store import PhysicalTable
from recsys.errors import ShardingError

_TABLE_SHARE = 0.8  # of a host's free memory; the rest is for activations, batches and the system

_COLUMNS = ("column_wise", "table_column_wise", "grid_shard")
_WHOLE_ROWS = ("data_parallel", "table_wise", "row_wise", "table_row_wise")


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
    sharding: ShardingConfig,
    device: torch.device,
) -> tuple[TablePlan, ShardingPlan]:
    """Places every table. Collective.

    Args:
        modules: torchrec modules on meta, by name in their parent.
        tables: What they hold.
        config: Decides the state's size and the kernel.
        sharding: Rules and memory.
        device: Where the shards live.

    Returns:
        The plan to print and the one for torchrec.

    Raises:
        ShardingError: The tables do not fit, or a rule cannot be kept.
    """
    world = distributed.get_world_size()
    sizes = [stored_bytes(table, config) for table in tables]
    hosts = _hosts(sharding, device)
    if device.type == "cuda":
        sharding.check_names(tables)
        return _planned(modules, tables, sizes, config, sharding, hosts)
    cheaper = {}
    if config.mode == "sparse" and config.kind == "adagrad":
        lean = config.model_copy(update={"kind": "rowwise_adagrad"})
        cheaper["kind=rowwise_adagrad"] = sum(stored_bytes(table, lean) for table in tables)
    plan = place(tables, sizes, world, sharding, hosts.rank_memory, cheaper)
    _check_kinds(plan, modules, config)
    kernel = "dense" if config.mode == "dense" else "fused"
    by_name = {table.name: stored_name(table) for table in tables}
    rules = {by_name[item.table]: _rule(item, kernel) for item in plan.placements}
    bags, rows = sharders()
    made = {}
    for name, module in modules.items():
        held = _held(module)
        made[name] = construct_module_sharding_plan(
            module,
            {table: rule for table, rule in rules.items() if table in held},
            sharder=bags if name == "ebc" else rows,
            local_size=world,
            world_size=world,
            device_type=device.type,
        )
    return plan, ShardingPlan(made)


def _held(module: nn.Module) -> set[str]:
    """Names of a module's tables inside torchrec."""
    return {key.split(".")[-2] for key, _ in module.named_parameters()}


def _check_kinds(
    plan: TablePlan, modules: dict[str, nn.Module], config: EmbeddingOptimizerConfig
) -> None:
    """Refuses what torchrec cannot do, or does as another algorithm."""
    unpooled = {
        table for name, module in modules.items() if name != "ebc" for table in _held(module)
    }
    for item in plan.placements:
        _check_columns(item.table, item.kind, config)
        stored = item.table.replace(".", "/", 1).replace("@", "/", 1)
        if item.kind == "data_parallel" and stored in unpooled:
            raise ShardingError(
                f"table `{item.table}` is read row by row, which torchrec cannot do with "
                "data_parallel tables. Use table_wise or row_wise."
            )


def _check_columns(table: str, kind: str, config: EmbeddingOptimizerConfig) -> None:
    """Refuses parts of rows where the optimizer has one number a row."""
    if kind in _COLUMNS and config.kind == "rowwise_adagrad":
        raise ShardingError(
            f"table `{table}`: {kind} with kind=rowwise_adagrad would be another algorithm (one "
            "number a row on every rank). Use kind=adagrad or sgd, or row_wise."
        )


def _rule(item: Placement, kernel: str) -> Any:
    """A placement in torchrec's words."""
    if item.kind == "data_parallel":
        return data_parallel()
    if item.kind == "row_wise":
        return row_wise(compute_kernel=kernel)
    if item.kind == "column_wise":
        return column_wise(ranks=list(item.ranks), compute_kernel=kernel)
    return table_wise(rank=item.ranks[0], compute_kernel=kernel)


@dataclasses.dataclass(frozen=True, slots=True)
class Hosts:
    """The machines of a job.

    Args:
        names: Host of every rank.
        rank_memory: Bytes that tables may take on every rank; None where nobody knows.
    """

    names: tuple[str, ...]
    rank_memory: tuple[int, ...] | None

    @property
    def local_size(self) -> int:
        """Ranks on the first rank's host."""
        return self.names.count(self.names[0])


def _hosts(sharding: ShardingConfig, device: torch.device) -> Hosts:
    """Asks every rank for its host and what it has free."""
    free = free_memory()
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    mine = socket.gethostname(), free
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, mine)
    names = tuple(name for name, _ in found)
    if sharding.rank_memory is not None:
        return Hosts(names, (sharding.rank_memory,) * len(names))
    if any(free is None for _, free in found):
        return Hosts(names, None)
    if device.type == "cuda":
        return Hosts(names, tuple(free for _, free in found))
    least = {name: min(free for other, free in found if other == name) for name in names}
    shares = (int(_TABLE_SHARE * least[name]) // names.count(name) for name in names)
    return Hosts(names, tuple(shares))


def _planned(
    modules: dict[str, nn.Module],
    tables: Sequence[PhysicalTable],
    sizes: list[int],
    config: EmbeddingOptimizerConfig,
    sharding: ShardingConfig,
    hosts: Hosts,
) -> tuple[TablePlan, ShardingPlan]:
    """Torchrec's own planner, for CUDA."""
    parent, world = nn.Module(), len(hosts.names)
    for name, module in modules.items():
        parent.add_module(name, module)
    constraints = {}
    for table in tables:
        rule = sharding.rule_of(table)
        kind = sharding.placement if rule is None else rule.kind
        if rule is not None and rule.ranks is not None:
            raise ShardingError(
                f"embedding.sharding, table `{table.name}`: torchrec's planner chooses the ranks "
                f"on GPU, got ranks={list(rule.ranks)}. Leave `ranks` out."
            )
        _check_columns(table.name, kind, config)
        if kind != "auto":
            dim = padded(table.spec.embedding_dim)
            constraints[stored_name(table)] = ParameterConstraints(
                sharding_types=[kind],
                min_partition=max(ALIGN, dim // world) if kind in _COLUMNS else None,
            )
        elif config.kind == "rowwise_adagrad":
            constraints[stored_name(table)] = ParameterConstraints(sharding_types=list(_WHOLE_ROWS))
    memory = hosts.rank_memory
    planner = EmbeddingShardingPlanner(
        topology=Topology(
            world_size=world,
            compute_device="cuda",
            local_world_size=hosts.local_size,
            hbm_cap=min(memory) if memory is not None else None,
        ),
        constraints=constraints,
    )
    try:
        plan = planner.collective_plan(parent, sharders(), distributed.group.WORLD)
    except PlannerError as error:
        raise ShardingError(
            f"torchrec's planner found no place for the tables: they take {sum(sizes):,} bytes "
            f"with optimizer state, and {world} ranks have {min(memory or (0,)):,} each. Lower "
            "`model.compression.ratio`, use more ranks, or fewer rules. It says: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
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
