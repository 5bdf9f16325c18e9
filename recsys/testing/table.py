"""What every way to hold a table has to do, as one suite to inherit.

Example::

    class TestFull(TableConformance):
        scheme = Full()

        def expected_bytes(self) -> int:
            return 40 * 4 * 4

The table under test is ``item`` of group ``embedding``: 40 indices, width 4 unless ``spec`` says
otherwise.

Stability: testing
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, get_args

import pytest
import torch
from torch import Tensor

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.freeze import freeze
from recsys.embeddings.memory import tensor_bytes
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Dtype, Scheme
from recsys.errors import ConfigError, SchemaError
from recsys.schema import PAD_INDEX, Init, TableSpec
from recsys.types import Batch

SPEC = TableSpec(
    name="item",
    num_embeddings=40,
    embedding_dim=4,
    feature_names=("item",),
    pooling="sum",
    init=Init(std=0.5),
)
OTHER = TableSpec(
    name="other", num_embeddings=7, embedding_dim=4, feature_names=("other",), pooling="sum"
)
"""A table held in full beside the one under test, so that its rows do not start at 0."""


def bag_batch(bags: Sequence[Sequence[int]], weights: Sequence[float] | None = None) -> Batch:
    """A batch whose feature ``item`` has these bags; ``other`` is always row 1.

    Args:
        bags: Indices, one list a row.
        weights: Of all indices of all bags.

    Example:
        >>> bag_batch([[2, 3], []]).key_lengths("item").tolist()
        [2, 0]
    """
    values = [index for bag in bags for index in bag]
    size = len(bags)
    return Batch(
        dense=torch.zeros(size, 0),
        values=torch.tensor([1] * size + values, dtype=torch.int32),
        lengths=torch.tensor([1] * size + [len(bag) for bag in bags], dtype=torch.int32),
        labels=torch.zeros(size, 1),
        keys=("other", "item"),
        value_counts=(size, len(values)),
        value_weights=None if weights is None else torch.tensor([1.0] * size + [*weights]),
    )


def make_tables(
    scheme: Scheme, spec: TableSpec, device: torch.device | str | None = None
) -> EmbeddingCollection:
    """The table under test, beside another.

    Args:
        scheme: How it is held.
        spec: What it is.
        device: Where it is made.
    """
    return EmbeddingCollection(
        {"embedding": [OTHER, spec]},
        keys=("other", "item"),
        device=device,
        schemes={f"embedding.{spec.name}": scheme},
    )


def vectors(tables: EmbeddingCollection, indices: Sequence[int]) -> Tensor:
    """The vector of every index, (len(indices), D).

    Args:
        tables: Made by `make_tables`.
        indices: Of the table under test.
    """
    return tables(bag_batch([[index] for index in indices]))["embedding"]["item"]


class TableConformance:
    """Inherit, name the scheme, and run pytest."""

    scheme: ClassVar[Scheme]
    """The way to hold a table that is under test."""
    spec: ClassVar[TableSpec] = SPEC
    """The table; its one feature is ``item``."""
    size_is_known: ClassVar[bool] = True
    """Whether the frozen size is known before training (pruned tables: only afterwards)."""
    cuts_when_frozen: ClassVar[bool] = False
    """Whether freezing an unfinished table sets values to zero (pruning to a target)."""
    std_tolerance: ClassVar[float] = 0.1
    """Relative error allowed in the standard deviation of the start values."""

    def expected_bytes(self) -> int:
        """Bytes of the table by formula, indices and decoder included, ``other`` not."""
        raise NotImplementedError("state the formula of the scheme's memory")

    def sharing(self, index: int) -> set[int]:
        """Indices whose vectors may change when this one is trained; itself included.

        Args:
            index: Of the table under test.
        """
        return {index}

    def tables(self, seed: int = 1) -> EmbeddingCollection:
        """The table beside ``other``, with the start values of a seed."""
        tables = make_tables(self.scheme, self.spec)
        tables.reset_parameters(seed)
        return tables

    @property
    def indices(self) -> list[int]:
        """All indices but PAD."""
        return [i for i in range(self.spec.num_embeddings) if i != PAD_INDEX]

    # ------------------------------------------------------------------------------- tests

    def test_bytes_are_the_formula_and_the_storage(self) -> None:
        """What ``bytes`` reports is what the tensors take, and what the formula says."""
        tables = self.tables()
        held = tables.bytes("train")
        tensors = [*tables.parameters(), *tables.buffers()]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}
        assert held.total == sum(storage.nbytes() for storage in storages.values())
        other = OTHER.num_embeddings * OTHER.embedding_dim * 4
        assert held.total - other == self.expected_bytes()

    def test_same_index_same_vector_in_another_process(self, tmp_path: Path) -> None:
        """Hash seeds and the order of construction do not matter."""
        path = tmp_path / "table.pkl"
        path.write_bytes(pickle.dumps((self.scheme, self.spec)))
        assert _fingerprint_elsewhere(path) == fingerprint(self.scheme, self.spec)

    def test_pad_is_zero_and_stays_zero(self) -> None:
        """Also after a step on it."""
        tables = self.tables()
        self.step(tables, [PAD_INDEX, 2])
        assert not vectors(tables, [PAD_INDEX]).any()

    def test_step_reaches_the_right_rows(self) -> None:
        """Training two indices moves them, and nothing that shares no row with them."""
        tables, trained = self.tables(), [3, self.spec.num_embeddings - 1]
        before = vectors(tables, self.indices).detach().clone()
        self.step(tables, trained)
        moved = (vectors(tables, self.indices) != before).any(dim=1)
        changed = {index for index, has_moved in zip(self.indices, moved.tolist()) if has_moved}
        assert set(trained) <= changed <= self.sharing(trained[0]) | self.sharing(trained[1])

    def test_step_goes_down(self) -> None:
        """The gradient has the right sign: the sum of a trained vector falls."""
        tables = self.tables()
        before = vectors(tables, [5]).sum().item()
        self.step(tables, [5])
        assert vectors(tables, [5]).sum().item() < before

    def test_bags_are_pooled(self) -> None:
        """A bag is the weighted sum (or mean) of its indices' vectors; an empty one is zero."""
        tables = self.tables()
        bags, weights = [[2, 3, 2], [], [7]], [0.5, 2.0, 1.0, -1.0]
        got = tables(bag_batch(bags, weights))["embedding"]["item"]
        two, three, seven = vectors(tables, [2, 3, 7])
        first = 1.5 * two + 2.0 * three
        if self.spec.pooling == "mean":
            first = first / 3
        torch.testing.assert_close(got, torch.stack([first, 0 * seven, -seven]))

    def test_unpooled_rows_are_the_vectors(self) -> None:
        """``sequence`` gives what a bag of one gives."""
        tables = self.tables()
        rows, lengths = tables.sequence(bag_batch([[2, 3], [], [9]]), "embedding", "item")
        torch.testing.assert_close(rows, vectors(tables, [2, 3, 9]))
        assert lengths.tolist() == [2, 0, 1]

    def test_start_values(self) -> None:
        """The decoded vectors have the standard deviation asked for, and follow the seed."""
        wide = self.spec.model_copy(update={"embedding_dim": 64})
        tables = make_tables(self.scheme, wide)
        tables.reset_parameters(1)
        first = vectors(tables, self.indices)
        assert first.std().item() == pytest.approx(self.spec.init.std, rel=self.std_tolerance)
        tables.reset_parameters(2)
        assert not torch.equal(vectors(tables, self.indices), first)
        tables.reset_parameters(1)
        assert torch.equal(vectors(tables, self.indices), first)

    def test_state_dict_round_trip(self) -> None:
        """Another collection with the same state gives the same vectors."""
        tables, other = self.tables(seed=1), self.tables(seed=2)
        other.load_state_dict({k: v.clone() for k, v in tables.state_dict().items()})
        assert torch.equal(vectors(other, self.indices), vectors(tables, self.indices))

    def test_json_round_trip(self) -> None:
        """The scheme is plain configuration."""
        assert type(self.scheme).model_validate_json(self.scheme.model_dump_json()) == self.scheme

    def test_frozen_is_the_eval_forward(self) -> None:
        """Frozen in fp32 the vectors stay, and the bytes are what was said before and is held."""
        tables = self.tables()
        self.step(tables, [3, 5])
        tables.eval()
        frozen = freeze(tables)
        got, expected = vectors(frozen, self.indices), vectors(tables, self.indices)
        if self.cuts_when_frozen:
            expected = torch.where(got == 0, 0.0, expected)
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)
        assert not any(parameter.requires_grad for parameter in frozen.table_parameters())
        held = frozen.bytes("infer").total
        assert held == tensor_bytes([*frozen.parameters(), *frozen.buffers()])
        assert held == tables.bytes("infer").total or not self.size_is_known

    @pytest.mark.parametrize("dtype", get_args(Dtype))
    def test_frozen_bytes_of_every_dtype(self, dtype: Dtype) -> None:
        """At width 16, where the scheme does not refuse: bytes said before, held, and on disk."""
        wide = self.spec.model_copy(update={"embedding_dim": 16})
        tables = make_tables(self.scheme, wide).eval()
        try:
            frozen = freeze(tables, dtype)
        except ConfigError as error:
            pytest.skip(f"refused: {error}")
        held = frozen.bytes("infer").total
        assert held == tables.bytes("infer", dtype=dtype).total or not self.size_is_known
        assert held == tensor_bytes([*frozen.parameters(), *frozen.buffers()])
        state = {name: value.clone() for name, value in frozen.state_dict().items()}
        assert held == tensor_bytes(state.values())
        again = EmbeddingCollection(frozen.groups, frozen.keys, None, frozen.schemes, dtype).eval()
        again.load_state_dict(state)
        assert torch.equal(vectors(again, self.indices), vectors(frozen, self.indices))

    def test_builds_on_meta(self) -> None:
        """No memory until it is asked for."""
        tables = make_tables(self.scheme, self.spec, device="meta")
        assert all(parameter.is_meta for parameter in tables.table_parameters())

    def test_built_on_meta_and_filled_is_the_same(self) -> None:
        """Start values leave nothing of what the memory held before."""
        filled = make_tables(self.scheme, self.spec, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            for tensor in (*filled.parameters(), *filled.buffers()):
                tensor.fill_(torch.nan if tensor.is_floating_point() else 1)
        filled.reset_parameters(seed=3)
        expected = make_tables(self.scheme, self.spec)
        expected.reset_parameters(seed=3)
        for name, value in expected.state_dict().items():
            assert torch.equal(filled.state_dict()[name], value), name

    @pytest.mark.parametrize("index", [-1, "past the end"])
    def test_index_out_of_range_is_refused(self, index: int | str) -> None:
        """The error names feature, index and table."""
        wrong = self.spec.num_embeddings if isinstance(index, str) else index
        with pytest.raises(SchemaError, match=rf"`item`: index {wrong} is outside table `item`"):
            vectors(self.tables(), [wrong])

    # ------------------------------------------------------------------------------- helpers

    def step(self, tables: EmbeddingCollection, indices: Sequence[int]) -> None:
        """One SGD step that lowers the sum of these indices' vectors.

        Args:
            tables: Trained in place.
            indices: Each a row of its own.
        """
        owner = tables.attach_optimizer(EmbeddingOptimizerConfig(kind="sgd", learning_rate=0.1))
        owner.zero_grad()
        vectors(tables, indices).sum().backward()
        owner.step()


def fingerprint(scheme: Scheme, spec: TableSpec) -> str:
    """A hash of all vectors of a table with the start values of seed 1.

    Args:
        scheme: How it is held.
        spec: What it is.
    """
    tables = make_tables(scheme, spec)
    tables.reset_parameters(1)
    found = vectors(tables, range(spec.num_embeddings)).detach().numpy()
    return hashlib.sha256(found.tobytes()).hexdigest()


@functools.cache
def _other_process() -> subprocess.Popen[str]:
    """A Python of its own, with another hash seed; it ends when its input does, with this one."""
    command = [sys.executable, "-m", "recsys.testing.table"]
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)


def _fingerprint_elsewhere(path: Path) -> str:
    """What the other process finds for the table in a file."""
    process = _other_process()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{path}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


if __name__ == "__main__":  # the other process: reads files that the test above wrote
    for line in sys.stdin:
        scheme, spec = pickle.loads(Path(line.rstrip("\n")).read_bytes())
        sys.stdout.write(fingerprint(scheme, spec) + "\n")
        sys.stdout.flush()
