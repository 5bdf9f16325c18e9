"""The stand-in for torchrec's EmbeddingBagCollection."""

from __future__ import annotations

import pytest
import torch
import torchrec

from recsys.embeddings.compression.hash import Hash
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.torchrec_bags import CompressedEmbeddingBagCollection
from recsys.errors import BudgetInfeasible, SchemaError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def config(name, rows, dim, features, pooling="SUM"):
    kind = torchrec.PoolingType[pooling]
    return torchrec.EmbeddingBagConfig(
        name=name, num_embeddings=rows, embedding_dim=dim, feature_names=features, pooling=kind
    )


TABLES = [
    config("big", 50, 8, ["user", "friend"]),
    config("tags", 9, 4, ["tags"], "MEAN"),
    config("again", 50, 4, ["user"]),
]


def bags(weighted=False, keys=("friend", "user", "tags")):
    lengths = {"user": [1, 1, 2], "friend": [0, 2, 1], "tags": [3, 0, 1]}
    generator = torch.Generator().manual_seed(0)
    values = [
        torch.randint(0, 9 if key == "tags" else 50, (sum(lengths[key]),), generator=generator)
        for key in keys
    ]
    values = torch.cat(values)
    return torchrec.KeyedJaggedTensor(
        keys=list(keys),
        values=values,
        lengths=torch.tensor([n for key in keys for n in lengths[key]]),
        weights=torch.rand(len(values), generator=generator) if weighted else None,
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_full_tables_equal_torchrec(weighted):
    # torch has no weighted means.
    tables = [table for table in TABLES if not (weighted and table.name == "tags")]
    theirs = torchrec.EmbeddingBagCollection(tables, is_weighted=weighted)
    ours = CompressedEmbeddingBagCollection(tables, is_weighted=weighted)
    state = ours.state_dict()
    for name in (table.name for table in tables):
        (key,) = (key for key in state if key.endswith(f".{name}.weight"))
        state[key][1:] = theirs.state_dict()[f"embedding_bags.{name}.weight"]
    ours.load_state_dict(state)
    expected, got = theirs(bags(weighted)), ours(bags(weighted))
    assert got.keys() == expected.keys()
    assert got.length_per_key() == expected.length_per_key()
    torch.testing.assert_close(got.values(), expected.values())
    assert ours.embedding_bag_configs() == tables


def test_order_of_features_does_not_matter():
    ours = CompressedEmbeddingBagCollection(TABLES)
    one = bags(keys=("friend", "user", "tags"))
    other = one.permute([2, 0, 1])
    assert torch.equal(ours(one).values(), ours(other).values())


def test_compressed_to_the_budget_and_trained():
    ours = CompressedEmbeddingBagCollection.compress(TABLES, Hash(multiplex=True), ratio=0.5)
    full = 4 * (51 * 8 + 10 * 4 + 51 * 4)
    assert 0.45 * full < ours.collection.bytes("infer").total <= 0.5 * full
    optimizer = ours.collection.attach_optimizer(EmbeddingOptimizerConfig(learning_rate=0.1))
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = ((ours(bags()).values() - 1.0) ** 2)[:, 8:16].mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_first_id_is_not_padding():
    ours = CompressedEmbeddingBagCollection(TABLES[:1])
    features = torchrec.KeyedJaggedTensor(
        keys=["user", "friend"], values=torch.tensor([0]), lengths=torch.tensor([1, 0])
    )
    assert ours(features)["user"].abs().sum() > 0
    assert ours(features)["friend"].abs().sum() == 0


def test_bad_input():
    ours = CompressedEmbeddingBagCollection(TABLES)
    with pytest.raises(SchemaError, match="lack features"):
        ours(bags(keys=("user", "tags")))
    with pytest.raises(SchemaError, match="without weights"):
        ours(bags(weighted=True))
    with pytest.raises(BudgetInfeasible):
        CompressedEmbeddingBagCollection.compress(TABLES, Hash(), ratio=0.001)
