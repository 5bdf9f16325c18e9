"""The one place where models get embeddings from.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recsys.embeddings.bounds import check_range
from recsys.embeddings.ids import Ids, ids_of, join, pool
from recsys.embeddings.memory import TableBytes, module_bytes
from recsys.embeddings.optimizer import (
    DenseOptimizer,
    EmbeddingOptimizer,
    EmbeddingOptimizerConfig,
)
from recsys.embeddings.scheme import Decoder, Encoder, Full, Part, Scheme
from recsys.embeddings.sparse_optimizer import SparseOptimizer
from recsys.embeddings.store import LocalStore, Lookup, PhysicalTable, Store
from recsys.errors import SchemaError, ShardingError
from recsys.schema import TableSpec
from recsys.types import Batch, KeyedEmbeddings


@dataclasses.dataclass(frozen=True, slots=True)
class _Output:
    """One feature of one group: where its indices come from and how its vector is made."""

    key: str
    slot: int
    table: str
    spec: TableSpec
    lookups: tuple[Lookup, ...]


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
        schemes: How tables named ``<group>.<table>`` are held; the others are held in full.

    Shape:
        - input: `Batch` of B rows
        - output: per group `KeyedEmbeddings` (B, sum of the widths of its features)

    Raises:
        SchemaError: A table asks for an unknown feature, a name or a feature occurs twice, a
            group is empty; in forward, the batch has other keys or an index outside its table.

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
    ) -> None:
        super().__init__()
        self.keys = tuple(keys)
        self.groups = {group: tuple(specs) for group, specs in groups.items()}
        _check_groups(self.groups, self.keys)
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        self._parts: dict[str, Part] = {}
        self._make_parts(dict(schemes or {}))
        tables, lookups, row_lookups = self._plan()
        self.store: Store = LocalStore(tables, lookups, row_lookups, device)
        self.reset_parameters(seed=0)

    # ------------------------------------------------------------------------------- building

    def _make_parts(self, schemes: dict[str, Scheme]) -> None:
        for group, specs in self.groups.items():
            for spec in specs:
                name = f"{group}.{spec.name}"
                part = schemes.pop(name, Full()).part(spec)
                self._parts[name] = part
                if type(part.encoder) is not Encoder:
                    self.encoders[f"{group}/{spec.name}"] = part.encoder
                if type(part.decoder) is not Decoder:
                    self.decoders[f"{group}/{spec.name}"] = part.decoder
        if schemes:
            raise SchemaError(
                f"`schemes` names unknown tables: {sorted(schemes)}. Tables: {sorted(self._parts)}."
            )

    def _plan(self) -> tuple[list[PhysicalTable], list[Lookup], list[Lookup]]:
        """Lays out physical tables, slots and outputs."""
        tables: list[PhysicalTable] = []
        position: dict[tuple[str, str], int] = {}
        lookups: list[Lookup] = []
        row_lookups: list[Lookup] = []
        self._outputs: dict[str, tuple[_Output, ...]] = {}
        self._encoded: list[tuple[int, str]] = []  # slots after the batch's own, by their source
        slots = len(self.keys)
        for group, specs in self.groups.items():
            for spec in specs:
                for probe in self._parts[f"{group}.{spec.name}"].probes:
                    if (group, probe.name) not in position:
                        position[group, probe.name] = len(tables)
                        tables.append(PhysicalTable(group, probe))
            by_key = {key: spec for spec in specs for key in spec.feature_names}
            outputs = []
            for key in (key for key in self.keys if key in by_key):
                spec, source = by_key[key], self.keys.index(key)
                name = f"{group}.{spec.name}"
                part, mine = self._parts[name], []
                encoded = type(part.encoder) is not Encoder
                for number, probe in enumerate(part.probes):
                    slot = slots + number if encoded else source
                    table = position[group, probe.name]
                    mine.append(Lookup(group, key, slot, table, spec.pooling == "mean"))
                if encoded:
                    self._encoded.append((source, name))
                    slots += len(part.probes)
                outputs.append(_Output(key, source, name, spec, tuple(mine)))
                (lookups if part.decoder.linear else row_lookups).extend(mine)
            self._outputs[group] = tuple(outputs)
        return tables, lookups, row_lookups

    def slot_names(self) -> tuple[str, ...]:
        """Name of every slot that the store sees: the keys, then ``<key>#<table>.<probe>``."""
        encoded = [
            f"{self.keys[source]}#{name}.{number}"
            for source, name in self._encoded
            for number in range(len(self._parts[name].probes))
        ]
        return (*self.keys, *encoded)

    def reset_parameters(self, seed: int) -> None:
        """Writes start values: a pure function of seed, group, table, row and column.

        Args:
            seed: Of the run.
        """
        self.store.fill(seed)

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
        encoded = self._encode(self._checked(batch))
        if not self.groups:
            return {}
        pooled = self.store.pooled(encoded)
        result = {}
        for group, outputs in self._outputs.items():
            names = tuple(output.key for output in outputs)
            dims = tuple(output.spec.embedding_dim for output in outputs)
            if all(type(self._parts[output.table].decoder) is Decoder for output in outputs):
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
        encoded = self._encode(self._checked(batch))
        size = encoded.batch_size
        slot = outputs[key].slot
        lengths = encoded.lengths[slot * size : (slot + 1) * size]
        return self._unpooled(encoded, outputs[key]), lengths

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
        return join(parts)

    def _decode(self, ids: Ids, outputs: Sequence[_Output], pooled: Tensor | None) -> Tensor:
        columns, start = [], 0
        for output in outputs:
            decoder = self._parts[output.table].decoder
            if decoder.linear and pooled is not None:
                probes = []
                for lookup in output.lookups:
                    end = start + self.store.tables[lookup.table].spec.embedding_dim
                    probes.append(pooled[:, start:end])
                    start = end
                columns.append(decoder(probes))
            else:
                rows, mean = self._unpooled(ids, output), output.spec.pooling == "mean"
                columns.append(pool(rows, ids.slot(output.slot), mean))
        return torch.cat(columns, dim=1)

    def _unpooled(self, ids: Ids, output: _Output) -> Tensor:
        decoder = self._parts[output.table].decoder
        return decoder([self.store.rows(ids, lookup) for lookup in output.lookups])

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
        if not isinstance(self.store, LocalStore):
            raise ShardingError(
                "the tables are sharded, and `to_torchrec` has returned their optimizer. Use it, "
                "or build the model anew."
            )
        if config.mode == "sparse":
            return SparseOptimizer(config, self.store)
        return DenseOptimizer(config, self.store)

    def table_parameters(self) -> list[nn.Parameter]:
        """The tables: what the embedding optimizer owns. Decoders belong to the dense one."""
        return self.store.table_parameters()

    def aux_loss(self) -> Tensor:
        """What the schemes add to the loss; zero without compression."""
        return torch.zeros((), device=self.store.device)

    # ------------------------------------------------------------------------------- memory

    def bytes(
        self,
        when: Literal["train", "infer"] = "infer",
        optimizer: EmbeddingOptimizer | None = None,
    ) -> TableBytes:
        """What this process holds, counted from storage.

        Args:
            when: ``train`` counts the optimizer's states too.
            optimizer: What `attach_optimizer` gave.
        """
        states = optimizer.state_bytes() if optimizer is not None and when == "train" else 0
        return TableBytes(
            self.store.table_bytes(),
            module_bytes(self.encoders),
            module_bytes(self.decoders),
            states,
        )

    # ------------------------------------------------------------------------------- checkpoints

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, weight in self.store.weights().items():
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
        sizes = {
            f"{table.name}.weight": (table.spec.num_embeddings, table.spec.embedding_dim)
            for table in self.store.tables
        }
        found: dict[str, Tensor] = {}
        for name, size in sizes.items():
            weight = state_dict.get(prefix + name)
            if weight is None:
                missing_keys.append(prefix + name)
            elif tuple(weight.shape) != size:
                error_msgs.append(
                    f"table `{name.removesuffix('.weight')}`: expected {size} (rows, width), got "
                    f"{tuple(weight.shape)}. Build the model with the schema of the checkpoint."
                )
            else:
                found[name.removesuffix(".weight")] = weight
        ours = ("encoders.", "decoders.")
        for key in state_dict:
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and name not in sizes and not name.startswith(ours):
                unexpected_keys.append(key)
        self.store.load_weights(found)


def _check_groups(groups: Mapping[str, Sequence[TableSpec]], keys: Sequence[str]) -> None:
    if len(set(keys)) != len(keys):
        raise SchemaError(f"`keys` names a feature twice: {sorted(keys)}.")
    for group, specs in groups.items():
        if not specs or not group or "." in group or "/" in group:
            raise SchemaError(
                f"group `{group}`: expected a name without dots and at least one table, "
                f"got {len(specs)} tables."
            )
        names = [spec.name for spec in specs]
        features = [key for spec in specs for key in spec.feature_names]
        for kind, words in (("table", names), ("feature", features)):
            twice = sorted({word for word in words if words.count(word) > 1})
            if twice:
                raise SchemaError(
                    f"group `{group}`: {kind} {twice} occurs twice. Inside a group every table "
                    "has one name and every feature one table; use another group."
                )
        unknown = sorted(set(features) - set(keys))
        if unknown:
            raise SchemaError(
                f"group `{group}`: features {unknown} are not among the keys {list(keys)}."
            )
