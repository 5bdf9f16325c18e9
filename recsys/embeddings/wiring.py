"""How features, probes and physical tables hang together: who looks up what, in which order.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from recsys.embeddings.scheme import Encoder, Part
from recsys.embeddings.store import Lookup, PhysicalTable
from recsys.errors import SchemaError
from recsys.schema import TableSpec


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """One feature of one group: where its indices come from and how its vector is made.

    Args:
        key: The feature.
        source: Its slot in the batch.
        table: ``<group>.<table>``, the logical one.
        spec: Of the logical table.
        lookups: One a probe.
    """

    key: str
    source: int
    table: str
    spec: TableSpec
    lookups: tuple[Lookup, ...]


@dataclasses.dataclass(frozen=True)
class Wiring:
    """Everything that is looked up.

    Args:
        tables: Physical tables, each once.
        lookups: Pooled, for decoders that are linear.
        row_lookups: One row an index, for the others.
        outputs: By group, in the order of the keys.
        encoded: Slots after the batch's own: the slot they are made from, and the logical table
            whose encoder makes them, one a probe.
    """

    tables: list[PhysicalTable]
    lookups: list[Lookup]
    row_lookups: list[Lookup]
    outputs: dict[str, tuple[Output, ...]]
    encoded: list[tuple[int, str]]


def wire(
    groups: Mapping[str, Sequence[TableSpec]], keys: Sequence[str], parts: Mapping[str, Part]
) -> Wiring:
    """Lays out physical tables, slots and outputs.

    Args:
        groups: Logical tables.
        keys: Features of the batches, in their fixed order.
        parts: Of every logical table ``<group>.<table>``.

    Raises:
        SchemaError: Two parts mean different tables by one name.
    """
    found = Wiring([], [], [], {}, [])
    position: dict[tuple[str, str], int] = {}
    slots = len(keys)
    for group, specs in groups.items():
        for spec in specs:
            for probe in parts[f"{group}.{spec.name}"].probes:
                if (group, probe.name) not in position:
                    position[group, probe.name] = len(found.tables)
                    found.tables.append(PhysicalTable(group, probe))
                _check_shared(found.tables[position[group, probe.name]], probe)
        by_key = {key: spec for spec in specs for key in spec.feature_names}
        outputs = []
        for key in (key for key in keys if key in by_key):
            spec, source = by_key[key], keys.index(key)
            name = f"{group}.{spec.name}"
            part, mine = parts[name], []
            encoded = type(part.encoder) is not Encoder
            for number, probe in enumerate(part.probes):
                slot = slots + number if encoded else source
                table = position[group, probe.name]
                mine.append(Lookup(group, key, slot, table, spec.pooling == "mean"))
            if encoded:
                found.encoded.append((source, name))
                slots += len(part.probes)
            outputs.append(Output(key, source, name, spec, tuple(mine)))
            (found.lookups if part.decoder.linear else found.row_lookups).extend(mine)
        found.outputs[group] = tuple(outputs)
    return found


def _check_shared(table: PhysicalTable, probe: TableSpec) -> None:
    """Probes of one name are one table, so they must agree; the first one's start values count."""
    mine, other = ((spec.num_embeddings, spec.embedding_dim) for spec in (table.spec, probe))
    if mine != other:
        raise SchemaError(
            f"physical table `{table.name}` is asked for twice, as {mine} and {other} (rows, "
            "width). Plan all tables that share it in one call of `compress`."
        )


def check_groups(groups: Mapping[str, Sequence[TableSpec]], keys: Sequence[str]) -> None:
    """Refuses groups that contradict themselves or the keys.

    Raises:
        SchemaError: A name or a feature occurs twice, a group is empty, a feature is unknown.
    """
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
