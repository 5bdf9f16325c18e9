"""TwoTower: the suite, its equations by hand, both losses, what configs are refused."""

import dataclasses
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.embeddings.compression.plan import CompressionConfig
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.errors import ConfigError
from recsys.layers.mlp import MLPConfig
from recsys.layers.streaming_share import StreamingShare
from recsys.losses.in_batch import in_batch
from recsys.losses.pointwise import binary_cross_entropy, weighted_mean
from recsys.losses.sampled_softmax import sampled_softmax
from recsys.models.ctr.two_tower import TwoTower
from recsys.schema import Categorical, Label, Numeric, Schema
from recsys.serving.freeze import freeze_model
from recsys.testing import reference
from recsys.testing.ctr import CTRConformance
from recsys.testing.data import (
    SCHEMA_KINDS,
    SchemaKind,
    fill_weights,
    random_batch,
    select_rows,
    tiny_schema,
)
from recsys.testing.training import train_steps

ONE_LABEL = tuple(kind for kind in SCHEMA_KINDS if kind != "two_tasks")
SMALL = TwoTower.Config(
    item_features=("user",),
    item_id="user",
    embedding_dim=4,
    user_mlp=MLPConfig(hidden_units=(8,)),
    item_mlp=MLPConfig(hidden_units=(8,)),
    output_dim=5,
    init_std=0.5,
    normalize=False,
    temperature=1.0,
)
# What is the item's in schemas without the feature `user`, or where a test wants more of it.
WITHOUT_ID = {"item_id": None, "softmax_weight": 0.0}
ITEMS = {
    "mixed": {"item_features": ("price", "tags", "items", "image"), "item_id": "items"},
    "dense": {"item_features": ("price",), **WITHOUT_ID},
    "bags": {"item_features": ("tags",), **WITHOUT_ID},
    "vectors": {"item_features": ("text",), **WITHOUT_ID},
    "shared": {"item_features": ("target", "price"), "item_id": "target"},
}


def shares_of(model) -> StreamingShare:
    return model.shares


def weights_of(batch) -> torch.Tensor:
    return batch.weights


class TwoTowerConformance(CTRConformance):
    model = TwoTower
    features: tuple[SchemaKind, ...] = ()
    """Kinds of schemas where `ITEMS` replaces what the config says."""

    def build(self, kind: SchemaKind = "mixed", **changes):
        changes = {**(ITEMS[kind] if kind in self.features else {}), **changes}
        return super().build(kind, **changes)

    @pytest.mark.parametrize("numeric", ["embed", "dense"])
    @pytest.mark.parametrize("kind", ONE_LABEL)
    def test_every_kind_of_schema(self, kind, numeric):
        super().test_every_kind_of_schema(kind, numeric)

    def test_tasks_have_logits_of_their_own(self):
        """There is one score, so several tasks are refused."""
        with pytest.raises(ConfigError, match=r"takes one label, got 2: `click`, `buy`"):
            self.build("two_tasks")


class TestTwoTower(TwoTowerConformance):
    config = SMALL
    features = ("dense", "bags")
    golden = Path(__file__).parents[2] / "golden" / "ctr_two_tower.json"


class TestTwoTowerOfManyItemFeatures(TwoTowerConformance):
    config = SMALL.model_copy(
        update={**ITEMS["mixed"], "normalize": True, "temperature": 0.1, "numeric_bias": True}
    )
    features = ("mixed", "dense", "bags", "vectors", "shared")
    backends = False

    def build(self, kind: SchemaKind = "mixed", **changes):
        if kind in ("categorical", "weighted"):
            changes = {"item_features": ("user",), "item_id": "user", **changes}
        return super().build(kind, **changes)


class TestTwoTowerForNewItems(TwoTowerConformance):
    """Prefixes, a guide and content beside the id; schemas without them train without."""

    config = SMALL.model_copy(
        update={
            **ITEMS["mixed"],
            "normalize": True,
            "temperature": 0.5,
            "softmax_weight": 0.005,  # 32 rows by heart: by the cross entropy alone
            "prefixes": (2, 5),
            "guide_item": "image",
            "content_weight": 0.5,
        }
    )
    features = ("mixed", "dense", "bags", "vectors", "shared")
    backends = False

    def build(self, kind: SchemaKind = "mixed", **changes):
        if kind != "mixed":
            changes = {"prefixes": None, "guide_item": None, "content_weight": 0.0, **changes}
        if kind in ("categorical", "weighted"):
            other = "items" if kind == "categorical" else "topics"
            items = {"item_features": ("user", other), "item_id": "user", "content_weight": 0.5}
            changes = {**changes, **items, "prefixes": (1, 5)}
        return super().build(kind, **changes)


# ------------------------------------------------------------------------------------- equations


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("numeric", ["embed", "dense"])
def test_equation(numeric, normalize):
    """Both vectors and the logit again in numpy, the item's features not being neighbours."""
    names = ITEMS["mixed"]["item_features"]
    config = SMALL.model_copy(
        update={**ITEMS["mixed"], "numeric": numeric, "normalize": normalize, "temperature": 0.7}
    )
    model = TwoTower(config, tiny_schema()).eval()
    fill_weights(model)
    batch = random_batch(model.schema, batch_size=5, seed=3)
    state, schema = reference.weights_of(model), model.schema
    fields = reference.fields(model, batch).transpose(1, 0, 2)
    order = [feature.name for feature in schema.keyed]
    order += [n.name for n in schema.numeric] if numeric == "embed" else []
    order += [vector.name for vector in schema.vectors]
    vectors = {}
    for side in ("user", "item"):
        parts = [f for name, f in zip(order, fields) if (name in names) == (side == "item")]
        if numeric == "dense":
            numbers = batch.dense.double().numpy()
            parts += [
                numbers[:, [j]] for j, feature in enumerate(schema.numeric)
                if (feature.name in names) == (side == "item")
            ]  # fmt: skip
        found = reference.mlp(state, f"{side}_tower", np.concatenate(parts, axis=1))
        length = np.linalg.norm(found, axis=1, keepdims=True) if normalize else 1.0
        vectors[side] = found / length
    np.testing.assert_allclose(model.user_vectors(batch).detach(), vectors["user"], atol=1e-5)
    np.testing.assert_allclose(model.item_vectors(batch).detach(), vectors["item"], atol=1e-5)
    score = (vectors["user"] * vectors["item"]).sum(1, keepdims=True) / 0.7
    expected = np.exp(state["log_scale"]) * score + state["bias"]
    np.testing.assert_allclose(model(batch).detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def two_ids():
    """Towers that pass a vector of two numbers through: users (1, 0), (0, 2); items (3, 4)."""
    schema = Schema(
        features=(
            Categorical(name="user", num_embeddings=4),
            Categorical(name="item", num_embeddings=4),
        ),
        labels=(Label(name="click"),),
    )
    empty = MLPConfig(hidden_units=())
    config = TwoTower.Config(
        item_features=("item",), item_id="item", embedding_dim=2, output_dim=2, temperature=0.5,
        user_mlp=empty, item_mlp=empty, normalize=False, log_q=False,
    )  # fmt: skip
    model = TwoTower(config, schema)
    state = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    state["user_tower.layers.0.weight"] += torch.eye(2)
    state["item_tower.layers.0.weight"] += torch.eye(2)
    state["embeddings.embedding.user.weight"][2:] = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    state["embeddings.embedding.item.weight"][2:] = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    state["bias"] += 0.25
    model.load_state_dict(state)
    batch = random_batch(schema, batch_size=3)
    batch = dataclasses.replace(
        batch,
        values=torch.tensor([2, 3, 2, 2, 2, 3], dtype=torch.int32),  # users, then items
        labels=torch.tensor([[1.0], [0.0], [1.0]]),
        weights=None,
    )
    return model, batch


def test_by_hand():
    """<u, v> = 3, 8, 1; by temperature 6, 16, 2; clicks are rows 0 and 2 of one user."""
    model, batch = two_ids()
    logits = model(batch)
    assert logits[:, 0].tolist() == [6.25, 16.25, 2.25]
    softmax = (math.log1p(math.exp(2 - 6)) + math.log1p(math.exp(6 - 2))) / 2
    expected = [math.log1p(math.exp(-6.25)), math.log1p(math.exp(16.25))]
    found = model.loss(logits, batch)
    assert found[:2].tolist() == pytest.approx([value + softmax for value in expected], rel=1e-5)


def test_vectors_of_one_side_do_not_read_the_other():
    model = TwoTower(SMALL.model_copy(update=ITEMS["mixed"]), tiny_schema()).eval()
    fill_weights(model)
    one, two = (random_batch(model.schema, batch_size=6, seed=seed) for seed in (1, 2))
    mixed = _with(one, two, model.item_features)
    torch.testing.assert_close(model.user_vectors(mixed), model.user_vectors(one))
    torch.testing.assert_close(model.item_vectors(mixed), model.item_vectors(two))
    assert not torch.allclose(model(mixed), model(one))


def _with(batch, other, names):
    """The batch with some features of another one."""
    schema = tiny_schema()
    values, lengths, size = [], [], batch.batch_size
    for key in batch.keys:
        source = other if key in names else batch
        values.append(source.key_values(key))
        lengths.append(source.key_lengths(key))
    dense = batch.dense.clone()
    columns = [feature.name for feature in schema.numeric]
    columns += [vector.name for vector in schema.vectors for _ in range(vector.dim)]
    chosen = [place for place, name in enumerate(columns) if name in names]
    dense[:, chosen] = other.dense[:, chosen]
    assert size == other.batch_size
    return dataclasses.replace(
        batch, dense=dense, values=torch.cat(values), lengths=torch.cat(lengths),
        value_counts=tuple(map(len, values)),
    )  # fmt: skip


# ------------------------------------------------------------------------------------- the losses


def _batch(size: int = 40, seed: int = 5):
    return random_batch(tiny_schema(), batch_size=size, seed=seed)


@pytest.mark.parametrize("log_q", [True, False])
def test_softmax_is_in_batch_over_the_clicks(log_q):
    """Also with bce 0; the correction is that of the stream so far, this batch included."""
    model = TwoTower(
        SMALL.model_copy(update={"bce_weight": 0.0, "log_q": log_q, "temperature": 0.1}),
        tiny_schema(),
    ).train()
    fill_weights(model)
    batch = dataclasses.replace(_batch(), weights=None)
    before = _batch(seed=6)
    model.loss(model(before), before)
    rows = model.loss(model(batch), batch)
    assert torch.equal(rows, rows[:1].expand(40))
    clicked = batch.labels[:, 0] == 1
    ids = batch.key_values("user")[clicked]
    shares = None
    if log_q:
        earlier, weights = before.key_values("user"), weights_of(before) * before.labels[:, 0]
        # Nothing is forgotten in two batches but a hundredth of the first.
        first = {i: weights[earlier == i].sum().item() for i in set(ids.tolist())}
        total = weights.sum().item()
        shares = []
        for i in ids.tolist():
            count = (ids == i).sum().item()
            seen, gap = (first[i] * 0.99, total * 0.99) if first[i] else (0.0, total)
            shares.append((seen + count) / (gap + len(ids)))
        shares = torch.tensor(shares).log()
    users, items = model.user_vectors(batch)[clicked], model.item_vectors(batch)[clicked]
    if shares is None:
        expected = in_batch(users, items, ids=ids, normalize=False, temperature=0.1)
    else:
        scores = users @ items.T
        expected = sampled_softmax(
            scores.diagonal(), scores, log_q=shares + math.log(len(ids)),
            hidden=ids[:, None] == ids, temperature=0.1,
        )  # fmt: skip
    assert rows[0].item() == pytest.approx(expected.item(), rel=1e-4)


def test_forward_is_not_computed_twice_and_leaves_nothing_behind(monkeypatch):
    model = TwoTower(SMALL, tiny_schema()).train()
    batch, other = _batch(), _batch(seed=7)
    logits = model(batch)
    assert pickle.loads(pickle.dumps(model))._kept is None
    expected = model.eval().loss(logits, batch)
    model.train()(batch)
    with monkeypatch.context() as patch:
        patch.setattr(model, "inputs", None)
        shares_of(model).rate, before = 0.0, shares_of(model).seen.clone()
        model.loss(logits, batch)
        assert model._kept is None and shares_of(model).seen > before
    # the vectors of another batch are never taken
    model(other)
    model.eval()
    shares_of(model).initialize()
    torch.testing.assert_close(model.loss(logits, batch), expected)


def test_evaluation_learns_no_shares():
    model = TwoTower(SMALL, tiny_schema()).eval()
    batch = _batch()
    model.loss(model(batch), batch)
    assert not shares_of(model).seen


def test_a_batch_without_a_click_trains():
    model = TwoTower(SMALL, tiny_schema()).train()
    batch = dataclasses.replace(_batch(), labels=torch.zeros(40, 1))
    rows = model.loss(model(batch), batch)
    torch.testing.assert_close(rows, binary_cross_entropy(model(batch), batch.labels))
    rows.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_teacher():
    """Its column goes to no tower; its squared difference is the only loss here."""
    schema = tiny_schema()
    schema = schema.model_copy(update={"features": (*schema.features, Numeric(name="ranker"))})
    config = SMALL.model_copy(
        update={
            "bce_weight": 0.0,
            "softmax_weight": 0.0,
            "teacher": "ranker",
            "teacher_weight": 2.0,
        }
    )
    model = TwoTower(config, schema)
    assert "ranker" not in model.user_features + model.item_features
    batch = random_batch(schema, batch_size=32, seed=1)
    logits = model(batch)
    changed = dataclasses.replace(batch, dense=batch.dense.clone())
    changed.dense[:, 2] += 5.0  # numbers: age, price, ranker; then the image
    assert torch.equal(model(changed), logits)
    apart = (logits[:, 0] - batch.dense[:, 2]).square()
    weights = weights_of(batch) / weights_of(batch).sum()
    found = weighted_mean(model.loss(logits, batch), batch.weights)
    assert found.item() == pytest.approx(2 * (weights * apart).sum().item(), rel=1e-5)
    dense = [p for n, p in model.named_parameters() if not n.startswith("embeddings.")]
    losses = train_steps(
        model, [batch] * 200, EmbeddingOptimizerConfig(kind="adagrad", learning_rate=0.3),
        torch.optim.Adam(dense, lr=0.02),
    )  # fmt: skip
    assert losses[-1] < 0.05 * losses[0]


def test_log_q_takes_popularity_out_of_the_scores():
    """All users click alike, items by popularity: scores become the logarithms of it."""
    share = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.03125, 0.03125])
    schema = Schema(
        features=(
            Categorical(name="user", num_embeddings=3),
            Categorical(name="item", num_embeddings=8),
        ),
        labels=(Label(name="click"),),
    )
    random = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(250):
        items = 2 + torch.multinomial(share, 256, replacement=True, generator=random)
        batch = random_batch(schema, batch_size=256)
        values = torch.cat([torch.full((256,), 2), items]).int()
        batches.append(dataclasses.replace(
            batch, values=values, labels=torch.ones(256, 1), weights=None
        ))  # fmt: skip
    found = {}
    for log_q in (True, False):
        config = TwoTower.Config(
            item_features=("item",), item_id="item", embedding_dim=8, output_dim=8,
            normalize=False, temperature=1.0, bce_weight=0.0, log_q=log_q, init_std=0.3,
            user_mlp=MLPConfig(hidden_units=()), item_mlp=MLPConfig(hidden_units=()),
        )  # fmt: skip
        model = TwoTower(config, schema)
        model.reset_parameters(seed=1)
        train_steps(model, batches, EmbeddingOptimizerConfig(kind="adagrad", learning_rate=0.1))
        every = dataclasses.replace(
            random_batch(schema, batch_size=6),
            values=torch.cat([torch.full((6,), 2), torch.arange(2, 8)]).int(),
        )
        found[log_q] = model.eval()(every)[:, 0].detach()
    wanted = share.log()
    off = (found[True] - found[True].mean()) - (wanted - wanted.mean())
    assert off.abs().max() < 0.35
    # Without it all but the most frequent score alike, though they differ by a factor of 8.
    assert found[False][1:].max() - found[False][1:].min() < 0.2


# ------------------------------------------------------------------------------------- the stack


@pytest.mark.parametrize("scheme", [{"kind": "hash"}, {"kind": "unified"}])
def test_compressed_tables_train_and_freeze(scheme):
    compression = CompressionConfig.model_validate({"scheme": scheme, "ratio": 0.5})
    config = SMALL.model_copy(
        update={**ITEMS["mixed"], "compression": compression, "share_buckets": 7}
    )
    model = TwoTower(config, tiny_schema()).train()
    model.reset_parameters(seed=2)
    assert shares_of(model).gap.shape == (14,)
    batch = _batch(64)
    losses = train_steps(model, [batch] * 60, EmbeddingOptimizerConfig(learning_rate=0.05))
    assert losses[-1] < 0.8 * losses[0]
    frozen = freeze_model(model, "fp32")
    torch.testing.assert_close(frozen.item_vectors(batch), model.eval().item_vectors(batch))


def test_shares_are_saved_and_go_on():
    batches = [_batch(seed=seed) for seed in range(6)]
    tables = EmbeddingOptimizerConfig(kind="sgd", learning_rate=0.1)

    def trained(model, part):
        dense = [p for n, p in model.named_parameters() if not n.startswith("embeddings.")]
        return train_steps(model, part, tables, torch.optim.SGD(dense, lr=0.1))

    straight = TwoTower(SMALL, tiny_schema()).train()
    straight.reset_parameters(seed=4)
    losses = trained(straight, batches)
    first = TwoTower(SMALL, tiny_schema()).train()
    first.reset_parameters(seed=4)
    trained(first, batches[:3])
    resumed = TwoTower(SMALL, tiny_schema()).train()
    resumed.load_state_dict(first.state_dict())
    assert trained(resumed, batches[3:]) == losses[3:]
    again = straight.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in resumed.state_dict().items())
    assert again["shares.seen"] > 0
    straight.reset_parameters(seed=4)
    assert not shares_of(straight).seen


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_features": ("itms",)}, r"model.item_features: the schema has no feature `itms`. "
         r"Did you mean `items`\?"),
        ({"item_features": ()}, r"model.item_features: expected some of the features and not all"),
        ({"item_features": tuple(f.name for f in tiny_schema().features)},
         r"not all, got .*'price'\]. Each tower needs at least one"),
        ({"item_id": None}, r"model.item_id: the softmax must know .*one of \['items'\], or set "
         r"model.softmax_weight to 0"),
        ({"item_id": "user"}, r"model.item_id: expected one of model.item_features, \['items'\], "
         r"got `user`"),
        ({"item_features": ("tags",), "item_id": "tags"},
         r"model.item_id: expected a categorical feature, .*`tags`, which is multi_valued"),
        ({"bce_weight": 0.0, "softmax_weight": 0.0}, r"expected one above 0, got 0 for all"),
        ({"teacher_weight": 1.0}, r"model.teacher: model.teacher_weight is 1.0, but no feature"),
        ({"teacher": "agee", "teacher_weight": 1.0}, r"model.teacher: .*no feature `agee`"),
        ({"prefixes": (8, 32)}, r"model.prefixes: expected widths that rise to .*output_dim, 64"),
        ({"prefixes": (32, 8, 64)}, r"model.prefixes: .*got \[32, 8, 64\]"),
        ({"prefixes": (8, 64), "softmax_weight": 0.0}, r"model.prefixes: it changes the softmax"),
        ({"content_weight": 1.0}, r"model.content_weight: expected features of the item beside"),
        ({"guide_user": "image"}, r"model.guide_user: model.guide_item is missing"),
        ({"guide_item": "price"}, r"model.guide_item: expected a pretrained vector that is an "
         r"item's, got `price`. The schema's vectors: \['image'\]"),
        ({"guide_item": "image"}, r"model.guide_item: .*got `image`"),
        ({"teacher": "hour", "teacher_weight": 1.0},
         r"model.teacher: expected a numeric feature .*got `hour` \(bucketized\)"),
    ],
)  # fmt: skip
def test_wrong_names_are_refused(changes, message):
    config = {"item_features": ("items",), "item_id": "items", **changes}
    with pytest.raises(ConfigError, match=message):
        TwoTower(TwoTower.Config(**config), tiny_schema())


def test_an_item_id_is_one_a_row():
    model = TwoTower(SMALL, tiny_schema())
    batch = _batch()
    assert len(select_rows(batch, [0, 1]).key_values("user")) == 2
    assert model.item_features == ("user",)
    assert model.user_features == tuple(
        f.name for f in tiny_schema().features if f.name != "user"
    )  # fmt: skip
