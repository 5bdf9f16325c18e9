"""The sharded store: torchrec modules built on meta, placed by a plan, FBGEMM underneath.

The only file besides ``torchrec_optimizer.py`` that imports torchrec. What torchrec leaves open is
closed here: output order never depends on the plan, the optimizer is always stated, widths may be
any number (FBGEMM wants multiples of 4), ranks must bring batches of equal size.

Stability: experimental
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torchrec
from torch import Tensor, distributed, nn
from torch._C._distributed_c10d import HashStore
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingEnv
from torchrec.modules.embedding_modules import get_embedding_names_by_table

from recsys.embeddings import start_values
from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.combined_optimizer import combine
from recsys.embeddings.ids import Ids, pool
from recsys.embeddings.optimizer import EmbeddingOptimizer, EmbeddingOptimizerConfig
from recsys.embeddings.parts import TensorPart
from recsys.embeddings.sharding import ALIGN, ShardingConfig
from recsys.embeddings.store import LocalStore, Lookup, PhysicalTable
from recsys.embeddings.torchrec_optimizer import (
    Shard,
    TorchrecOptimizer,
    check_supported,
    gradient_scale,
    local_parts,
    pad_rows,
    state_in_backward,
    zero_rows,
)
from recsys.embeddings.torchrec_plan import (
    make_plan,
    padded,
    sharders,
    stored_name,
    table_of,
)
from recsys.embeddings.torchrec_rows import mend_dense_rows
from recsys.embeddings.torchrec_tables import ShardedTables, to_kjt
from recsys.errors import ShardingError
from recsys.schema import PAD_INDEX

_FILL_ROWS = 1 << 16  # rows whose start values are made at a time


@dataclasses.dataclass(frozen=True, slots=True)
class ShardingOptions:
    """What the sharded backend cannot know by itself.

    Args:
        sharding: How tables are placed. ``column_wise`` is refused with rowwise Adagrad, which
            would keep one number a row and rank: another algorithm.
        unpooled: Tables ``<group>.<table>`` whose rows are read one by one
            (`EmbeddingCollection.sequence`, decoders that are not linear).
        weighted: Whether batches carry ``value_weights``.
    """

    sharding: ShardingConfig = dataclasses.field(default_factory=ShardingConfig)
    unpooled: tuple[str, ...] = ()
    weighted: bool = False


class TorchrecStore(nn.Module):
    """Tables sharded over the ranks of the process group.

    Gradients are averaged over ranks, as DDP does for dense parameters, so equal ranks with a mean
    loss each train like one process with the mean loss of all rows. `weights` and the optimizer's
    ``state_dict`` are collective: call them on every rank.

    Args:
        source: The store to replace; its weights are taken over unless they are on meta.
        keys: Name of every slot.
        config: How tables are trained.
        options: See there.
        device: Where the shards live.

    Shape:
        - as `LocalStore`
    """

    _dmp: DistributedModelParallel

    def __init__(
        self,
        source: LocalStore,
        keys: Sequence[str],
        config: EmbeddingOptimizerConfig,
        options: ShardingOptions,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.tables, self.lookups, self.keys = source.tables, source.lookups, tuple(keys)
        self.by_group, self._options, self._device = source.by_group, options, device
        self.world_size, self.rank = distributed.get_world_size(), distributed.get_rank()
        self.row_lookups, self._kind = source.row_lookups, config.kind
        read = (self.tables[lookup.table].name for lookup in self.row_lookups)
        self._unpooled = {*options.unpooled, *read}
        self._names: dict[Lookup, str] = {}
        self._read: dict[str, Tensor] = {}
        self._read_from: Tensor | None = None
        self.pipelined = False
        """Whether a pipeline sends the indices, and lookups take what it brings."""
        tables = self._on_meta()
        if config.mode == "sparse":
            for path, parameter in tables.named_parameters():
                dim = self.table(table_of(path)).spec.embedding_dim
                state_in_backward(parameter, config, dim)
        modules = dict(tables.named_children())
        self.plan, plan = make_plan(modules, self.tables, config, options.sharding, device)
        kinds = {item.table: item.kind for item in self.plan.placements}
        self.replicated = {name for name, kind in kinds.items() if kind == "data_parallel"}
        """Tables of which every rank holds a copy."""
        # Not a registered submodule: DDP, checkpoints and `.to` of the model must not see it.
        self.__dict__["_dmp"] = DistributedModelParallel(
            tables,
            env=ShardingEnv.from_process_group(distributed.distributed_c10d._get_default_group()),
            device=device,
            plan=plan,
            sharders=sharders(),
        )
        mend_dense_rows(self._dmp)
        if any(source.flat(dim).is_meta for dim in source.dims):
            self.fill(seed=0)
        else:
            self.load_weights({name: w.detach() for name, w in source.weights().items()})

    # ------------------------------------------------------------------------------- building

    def table(self, name: str) -> PhysicalTable:
        """The table called ``<group>.<table>``."""
        return next(table for table in self.tables if table.name == name)

    def is_unpooled(self, table: PhysicalTable) -> bool:
        """Whether rows of a table are read one by one."""
        return table.name in self._unpooled

    def _on_meta(self) -> ShardedTables:
        bags, rows = [], []
        owners: dict[str, list[Lookup]] = {}
        for position, table in enumerate(self.tables):
            mine = [look for look in (*self.lookups, *self.row_lookups) if look.table == position]
            owners[stored_name(table)] = mine = list(dict.fromkeys(mine))
            common = {
                "name": stored_name(table),
                "embedding_dim": padded(table.spec.embedding_dim),
                "num_embeddings": table.spec.num_embeddings,
                "feature_names": [self.keys[lookup.slot] for lookup in mine],
            }
            if self.is_unpooled(table):
                rows.append(torchrec.EmbeddingConfig(**common))
            else:  # always sums: means are made here, alike for every sharding and with weights
                pooling = torchrec.PoolingType.SUM
                bags.append(torchrec.EmbeddingBagConfig(pooling=pooling, **common))
        tables = ShardedTables(bags, rows, self._options.weighted)
        for configs in tables.configs():
            for config, names in zip(configs, get_embedding_names_by_table(configs)):
                if isinstance(config, torchrec.EmbeddingConfig):
                    # Names are unique in a collection only, and there is one a width.
                    names = [f"ec{config.embedding_dim}/{name}" for name in names]
                self._names.update(zip(owners[config.name], names))
        return tables

    # ------------------------------------------------------------------------------- lookup

    def pooled(self, ids: Ids) -> dict[str, Tensor]:
        """Per group (B, sum of widths), in the order of the lookups."""
        bags = self._run(ids)
        result = {}
        for group, lookups in self.by_group.items():
            if any(self._by_row(lookup) for lookup in lookups):
                values = torch.cat([self._column(ids, bags, lookup) for lookup in lookups], dim=1)
            else:
                names = [self._names[lookup] for lookup in lookups]
                values = torchrec.KeyedTensor.regroup([bags], [names])[0]
                values = self._unpad_group(values, lookups)
            result[group] = self._divide(ids, lookups, values)
        return result

    def _column(self, ids: Ids, bags: Any, lookup: Lookup) -> Tensor:
        """The sums of one lookup, from a pooled or an unpooled table."""
        if not self._by_row(lookup):
            return self._unpad(bags[self._names[lookup]], self._dim(lookup))
        rows = self._unpad(self._read[self._names[lookup]], self._dim(lookup))
        one = ids.slot(lookup.slot)
        rows = rows * (one.values != PAD_INDEX).to(rows.dtype).unsqueeze(1)
        return pool(rows, one, mean=False)

    def _divide(self, ids: Ids, lookups: Sequence[Lookup], values: Tensor) -> Tensor:
        """Sums to means, where the table wants them."""
        if not any(lookup.mean for lookup in lookups):
            return values
        lengths = ids.lengths.view(ids.num_slots, -1)
        columns = [
            (lengths[lookup.slot].clamp(min=1) if lookup.mean else torch.ones_like(lengths[0]))
            .unsqueeze(1)
            .expand(-1, self._dim(lookup))
            for lookup in lookups
        ]
        return values / torch.cat(columns, dim=1)

    def rows(self, ids: Ids, lookup: Lookup) -> Tensor:
        """The rows of one lookup, (L of its slot, D).

        Raises:
            ShardingError: Its table was not announced as unpooled.
        """
        table = self.tables[lookup.table]
        if not self.is_unpooled(table):
            raise ShardingError(
                f"table `{table.name}` is read row by row, but was sharded for pooled lookup. "
                f"Pass ShardingOptions(unpooled=('{table.name}',)) to to_torchrec."
            )
        name = self._names[lookup]
        if self._read_from is not ids.values or name not in self._read:
            self._run(ids)
        rows = self._unpad(self._read[name], self._dim(lookup))
        real = ids.slot(lookup.slot).values != PAD_INDEX
        return rows * real.to(rows.dtype).unsqueeze(1)

    def _run(self, ids: Ids) -> Any:
        """One pass through torchrec: the bags are returned, the rows kept for `rows`."""
        if not self.pipelined:  # else it was checked when its indices were sent
            self.check_batch_size(ids.batch_size)()
        outputs = self._dmp(self.kjt(ids))
        bags = outputs.pop("ebc", None)
        self._read = {
            f"{module}/{name}": rows.values()
            for module, found in outputs.items()
            for name, rows in found.items()
        }
        self._read_from = ids.values
        for rows in self._read.values():
            if rows.requires_grad:  # backward updates the tables: what was read is old then
                rows.register_hook(lambda grad: self.forget())
        return bags

    def forget(self) -> None:
        """Drops the rows read for the last batch."""
        self._read, self._read_from = {}, None

    def kjt(self, ids: Ids) -> torchrec.KeyedJaggedTensor:
        """What torchrec looks up."""
        return to_kjt(ids, self.keys, self._options.weighted)

    def check_batch_size(self, size: int) -> Callable[[], None]:
        """Ranks of different batch size crash or hang deep inside torchrec.

        Args:
            size: Of this rank's batch, which the other ranks are told.

        Returns:
            Waits for the others' answer, and raises a ShardingError if sizes differ.
        """
        if self.world_size == 1:
            return lambda: None
        sizes = torch.tensor([size, -size], device=self._device)
        work = distributed.all_reduce(sizes, distributed.ReduceOp.MAX, async_op=True)

        def answer() -> None:
            assert work is not None
            work.wait()
            largest, smallest = int(sizes[0]), -int(sizes[1])
            if largest != smallest:
                raise ShardingError(
                    f"ranks must bring batches of equal size, got {size} rows on rank "
                    f"{self.rank}, {smallest} to {largest} over all. Pad the last batch with rows "
                    "of weight 0 (BatchLoader does it when world_size > 1)."
                )

        return answer

    def _by_row(self, lookup: Lookup) -> bool:
        return self.is_unpooled(self.tables[lookup.table])

    def _dim(self, lookup: Lookup) -> int:
        return self.tables[lookup.table].spec.embedding_dim

    def _unpad(self, values: Tensor, dim: int) -> Tensor:
        self._scale_gradient(values, dim)
        return values[:, :dim]

    def _unpad_group(self, values: Tensor, lookups: Sequence[Lookup]) -> Tensor:
        dims = [self._dim(lookup) for lookup in lookups]
        if len(set(dims)) == 1:
            self._scale_gradient(values, dims[0])
            if dims[0] % ALIGN == 0:
                return values
            return values.view(-1, len(dims), padded(dims[0]))[:, :, : dims[0]].flatten(1)
        parts = values.split([padded(dim) for dim in dims], dim=1)
        return torch.cat([self._unpad(part, dim) for part, dim in zip(parts, dims)], dim=1)

    def _scale_gradient(self, values: Tensor, dim: int) -> None:
        scale = gradient_scale(self._kind, dim)
        if scale != 1.0 and values.requires_grad:
            values.register_hook(lambda grad: grad * scale)

    # ------------------------------------------------------------------------------- storage

    def shards(self) -> dict[str, list[Shard]]:
        """Of every table the parts held here (of padded width), views."""
        return {
            table_of(name): local_parts(value) for name, value in self._dmp.state_dict().items()
        }

    def gather(self, parts: Mapping[str, list[Shard]], whole_rows: bool) -> dict[str, Tensor]:
        """Whole tensors from the parts of all ranks.

        Args:
            parts: As `shards`, or of an optimizer state.
            whole_rows: Whether a row is a vector; else one number.
        """
        result = {}
        for table in self.tables:
            spec = table.spec
            shape = (
                (spec.num_embeddings, spec.embedding_dim) if whole_rows else (spec.num_embeddings,)
            )
            whole = torch.zeros(shape, device=self._device)
            for shard in parts.get(table.name, ()) if self._speaks(table.name) else ():
                rows = whole[shard.row : shard.row + len(shard.values)]
                if whole_rows:
                    values = shard.columns(spec.embedding_dim).detach()
                    rows[:, shard.column : shard.column + values.shape[1]] = values
                else:
                    rows.copy_(shard.values.detach().reshape(-1))
            if self.world_size > 1:
                distributed.all_reduce(whole)
            result[table.name] = whole
        return result

    def parts(self) -> list[TensorPart]:
        """What this rank has to save: its parts without padding, copies on the first rank only."""
        return self.parts_of(self.shards(), "weight", whole_rows=True)

    def parts_of(
        self, shards: Mapping[str, list[Shard]], kind: str, whole_rows: bool
    ) -> list[TensorPart]:
        """Parts of the tables or of one optimizer state.

        Args:
            shards: As `shards`.
            kind: Last word of the names.
            whole_rows: Whether a row is a vector; else one number.
        """
        found = []
        for table in self.tables:
            spec, name = table.spec, f"{table.name}.{kind}"
            for shard in shards.get(table.name, ()) if self._speaks(table.name) else ():
                if whole_rows:
                    size = spec.num_embeddings, spec.embedding_dim
                    values, offsets = shard.columns(spec.embedding_dim), (shard.row, shard.column)
                else:
                    size, offsets = (spec.num_embeddings,), (shard.row,)
                    values = shard.values.reshape(-1)
                found.append(TensorPart(name, offsets, size, values.detach()))
        return found

    def _speaks(self, table: str) -> bool:
        """Whether this rank's parts count where those of all ranks are summed up."""
        return self.rank == 0 or table not in self.replicated

    def weights(self) -> dict[str, Tensor]:
        """Whole tables by ``<group>.<table>``, copies. Collective."""
        return self.gather(self.shards(), whole_rows=True)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copies whole tables in, each rank its part. PAD rows and padding become zero."""
        with torch.no_grad():
            for name, parts in self.shards().items():
                if name not in weights:
                    continue
                for first, column, part in parts:
                    part.zero_()
                    mine = weights[name][first : first + len(part), column : column + part.shape[1]]
                    part[:, : mine.shape[1]] = mine.to(part.device)
        self.zero_pad()
        self.forget()

    def fill(self, seed: int) -> None:
        """Writes the start values, each rank its part."""
        with torch.no_grad():
            for name, parts in self.shards().items():
                table = self.table(name)
                for shard in parts:
                    shard.values.zero_()
                    dim, owner = table.spec.embedding_dim, (table.group, table.spec.name)
                    mine = shard.columns(dim)
                    for start in range(0, len(mine), _FILL_ROWS):  # whole rows, a few at a time
                        some = mine[start : start + _FILL_ROWS]
                        rows = some.new_empty(len(some), dim)
                        first = shard.row + start
                        start_values.fill(rows, table.spec.init, seed, owner, first_row=first)
                        some.copy_(rows[:, shard.column : shard.column + some.shape[1]])
        self.forget()

    def read_rows(self, name: str, rows: Tensor | None = None) -> Tensor:
        """A copy of some rows of a table, or of all. Collective."""
        table = self.table(name)
        if rows is None:
            rows = torch.arange(table.spec.num_embeddings, device=self._device)
        found = torch.zeros(len(rows), table.spec.embedding_dim, device=self._device)
        for shard in self.shards().get(name, ()) if self._speaks(name) else ():
            mine = rows.long() - shard.row
            part = shard.columns(table.spec.embedding_dim).detach()
            here = (mine >= 0) & (mine < len(part))
            found[here, shard.column : shard.column + part.shape[1]] = part[mine[here]]
        if self.world_size > 1:
            distributed.all_reduce(found)
        return found

    def write_rows(self, name: str, rows: Tensor, values: Tensor) -> None:
        """Replaces rows, on each rank those it holds. PAD stays zero."""
        dim = self.table(name).spec.embedding_dim
        with torch.no_grad():
            for shard in self.shards().get(name, ()):
                mine, part = rows.long() - shard.row, shard.columns(dim)
                here = (mine >= 0) & (mine < len(part)) & (rows != PAD_INDEX)
                columns = slice(shard.column, shard.column + part.shape[1])
                part[mine[here]] = values[here, columns].to(part.dtype)
        self.forget()

    def zero_pad(self) -> None:
        """Makes the PAD rows zero again, since torchrec trains them like any other."""
        zero_rows(pad_rows(self.shards().values()))

    def table_bytes(self) -> int:
        """Bytes of the parts held here, padding included."""
        return sum(
            part.numel() * part.element_size()
            for parts in self.shards().values()
            for _, _, part in parts
        )

    def named_table_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parts held here as parameters, by ``<group>.<table>``."""
        for path, parameter in self._dmp.named_parameters():
            yield table_of(path), parameter

    def table_parameters(self) -> list[nn.Parameter]:
        """The parts held here as parameters."""
        return [parameter for _, parameter in self.named_table_parameters()]

    @property
    def sharded(self) -> DistributedModelParallel:
        """The tables as torchrec holds them."""
        return self._dmp

    def fused_optimizer(self) -> Any:
        """Torchrec's optimizer inside backward."""
        return self._dmp.fused_optimizer

    @property
    def device(self) -> torch.device:
        """Where outputs are made."""
        return self._device


def to_torchrec(
    collection: EmbeddingCollection,
    config: EmbeddingOptimizerConfig,
    options: ShardingOptions | None = None,
    device: torch.device | str = "cpu",
) -> EmbeddingOptimizer:
    """Moves a collection's tables to the ranks of the process group, in place.

    Without a process group one of a single rank is started.

    Args:
        collection: On the local store. Tables on meta get start values of seed 0.
        config: How the tables are trained.
        options: What torchrec cannot know by itself.
        device: Where the shards live.

    Returns:
        The optimizer; the plan is ``collection.store.plan``.

    Raises:
        ShardingError: The collection is sharded already, or FBGEMM lacks the optimizer.
    """
    device = torch.device(device)
    check_supported(config, device)
    if not isinstance(collection.store, LocalStore):
        raise ShardingError(
            "the tables are on the torchrec backend already. Build the model anew to place them "
            "again, and load its state dict."
        )
    if not distributed.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    if not collection.store.tables:  # decoders hold everything, alike on every rank
        return combine(config, None, collection.decoders)
    store = TorchrecStore(
        collection.store, collection.slot_names(), config, options or ShardingOptions(), device
    )
    collection.store = store
    return combine(config, TorchrecOptimizer(config, store), collection.decoders)
