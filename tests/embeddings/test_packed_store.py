"""Rows of frozen tables: their bytes by hand, their errors, and both ways to look them up."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
import pytest
import torch

from recsys.embeddings import kernels
from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.freeze import freeze
from recsys.embeddings.row_format import (
    BITS,
    dequantize_rows,
    empty_rows,
    quantize_rows,
    row_bytes,
    stored_dtype,
    write_rows,
)
from recsys.embeddings.scheme import Grid
from recsys.errors import CheckpointError, ConfigError
from recsys.schema import Init, TableSpec
from recsys.types import Batch

DTYPES = tuple(BITS)
CODES = ("int8", "int4", "int2")
KEYS = ("user", "tags", "friend", "city")


def decoded(row: bytes, dtype: str, dim: int) -> list[float]:
    """One stored row, read by hand."""
    if dtype in ("fp32", "fp16"):
        return np.frombuffer(row, "<f4" if dtype == "fp32" else "<f2").astype(float).tolist()
    scale, bias = struct.unpack("<ee", row[:4])
    bits = {"int8": 8, "int4": 4, "int2": 2}[dtype]
    number = int.from_bytes(row[4:], "little")
    return [scale * (number >> bits * d & (1 << bits) - 1) + bias for d in range(dim)]


# --------------------------------------------------------------------------------------- rows


def test_bytes_of_a_row() -> None:
    assert [row_bytes(dtype, 16) for dtype in DTYPES] == [64, 32, 20, 12, 8]
    assert [row_bytes("int8", dim) for dim in (5, 7)] == [9, 11]
    with pytest.raises(ConfigError, match="int4 rows need a width that is a multiple of 2, got 5"):
        row_bytes("int4", 5)
    with pytest.raises(ConfigError, match="int2 rows need a width that is a multiple of 4, got 6"):
        row_bytes("int2", 6)


def test_narrow_rows_stay_in_fp16() -> None:
    """int8 of width 4: 4 + 4 bytes, as many as fp16; int4 of width 4: 4 + 2."""
    assert [stored_dtype("int8", dim) for dim in (1, 4, 5)] == ["fp16", "fp16", "int8"]
    assert [stored_dtype("int4", dim) for dim in (1, 3, 4)] == ["fp16", "fp16", "int4"]
    assert [stored_dtype("int2", dim) for dim in (1, 2, 4)] == ["fp16", "fp16", "int2"]
    assert stored_dtype("fp32", 1) == "fp32"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("std", [3e-6, 1e-4, 0.1, 100.0])
def test_rows_come_back_within_half_a_step(dtype: str, std: float) -> None:
    """Also where scale and bias are fp16 subnormals."""
    weight = torch.randn(50, 8, generator=torch.Generator().manual_seed(1)) * std
    rows = quantize_rows(weight, dtype)
    got = dequantize_rows(rows, dtype)
    by_hand = [decoded(row.numpy().tobytes(), dtype, 8) for row in rows]
    torch.testing.assert_close(got.double(), torch.tensor(by_hand, dtype=torch.float64))
    if dtype == "fp32":
        assert torch.equal(got, weight)
    elif dtype == "fp16":
        assert torch.equal(got, weight.half().float())
    else:
        scale = rows[:, :2].contiguous().view(torch.float16).float()
        assert ((got - weight).abs() <= scale * 0.5001).all()
        # The scale is the least that fits: the range over the number of steps, rounded outwards.
        least = (weight.amax(1) - weight.amin(1)) / (2 ** BITS[dtype] - 1)
        slack = least * 2e-3 + 2**-23  # two fp16 steps
        assert ((scale[:, 0] >= least * 0.999) & (scale[:, 0] <= least + slack)).all()


def test_constant_and_zero_rows() -> None:
    weight = torch.tensor([[0.0] * 4, [0.25] * 4, [-3.0] * 4])
    for dtype in CODES:
        assert torch.equal(dequantize_rows(quantize_rows(weight, dtype), dtype), weight)


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("scale", [0.25, 3e-6, 0.01])
def test_values_on_a_grid_are_exact(dtype: str, scale: float) -> None:
    """Codes always; values as well if fp16 holds the scale. Rows need not use the whole range."""
    bits = BITS[dtype]
    half = torch.tensor(scale).half().float()
    steps = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (40, 8)).float()
    steps[0] = steps[0].clamp(0, 1)  # a narrow row
    got = dequantize_rows(quantize_rows(steps * half, dtype, scale=half), dtype)
    assert torch.equal(got, steps * half)
    inexact = dequantize_rows(quantize_rows(steps * scale, dtype, scale=scale), dtype)
    assert torch.equal((inexact / half).round(), steps)
    of_rows = torch.full((40,), float(half))
    of_rows[3] = 1.0
    own = steps * of_rows[:, None]
    assert torch.equal(dequantize_rows(quantize_rows(own, dtype, of_rows), dtype), own)


def test_a_grid_may_have_a_bias() -> None:
    row = torch.tensor([[1.0, 1.5, 2.0, 1.0]])
    got = quantize_rows(row, "int2", scale=0.5, bias=1.0)
    assert got[0, 4].item() == 0b00_10_01_00
    assert torch.equal(dequantize_rows(got, "int2"), row)


def test_values_that_do_not_fit_are_refused() -> None:
    for bad in (float("nan"), float("inf"), -1e6):
        weight = torch.tensor([[0.0, bad, 0.0, 1.0]])
        for dtype in ("fp16", *CODES):
            with pytest.raises(ConfigError, match=f"cannot be stored as {dtype}"):
                quantize_rows(weight, dtype)
    with pytest.raises(ConfigError, match="`scale` must be above 0 in fp16"):
        quantize_rows(torch.ones(1, 4), "int8", scale=1e-9)
    with pytest.raises(ConfigError, match="`scale` is for int8, int4 and int2, not for fp16"):
        quantize_rows(torch.ones(1, 4), "fp16", scale=0.5)


def test_tables_are_written_in_chunks_with_a_zero_pad() -> None:
    weight, scales = torch.randn(10, 4), torch.linspace(0.1, 1, 10)
    for grid in (None, Grid(scales), Grid(torch.tensor(0.5), torch.tensor(-1.0))):
        target = empty_rows("int8", 10, 4)
        write_rows(target, weight, "int8", grid, chunk=3)
        more = () if grid is None else (grid.scale, grid.bias)
        assert torch.equal(target[1:], quantize_rows(weight, "int8", *more)[1:])
        assert not target[0].any()


# --------------------------------------------------------------------------------------- lookup


def make_collection(dims: tuple[int, ...] = (16, 8, 20, 36)) -> EmbeddingCollection:
    """Several widths (whole chunks of 16 columns, and remains), a shared table, two groups."""

    def spec(name: str, rows: int, dim: int, features: tuple[str, ...], pooling: str) -> TableSpec:
        return TableSpec(
            name=name, num_embeddings=rows, embedding_dim=dim, feature_names=features,
            pooling=pooling, init=Init(std=0.3),
        )  # fmt: skip

    groups = {
        f"d{dim}": [
            spec("city", 6, dim, ("city",), "sum"),
            spec("person", 41, dim, ("user", "friend"), "sum"),
            spec("tags", 9, 4 * dim, ("tags",), "mean"),
        ]
        for dim in dims
    }
    groups["linear"] = [spec("person", 41, 1, ("user", "friend"), "sum")]
    collection = EmbeddingCollection(groups, KEYS)
    collection.reset_parameters(3)
    return collection


def make_batch(seed: int = 1, size: int = 9, weighted: bool = False) -> Batch:
    """Bags of 0 to 4 tags with PAD among them; some rows have no friend."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int, count: int) -> torch.Tensor:
        return torch.randint(0, high, (count,), generator=generator, dtype=torch.int32)

    tags, friends, ones = draw(5, size), draw(2, size), torch.ones(size, dtype=torch.int32)
    counts = (size, int(tags.sum()), int(friends.sum()), size)
    values = torch.cat([draw(n, c) for n, c in zip((41, 9, 41, 6), counts)])
    values[0] = 0
    return Batch(
        dense=torch.zeros(size, 0),
        values=values,
        lengths=torch.cat([ones, tags, friends, ones]),
        labels=torch.zeros(size, 1),
        keys=KEYS,
        value_counts=counts,
        value_weights=torch.randn(len(values), generator=generator) if weighted else None,
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lookups_are_those_of_the_decoded_tables(
    dtype: str, weighted: bool, implementation: str
) -> None:
    """A trainable collection that holds the decoded rows is the reference."""
    trained = make_collection()
    frozen = freeze(trained, dtype)
    trained.load_state_dict({f"{k}.weight": w for k, w in frozen.store.weights().items()})
    batch = make_batch(weighted=weighted)
    with torch.no_grad():
        got, expected = frozen(batch), trained(batch)
        for group in expected:
            torch.testing.assert_close(
                got[group].values, expected[group].values, rtol=1e-6, atol=1e-6
            )
            assert not got[group]["user"][0].any()  # PAD
        for group, key in (("d20", "tags"), ("d16", "user"), ("linear", "friend")):
            rows, lengths = frozen.sequence(batch, group, key)
            wanted, wanted_lengths = trained.sequence(batch, group, key)
            assert torch.equal(rows, wanted) and torch.equal(lengths, wanted_lengths)
        assert torch.equal(frozen.all_rows("d8", "tags"), trained.all_rows("d8", "tags"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_compiled_and_plain_lookups_are_equal(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bags of one bit for bit; sums up to the order of rounding."""
    if kernels.library() is None:
        pytest.skip("kernels were not built")
    frozen, batch = freeze(make_collection(), dtype), make_batch()
    with torch.no_grad():
        compiled = frozen(batch)
        monkeypatch.setattr(kernels, "library", lambda: None)
        plain = frozen(batch)
    for group, found in plain.items():
        assert torch.equal(compiled[group]["user"], found["user"])
        torch.testing.assert_close(compiled[group].values, found.values, rtol=1e-6, atol=1e-6)


def test_every_fp16_is_decoded_exactly(implementation: str) -> None:
    """All finite halves, subnormals and both zeros, also where subnormals are flushed."""
    table = TableSpec(
        name="t", num_embeddings=4097, embedding_dim=16, feature_names=("t",), pooling="sum"
    )
    frozen = EmbeddingCollection({"e": [table]}, ("t",), dtype="fp16")
    halves = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.float16)
    halves = torch.where(halves.isfinite(), halves, torch.zeros_like(halves)).view(4096, 16)
    frozen.store.load_stored({"e.t": torch.cat([halves[:1] * 0, halves])})
    torch.set_flush_denormal(implementation == "compiled")
    try:
        got = frozen.all_rows("e", "t")[1:]
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(got, halves.float())


def test_large_lookups_are_split_over_threads() -> None:
    table = TableSpec(
        name="t", num_embeddings=5000, embedding_dim=32, feature_names=("t",), pooling="sum"
    )
    trained = EmbeddingCollection({"e": [table]}, ("t",))
    trained.reset_parameters(1)
    frozen = freeze(trained, "int8")
    before = torch.get_num_threads()
    rows = torch.randint(0, 5000, (30_001,), dtype=torch.int32)
    batch = Batch(
        dense=torch.zeros(30_001, 0), values=rows, lengths=torch.ones(30_001, dtype=torch.int32),
        labels=torch.zeros(30_001, 1), keys=("t",), value_counts=(30_001,),
    )  # fmt: skip
    try:
        torch.set_num_threads(2)
        got = frozen.sequence(batch, "e", "t")[0]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got, frozen.store.weights()["e.t"][rows.long()])


def test_a_batch_that_contradicts_itself_is_refused() -> None:
    batch = make_batch()
    lengths = batch.lengths.clone()
    lengths[0], lengths[9] = 0, lengths[9] + 1
    frozen = freeze(make_collection((16,)), "int4")
    if kernels.library() is None:
        pytest.skip("kernels were not built")
    with pytest.raises(ValueError, match="`lengths` do not add up to `value_counts`"):
        frozen(dataclasses.replace(batch, lengths=lengths))


# --------------------------------------------------------------------------------------- storage


@pytest.mark.parametrize("dtype", DTYPES)
def test_state_dict_holds_the_stored_bytes(dtype: str) -> None:
    frozen = freeze(make_collection((16,)), dtype)
    state = frozen.state_dict()
    assert set(state) == {f"d16.{t}.weight" for t in ("city", "person", "tags")} | {
        "linear.person.weight"
    }
    kind = {"fp32": torch.float32, "fp16": torch.float16}.get(dtype, torch.uint8)
    assert state["d16.person.weight"].dtype == kind
    sizes = {"fp32": 64, "fp16": 32, "int8": 20, "int4": 12, "int2": 8}
    assert state["d16.person.weight"].nbytes == 41 * sizes[dtype]
    other = EmbeddingCollection(frozen.groups, KEYS, dtype=dtype)
    assert not other(make_batch())["d16"].values.any()  # nothing until it is loaded
    other.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
    assert torch.equal(other(make_batch())["d16"].values, frozen(make_batch())["d16"].values)


def test_the_state_of_another_dtype_is_refused() -> None:
    trained = make_collection((8,))
    states = {dtype: freeze(trained, dtype).state_dict() for dtype in DTYPES}
    for dtype in DTYPES:
        frozen = EmbeddingCollection(trained.groups, KEYS, dtype=dtype)
        for other, state in states.items():
            if other == dtype:
                frozen.load_state_dict(state)
                continue
            with pytest.raises(CheckpointError, match=r"table `d8\.\w+` is held as .*freeze"):
                frozen.load_state_dict(state)
    # int4 rows of width 8 are 8 bytes: the shape alone would let them pass.
    assert states["int4"]["d8.person.weight"].shape == (41, 8)
    with pytest.raises(CheckpointError, match=r"held as floats, for training; .* torch\.uint8"):
        trained.load_state_dict(states["int4"])
    trained.load_state_dict(states["fp32"])
    small = {**states["int8"], "d8.person.weight": states["int8"]["d8.person.weight"][:5]}
    with pytest.raises(RuntimeError, match=r"expected \(41, 8\) \(rows, width\)"):
        EmbeddingCollection(trained.groups, KEYS, dtype="int8").load_state_dict(small)


def test_frozen_rows_are_not_written() -> None:
    frozen = freeze(make_collection((16,)), "int8")
    with pytest.raises(ConfigError, match="frozen in int8, so its rows cannot be written"):
        frozen.store.write_rows("d16.person", torch.tensor([1]), torch.zeros(1, 16))
    assert frozen.table_parameters() == [] and list(frozen.parameters()) == []
    rows = frozen.store.read_rows("d16.person", torch.tensor([3, 2]))
    assert torch.equal(rows, frozen.store.weights()["d16.person"][[3, 2]])
    assert frozen.store.read_rows("d16.person").shape == (41, 16)


def test_a_width_that_cannot_be_packed_names_its_table() -> None:
    table = TableSpec(
        name="t", num_embeddings=4, embedding_dim=7, feature_names=("t",), pooling="sum"
    )
    with pytest.raises(ConfigError, match=r"table `e\.t`: int4 rows need a width .* 2, got 7"):
        EmbeddingCollection({"e": [table]}, ("t",), dtype="int4")
