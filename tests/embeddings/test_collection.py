"""Values, order, checks, names and sizes of the embedding collection on the local store."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from recsys.embeddings import kernels
from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.errors import SchemaError
from recsys.schema import TableSpec
from recsys.types import Batch
from tests.embeddings.conftest import KEYS, make_batch, make_collection, objective, spec


def naive(weights: dict, batch, group: str) -> np.ndarray:
    """The definition, one index at a time."""
    tables = {"user": "person", "tags": "tags", "friend": "person", "city": "city"}
    size, columns = batch.batch_size, []
    position = 0
    for slot, key in enumerate(KEYS):
        name = f"{group}.{tables[key]}.weight"
        weight = weights.get(name)
        column = None if weight is None else np.zeros((size, weight.shape[1]), np.float64)
        for row in range(size):
            length = int(batch.lengths[slot * size + row])
            for _ in range(length):
                factor = (
                    1.0 if batch.value_weights is None else float(batch.value_weights[position])
                )
                if column is not None:
                    column[row] += factor * weight[int(batch.values[position])].double().numpy()
                position += 1
            if column is not None and key == "tags" and length:
                column[row] /= length
        if column is not None:
            columns.append(column)
    return np.concatenate(columns, axis=1)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("trained", ["bare", "sparse", "eval"])
def test_equals_the_definition(collection, implementation, weighted, trained):
    if trained == "sparse":
        collection.attach_optimizer(EmbeddingOptimizerConfig())
    batch = make_batch(3, size=300, weighted=weighted)
    with torch.set_grad_enabled(trained != "eval"):
        outputs = collection(batch)
    for group, output in outputs.items():
        expected = naive(collection.state_dict(), batch, group)
        np.testing.assert_allclose(output.values.detach().numpy(), expected, atol=2e-6)


def test_output_is_in_key_order_not_in_table_order(collection, implementation):
    outputs = collection(make_batch(0))
    assert outputs["embedding"].keys == KEYS
    assert outputs["embedding"].dims == (4, 6, 4, 4)
    assert outputs["linear"].keys == ("user", "tags", "friend")
    weight = collection.state_dict()["embedding.person.weight"]
    users = make_batch(0).key_values("user")
    assert torch.equal(outputs["embedding"]["user"], weight[users.long()])


def test_empty_bags_give_zeros(collection, implementation):
    output = collection(make_batch(0))["embedding"]
    assert output["city"].abs().sum() == 0
    assert output["tags"][0].abs().sum() == 0


def test_int64_indices_are_fine(collection, implementation):
    batch = make_batch(1)
    wide = dataclasses.replace(batch, values=batch.values.long(), lengths=batch.lengths.long())
    with torch.no_grad():
        assert torch.equal(collection(batch)["linear"].values, collection(wide)["linear"].values)


# ------------------------------------------------------------------------------------- checks


def test_keys_in_another_order_are_refused(collection):
    batch = dataclasses.replace(make_batch(0), keys=("tags", "user", "friend", "city"))
    with pytest.raises(SchemaError, match="position 0 is `tags`, expected `user`"):
        collection(batch)


def test_unknown_keys_are_refused(collection):
    batch = dataclasses.replace(make_batch(0), keys=("usr", "tags", "friend", "city"))
    with pytest.raises(SchemaError, match=r"missing \['user'\], unknown \['usr'\]. Did you mean"):
        collection(batch)


def test_sizes_that_contradict_each_other_are_refused(collection):
    batch = make_batch(0)
    short = dataclasses.replace(batch, lengths=batch.lengths[:-1])
    with pytest.raises(SchemaError, match="4 keys and 8 rows with 31 lengths"):
        collection(short)
    counts = (8, 1, 8, 0)
    with pytest.raises(SchemaError, match="`value_counts` adds up to 17 for"):
        collection(dataclasses.replace(batch, value_counts=counts))


@pytest.mark.parametrize("wrong", [-1, 2, 2**30])
def test_lengths_that_do_not_add_up_are_refused(collection, wrong):
    if kernels.library() is None:
        pytest.skip("kernels were not built")
    lengths = make_batch(0).lengths.clone()
    lengths[3] = wrong
    with torch.no_grad(), pytest.raises(SchemaError, match="`lengths` do not add up"):
        collection(dataclasses.replace(make_batch(0), lengths=lengths))


@pytest.mark.parametrize("bad", [41, -1, 2**31 - 1])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_index_outside_its_table_is_refused(collection, implementation, bad, dtype):
    batch = make_batch(0)
    values = batch.values.to(dtype).clone()
    values[-1] = bad
    match = rf"feature `friend`: index {bad:_} is outside table `person` \(num_embeddings=41\)"
    with pytest.raises(SchemaError, match=match):
        collection(dataclasses.replace(batch, values=values))


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        ({"g": [spec("t", 3, 2, ("nope",), "sum")]}, r"features \['nope'\] are not among the keys"),
        ({"g": [spec("t", 3, 2, ("a",), "sum")] * 2}, r"table \['t'\] occurs twice"),
        (
            {"g": [spec("t", 3, 2, ("a",), "sum"), spec("u", 3, 2, ("a",), "sum")]},
            r"feature \['a'\] occurs twice",
        ),
        ({"g": []}, "at least one table"),
        ({"g.h": [spec("t", 3, 2, ("a",), "sum")]}, "a name without dots"),
    ],
)
def test_contradicting_tables_are_refused(groups, match):
    with pytest.raises(SchemaError, match=match):
        EmbeddingCollection(groups, ("a", "b"))


def test_doubled_keys_and_unknown_schemes_are_refused():
    table = spec("t", 3, 2, ("a",), "sum")
    with pytest.raises(SchemaError, match="names a feature twice"):
        EmbeddingCollection({"g": [table]}, ("a", "a"))
    with pytest.raises(SchemaError, match=r"unknown tables: \['g.x'\]"):
        EmbeddingCollection({"g": [table]}, ("a",), schemes={"g.x": object()})  # type: ignore


# -------------------------------------------------------------------------------- start values


def test_start_values_depend_on_seed_and_name_only():
    first, second = make_collection(), make_collection()
    second.reset_parameters(seed=1)
    assert not torch.equal(*(c.state_dict()["embedding.tags.weight"] for c in (first, second)))
    second.reset_parameters(seed=0)
    alone = EmbeddingCollection({"embedding": [spec("tags", 9, 6, ("b",), "sum")]}, ("b",))
    for other in (second, alone):
        name = "embedding.tags.weight"
        assert torch.equal(first.state_dict()[name], other.state_dict()[name])
    assert not any(weight[0].any() for weight in first.state_dict().values())


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_start_values_have_the_asked_spread(kind):
    table = TableSpec(
        name="t",
        num_embeddings=20_000,
        embedding_dim=8,
        feature_names=("a",),
        pooling="sum",
        init={"kind": kind, "std": 0.5},
    )
    weight = EmbeddingCollection({"g": [table]}, ("a",)).state_dict()["g.t.weight"][1:]
    assert abs(weight.mean()) < 0.005 and abs(weight.std() - 0.5) < 0.005
    kurtosis = (weight**4).mean() / 0.5**4
    assert abs(kurtosis - (3.0 if kind == "normal" else 1.8)) < 0.06
    correlation = np.corrcoef(weight.numpy().T) - np.eye(8)
    assert np.abs(correlation).max() < 0.03


def test_built_on_meta_then_filled():
    meta = EmbeddingCollection({"g": [spec("t", 5, 2, ("a",), "sum")]}, ("a",), device="meta")
    assert all(parameter.is_meta for parameter in meta.parameters())
    real = meta.to_empty(device="cpu")
    real.reset_parameters(seed=0)
    same = EmbeddingCollection({"g": [spec("t", 5, 2, ("a",), "sum")]}, ("a",))
    assert torch.equal(real.state_dict()["g.t.weight"], same.state_dict()["g.t.weight"])


# --------------------------------------------------------------------------------- state dicts


def test_state_dict_has_one_entry_a_table(collection):
    assert list(collection.state_dict()) == [
        "embedding.city.weight",
        "embedding.person.weight",
        "embedding.tags.weight",
        "linear.person.weight",
        "linear.tags.weight",
    ]
    assert collection.state_dict()["embedding.tags.weight"].shape == (9, 6)


def test_state_dict_loads_inside_a_parent(collection):
    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.embeddings, self.head = make_collection(), nn.Linear(2, 1)

    first, second = Parent(), Parent()
    first.embeddings.reset_parameters(seed=9)
    assert "embeddings.linear.tags.weight" in first.state_dict()
    second.load_state_dict(first.state_dict())
    batch = make_batch(0)
    assert torch.equal(
        first.embeddings(batch)["embedding"].values, second.embeddings(batch)["embedding"].values
    )


def test_load_errors_name_the_table(collection):
    state = collection.state_dict()
    small = state | {"linear.tags.weight": torch.zeros(8, 1)}
    with pytest.raises(RuntimeError, match=r"table `linear.tags`: expected \(9, 1\).*got \(8, 1\)"):
        collection.load_state_dict(small)
    with pytest.raises(RuntimeError, match=r"Missing key.*linear.tags.weight"):
        collection.load_state_dict({k: v for k, v in state.items() if k != "linear.tags.weight"})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*linear.other.weight"):
        collection.load_state_dict(state | {"linear.other.weight": torch.zeros(1)})


def test_a_loaded_pad_row_becomes_zero(collection):
    state = {name: torch.ones_like(weight) for name, weight in collection.state_dict().items()}
    collection.load_state_dict(state)
    assert all(not w[0].any() and w[1:].all() for w in collection.state_dict().values())


# ----------------------------------------------------------------------------- forms and memory


def test_sequence_gives_rows_and_lengths(collection, implementation):
    batch = make_batch(5)
    rows, lengths = collection.sequence(batch, "embedding", "tags")
    weight = collection.state_dict()["embedding.tags.weight"]
    assert torch.equal(rows, weight[batch.key_values("tags").long()])
    assert torch.equal(lengths, batch.key_lengths("tags"))
    with pytest.raises(SchemaError, match="no feature `city` in group `linear`"):
        collection.sequence(batch, "linear", "city")


def test_bare_collection_trains_with_any_optimizer(collection):
    optimizer = torch.optim.AdamW(collection.parameters(), lr=0.1, weight_decay=0.1)
    before = copy.deepcopy(collection.state_dict())
    for step in range(3):
        optimizer.zero_grad()
        objective(collection(make_batch(step))).backward()
        assert all(parameter.grad is not None for parameter in collection.parameters())
        optimizer.step()
    for name, weight in collection.state_dict().items():
        assert not weight[0].any()
        if "city" not in name:
            assert not torch.equal(weight, before[name])


def test_autocast_keeps_tables_and_outputs_in_float32(collection, implementation):
    optimizer = collection.attach_optimizer(EmbeddingOptimizerConfig(kind="sgd"))
    with torch.autocast("cpu", torch.bfloat16):
        output = collection(make_batch(0))["embedding"].values
        assert output.dtype == torch.float32
        loss = (output @ torch.ones(output.shape[1], 1)).float().sum()
    loss.backward()
    optimizer.step()
    assert all(weight.dtype == torch.float32 for weight in collection.state_dict().values())


class Flat(nn.Module):
    """A model over flat tensors, as exported ones are."""

    def __init__(self, collection):
        super().__init__()
        self.embeddings = collection

    def forward(self, values, lengths, dense):
        batch = Batch(dense, values, lengths, dense, KEYS, ())
        return self.embeddings(batch)["embedding"].values


@pytest.mark.parametrize("form", ["fx", "export"])
def test_traced_forms_agree(collection, form):
    flat = Flat(collection).eval()
    batch = make_batch(0)
    inputs = (batch.values, batch.lengths, batch.dense)
    if form == "fx":
        traced = torch.fx.symbolic_trace(flat)
    else:
        auto = torch.export.Dim.AUTO
        shapes = ({0: auto}, {0: auto}, {0: auto})
        traced = torch.export.export(flat, inputs, dynamic_shapes=shapes).module()
    for seed, size in ((0, 8), (1, 5)):
        batch = make_batch(seed, size=size)
        found = traced(batch.values, batch.lengths, batch.dense)
        torch.testing.assert_close(found, collection(batch)["embedding"].values)


def test_sparse_training_works_under_compile(collection):
    optimizer = collection.attach_optimizer(EmbeddingOptimizerConfig())
    before = copy.deepcopy(collection.state_dict())
    compiled = torch.compile(lambda batch: objective(collection(batch)), backend="eager")
    compiled(make_batch(0)).backward()
    optimizer.step()
    expected = make_collection()
    optimizer = expected.attach_optimizer(EmbeddingOptimizerConfig())
    objective(expected(make_batch(0))).backward()
    optimizer.step()
    for name, weight in collection.state_dict().items():
        torch.testing.assert_close(weight, expected.state_dict()[name])
        assert "city" in name or not torch.equal(weight, before[name])


def test_a_model_without_tables_is_fine():
    collection, empty = EmbeddingCollection({}, ()), torch.zeros(0, dtype=torch.int32)
    optimizer = collection.attach_optimizer(EmbeddingOptimizerConfig())
    assert collection(Batch(torch.zeros(2, 3), empty, empty, torch.zeros(2, 1), (), ())) == {}
    optimizer.step()
    assert optimizer.state_dict() == {} and collection.bytes("train", optimizer).total == 0


def test_state_dict_survives_safetensors_and_pickle(collection, tmp_path):
    save_file(collection.state_dict(), tmp_path / "tables.safetensors")
    other = pickle.loads(pickle.dumps(make_collection()))
    other.reset_parameters(seed=5)
    other.load_state_dict(load_file(tmp_path / "tables.safetensors"))
    batch = make_batch(0)
    assert torch.equal(collection(batch)["linear"].values, other(batch)["linear"].values)


def test_bytes_are_those_held(collection):
    values = 6 * 4 + 41 * 4 + 9 * 6 + 41 + 9
    rows = 6 + 41 + 9 + 41 + 9
    optimizer = collection.attach_optimizer(EmbeddingOptimizerConfig())
    assert collection.bytes().total == 4 * values
    assert collection.bytes("train", optimizer).total == 4 * (values + rows)
    assert collection.bytes("train", optimizer).optimizer == 4 * rows
    assert float(collection.aux_loss()) == 0.0


def test_importing_the_collection_does_not_load_torchrec():
    code = (
        "import sys, recsys.embeddings.collection, recsys.embeddings.backend\n"
        "assert not {'torchrec', 'fbgemm_gpu'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
