"""The one place where models get embeddings from.

Stability: caller
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recsys.embeddings.bounds import check_range
from recsys.embeddings.combined_optimizer import combine
from recsys.embeddings.ids import Ids, ids_of, join, pool
from recsys.embeddings.memory import TableBytes, tensor_bytes
from recsys.embeddings.optimizer import (
    DenseOptimizer,
    EmbeddingOptimizer,
    EmbeddingOptimizerConfig,
)
from recsys.embeddings.packed_store import PackedStore
from recsys.embeddings.parts import TensorPart
from recsys.embeddings.row_format import check_dtype, stored_dtype
from recsys.embeddings.rows import PartRows
from recsys.embeddings.scheme import Decoder, Dtype, Encoder, Full, Part, Scheme, Trained
from recsys.embeddings.sparse_optimizer import SparseOptimizer
from recsys.embeddings.state_checks import MODULES, check_scheme, check_stored
from recsys.embeddings.store import LocalStore, PhysicalTable, Store
from recsys.embeddings.wiring import Output, check_groups, wire
from recsys.errors import CheckpointError, ConfigError, SchemaError, ShardingError, did_you_mean
from recsys.layers.initialization import initialize
from recsys.schema import PAD_INDEX, TableSpec
from recsys.types import Batch, KeyedEmbeddings


class EmbeddingCollection(nn.Module):
    """All embedding tables of a model: named features in, vectors in config order out.

    A *group* is one set of vectors over the features, say ``embedding`` of width 16 and
    ``linear`` of width 1. Output order is the order of ``keys``, whatever the backend, and every
    batch must have exactly these keys.

        y[b, f] = sum_i w_i row(i)         over the indices i of feature f in row b
        y[b, f] / (number of indices)      where the table's pooling is mean

    An empty bag gives zeros. Row 0 (PAD) is zero, is never trained, and counts as an index of
    its bag. A fresh collection is an ordinary module whose tables are parameters;
    `attach_optimizer` hands them to an `EmbeddingOptimizer`.

    Args:
        groups: Tables of every group. Inside a group each feature has one table.
        keys: Features of the batches, in their fixed order.
        device: Where the tables are made. ``meta`` is allowed.
        schemes: How tables named ``<group>.<table>`` are held (resolved schemes, say from
            `recsys.embeddings.compression.plan.compress`); the others are held in full.
        dtype: How rows are stored where the collection is only served. None: fp32 that can be
            trained.

    Shape:
        - input: `Batch` of B rows
        - output: per group `KeyedEmbeddings` (B, sum of the widths of its features)

    Raises:
        SchemaError: A table asks for an unknown feature, a name or a feature occurs twice, a
            group is empty; in forward, the batch has other keys or an index outside its table, or
            an encoder gives rows that its physical table does not have.
        ConfigError: A scheme is not resolved, or does not fit its table.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=4, embedding_dim=2,
        ...                   feature_names=("user",), pooling="sum")
        >>> tables = EmbeddingCollection({"embedding": [table]}, keys=("user",))
        >>> list(tables.state_dict())
        ['embedding.user.weight']
        >>> _ = tables.load_state_dict(
        ...     {"embedding.user.weight": torch.tensor([[0., 0], [1, 1], [2, 3], [4, 5]])})
        >>> batch = Batch(dense=torch.zeros(2, 0), values=torch.tensor([2, 3, 0]),
        ...               lengths=torch.tensor([2, 1]), labels=torch.zeros(2, 1),
        ...               keys=("user",), value_counts=(3,))
        >>> tables(batch)["embedding"]["user"].tolist()
        [[6.0, 8.0], [0.0, 0.0]]

    Stability: caller
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[TableSpec]],
        keys: Sequence[str],
        device: torch.device | str | None = None,
        schemes: Mapping[str, Scheme] | None = None,
        dtype: Dtype | None = None,
    ) -> None:
        super().__init__()
        self.keys = tuple(keys)
        self.dtype: Dtype | None = None if dtype is None else check_dtype(dtype)
        self.groups = {group: tuple(specs) for group, specs in groups.items()}
        check_groups(self.groups, self.keys)
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        self.schemes: dict[str, Scheme] = {}
        self._parts: dict[str, Part] = {}
        with torch.device(device) if device is not None else contextlib.nullcontext():
            self._make_parts(dict(schemes or {}))
        wiring = wire(self.groups, self.keys, self._parts)
        self._outputs, self._encoded = wiring.outputs, wiring.encoded
        held = wiring.tables, wiring.lookups, wiring.row_lookups
        self.store: Store
        if dtype is None:
            self.store = LocalStore(*held, device)
        else:
            self.store = PackedStore(*held, self._dtypes(dtype), device)
        self._saves_tables = True
        self._ahead: tuple[Batch, Ids] | None = None
        self.trains_tables = True
        """Whether backward reaches the tables. Off in steps that train something else alone."""
        self.reset_parameters(seed=0)

    # ------------------------------------------------------------------------------- building

    def _make_parts(self, schemes: dict[str, Scheme]) -> None:
        for group, specs in self.groups.items():
            for spec in specs:
                name = f"{group}.{spec.name}"
                scheme = schemes.pop(name, Full())
                if not isinstance(scheme, Scheme):
                    raise ConfigError(
                        f"table `{name}`: expected a scheme, say `Hash(num_buckets=1000)`, got "
                        f"{scheme!r}."
                    )
                self.schemes[name] = scheme if self.dtype is None else scheme.stored(self.dtype)
                try:
                    part = self.schemes[name].part(spec)
                except ConfigError as error:
                    raise ConfigError(f"table `{name}`: {error}") from None
                self._parts[name] = part
                if type(part.encoder) is not Encoder:
                    self.encoders[f"{group}/{spec.name}"] = part.encoder
                if type(part.decoder) is not Decoder:
                    self.decoders[f"{group}/{spec.name}"] = part.decoder
        if schemes:
            raise SchemaError(
                f"`schemes` names unknown tables: {sorted(schemes)}. Tables: {sorted(self._parts)}."
            )

    def slot_names(self) -> tuple[str, ...]:
        """Name of every slot that the store sees: the keys, then ``<key>#<table>.<probe>``."""
        encoded = [
            f"{self.keys[source]}#{name}.{number}"
            for source, name in self._encoded
            for number in range(len(self._parts[name].probes))
        ]
        return (*self.keys, *encoded)

    def _dtypes(self, dtype: Dtype) -> dict[str, Dtype]:
        """How every physical table ``<group>.<table>`` is stored."""
        found: dict[str, Dtype] = {}
        for group, specs in self.groups.items():
            for spec in specs:
                part = self._parts[f"{group}.{spec.name}"]
                for number, probe in enumerate(part.probes):
                    own = stored_dtype(dtype, probe.embedding_dim)
                    own = part.dtypes[number] if part.dtypes is not None else own
                    found[f"{group}.{probe.name}"] = own
        return found

    def reset_parameters(self, seed: int) -> None:
        """Writes start values: a pure function of seed, group, table, row and column.

        Args:
            seed: Of the run.
        """
        self.store.fill(seed)
        for name, part in self._parts.items():
            digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
            initialize(part.encoder, generator)
            initialize(part.decoder, generator)

    # ------------------------------------------------------------------------------- forward

    def forward(self, batch: Batch) -> dict[str, KeyedEmbeddings]:
        """Looks up every feature of every group.

        Args:
            batch: With exactly the keys of this collection.

        Returns:
            The embeddings of each group, in key order.
        """
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            # A graph break: neither the kernels nor sparse gradients can be compiled.
            eager: Any = torch.compiler.disable(self._look_up)
            return eager(batch)
        return self._look_up(batch)

    def _look_up(self, batch: Batch) -> dict[str, KeyedEmbeddings]:
        encoded = self._indices(batch)
        if not self.groups:
            return {}
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trains_tables):
            pooled = self.store.pooled(encoded) if self.store.lookups else {}
        result = {}
        for group, outputs in self._outputs.items():
            names = tuple(output.key for output in outputs)
            dims = tuple(output.spec.embedding_dim for output in outputs)
            if all(self._parts[output.table].decoder.side_by_side for output in outputs):
                values = pooled[group]
            else:
                values = self._decode(encoded, outputs, pooled.get(group))
            result[group] = KeyedEmbeddings(names, dims, values)
        return result

    def sequence(self, batch: Batch, group: str, key: str) -> tuple[Tensor, Tensor]:
        """One feature's vectors, one an index, not pooled. Index weights are not applied.

        Args:
            batch: As in forward.
            group: Which vectors.
            key: Which feature.

        Returns:
            The vectors (L of the key, D), and how many each row has (B,).

        Raises:
            SchemaError: The group has no such feature.
        """
        outputs = {output.key: output for output in self._outputs.get(group, ())}
        if key not in outputs:
            raise SchemaError(
                f"no feature `{key}` in group `{group}`; groups have "
                f"{ {g: [o.key for o in out] for g, out in self._outputs.items()} }."
            )
        encoded = self._indices(batch)
        size = encoded.batch_size
        slot = outputs[key].source
        lengths = encoded.lengths[slot * size : (slot + 1) * size]
        return self._unpooled(encoded, outputs[key]), lengths

    @property
    def encodes_ahead(self) -> bool:
        """Whether a batch may be encoded before those in front of it are trained."""
        return not any(
            part.adapter is not None and type(part.encoder) is not Encoder
            for part in self._parts.values()
        )

    def encode(self, batch: Batch) -> Ids:
        """What the store is asked for: the batch's slots, then those of compressed tables.

        Args:
            batch: As in forward.
        """
        return self._encode(self._checked(batch))

    @contextlib.contextmanager
    def encoded(self, batch: Batch, ids: Ids) -> Iterator[None]:
        """Lookups of the batch take indices that were encoded before.

        Args:
            batch: The very object that will be looked up.
            ids: What `encode` gave.
        """
        self._ahead = batch, ids
        try:
            yield
        finally:
            self._ahead = None

    def _indices(self, batch: Batch) -> Ids:
        if self._ahead is not None and self._ahead[0] is batch:
            return self._ahead[1]
        return self.encode(batch)

    def _checked(self, batch: Batch) -> Ids:
        ids = ids_of(batch, self.keys)
        check_range(ids, self.keys, self._limits())
        return ids

    def _limits(self) -> list[tuple[str, int]]:
        """The smallest table that every key looks up."""
        if not hasattr(self, "_limit_cache"):
            smallest: dict[str, tuple[str, int]] = {}
            for specs in self.groups.values():
                for spec in specs:
                    for key in spec.feature_names:
                        if spec.num_embeddings < smallest.get(key, ("", 1 << 62))[1]:
                            smallest[key] = (spec.name, spec.num_embeddings)
            self._limit_cache = [smallest.get(key, ("", 1 << 62)) for key in self.keys]
        return self._limit_cache

    def _encode(self, ids: Ids) -> Ids:
        """The batch's slots, then one slot a probe of every encoded feature."""
        if not self._encoded:
            return ids
        parts = [ids]
        for source, name in self._encoded:
            one = ids.slot(source)
            for values in self._parts[name].encoder(one.values):
                parts.append(dataclasses.replace(one, values=values))
        encoded = join(parts)
        self._check_rows(encoded)
        return encoded

    def _check_rows(self, ids: Ids) -> None:
        """Refuses rows outside physical tables, which a contradictory plan or state leads to.

        Only where it costs no wait for a device.
        """
        if ids.counts is None or ids.values.is_cuda:
            return
        number = len(self.keys)
        names, limits = self._probes()
        start = sum(ids.counts[:number])
        rows = dataclasses.replace(ids, values=ids.values[start:], counts=ids.counts[number:])
        try:
            check_range(rows, names, limits)
        except SchemaError as error:
            raise SchemaError(
                f"the compressed tables contradict themselves: {str(error).split(' Raise ')[0]} "
                "This comes from the plan or from the state of an encoder. Remove "
                "`compression.planned` to plan again, or load the checkpoint that belongs to it."
            ) from None

    def _probes(self) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
        """Name of every encoded slot, and the physical table that it looks up."""
        if not hasattr(self, "_probe_cache"):
            tables = [
                (f"{name.partition('.')[0]}.{probe.name}", probe.num_embeddings)
                for _, name in self._encoded
                for probe in self._parts[name].probes
            ]
            self._probe_cache = self.slot_names()[len(self.keys) :], tables
        return self._probe_cache

    def _decode(self, ids: Ids, outputs: Sequence[Output], pooled: Tensor | None) -> Tensor:
        # One split, not a slice a probe: the backward of each slice fills a gradient of the whole.
        linear = [o for o in outputs if self._parts[o.table].decoder.linear]
        widths = [
            self.store.tables[lookup.table].spec.embedding_dim
            for output in linear
            for lookup in output.lookups
        ]
        pieces = iter(() if pooled is None else pooled.split(widths, dim=1))
        columns = []
        for output in outputs:
            decoder = self._parts[output.table].decoder
            if decoder.linear and pooled is not None:
                probes = list(itertools.islice(pieces, len(output.lookups)))
                if decoder.watches and torch.is_grad_enabled():
                    one = ids.slot(output.source)
                    decoder.watch(one.values, one.lengths, one.weights)
                columns.append(decoder(probes, None))
            else:
                rows, mean = self._unpooled(ids, output), output.spec.pooling == "mean"
                columns.append(pool(rows, ids.slot(output.source), mean))
        return torch.cat(columns, dim=1)

    def _unpooled(self, ids: Ids, output: Output) -> Tensor:
        decoder = self._parts[output.table].decoder
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trains_tables):
            probes = [self.store.rows(ids, lookup) for lookup in output.lookups]
        if decoder.side_by_side:
            return probes[0] if len(probes) == 1 else torch.cat(probes, dim=1)
        indices = ids.slot(output.source).values
        if decoder.watches and torch.is_grad_enabled():
            decoder.watch(indices, None, None)
        rows = decoder(probes, None if decoder.linear else indices)
        return rows * (indices != PAD_INDEX).to(rows.dtype).unsqueeze(1)

    def all_rows(self, group: str, table: str) -> Tensor:
        """The vector of every index, say to propagate over a graph. Takes gradients.

        On the torchrec backend the table must be announced as unpooled, like for `sequence`.

        Args:
            group: Which vectors.
            table: Which table.

        Returns:
            (num_embeddings, D); row 0 (PAD) is zero.

        Raises:
            SchemaError: There is no such table.
        """
        name = f"{group}.{table}"
        output = next((out for out in self._outputs.get(group, ()) if out.table == name), None)
        if output is None:
            raise SchemaError(f"no table `{name}`. {did_you_mean(name, self._parts)}")
        count, device = output.spec.num_embeddings, self.store.device
        values = torch.arange(count, dtype=torch.int32, device=device)
        lengths = torch.zeros(len(self.keys), dtype=torch.int32, device=device)
        lengths[output.source] = count
        counts = tuple(count if i == output.source else 0 for i in range(len(self.keys)))
        ids = Ids(values, lengths, len(self.keys), counts)
        return self._unpooled(self._encode(ids), output)

    # ------------------------------------------------------------------------------- training

    def attach_optimizer(self, config: EmbeddingOptimizerConfig) -> EmbeddingOptimizer:
        """Hands the tables to an optimizer on the local backend.

        Args:
            config: What to run.

        Returns:
            The optimizer. The tables are its alone: leave `table_parameters` out of any other.

        Raises:
            ShardingError: The tables are on the torchrec backend.
        """
        if isinstance(self.store, PackedStore):
            raise ConfigError(
                f"the tables are frozen in {self.dtype} and cannot be trained. Train the model "
                "they were frozen from; to train a new one with its configuration, remove "
                "`compression.dtype` and `compression.planned`."
            )
        if not isinstance(self.store, LocalStore):
            raise ShardingError(
                "the tables are sharded, and `to_torchrec` has returned their optimizer. Use it, "
                "or build the model anew."
            )
        optimizer: EmbeddingOptimizer | None = None
        if self.store.tables:
            kind = SparseOptimizer if config.mode == "sparse" else DenseOptimizer
            optimizer = kind(config, self.store)
        return combine(config, optimizer, self.decoders)

    def table_parameters(self) -> list[nn.Parameter]:
        """The tables: what the embedding optimizer owns. Decoders belong to the dense one."""
        return self.store.table_parameters()

    def architecture_parameters(self) -> list[nn.Parameter]:
        """What decides the structure; belongs to neither optimizer (see `Phase`)."""
        return [p for part in self._parts.values() for p in part.decoder.architecture()]

    def settled(self) -> bool:
        """Whether no scheme is still making tables smaller (see `Decoder.settled`)."""
        return all(part.decoder.settled() for part in self._parts.values())

    def aux_loss(self) -> Tensor:
        """What the schemes add to the loss; zero without compression."""
        losses = [part.decoder.aux_loss() for part in self._parts.values()]
        zero = torch.zeros((), device=self.store.device)
        return sum((loss for loss in losses if loss is not None), zero)

    def after_step(self, optimizer: EmbeddingOptimizer | None = None) -> None:
        """Lets schemes adapt: prune, move rows, cluster. Call it after every training step.

        Args:
            optimizer: What `attach_optimizer` gave: rows that are written start anew in it.
        """
        for name, part in self._parts.items():
            if part.adapter is not None:
                part.adapter.after_step(PartRows(self.store, self._tables_of(name), optimizer))

    def _tables_of(self, name: str) -> tuple[PhysicalTable, ...]:
        """The physical tables of a logical one's probes."""
        group = name.partition(".")[0]
        by_name = {table.name: table for table in self.store.tables}
        return tuple(by_name[f"{group}.{probe.name}"] for probe in self._parts[name].probes)

    def trained(self) -> dict[str, Trained]:
        """Every logical table with its weights. Collective on sharded tables."""
        weights, found = self.store.weights(), {}
        for group, specs in self.groups.items():
            for spec in specs:
                name = f"{group}.{spec.name}"
                part = self._parts[name]
                probes = tuple(weights[table.name].detach() for table in self._tables_of(name))
                found[name] = Trained(spec, self.schemes[name], part, probes)
        return found

    # ------------------------------------------------------------------------------- memory

    def bytes(
        self,
        when: Literal["train", "infer"] = "infer",
        optimizer: EmbeddingOptimizer | None = None,
        world: int = 1,
        dtype: Dtype | None = None,
    ) -> TableBytes:
        """What is held, counted from storage.

        Args:
            when: ``train``: as it is now, the optimizer's states too. ``infer``: as it will be
                once frozen.
            optimizer: What `attach_optimizer` gave.
            world: Ranks that each hold indices and decoders; tables are shared out among them.
            dtype: ``infer`` in this dtype; by default the present one, or fp32.
        """
        schemes = {name: scheme.frozen_scheme() for name, scheme in self.schemes.items()}
        if when == "infer" and (schemes != self.schemes or dtype not in (None, self.dtype)):
            dtype = dtype or "fp32"
            frozen = EmbeddingCollection(self.groups, self.keys, "meta", schemes, dtype)
            return frozen.bytes("infer", world=world)
        states = optimizer.state_bytes() if optimizer is not None and when == "train" else 0
        decoders = [part.decoder for part in self._parts.values()]
        rows = tensor_bytes(tensor for module in decoders for tensor in module.table_tensors())
        held = tensor_bytes(t for m in decoders for t in (*m.parameters(), *m.buffers()))
        encoders = [part.encoder for part in self._parts.values()]
        indices = tensor_bytes(t for m in encoders for t in (*m.parameters(), *m.buffers()))
        return TableBytes(
            self.store.table_bytes() + rows, world * indices, world * (held - rows), states
        )

    def num_rows_parameters(self) -> int:
        """Numbers in all tables, as papers count: no indices, no codebooks, no matrices."""
        rows = (table.spec for table in self.store.tables)
        owned = (t for part in self._parts.values() for t in part.decoder.table_tensors())
        stored = sum(spec.num_embeddings * spec.embedding_dim for spec in rows)
        return stored + sum(tensor.numel() for tensor in owned)

    # ------------------------------------------------------------------------------- checkpoints

    def parts(self) -> list[TensorPart]:
        """What this rank holds of sharded tables, named as in the state dict; else nothing."""
        parts = getattr(self.store, "parts", None)
        return [] if parts is None else parts()

    @contextlib.contextmanager
    def tables_apart(self) -> Iterator[None]:
        """Inside, state dicts leave the tables out: `parts` has them, and nothing is gathered."""
        self._saves_tables = False
        try:
            yield
        finally:
            self._saves_tables = True

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self._saves_tables:
            return
        store = self.store
        tables = store.stored() if isinstance(store, PackedStore) else store.weights()
        for name, weight in tables.items():
            destination[f"{prefix}{name}.weight"] = weight if keep_vars else weight.detach()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        packed = self.store.stored() if isinstance(self.store, PackedStore) else {}
        sizes = {
            f"{table.name}.weight": (table.spec.num_embeddings, table.spec.embedding_dim)
            for table in self.store.tables
        }
        modules = {
            f"{kind}.{name}": value
            for kind in MODULES
            for name, value in getattr(self, kind).state_dict().items()
        }
        ours = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        check_scheme(ours, modules, self.groups, sizes, strict)
        found: dict[str, Tensor] = {}
        for name, size in sizes.items():
            weight = state_dict.get(prefix + name)
            if weight is None:
                missing_keys.append(prefix + name)
                continue
            held = packed.get(name.removesuffix(".weight"))
            check_stored(name.removesuffix(".weight"), self.dtype, weight, held)
            if tuple(weight.shape) != (size if held is None else tuple(held.shape)):
                raise CheckpointError(
                    f"table `{name.removesuffix('.weight')}`: expected {size} (rows, width), got "
                    f"{tuple(weight.shape)}. Build the model with the schema and the compression "
                    "of the checkpoint."
                )
            found[name.removesuffix(".weight")] = weight
        unexpected_keys += [
            prefix + name
            for name in ours
            if name not in sizes and name.partition(".")[0] not in MODULES
        ]
        if isinstance(self.store, PackedStore):
            self.store.load_stored(found)
        else:
            self.store.load_weights(found)
