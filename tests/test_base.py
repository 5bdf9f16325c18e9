"""The bases of all models: configs, inputs against numpy, table options, flat inputs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ConfigDict, ValidationError

from recsys.base import CTRModel, FlatInputs, RecModel
from recsys.embeddings.specs import TableOptions, table_specs
from recsys.errors import SchemaError
from recsys.models.ctr.deep_fm import DeepFM
from recsys.models.ctr.dlrm import DLRM
from recsys.models.ctr.fm import FM
from recsys.models.ctr.lr import LR
from recsys.schema import Categorical, Init, Label, ModelConfig, MultiValued, Schema
from recsys.schema import Sequence as History
from recsys.testing import reference
from recsys.testing.data import SCHEMA_KINDS, fill_weights, random_batch, tiny_schema

# ------------------------------------------------------------------------------- config


def test_a_model_without_its_own_config_is_refused():
    with pytest.raises(TypeError, match=r"Bare needs a nested `class Config\(ModelConfig\)`"):
        type("Bare", (RecModel,), {})
    with pytest.raises(TypeError, match="Heir needs a nested"):
        type("Heir", (LR,), {})
    with pytest.raises(TypeError, match="Wrong needs a nested"):
        type("Wrong", (RecModel,), {"Config": dict})


@pytest.mark.parametrize("change", [{"frozen": False}, {"extra": "ignore"}])
def test_a_config_that_swallows_keys_or_changes_is_refused(change):
    config = type("Config", (ModelConfig,), {"model_config": ConfigDict(**change)})
    with pytest.raises(TypeError, match=r"Loose.Config must stay frozen and forbid unknown keys"):
        type("Loose", (RecModel,), {"Config": config})


def test_wrong_arguments_say_what_to_write():
    with pytest.raises(TypeError, match=r"must be a FM.Config, got dict. Write FM\(FM.Config"):
        FM({"embedding_dim": 4}, tiny_schema())
    with pytest.raises(TypeError, match=r"must be a FM.Config, got LR.Config"):
        FM(LR.Config(), tiny_schema())
    with pytest.raises(TypeError, match=r"`schema` must be a recsys.schema.Schema, got list"):
        FM(FM.Config(), [])


def test_config_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        FM.Config().embedding_dim = 3


def test_unfitted_schema_is_refused():
    schema = Schema(features=(Categorical(name="user"),), labels=(Label(name="y"),))
    with pytest.raises(SchemaError, match="`user` has no `num_embeddings` yet"):
        LR(LR.Config(), schema)


# ------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize("numeric", ["embed", "dense"])
@pytest.mark.parametrize("kind", SCHEMA_KINDS)
def test_inputs_equal_numpy(kind, numeric):
    config = DeepFM.Config(embedding_dim=4, numeric=numeric, numeric_bias=True)
    model = DeepFM(config, tiny_schema(kind))
    fill_weights(model)
    batch = random_batch(model.schema, batch_size=6, seed=1)
    inputs = model.inputs(batch)
    for got, expected in (
        (inputs.fields, reference.fields(model, batch)),
        (inputs.linear, reference.linear(model, batch)),
        (inputs.flat(), reference.flat(model, batch)),
    ):
        np.testing.assert_allclose(got.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert inputs.fields.shape[1] == model.num_fields
    assert inputs.flat().shape[1] == model.flat_width


def test_tables_of_other_width_are_projected():
    options = {
        "user": TableOptions(embedding_dim=3),
        "history": TableOptions(embedding_dim=6),
    }
    model = DeepFM(DeepFM.Config(embedding_dim=4, tables=options), tiny_schema())
    fill_weights(model)
    state = model.state_dict()
    assert state["embeddings.embedding.user.weight"].shape == (12, 3)
    assert state["embeddings.linear.user.weight"].shape == (12, 1)
    assert state["projections.table:user.weight"].shape == (4, 3)
    batch = random_batch(model.schema, batch_size=6, seed=1)
    expected = reference.fields(model, batch)
    np.testing.assert_allclose(
        model.inputs(batch).fields.detach().numpy(), expected, rtol=1e-5, atol=1e-6
    )
    empty = batch.key_lengths("history") == 0
    position = batch.keys.index("history")
    assert empty.any() and not model.inputs(batch).fields[empty, position].any()


def test_features_of_one_table_share_its_rows():
    model = FM(FM.Config(embedding_dim=2), tiny_schema("shared"))
    assert sorted(name for name in model.state_dict() if ".embedding." in name) == [
        "embeddings.embedding.ad.weight",
        "embeddings.embedding.user.weight",
    ]


def test_first_order_only_models_have_no_vectors():
    model = LR(LR.Config(), tiny_schema())
    inputs = model.inputs(random_batch(model.schema))
    assert inputs.fields.numel() == 0 and inputs.dense is None
    assert all(".linear." in name for name in model.state_dict() if "embeddings." in name)


def test_models_without_first_order_term_have_no_linear_tables():
    names = DLRM(DLRM.Config(), tiny_schema()).state_dict()
    assert not any("linear" in name for name in names)


def test_loss_is_float32_and_by_row():
    model = LR(LR.Config(), tiny_schema("two_tasks"))
    batch = random_batch(model.schema, batch_size=2)
    batch.labels.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    loss = model.loss(torch.zeros(2, 2, dtype=torch.bfloat16), batch)
    torch.testing.assert_close(loss, torch.full((2,), 0.693147))
    assert model.auxiliary_loss().item() == 0.0


def test_init_std_and_exceptions_reach_the_tables():
    big = Schema(
        features=(
            Categorical(name="a", num_embeddings=4000),
            Categorical(name="b", num_embeddings=4000),
        ),
        labels=(Label(name="y"),),
    )
    options = {"b": TableOptions(init=Init(kind="uniform", std=0.5))}
    model = FM(FM.Config(embedding_dim=4, init_std=0.01, tables=options), big)
    for group in ("embedding", "linear"):
        a, b = (model.state_dict()[f"embeddings.{group}.{name}.weight"] for name in "ab")
        assert a.std().item() == pytest.approx(0.01, rel=0.1)
        assert b.std().item() == pytest.approx(0.5, rel=0.1)
        assert b.abs().max() <= 0.5 * 3**0.5 + 1e-6


# ------------------------------------------------------------------------------- table options


def test_pooling_of_a_table():
    bag = MultiValued(name="bag", table="t", pooling="mean", num_embeddings=5)
    one = Categorical(name="one", table="t", num_embeddings=5)
    past = History(name="past", table="t", pooling="sum", max_length=3, num_embeddings=5)

    def spec(*features, **options):
        schema = Schema(features=features, labels=(Label(name="y"),))
        return table_specs(schema, {"embedding": 4}, options, Init())["embedding"][0]

    assert spec(one).pooling == "sum"
    assert spec(one, bag).pooling == "mean"
    assert spec(one, bag).feature_names == ("one", "bag")
    with pytest.raises(SchemaError, match=r"different pooling: \{'bag': 'mean', 'past': 'sum'\}"):
        spec(bag, past)
    assert spec(bag, past, t=TableOptions(pooling="sum")).pooling == "sum"


def test_unknown_table_option_names_the_nearest():
    with pytest.raises(ValidationError, match="embeding_dim"):
        FM.Config.model_validate({"tables": {"user": {"embeding_dim": 3}}})
    config = FM.Config(tables={"userr": TableOptions(pooling="sum")})
    with pytest.raises(SchemaError, match=r"no table `userr`. Did you mean `user`\?"):
        FM(config, tiny_schema())


# ------------------------------------------------------------------------------- flat inputs


@pytest.mark.parametrize("kind", SCHEMA_KINDS)
def test_flat_inputs_equal_the_batch(kind):
    model = fill_weights(FM(FM.Config(embedding_dim=4), tiny_schema(kind)))
    batch = random_batch(model.schema, batch_size=5)
    assert torch.equal(FlatInputs(model)(*FlatInputs.flatten(batch)), model(batch))


def test_exported_program_runs_without_recsys(tmp_path):
    """Saved, and loaded by a process that has torch only."""
    model = fill_weights(FM(FM.Config(embedding_dim=4), tiny_schema())).eval()
    flat = FlatInputs(model)
    torch.export.save(flat.export(random_batch(model.schema)), tmp_path / "model.pt2")
    batch = flat.flatten(random_batch(model.schema, batch_size=3, seed=9))
    torch.save(batch, tmp_path / "batch.pt")
    code = (
        "import sys, torch\n"
        "program = torch.export.load(sys.argv[1] + '/model.pt2').module()\n"
        "print(program(*torch.load(sys.argv[1] + '/batch.pt')).flatten().tolist())\n"
        "assert not any(name.startswith('recsys') for name in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    got = [float(x) for x in done.stdout.strip().strip("[]").split(",")]
    np.testing.assert_allclose(got, flat(*batch).flatten().tolist(), rtol=1e-5)


# ------------------------------------------------------------------------------- imports

HEAVY = (
    "torchrec", "fbgemm_gpu", "ray", "optuna", "sklearn", "matplotlib", "pandas", "pyarrow",
    "tensorboard", "torch_geometric",
)  # fmt: skip


def test_importing_models_loads_nothing_heavy():
    """For serving: a fresh interpreter that imports every model has torch and little else."""
    files = sorted((Path(__file__).parents[1] / "models" / "ctr").glob("[a-z]*.py"))
    assert len(files) >= 6
    lines = [f"import recsys.models.ctr.{file.stem}" for file in files]
    code = "\n".join(["import sys", *lines, "print(*sorted(sys.modules))"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & set(HEAVY)


def test_base_names_the_groups_it_knows():
    assert CTRModel.groups == ("embedding",) and DeepFM.groups == ("embedding", "linear")
