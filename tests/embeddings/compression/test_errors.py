"""Bad input around compression: every error says what was expected, where, and what to do."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
import yaml
from click.testing import CliRunner
from torchrec import EmbeddingBagConfig, KeyedJaggedTensor

from recsys.base import CTRModel
from recsys.cli.main import main
from recsys.config import Experiment
from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.budget import full_bytes, planned_bytes
from recsys.embeddings.compression.dhe import DHE
from recsys.embeddings.compression.double_hash import DoubleHash
from recsys.embeddings.compression.hash import Hash
from recsys.embeddings.compression.hash_embedding import HashEmbedding
from recsys.embeddings.compression.low_precision import LowPrecision
from recsys.embeddings.compression.pep import PEP
from recsys.embeddings.compression.plan import CompressionConfig, compress, compress_groups
from recsys.embeddings.compression.quotient_remainder import QuotientRemainder
from recsys.embeddings.compression.tt_rec import TTRec
from recsys.embeddings.compression.unified import UnifiedEmbedding
from recsys.embeddings.freeze import freeze
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Full, Scheme
from recsys.embeddings.specs import table_specs
from recsys.embeddings.torchrec_bags import CompressedEmbeddingBagCollection
from recsys.errors import BudgetInfeasible, CheckpointError, ConfigError, SchemaError
from recsys.schema import Init, Schema
from recsys.serving.artefact import load_artefact
from recsys.serving.freeze import freeze_model
from recsys.testing.table import bag_batch, make_tables, vectors
from recsys.train.click_task import ClickTask
from recsys.train.ranks import Ranks
from recsys.train.trainer import Trainer
from recsys.tune.compression import all_schemes, parse_schemes
from tests.embeddings.compression.toy import made, table

SPEC = table("item", 400, 8)
TABLES = [table("user", 3000), table("item", 600), table("sex", 4)]
SCHEMES = all_schemes()


def values(compression: str) -> dict:
    return {
        "dataset": {"class": "recsys.datasets.synthetic.Synthetic",
                    "num_rows": 2000, "valid_rows": 300, "test_rows": 300},
        "model": {"class": "recsys.models.ctr.dlrm.DLRM", "embedding_dim": 8,
                  "bottom_mlp": {"hidden_units": [8]}, "top_mlp": {"hidden_units": [8]},
                  "compression": yaml.safe_load(compression)},
        "train": {"batch_size": 256, "evaluations_per_epoch": 1, "bootstrap_samples": 0,
                  "num_threads": 1},
    }  # fmt: skip


def planned(scheme: Scheme, ratio: float = 0.5) -> Scheme:
    try:
        return compress([SPEC], scheme, ratio=ratio, exact_rows=0)["item"]
    except BudgetInfeasible:  # a size of its own
        return compress([SPEC], scheme, exact_rows=0)["item"]


def load(state_of: Scheme, into: Scheme) -> tuple[EmbeddingCollection, EmbeddingCollection]:
    one, two = made(state_of, SPEC), made(into, SPEC, seed=2)
    two.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    return one, two


# ------------------------------------------------------------------------------- configurations

BLOCK = "`model.compression"


@pytest.mark.parametrize(
    ("compression", "words"),
    [
        ("{scheme: {kind: unifid}}", [f"{BLOCK}.scheme.kind`", "'unifid'", "`unified`?"]),
        ("{scheme: unified}", [f"{BLOCK}.scheme`", "got 'unified'", "mean `{kind: unified}`?"]),
        ("{scheme: {chunk: 8}}", [f"{BLOCK}.scheme.kind`", "`unified`", "is missing"]),
        ("{scheme: {kind: hash, multiplx: true}}", [f"{BLOCK}.scheme.multiplx`", "`multiplex`?"]),
        ("{scheme: {kind: hash, num_buckets: x}}", [f"{BLOCK}.scheme.num_buckets`", "whole"]),
        ("{scheme: {kind: hash, num_buckets: true}}", [f"{BLOCK}.scheme.num_buckets`", "whole"]),
        ("{scheme: {kind: double_hash, combine: summ}}", [f"{BLOCK}.scheme.combine`", "`sum`?"]),
        ("{scheme: {kind: unified, probes: {C3: 0}}}", [f"{BLOCK}.scheme.probes.C3`", "least 1"]),
        ("{tables: {C3: {kind: cafee}}}", [f"{BLOCK}.tables.C3.kind`", "`cafe`?"]),
        ("{tables: {C3: {kind: hash, bukets: 1}}}", [f"{BLOCK}.tables.C3.bukets`", "buckets`?"]),
        ("{tables: {C3: hash}}", [f"{BLOCK}.tables.C3`", "Did you mean `{kind: hash}`?"]),
        ("{sceme: {kind: hash}}", [f"{BLOCK}.sceme`", "`scheme`?"]),
        ("{ratio: 0}", [f"{BLOCK}.ratio`", "above 0"]),
        ("{ratio: 1.5}", [f"{BLOCK}.ratio`", "at most 1"]),
        ("{ratio: .nan}", [f"{BLOCK}.ratio`", "got nan"]),
        ("{ratio: true}", [f"{BLOCK}.ratio`", "a number"]),
        ("{bytes: 0}", [f"{BLOCK}.bytes`", "at least 1"]),
        ("{ratio: 0.1, bytes: 9}", [f"{BLOCK}`: give `ratio` or `bytes`, not both", "0.1 and 9"]),
        ("{dtype: int3}", [f"{BLOCK}.dtype`", "`int8`?"]),
        ("{planned: {embedding.C1: {kind: hsh}}}", [f"{BLOCK}.planned.embedding.C1.kind`"]),
        ("0.1", [f"{BLOCK}`", "a block of fields"]),
    ],
)
def test_a_wrong_block_is_told_by_place(compression, words):
    with pytest.raises(ConfigError) as error:
        Experiment.parse(values(compression))
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("compression", "words"),
    [
        ("{scheme: {kind: unified}, ratio: 0.3, tables: {C33: {kind: full}}}",
         ["no table `C33`", "compression.tables", "Did you mean `C3`?"]),
        ("{scheme: {kind: unified, probes: {tag: 3}}, ratio: 0.3}",
         ["`unified`", "`probes`", "`tag`", "Did you mean `tags`?"]),
        ("{scheme: {kind: unified}}", ["`unified`", "num_buckets", "`ratio` or `bytes`"]),
        ("{scheme: {kind: codes}}", ["`codes`", "not trained", "`dpq`"]),
        ("{ratio: 0.3}", ["scheme `full`", "smallest size", "`unified`"]),
        ("{scheme: {kind: unified}, ratio: 0.0001}", ["`unified`", "smallest size", "Raise"]),
        ("{scheme: {kind: hash}, ratio: 0.3, dtype: int8}",
         ["frozen in int8", "cannot be trained", "remove `compression.dtype`"]),
        ("{planned: {embedding.C1: {kind: full}, embedding.tag: {kind: full}}}",
         ["compression.planned", "unknown ones ['embedding.tag']", "`embedding.tags`?", "remove"]),
        ("{scheme: {kind: pep}, ratio: 0.5, tables: {tags: {kind: auto_dim}}}",
         ["`pep`", "`auto_dim`", "phases of their own"]),
    ],
)  # fmt: skip
def test_train_refuses_with_one_message(tmp_path, tmp_path_factory, compression, words):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values(compression)))
    cache = tmp_path_factory.getbasetemp() / "compression-errors"
    arguments = ["train", "--config", config, "--run-dir", tmp_path / "run", "--cache-dir", cache]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.exception
    assert all(word in result.stderr for word in words), result.stderr


def test_schemes_of_a_command_line():
    for text, words in [
        ("hsh", "Did you mean `hash`"),
        ("{kind: hash, salz: 3}", "scheme `hash`: `salz` is not a field.*`salt`"),
        ("{kind: hash, num_buckets: true}", "`num_buckets`: expected a whole number, got true"),
        ("{kind: [hash]}", "unknown scheme"),
        ("", "got none"),
    ]:
        with pytest.raises(ConfigError, match=words):
            parse_schemes(text)


# ------------------------------------------------------------------------------------- planning


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *[({"ratio": r}, "`ratio` must be a number") for r in (0, -1, 2, math.nan, "1", True)],
        *[({"bytes": b}, "`bytes` must be a whole number") for b in (0, -1, 1.5, "9", math.nan)],
        ({"ratio": 0.5, "bytes": 9}, "not both; got 0.5 and 9"),
        ({}, r"\['num_buckets'\] not stated.*`ratio` or `bytes`"),
        ({"ratio": 0.5, "overrides": {"itm": Hash()}}, "no table `itm`.*mean `item`"),
        ({"ratio": 0.5, "overrides": {"item": "hash"}}, r"`overrides\['item'\]`: expected a sch"),
    ],
)
def test_senseless_arguments_of_compress(arguments, words):
    with pytest.raises((ConfigError, SchemaError), match=words):
        compress(TABLES, Hash(), **arguments)


def test_a_class_is_no_scheme():
    with pytest.raises(ConfigError, match=r"`scheme`: expected a scheme, .*got <class"):
        compress(TABLES, Hash, ratio=0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"`embedding\.item`: expected a scheme, .*got 'hash'"):
        made("hash", SPEC)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["itm", "user"])
def test_probes_of_tables_that_are_not_held(name):
    scheme = UnifiedEmbedding(probes={name: 3})
    with pytest.raises(SchemaError, match=rf"`probes` names `{name}`.*(mean `item`|Known: `item`)"):
        compress(TABLES, scheme, ratio=0.1, overrides={"user": Hash()})
    kept = UnifiedEmbedding(probes={"item": 3, "sex": 2})  # `sex` stays in full
    assert compress(TABLES, kept, ratio=0.1)["sex"] == Full()


@pytest.mark.parametrize("label", SCHEMES)
def test_the_smallest_budget_named_is_one(label):
    """Also with tables kept in full, of another scheme, and in two groups."""
    groups = {
        "embedding": [*TABLES, table("city", 900)],
        "linear": [spec.model_copy(update={"embedding_dim": 1}) for spec in TABLES],
    }
    overrides: dict[str, Scheme] = {"city": Hash()}
    with pytest.raises(BudgetInfeasible) as error:
        compress_groups(groups, SCHEMES[label], ratio=1e-6, overrides=overrides)
    least = error.value.min_bytes
    whole = sum(map(full_bytes, groups.values()))
    assert 0 < least <= whole and f"{least:,} bytes" in str(error.value)
    plan = compress_groups(groups, SCHEMES[label], bytes=least, overrides=overrides)
    size = 0
    for group, tables in groups.items():
        size += planned_bytes(tables, {t.name: plan[f"{group}.{t.name}"] for t in tables})
    assert size <= least
    ratio = re.search(r"`ratio` ([\d.]+)", str(error.value))
    assert ratio
    compress_groups(groups, SCHEMES[label], ratio=float(ratio[1]), overrides=overrides)


def test_full_tables_are_taken_off_the_budget():
    overrides = {"item": Full()}
    plan = compress(TABLES, Hash(), ratio=0.3, overrides=overrides)
    assert plan["item"] == Full()
    assert 0.29 < planned_bytes(TABLES, plan) / full_bytes(TABLES) <= 0.3
    with pytest.raises(BudgetInfeasible) as error:
        compress(TABLES, Hash(), ratio=0.1, overrides=overrides)
    compress(TABLES, Hash(), bytes=error.value.min_bytes, overrides=overrides)
    with pytest.raises(BudgetInfeasible, match="scheme `full`"):
        compress(TABLES, Full(), ratio=0.9)


@pytest.mark.parametrize(
    "scheme",
    [
        HashEmbedding(num_hashes=2, num_buckets=9, num_importance=30, importance_offset=70_000),
        QuotientRemainder(collisions=4, offset=100_000, total=100),
    ],
)
def test_a_plan_that_contradicts_itself_reads_no_foreign_rows(scheme):
    with pytest.raises(SchemaError, match=r"contradict themselves: .*outside table .*planned"):
        made(scheme, SPEC)(bag_batch([[index] for index in range(1, 400)]))


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        (Hash(), r"`embedding\.item`: .*\['num_buckets'\] not stated"),
        (SCHEMES["cce"].model_copy(update={"num_clusters": 4, "chunks": 3}), "divide its width 8"),
    ],
)
def test_a_plan_that_does_not_fit_its_table(scheme, words):
    with pytest.raises(ConfigError, match=words):
        made(scheme, SPEC)


# -------------------------------------------------------------------------------------- lookups


@pytest.mark.parametrize("label", SCHEMES)
def test_bad_ids_and_weights(label):
    tables = made(planned(SCHEMES[label]), SPEC).eval()
    for index in (-1, 400):
        with pytest.raises(SchemaError, match=rf"feature `item`: index {index} .*table `item`"):
            tables(bag_batch([[index]]))
    assert not tables(bag_batch([[], []]))["embedding"]["item"].any()
    got = tables(bag_batch([[3], [5]], [math.nan, 1.0]))["embedding"]["item"]
    assert got[0].isnan().all() and got[1].isfinite().all()  # stays in its bag, and is seen


@pytest.mark.parametrize("label", SCHEMES)
def test_training_on_empty_bags_changes_nothing_to_nan(label):
    tables = made(planned(SCHEMES[label]), SPEC)
    optimizer = tables.attach_optimizer(EmbeddingOptimizerConfig(kind="adagrad"))
    for bags in ([[], []], [[2, 3], []]):
        optimizer.zero_grad()
        (tables(bag_batch(bags))["embedding"].values.sum() + tables.aux_loss()).backward()
        optimizer.step()
        tables.after_step(optimizer)
    held = [value for value in tables.state_dict().values() if value.is_floating_point()]
    assert all(value.isfinite().all() for value in held)


@pytest.mark.parametrize("index", [-1, 1000, 2**32 + 4, 2**31 - 1])
def test_bags_refuse_ids_as_they_were_given(index):
    config = EmbeddingBagConfig(
        name="t", embedding_dim=8, num_embeddings=1000, feature_names=["user"]
    )
    bags = CompressedEmbeddingBagCollection.compress([config], Hash(), ratio=0.1)
    jagged = KeyedJaggedTensor(["user"], torch.tensor([3, index]), lengths=torch.tensor([1, 1]))
    with pytest.raises(SchemaError, match=rf"`user`: id {index:_} .*`t`, which has ids 0 to 999"):
        bags(jagged)
    with pytest.raises(SchemaError, match=r"unknown table `tt`\. Did you mean `t`"):
        CompressedEmbeddingBagCollection([config], {"tt": Hash(num_buckets=3)})


# ---------------------------------------------------------------------------------- checkpoints

HASHED = SPEC.model_copy(update={"by_frequency": False})


@pytest.mark.parametrize("kind", ["adapt_emb", "mgqe"])
def test_frequent_ids_of_hashed_features_are_not_known(kind):
    scheme = SCHEMES[kind]
    assert scheme.by_frequency
    with pytest.raises(
        ConfigError, match=r"`item` are hashed .*Take `cafe`.*compression.tables.item"
    ):
        compress([HASHED], scheme, ratio=0.2)
    plan = compress([HASHED, TABLES[0]], scheme, ratio=0.2, overrides={"item": Hash()})
    assert isinstance(plan["item"], Hash)
    assert compress([HASHED], SCHEMES["cafe"], ratio=0.2)


def test_hashed_features_say_so():
    features = [
        {"kind": "categorical", "name": "user"},
        {"kind": "categorical", "name": "item", "encoding": "hash", "num_buckets": 50},
    ]
    schema = Schema.model_validate({"features": features, "labels": [{"name": "click"}]})
    schema = schema.fitted({"user": 9, "item": 52})
    specs = table_specs(schema, {"embedding": 4}, {}, Init())["embedding"]
    assert {spec.name: spec.by_frequency for spec in specs} == {"user": True, "item": False}


SALTED = [label for label, scheme in SCHEMES.items() if hasattr(scheme, "salt")]


@pytest.mark.parametrize("label", SALTED)
def test_salts_come_with_the_checkpoint(label):
    """They are part of the state, so what is loaded gives what was saved, frozen too."""
    scheme = planned(SCHEMES[label])
    one, two = load(scheme, scheme.model_copy(update={"salt": 7}))
    assert torch.equal(vectors(two.eval(), range(400)), vectors(one.eval(), range(400)))
    expected = vectors(freeze(one), range(400))
    assert torch.equal(vectors(freeze(two), range(400)), expected)


@pytest.mark.parametrize("other", SCHEMES)
@pytest.mark.parametrize("label", ["hash", "unified", "dhe", "low_precision", "pep"])
def test_another_scheme(label, other):
    mine, there = planned(SCHEMES[label]), planned(SCHEMES[other])
    if label == other:
        return
    if list(made(mine, SPEC).state_dict()) == list(made(there, SPEC).state_dict()):
        return  # full tables that are pruned later: the same state
    with pytest.raises(CheckpointError, match=r"expected .*Build the model with the compression"):
        load(there, mine)


@pytest.mark.parametrize(
    ("scheme", "change", "words"),
    [
        (Hash(num_buckets=50), {"num_buckets": 40}, r"item@hash`: expected \(41, 8\).*got \(51"),
        (DHE(hidden=9), {"hidden": 8}, r"layers\.0\.weight`.*expected .*\(8, "),
        (TTRec(rank=3), {"rank": 2}, r"cores\.0`.*expected"),
        (DoubleHash(num_buckets=50), {"num_hashes": 3}, r"salts`.*\(3,\), got .*\(2,\)"),
        (LowPrecision(bits=16), {"bits": 8}, r"codes`.*expected torch\.int8 .*got torch\.int16"),
    ],
)
def test_another_plan_of_the_same_scheme(scheme, change, words):
    with pytest.raises(CheckpointError, match=words + ".*Build the model with"):
        load(scheme, scheme.model_copy(update=change))


@pytest.mark.parametrize("scheme", [Full(), Hash(num_buckets=50)])
def test_frozen_tables_are_not_trained_ones(scheme):
    trained = made(scheme, SPEC)
    frozen = freeze(trained, "int8")
    with pytest.raises(
        ConfigError, match=r"frozen in int8 and cannot be trained.*were frozen from"
    ):
        frozen.attach_optimizer(EmbeddingOptimizerConfig())
    with pytest.raises(CheckpointError, match=r"held as floats, for training; .*uint8.*`dtype`"):
        trained.load_state_dict(frozen.state_dict())
    with pytest.raises(CheckpointError, match=r"frozen in int8.*float32"):
        frozen.load_state_dict(trained.state_dict())
    with pytest.raises(CheckpointError, match="frozen in int4"):
        freeze(trained, "int4").load_state_dict(frozen.state_dict())
    with pytest.raises(ConfigError, match=r"stored as fp32, .*got 'int9'\. Did you mean `int8`"):
        freeze(trained, "int9")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"stored as fp32, .*got 'int9'"):
        EmbeddingCollection(trained.groups, trained.keys, dtype="int9")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("scheme", [DHE(), PEP(), TTRec()])
def test_freezing_in_a_dtype_that_makes_no_sense(scheme):
    tables = make_tables(planned(scheme), SPEC)
    with pytest.raises(ConfigError, match=r"`embedding\.item`: .*int8.*Freeze to fp"):
        freeze(tables, "int8")


# ---------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder, its configuration file and its cache."""
    folder = tmp_path_factory.mktemp("errors")
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(values("{scheme: {kind: hash}, ratio: 0.3}")))
    run = folder / "run"
    cli("train", "--config", config, "--run-dir", run, "--cache-dir", folder / "cache")
    return run, config, folder / "cache"


def cli(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stderr


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("scheme.kind=unified", "compression.scheme.kind was 'hash', is 'unified'"),
        ("ratio=0.2", "compression.ratio was 0.3, is 0.2"),
        ("scheme.salt=3", "compression.scheme.salt was 0, is 3"),
    ],
)
def test_a_run_is_resumed_with_its_own_compression(trained, setting, words):
    run, config, cache = trained
    error = cli("train", "--config", config, "--run-dir", run, "--cache-dir", cache, "--resume",
                "--set", f"model.compression.{setting}", code=2)  # fmt: skip
    assert words in error and "Take the changes back" in error


def test_frozen_artefacts_stay_frozen(trained, tmp_path):
    run, _, _ = trained
    out = tmp_path / "int8"
    error = cli("export", run, "--freeze", "in8", "-o", out, code=2)
    assert "got 'in8'. Did you mean `int8`?" in error and not out.exists()
    cli("export", run, "--freeze", "int8", "-o", out)
    error = cli("export", out, "--freeze", "int4", "-o", tmp_path / "int4", code=2)
    assert "frozen already, in int8" in error and "were frozen from" in error
    model = load_artefact(out).model
    with pytest.raises(ConfigError, match="frozen already"):
        freeze_model(model, "int4")
    whole = load_artefact(run).model
    config = whole.config.model_copy(update={"compression": CompressionConfig()})
    plain = type(whole)(config, whole.schema)
    with pytest.raises(CheckpointError, match="in another scheme"):
        plain.load_state_dict(model.state_dict())
    manifest = json.loads((out / "model.json").read_text())
    manifest["config"]["compression"]["planned"] = {}
    (out / "model.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="was changed after it was written"):
        load_artefact(out)


def test_the_trainer_resumes_no_other_compression(trained, tmp_path):
    run, _, _ = trained
    schema = load_artefact(run).model.schema
    for compression in (
        "{scheme: {kind: unified}, ratio: 0.3}",
        "{scheme: {kind: hash}, ratio: 0.2}",
    ):
        experiment = Experiment.parse(values(compression))
        model = experiment.model.build(schema)
        assert isinstance(model, CTRModel)
        tables = model.embeddings.attach_optimizer(experiment.embedding)
        trainer = Trainer(
            ClickTask(model, experiment.train, tables, Ranks.current()),
            tables,
            run,
            show="none",
        )
        with pytest.raises(CheckpointError, match="Build the model with"):
            trainer.fit([None], resume=True)  # pyright: ignore[reportArgumentType]
