from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression import pruned as pruned_module
from recsys.embeddings.compression.pruned import Layout, Pruned, layout_bytes, pruned, smallest
from recsys.embeddings.compression.ranked import BitSet, ListSet, kept_rows, popcount
from recsys.embeddings.compression.schemes import AnyScheme
from recsys.embeddings.scheme import Scheme, Successor
from recsys.errors import ConfigError
from recsys.schema import TableSpec
from recsys.testing.table import (
    OTHER,
    SPEC,
    TableConformance,
    bag_batch,
    fingerprint,
    make_tables,
    vectors,
)
from tests.embeddings.compression.successors import collection_of

# 1 column in most rows, all in few, none in the others: every layout can hold it.
KEPT, NNZ = 13, 25


def sparse_weight(spec: TableSpec = SPEC, seed: int = 0) -> Tensor:
    """(40, 4): rows 3, 6, ..., 39 are kept; 4 of them whole, 9 with one value."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.zeros(spec.num_embeddings, spec.embedding_dim)
    rows = torch.arange(3, 40, 3)
    weight[rows, torch.arange(13) % spec.embedding_dim] = torch.randn(13, generator=generator)
    weight[rows[:4]] = torch.randn(4, spec.embedding_dim, generator=generator)
    return weight


def packed(weight: Tensor, layout: Layout, spec: TableSpec = SPEC) -> Successor:
    """In a layout that need not be the smallest."""

    def chosen(table: TableSpec, kept: int, nnz: int) -> Pruned:
        return Pruned(layout=layout, kept=kept, nnz=nnz)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruned_module, "smallest", chosen)
        return pruned(spec, weight)


class Served(TableConformance):
    """Pruned tables are not trained: what trains them must leave them alone."""

    def tables(self, seed: int = 1) -> EmbeddingCollection:
        assert isinstance(self.scheme, Pruned) and self.scheme.layout is not None
        return collection_of(packed(sparse_weight(seed=seed), self.scheme.layout), SPEC)

    def test_step_reaches_the_right_rows(self) -> None:
        tables = self.tables()
        self.step(tables, [3, 5])
        torch.testing.assert_close(vectors(tables, range(40)), sparse_weight(seed=1))

    def test_step_goes_down(self) -> None:
        tables = self.tables()
        self.step(tables, [3])
        assert torch.equal(vectors(tables, [3]), sparse_weight(seed=1)[[3]])

    def test_start_values(self) -> None:
        assert not vectors(make_tables(self.scheme, SPEC), self.indices).any()

    def test_same_index_same_vector_in_another_process(self, tmp_path) -> None:
        assert fingerprint(self.scheme, self.spec) == fingerprint(self.scheme, self.spec)

    def test_pad_is_zero_and_stays_zero(self) -> None:
        assert not vectors(self.tables(), [0]).any()


class TestBitmask(Served):
    scheme = Pruned(layout="bitmask", kept=KEPT, nnz=NNZ)

    def expected_bytes(self) -> int:
        rows = 8 + 2 + 4  # 40 bits: one word, one count, one block
        elements = 8 + 2 + 4  # 13 * 4 = 52 bits
        return rows + elements + 4 * (25 + 1)


class TestCsr(Served):
    scheme = Pruned(layout="csr", kept=KEPT, nnz=NNZ)

    def expected_bytes(self) -> int:
        return 14 + 4 * (13 + 2) + (1 + 4) * (25 + 1)


class TestRows(Served):
    scheme = Pruned(layout="rows", kept=KEPT, nnz=NNZ)

    def test_step_goes_down(self) -> None:
        tables = self.tables()
        self.step(tables, [3])
        assert vectors(tables, [3]).sum() < sparse_weight(seed=1)[3].sum()

    def expected_bytes(self) -> int:
        return 14 + 4 * (13 + 1) * 4

    def test_step_reaches_the_right_rows(self) -> None:
        tables = self.tables()
        self.step(tables, [3, 5])
        moved = (vectors(tables, range(40)) != sparse_weight(seed=1)).any(1)
        assert moved.nonzero().flatten().tolist() == [3]  # 5 is not kept: it stays zero


class TestSets:
    def test_popcount_equals_python(self):
        words = torch.randint(0, 2**62, (1000,), generator=torch.Generator().manual_seed(0))
        assert popcount(words).tolist() == [int(word).bit_count() for word in words]

    @pytest.mark.parametrize("universe", [1, 63, 64, 65, 100_000])
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
    def test_both_sets_give_ranks(self, universe, share):
        generator = torch.Generator().manual_seed(universe)
        member = torch.rand(universe, generator=generator) < share
        member[0] = False  # PAD
        members = member.nonzero().flatten()
        expected = member.cumsum(0) * member
        for found in (BitSet(universe), ListSet(members.shape[0])):
            found.fill(members)
            assert torch.equal(found(torch.arange(universe)), expected)

    def test_the_smaller_set_is_taken(self):
        assert isinstance(kept_rows(64_000, 100), ListSet)  # 404 < 10 008 bytes
        assert isinstance(kept_rows(64_000, 2500), ListSet)  # 10 004
        assert isinstance(kept_rows(64_000, 2501), BitSet)  # 10 008

    def test_ranks_past_a_block_and_with_all_bits_set(self):
        found = BitSet(70_000)  # blocks are 32 768 wide
        found.fill(torch.arange(70_000))
        assert found(torch.tensor([0, 63, 64, 32_767, 32_768, 69_999])).tolist() == [
            1, 64, 65, 32_768, 32_769, 70_000,
        ]  # fmt: skip
        assert sum(b.untyped_storage().nbytes() for b in found.buffers()) == 1094 * 10 + 3 * 4


@pytest.mark.parametrize("layout", ["rows", "bitmask", "csr"])
@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_equals_the_dense_table_on_weighted_bags(layout, pooling):
    spec = SPEC.model_copy(update={"pooling": pooling})
    weight = sparse_weight()
    tables = collection_of(packed(weight, layout, spec), spec, "fp32")
    bags, weights = [[3, 4, 9], [], [39, 39], [0, 6]], [0.5, 2.0, -1.0, 1.0, 3.0, 9.0, 2.0]
    got = tables(bag_batch(bags, weights))["embedding"]["item"].numpy()
    dense, at = weight.numpy(), 0
    for row, bag in enumerate(bags):
        expected = np.zeros(4, np.float32)
        for index in bag:
            expected += weights[at] * dense[index]
            at += 1
        expected /= max(len(bag), 1) if pooling == "mean" else 1
        np.testing.assert_allclose(got[row], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("layout", ["bitmask", "csr"])
@pytest.mark.parametrize("width", [1, 3, 8, 65, 300])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_any_width_and_density(layout, width, density):
    spec = SPEC.model_copy(update={"num_embeddings": 90, "embedding_dim": width})
    generator = torch.Generator().manual_seed(width)
    weight = torch.randn(90, width, generator=generator)
    weight *= torch.rand(90, width, generator=generator) < density
    weight[0] = 0
    successor = packed(weight, layout, spec)
    tables = collection_of(successor, spec, "fp32")
    assert torch.equal(vectors(tables, range(90)), weight)
    assert isinstance(successor.scheme, Pruned)
    assert tables.bytes().total - OTHER.num_embeddings * 16 == successor.scheme.bytes(spec)


def test_the_smallest_layout_is_taken():
    spec = SPEC.model_copy(update={"num_embeddings": 1000, "embedding_dim": 128})
    sizes: dict[Layout, tuple[int, int]] = {
        "rows": (100, 12_800),
        "bitmask": (999, 40_000),
        "csr": (20, 30),
    }
    for layout, (kept, nnz) in sizes.items():
        scheme = smallest(spec, kept, nnz)
        assert scheme.layout == layout
        others = [
            int(layout_bytes(other, 1000, 128, torch.tensor(kept), torch.tensor(nnz)))
            for other in sizes
        ]
        assert scheme.bytes(spec) == min(others)


def test_fp16_halves_the_values_and_integers_are_refused():
    weight = sparse_weight()
    successor = packed(weight, "bitmask")
    half = collection_of(successor, SPEC, "fp16")
    assert half.schemes["embedding.item"] == Pruned(
        layout="bitmask", kept=KEPT, nnz=NNZ, values="fp16"
    )
    got = vectors(half, range(40))
    assert torch.equal(got, weight.half().float())
    part = half._parts["embedding.item"]
    assert sum(t.untyped_storage().nbytes() for t in part.decoder.buffers()) == 28 + 2 * 26
    with pytest.raises(ConfigError, match="one scale a row"):
        successor.scheme.check_dtype("int8")
    packed(weight, "rows").scheme.check_dtype("int4")


def test_it_cannot_be_trained():
    with pytest.raises(ConfigError, match="deep_light"):
        Pruned().plan([SPEC], 1000)
    with pytest.raises(ConfigError, match="layout"):
        Pruned().part(SPEC)


def test_json_round_trip_and_state():
    successor = pruned(SPEC, sparse_weight())
    adapter: TypeAdapter[Scheme] = TypeAdapter(AnyScheme)
    again = adapter.validate_json(adapter.dump_json(successor.scheme))
    assert again == successor.scheme
    first = collection_of(successor, SPEC, "fp32")
    second = EmbeddingCollection(
        first.groups, first.keys, "meta", {"embedding.item": again}, "fp32"
    ).to_empty(device="cpu")
    second.load_state_dict(first.state_dict())
    assert torch.equal(vectors(second, range(40)), sparse_weight())


@pytest.mark.parametrize("layout", ["rows", "bitmask", "csr"])
def test_exports(layout):
    tables = collection_of(packed(sparse_weight(), layout), SPEC, "fp32")

    class Item(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = tables._parts["embedding.item"].encoder
            self.decoder = tables._parts["embedding.item"].decoder

        def forward(self, indices: Tensor) -> Tensor:
            if layout == "rows":
                return self.encoder(indices)[0]
            return self.decoder((), indices)

    indices = torch.arange(40, dtype=torch.int32)
    length = torch.export.Dim("length")
    program = torch.export.export(Item(), (indices,), dynamic_shapes=({0: length},))
    few = indices[5:12]
    assert torch.equal(program.module()(few), Item()(few))
