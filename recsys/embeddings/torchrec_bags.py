"""Compressed tables behind torchrec's own words: a stand-in for ``EmbeddingBagCollection``.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import nn
from torchrec import EmbeddingBagConfig, KeyedJaggedTensor, KeyedTensor, PoolingType

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.plan import compress_groups
from recsys.embeddings.scheme import Scheme
from recsys.errors import SchemaError, did_you_mean
from recsys.schema import Init, TableSpec
from recsys.types import Batch


class CompressedEmbeddingBagCollection(nn.Module):
    """A KeyedJaggedTensor in, a KeyedTensor out: keys, widths and order of the uncompressed module.

    Unlike in the rest of recsys index 0 is an id like any other, as torchrec has it; inside, ids
    are shifted by one. Index order is taken for frequency order by schemes that treat frequent ids
    better. Tables are ordinary parameters until ``self.collection.attach_optimizer`` (or
    ``to_torchrec``, which shards them) takes them over.

    Args:
        tables: As for torchrec.
        schemes: Resolved, by table name; the others are held in full.
        is_weighted: Whether bags carry weights.
        device: Where the tables are made.

    Shape:
        - input: B bags for every feature
        - output: (B, sum of widths)

    Raises:
        SchemaError: The bags lack a feature, carry weights unasked, or hold an index outside its
            table.

    Example:
        >>> from recsys.embeddings.compression.hash import Hash
        >>> tables = [EmbeddingBagConfig(name="t", embedding_dim=8, num_embeddings=1000,
        ...                              feature_names=["user"])]
        >>> bags = CompressedEmbeddingBagCollection.compress(tables, Hash(), ratio=0.1)
        >>> features = KeyedJaggedTensor(keys=["user"], values=torch.tensor([0, 999]),
        ...                              lengths=torch.tensor([1, 1]))
        >>> bags(features).keys(), tuple(bags(features).values().shape)
        (['user'], (2, 8))
    """

    def __init__(
        self,
        tables: Sequence[EmbeddingBagConfig],
        schemes: Mapping[str, Scheme] | None = None,
        is_weighted: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self._configs, self._weighted = list(tables), is_weighted
        groups = _groups(self._configs)
        self._keys = tuple(dict.fromkeys(f for config in tables for f in config.feature_names))
        group_of = {spec.name: group for group, specs in groups.items() for spec in specs}
        for name in schemes or {}:
            if name not in group_of:
                raise SchemaError(
                    f"`schemes` names an unknown table `{name}`. {did_you_mean(name, group_of)}"
                )
        named = {f"{group_of[name]}.{name}": scheme for name, scheme in (schemes or {}).items()}
        self.collection = EmbeddingCollection(groups, self._keys, device, named)
        owners = [(config, key) for config in self._configs for key in config.feature_names]
        smallest: dict[str, EmbeddingBagConfig] = {}
        for config, key in sorted(owners, key=lambda owner: -owner[0].num_embeddings):
            smallest[key] = config
        self._limits = [smallest[key] for key in self._keys]
        shared = {key for _, key in owners if sum(other == key for _, other in owners) > 1}
        self._columns = [(group_of[config.name], key) for config, key in owners]
        self._names = [f"{key}@{config.name}" if key in shared else key for config, key in owners]
        self._dims = [config.embedding_dim for config, _ in owners]

    @classmethod
    def compress(
        cls,
        tables: Sequence[EmbeddingBagConfig],
        scheme: Scheme,
        *,
        ratio: float | None = None,
        bytes: int | None = None,
        is_weighted: bool = False,
        device: torch.device | str | None = None,
    ) -> Self:
        """Plans and builds.

        Args:
            tables: As for torchrec.
            scheme: How to hold them.
            ratio: Most bytes as a share of the full fp32 tables.
            bytes: Most bytes.
            is_weighted: Whether bags carry weights.
            device: Where the tables are made.

        Raises:
            BudgetInfeasible: No plan fits.
        """
        plan = compress_groups(_groups(tables), scheme, ratio=ratio, bytes=bytes)
        by_table = {name.partition(".")[2]: chosen for name, chosen in plan.items()}
        return cls(tables, by_table, is_weighted, device)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """The logical tables, as given."""
        return self._configs

    def is_weighted(self) -> bool:
        """Whether bags carry weights."""
        return self._weighted

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Looks up and pools.

        Args:
            features: At least the features of the tables, in any order.

        Returns:
            One vector a feature (and table, where tables share it), in the tables' order.
        """
        missing = [key for key in self._keys if key not in features.keys()]  # noqa: SIM118
        if missing:
            raise SchemaError(
                f"the bags lack features {missing}; they have {features.keys()}. Give every "
                "feature of the tables, with empty bags where there is nothing."
            )
        weights = features.weights_or_none()
        if (weights is not None) != self._weighted:
            raise SchemaError(
                f"expected bags {'with' if self._weighted else 'without'} weights. Set "
                "`is_weighted` where the module is made."
            )
        if list(self._keys) != features.keys():
            order = features.keys()
            features = features.permute([order.index(key) for key in self._keys])
        self._check_ids(features)
        size = features.stride()
        empty = torch.zeros(size, 0, device=features.device())
        pooled = self.collection(
            Batch(
                dense=empty,
                values=(features.values() + 1).int(),
                lengths=features.lengths().int(),
                labels=empty,
                keys=self._keys,
                value_counts=tuple(features.length_per_key()),
                value_weights=features.weights_or_none(),
            )
        )
        # split() once: the backward of a slice a key fills a gradient of the whole for each.
        vectors = {group: dict(zip(v.keys, v.split())) for group, v in pooled.items()}
        columns = [vectors[group][key] for group, key in self._columns]
        return KeyedTensor(self._names, self._dims, torch.cat(columns, dim=1))

    def _check_ids(self, features: KeyedJaggedTensor) -> None:
        """Refuses ids outside their tables, before they are shifted and cut to 32 bits."""
        ids, counts = features.values(), features.length_per_key()
        if ids.is_floating_point():
            raise SchemaError(f"expected whole numbers as ids, got {ids.dtype}.")
        limits = torch.tensor([c.num_embeddings for c in self._limits], device=ids.device)
        each = torch.tensor(counts, device=ids.device)
        limits = limits.repeat_interleave(each, output_size=ids.shape[0])
        wrong = ((ids < 0) | (ids >= limits)).nonzero()
        if len(wrong) == 0:
            return
        place, key = int(wrong[0]), 0
        while place >= sum(counts[: key + 1]):
            key += 1
        config = self._limits[key]
        raise SchemaError(
            f"feature `{self._keys[key]}`: id {int(ids[place]):_} is outside table "
            f"`{config.name}`, which has ids 0 to {config.num_embeddings - 1:_}. Raise its "
            "num_embeddings, or take the ids modulo it."
        )


def _groups(tables: Sequence[EmbeddingBagConfig]) -> dict[str, list[TableSpec]]:
    """Groups in which every feature has one table: mostly one."""
    groups: list[list[TableSpec]] = []
    for config in tables:
        # torchrec starts at U(+-1/sqrt(n)); the standard deviation of U(+-a) is a / sqrt(3).
        std = 1.0 / math.sqrt(3.0 * config.num_embeddings)
        spec = TableSpec(
            name=config.name,
            num_embeddings=config.num_embeddings + 1,
            embedding_dim=config.embedding_dim,
            feature_names=tuple(config.feature_names),
            pooling="mean" if config.pooling == PoolingType.MEAN else "sum",
            init=Init(kind="uniform", std=std),
        )
        for group in groups:
            taken = {name for other in group for name in other.feature_names}
            if not taken & set(spec.feature_names):
                group.append(spec)
                break
        else:
            groups.append([spec])
    return {f"bags{number}": group for number, group in enumerate(groups)}
