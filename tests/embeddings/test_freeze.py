"""Freezing: the same vectors, the bytes that were promised, and what is refused."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from recsys.embeddings import row_format
from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.adapt_emb import AdaptEmb
from recsys.embeddings.compression.hash import Hash
from recsys.embeddings.compression.plan import compress
from recsys.embeddings.compression.quotient_remainder import QuotientRemainder
from recsys.embeddings.compression.unified import UnifiedEmbedding
from recsys.embeddings.freeze import freeze
from recsys.embeddings.memory import tensor_bytes
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.row_format import BITS, dequantize_rows, quantize_rows
from recsys.embeddings.scheme import Dtype, Full, Grid, Scheme, Successor, Trained, successor_as_is
from recsys.embeddings.torchrec_backend import to_torchrec
from recsys.errors import ConfigError
from recsys.schema import Init, TableSpec
from recsys.types import Batch

KEYS = ("user", "item")
SCHEMES: dict[str, Scheme] = {
    "full": Full(),
    "hash": Hash(),
    "shared": Hash(multiplex=True),
    "unified": UnifiedEmbedding(),
    "quotient_remainder": QuotientRemainder(),
    "adapt_emb": AdaptEmb(),
}


def spec(name: str, rows: int, dim: int = 16) -> TableSpec:
    return TableSpec(
        name=name, num_embeddings=rows, embedding_dim=dim, feature_names=(name,), pooling="sum",
        init=Init(std=0.2),
    )  # fmt: skip


def make(scheme: Scheme) -> EmbeddingCollection:
    """Two tables of width 16, one of width 1, as a model with first-order weights has them."""
    groups = {
        "embedding": [spec("user", 900), spec("item", 700)],
        "linear": [spec("user", 900, 1)],
    }
    schemes = {}
    if not isinstance(scheme, Full):
        plan = compress(groups["embedding"], scheme, ratio=0.5)
        schemes = {f"embedding.{name}": found for name, found in plan.items()}
    collection = EmbeddingCollection(groups, KEYS, schemes=schemes)
    collection.reset_parameters(1)
    return collection


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.cat([torch.ones(20), torch.randint(0, 4, (20,), generator=generator)]).int()
    items = int(lengths[20:].sum())
    users = torch.randint(0, 900, (20,), generator=generator)
    values = torch.cat([users, torch.randint(0, 700, (items,), generator=generator)]).int()
    none = torch.zeros(20, 0)
    return Batch(none, values, lengths, none, KEYS, (20, items))


def look_up(collection: EmbeddingCollection) -> Tensor:
    with torch.no_grad():
        return torch.cat([out.values for out in collection(make_batch()).values()], dim=1)


@pytest.mark.parametrize("name", SCHEMES)
def test_fp32_is_the_eval_forward(name: str, implementation: str) -> None:
    collection = make(SCHEMES[name]).eval()
    frozen = freeze(collection)
    assert torch.equal(look_up(frozen), look_up(collection))
    assert not frozen.training and frozen.dtype == "fp32"
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    for group, table in (("embedding", "user"), ("embedding", "item"), ("linear", "user")):
        with torch.no_grad():
            assert torch.equal(frozen.all_rows(group, table), collection.all_rows(group, table))


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("name", SCHEMES)
def test_four_ways_to_count_bytes_agree(name: str, dtype: Dtype, tmp_path: Path) -> None:
    """Said before, reported after, held in memory, written to disk."""
    collection = make(SCHEMES[name])
    said = collection.bytes("infer", dtype=dtype)
    frozen = freeze(collection, dtype)
    state = {key: value.clone() for key, value in frozen.state_dict().items()}
    save_file(state, tmp_path / "tables.safetensors")
    size = (tmp_path / "tables.safetensors").stat().st_size
    header = int.from_bytes((tmp_path / "tables.safetensors").read_bytes()[:8], "little")
    assert frozen.bytes("infer") == said
    assert tensor_bytes([*frozen.parameters(), *frozen.buffers()]) == said.total
    assert size - 8 - header == said.total


def test_widths_that_stay_in_fp16_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="recsys.embeddings.freeze"):
        freeze(make(Full()), "int8")
        freeze(make(Full()), "fp16")
    assert [record.getMessage() for record in caplog.records] == [
        "rows of width 1 stay in fp16: with scale and bias, int8 would take no fewer bytes"
    ]


def test_bytes_by_hand() -> None:
    """1600 rows of width 16 and 900 of width 1, which int8 and below hold in fp16."""
    collection = make(Full())
    expected = {"fp32": 64, "fp16": 32, "int8": 20, "int4": 12, "int2": 8}
    for dtype, row in expected.items():
        narrow = 4 if dtype == "fp32" else 2
        assert freeze(collection, dtype).bytes().tables == 1600 * row + 900 * narrow


def test_the_order_of_errors_follows_the_bits() -> None:
    collection = make(Full())
    exact = look_up(collection)
    errors = [
        (look_up(freeze(collection, dtype)) - exact).square().mean().sqrt().item()
        for dtype in ("fp32", "fp16", "int8", "int4", "int2")
    ]
    assert errors[0] == 0
    # A row of 16 normal values spans 3.5 sd. Uniform rounding errors have sd range / levels / 3.46
    # a value; bags of 0 to 3 items and the exact linear term make it about that.
    assert errors == sorted(errors)
    for error, levels in zip(errors[2:], (255, 15, 3)):
        assert error == pytest.approx(3.5 * 0.2 / levels / 3.46, rel=0.3)


def test_a_shared_table_is_quantized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, write = [], row_format.write_rows

    def counted(target: Tensor, *args: object) -> None:
        calls.append(tuple(target.shape))
        write(target, *args)

    monkeypatch.setattr("recsys.embeddings.packed_store.write_rows", counted)
    frozen = freeze(make(Hash(multiplex=True)), "int8")
    assert [name for name in frozen.state_dict() if "shared" in name] == [
        "embedding.shared@hash16.weight"
    ]
    assert len(calls) == 2  # it, and the linear table


def test_freezing_leaves_the_collection_alone() -> None:
    collection = make(UnifiedEmbedding())
    before = {name: value.clone() for name, value in collection.state_dict().items()}
    frozen = freeze(collection, "int2")
    assert all(torch.equal(before[n], v) for n, v in collection.state_dict().items())
    mine = {t.untyped_storage().data_ptr() for t in collection.state_dict().values()}
    assert mine.isdisjoint(t.untyped_storage().data_ptr() for t in frozen.state_dict().values())


class _Gridded(Full):
    """Served on the grid its rows were trained on."""

    def frozen(self, trained: Trained) -> Successor:
        return dataclasses.replace(successor_as_is(trained), grids=(Grid(torch.tensor(0.125)),))


class _Mixed(Full):
    """Rows of its own dtype."""

    def part(self, table: TableSpec):
        return dataclasses.replace(super().part(table), dtypes=("int2",))


class _Picky(Full):
    def check_dtype(self, dtype: Dtype) -> None:
        if dtype == "int2":
            raise ConfigError("two bits are too few for this.")


def test_rows_on_a_grid_come_out_exact() -> None:
    groups = {"e": [spec("user", 50), spec("item", 50)]}
    collection = EmbeddingCollection(groups, KEYS, schemes={"e.user": _Gridded()})
    steps = torch.randint(-8, 8, (50, 16)).float().clamp(-3, 2)
    steps[0] = 0
    collection.load_state_dict({"e.user.weight": steps * 0.125, "e.item.weight": steps * 0.1})
    frozen = freeze(collection, "int4")
    got = frozen.store.weights()
    assert torch.equal(got["e.user"], steps * 0.125)
    other = dequantize_rows(quantize_rows(steps[1:] * 0.1, "int4"), "int4")
    assert torch.equal(got["e.item"][1:], other)
    assert torch.equal(freeze(collection, "fp16").store.weights()["e.user"], steps * 0.125)


def test_a_part_may_choose_its_dtype() -> None:
    collection = EmbeddingCollection(
        {"e": [spec("user", 50), spec("item", 50)]}, KEYS, schemes={"e.user": _Mixed()}
    )
    assert collection.bytes("infer", dtype="int8").total == 50 * (8 + 20)
    assert freeze(collection, "int8").bytes().total == 50 * (8 + 20)


def test_what_is_refused() -> None:
    collection = make(Full())
    frozen = freeze(collection, "int8")
    with pytest.raises(ConfigError, match="frozen already, in int8"):
        freeze(frozen, "int4")
    with pytest.raises(ConfigError, match="frozen in int8 and cannot be trained"):
        frozen.attach_optimizer(EmbeddingOptimizerConfig())
    with pytest.raises(
        ConfigError, match=r"fp32, fp16, int8, int4, int2; got 'int3'\. Did you mean"
    ):
        freeze(collection, "int3")  # pyright: ignore[reportArgumentType]
    picky = EmbeddingCollection(
        {"e": [spec("user", 5), spec("item", 5)]}, KEYS, schemes={"e.item": _Picky()}
    )
    with pytest.raises(ConfigError, match=r"table `e\.item`: two bits are too few"):
        freeze(picky, "int2")
    odd = EmbeddingCollection({"e": [spec("user", 5, 9)]}, ("user",))
    with pytest.raises(ConfigError, match=r"table `e\.user`: int4 rows need a width"):
        freeze(odd, "int4")
    with torch.no_grad():
        collection.store.flat(16)[4, 2] = float("nan")  # pyright: ignore
    with pytest.raises(ConfigError, match=r"table `embedding\.user`: the table cannot be stored"):
        freeze(collection, "int8")


def test_no_float_copy_of_a_table_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantizing 200,000 rows never sees more than a chunk of them."""
    seen, quantize = [], row_format.quantize_rows

    def counted(weight: Tensor, *args: object) -> Tensor:
        seen.append(weight.shape[0])
        return quantize(weight, *args)

    monkeypatch.setattr(row_format, "quantize_rows", counted)
    freeze(EmbeddingCollection({"e": [spec("user", 200_000)]}, ("user",)), "int8")
    assert sum(seen) == 200_000 and max(seen) == 1 << 16


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sharded_tables_are_gathered() -> None:
    local, sharded = make(Hash(multiplex=True)), make(Hash(multiplex=True))
    to_torchrec(sharded, EmbeddingOptimizerConfig(kind="sgd", mode="sparse"))
    frozen = freeze(sharded, "int8")
    assert torch.equal(look_up(frozen), look_up(freeze(local, "int8")))
    assert frozen.bytes().total == local.bytes("infer", dtype="int8").total
