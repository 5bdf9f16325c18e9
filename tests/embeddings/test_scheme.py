"""The interface that compressed tables plug into, shown with quotient-remainder tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Decoder, Encoder, Part, Scheme
from recsys.schema import TableSpec
from recsys.types import Batch
from tests.embeddings.conftest import spec

ROWS, BASE = 23, 5


class QuotientRemainder(Encoder):
    """PAD stays PAD, since both tables keep row 0 for it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("base", torch.tensor(BASE, dtype=torch.int32))

    def forward(self, indices: Tensor) -> tuple[Tensor, ...]:
        real = indices != 0
        return ((indices // self.base + 1) * real, (indices % self.base + 1) * real)


class Add(Decoder):
    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        return probes[0] + probes[1]


class Multiply(Decoder):
    linear = False

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        return probes[0] * probes[1]


class Compositional(Scheme):
    decoder: type[Decoder]

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        return {table.name: self for table in tables}

    def part(self, table: TableSpec) -> Part:
        rows = {"q": ROWS // BASE + 2, "r": BASE + 1}
        probes = tuple(
            table.model_copy(update={"name": f"{table.name}@{role}", "num_embeddings": n})
            for role, n in rows.items()
        )
        return Part(probes, QuotientRemainder(), self.decoder())


def make(decoder: type[Decoder], pooling: str = "mean") -> EmbeddingCollection:
    tables = [spec("t", ROWS, 4, ("a", "b"), pooling), spec("plain", 7, 4, ("c",), "sum")]
    return EmbeddingCollection(
        {"g": tables}, ("a", "b", "c"), schemes={"g.t": Compositional(decoder=decoder)}
    )


def batch(weighted: bool = False) -> Batch:
    values = torch.tensor([3, 22, 7, 0, 9, 9, 1, 6, 2], dtype=torch.int32)
    lengths = torch.tensor([2, 0, 2, 1, 1, 1, 1, 0, 1], dtype=torch.int32)
    weights = torch.linspace(0.1, 2.0, 9) if weighted else None
    empty = torch.zeros(3, 0)
    return Batch(empty, values, lengths, empty, ("a", "b", "c"), (4, 3, 2), None, weights)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("decoder", [Add, Multiply])
def test_values_equal_the_definition(implementation, decoder, weighted):
    collection, rows = make(decoder), batch(weighted)
    state = collection.state_dict()
    assert set(state) == {"g.t@q.weight", "g.t@r.weight", "g.plain.weight", "encoders.g/t.base"}
    q, r = state["g.t@q.weight"], state["g.t@r.weight"]

    def vector(index: int) -> Tensor:
        if index == 0:
            return torch.zeros(4)
        a, b = q[index // BASE + 1], r[index % BASE + 1]
        return a + b if decoder is Add else a * b

    w = rows.value_weights if weighted else torch.ones(9)
    expected = torch.stack(
        [
            (w[0] * vector(3) + w[1] * vector(22)) / 2,
            torch.zeros(4),
            (w[2] * vector(7) + w[3] * vector(0)) / 2,
        ]
    )
    output = collection(rows)["g"]
    torch.testing.assert_close(output["a"], expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(output["c"][0], state["g.plain.weight"][6] * w[7])


def test_a_linear_decoder_commutes_with_pooling():
    linear = make(Add)
    rows, _ = linear.sequence(batch(), "g", "a")
    pooled = torch.stack([rows[:2].mean(0), torch.zeros(4), rows[2:].mean(0)])
    torch.testing.assert_close(linear(batch())["g"]["a"], pooled)


@pytest.mark.parametrize("decoder", [Add, Multiply])
def test_sparse_training_equals_dense(implementation, decoder):
    trained = []
    for mode in ("sparse", "dense"):
        collection = make(decoder)
        config = EmbeddingOptimizerConfig(kind="adagrad", mode=mode)
        optimizer = collection.attach_optimizer(config)
        for _ in range(3):
            optimizer.zero_grad()
            ((collection(batch(True))["g"].values - 1) ** 2).sum().backward()
            optimizer.step()
        trained.append(collection.state_dict())
    for name, value in trained[0].items():
        torch.testing.assert_close(value, trained[1][name], atol=1e-6, rtol=1e-5)


def test_backward_does_not_fill_a_whole_gradient_for_each_probe():
    collection = make(Add)
    collection.attach_optimizer(EmbeddingOptimizerConfig())
    steps, todo = [], [collection(batch())["g"].values.grad_fn]
    while todo:
        steps.append(type(todo[-1]).__name__)
        todo += [step for step, _ in todo.pop().next_functions if step is not None]
    assert "SplitWithSizesBackward0" in steps
    assert "SliceBackward0" not in steps


def test_traced_form_agrees():
    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embeddings = make(Multiply)

        def forward(self, values, lengths):
            flat = dataclasses.replace(batch(), values=values, lengths=lengths)
            return self.embeddings(flat)["g"].values

    flat, rows = Flat(), batch()
    auto = torch.export.Dim.AUTO
    program = torch.export.export(
        flat, (rows.values, rows.lengths), dynamic_shapes=({0: auto}, {0: auto})
    )
    torch.testing.assert_close(
        program.module()(rows.values, rows.lengths), flat(rows.values, rows.lengths)
    )


def test_bytes_count_encoder_buffers():
    assert make(Add).bytes().indices == 4
