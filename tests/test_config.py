"""The experiment file: what it reads, what it refuses and in what words, and its round trip."""

import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from recsys.base import CTRModel, RecModel
from recsys.cf_config import load_any
from recsys.config import (
    AnyModelBlock,
    Experiment,
    ModelBlock,
    TrainConfig,
    class_path,
    load,
    resolve_class,
    validate,
)
from recsys.config_text import override, parse, to_text
from recsys.data.dataset import Dataset
from recsys.errors import ConfigError
from recsys.fit_config import EmbeddingConfig
from recsys.schema import Schema

TOY = '''
from pathlib import Path
from typing import Annotated, Literal
from pydantic import Field
from recsys.base import CTRModel
from recsys.cf_config import load_any
from recsys.data.dataset import Dataset
from recsys.schema import Categorical, Frozen, Label, Schema

class Square(Frozen):
    kind: Literal["square"] = "square"
    side: float

class Circle(Frozen):
    kind: Literal["circle"] = "circle"
    radius: float | Literal["unit"] = 1.0

class ToyData(Dataset):
    class Config(Frozen):
        path: str = "log.csv"
        num_rows: int = Field(default=10, ge=1)
        code: str = ""
        flag: bool = True
        border: float | str | None = None
    def schema(self):
        user = Categorical(name="user", num_embeddings=5)
        return Schema(features=(user,), labels=(Label(name="y"),))
    def splits(self, cache_dir):
        raise NotImplementedError

class HalfData(Dataset):
    class Config(Frozen):
        pass

class ToyModel(CTRModel):
    class Config(CTRModel.Config):
        hidden: tuple[int, ...] = (8, 4)
        shape: Annotated[Square | Circle, Field(discriminator="kind")] = Circle()
        rates: dict[str, float] = {}

def build():
    """Not a class."""
'''


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "toy_zoo.py").write_text(TOY)
    (tmp_path / "toy_broken.py").write_text("import a_package_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("toy_zoo", "toy_broken"):
        sys.modules.pop(name, None)


BASE = """
dataset: {class: toy_zoo.ToyData, num_rows: 20}
model:
  class: toy_zoo.ToyModel
  embedding_dim: 4
  tables: {user: {embedding_dim: 2}}
"""


def write(tmp_path: Path, text: str, name: str = "toy.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def refuse(tmp_path: Path, text: str, *overrides: str) -> str:
    """The text of the error; the file's name is in front."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    message = str(caught.value)
    assert message.startswith((f"{path}", "--set")), message
    assert "pydantic" not in message and "validation error" not in message
    return message.removeprefix(f"{path}: ")


# ------------------------------------------------------------------------------------ reading


def test_a_file_becomes_typed_blocks_with_defaults_filled(tmp_path: Path) -> None:
    experiment = load(write(tmp_path, BASE + "train: {learning_rate: 1e-2}\nseeds: [3, 4]\n"))
    assert experiment.train == TrainConfig(learning_rate=0.01)
    assert experiment.embedding == EmbeddingConfig()
    assert experiment.seeds == (3, 4)
    dataset = experiment.dataset.build()
    assert type(dataset).__name__ == "ToyData"
    assert dataset.config.num_rows == 20  # pyright: ignore
    model = experiment.model.build(dataset.schema())
    assert isinstance(model, CTRModel)
    assert model.config.model_dump()["tables"]["user"]["embedding_dim"] == 2


def test_yaml_traps(tmp_path: Path) -> None:
    text = BASE.replace("num_rows: 20", "num_rows: 010, flag: no, code: 0010")
    text += "train: {learning_rate: 1e-3, clip_norm: 1E+1, shuffle: off, max_steps: 1_000}\n"
    experiment = load(write(tmp_path, text))
    config = experiment.dataset.config.model_dump()
    assert config["num_rows"] == 10  # PyYAML says 8
    assert config["flag"] is False
    assert config["code"] == "0010"
    train = experiment.train
    assert (train.learning_rate, train.clip_norm, train.shuffle) == (0.001, 10.0, False)
    assert train.max_steps == 1000
    assert load(write(tmp_path, BASE.replace("20", "20, code: no"))).dataset.config.model_dump()[
        "code"
    ] == ("no")
    at = load(write(tmp_path, BASE.replace("20", "20, border: 12:30:45")))
    assert at.dataset.config.model_dump()["border"] == "12:30:45"  # PyYAML says 45045
    day = load(write(tmp_path, BASE.replace("20", "20, border: 2024-05-01")))
    assert day.dataset.config.model_dump()["border"] == "2024-05-01"  # PyYAML makes a date


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1.5e3", 1500.0), ("-2", -2), ("+3", 3), (".5", 0.5), ("1.", 1.0),
        ("0x1F", 31), ("010", "010"), ("-.inf", float("-inf")), ("yes", "yes"), ("true", True),
        ("~", None), ("", None), ("[1, a]", [1, "a"]), ("{a: 1}", {"a": 1}), ("'7'", "7"),
        ("1.2.3", "1.2.3"), ("e3", "e3"), ("<<", "<<"),
    ],
)  # fmt: skip
def test_scalars(text: str, value: object) -> None:
    found = parse(text, "x")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("name", ["toy.yaml", "toy.json"])
def test_saved_experiment_loads_back_equal(tmp_path: Path, name: str) -> None:
    first = load(
        write(tmp_path, BASE),
        [
            "dataset.code='1e-3'", "dataset.border='010'", "train.learning_rate=1e-5",
            "model.shape={kind: square, side: .inf}", "model.rates={a.b: 0.1, 'no': 2}",
            "name=run-1", "seeds=[5, 6]", "embedding.betas=[0.8, 0.99]", "train.clip_norm=3",
        ],
    )  # fmt: skip
    path = tmp_path / "runs" / name
    first.save(path)
    second = load(path)
    assert second == first
    assert hash(second.train) == hash(first.train)
    second.save(path)
    assert load(path) == first
    assert [p.name for p in path.parent.iterdir()] == [name]  # no draft is left
    assert "evaluations_per_epoch" in path.read_text()  # defaults are written out
    assert Experiment.parse(json.loads(json.dumps(first.model_dump(mode="json")))) == first


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False)
    | st.text("a1 -:#'{},&*!|>%@`~e.\"\n\t\u00e9\u4e2d", max_size=8)
    | st.sampled_from(["no", "1e-3", "010", "~", "12:30", "0x1F", "2020-01-01", "<<", "=", "1_0"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text("ab1n-", max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["a", "no", "1", "1e-3"]), values, max_size=3))
def test_any_value_survives_yaml_and_its_type_too(data: dict) -> None:
    found = parse(to_text(data, ".yaml"), "x") or {}
    assert found == data and repr(found) == repr(data)


# ---------------------------------------------------------------------------------- overrides


def test_overrides_are_parsed_as_yaml_and_checked_like_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, BASE)
    experiment = load(
        path,
        [
            "train.batch_size=64", "train.batch_size=128", "model.hidden=[1, 2, 3]",
            "model.hidden.1=20", "model.tables.item={embedding_dim: 8}", "embedding.kind=sgd",
            "model.rates.u=1e-2", "train.max_steps=", "dataset.path=a=b.csv",
        ],
    )  # fmt: skip
    config = experiment.model.config.model_dump()
    assert experiment.train.batch_size == 128
    assert config["hidden"] == (1, 20, 3)
    assert config["tables"]["item"]["embedding_dim"] == 8
    assert config["tables"]["user"]["embedding_dim"] == 2
    assert config["rates"] == {"u": 0.01}
    assert experiment.embedding.kind == "sgd"
    assert experiment.train.max_steps is None
    assert experiment.dataset.config.model_dump()["path"] == "a=b.csv"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train", r"--set train: expected `place=value`"),
        ("=3", r"--set =3: expected `place=value`"),
        ("train..a=3", r"expected `place=value`"),
        ("seeds.7=3", r"`seeds` is a list of 1; expected a position from 0 to 0, got `7`"),
        ("model.embedding_dim.x=3", r"`model.embedding_dim` is 4 and holds no `x`. Set `model.emb"),
        ("train.batch_size=[1", r"--set train.batch_size=\[1, line 1, column 3: expected"),
        ("train={a: 1, a: 2}", r"key `a` is written twice"),
        (
            "train.batch_size=many",
            r"--set train.batch_size=many: `train.batch_size`: expected a",
        ),
        (
            "train.batchsize=1",
            r"--set train.batchsize=1: `train.batchsize` is not a field of",
        ),
        ("model.class=os.system", r"--set model.class=os.system: `model`: `os.system` is not a"),
    ],
)
def test_bad_overrides_name_themselves(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(write(tmp_path, BASE + "seeds: [1]\n"), [setting])


def test_override_leaves_its_input_alone() -> None:
    data = {"a": {"b": [1, {"c": 2}]}}
    assert override(data, ["a.b.1.c=3"]) == {"a": {"b": [1, {"c": 3}]}}
    assert data == {"a": {"b": [1, {"c": 2}]}}


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("embedding_dim: 4", "embeding_dim: 4"),
         "`model.embeding_dim` is not a field of ToyModel.Config. Did you mean `embedding_dim`?"),
        (("{embedding_dim: 2}", "{dim: 2}"),
         "`model.tables.user.dim` is not a field of TableOptions. "
         "Known: `embedding_dim`, `init`, `pooling`."),
        (("num_rows: 20", "num_rows: lots"),
         "`dataset.num_rows`: expected a whole number, got 'lots'."),
        (("num_rows: 20", "num_rows: 2.5"),
         "`dataset.num_rows`: expected a whole number, got 2.5."),
        (("num_rows: 20", "num_rows: 0"),
         "`dataset.num_rows`: expected a number of at least 1, got 0."),
        (("num_rows: 20", "num_rows: true"),
         "`dataset.num_rows`: expected a whole number, got true."),
        (("model:", "train: {early_stop_patience: true}\nmodel:"),
         "`train.early_stop_patience`: expected a whole number, got true."),
        (("model:", "train: {learning_rate: true}\nmodel:"),
         "`train.learning_rate`: expected a number, got true."),
        (("num_rows: 20", "code: 17"),
         "`dataset.code`: expected text, got 17. Put it in quotes to make it text."),
        (("num_rows: 20", "flag: maybe"),
         "`dataset.flag`: expected true or false, got 'maybe'."),
        (("num_rows: 20", "num_rows:"),
         "`dataset.num_rows`: expected a whole number, got nothing (null)."),
        (("embedding_dim: 4", "hidden: 4"), "`model.hidden`: expected a list, got 4."),
        (("embedding_dim: 4", "hidden: [4, a]"),
         "`model.hidden.1`: expected a whole number, got 'a'."),
        (("embedding_dim: 4", "shape: {kind: circel}"),
         "`model.shape.kind`: expected one of `square`, `circle`; got 'circel'. "
         "Did you mean `circle`?"),
        (("embedding_dim: 4", "shape: {side: 1}"),
         "`model.shape.kind`: expected one of `square`, `circle`; it is missing."),
        (("embedding_dim: 4", "shape: {kind: square}"),
         "`model.shape.side` is missing. Square needs `side`."),
        (("embedding_dim: 4", "shape: {kind: square, side: 1, radus: 2}"),
         "`model.shape.radus` is not a field of Square. Known: `kind`, `side`."),
        (("embedding_dim: 4", "shape: {kind: circle, radius: big}"),
         "`model.shape.radius`: expected a number or 'unit', got 'big'."),
        (("embedding_dim: 4", "rates: {u: x}"),
         "`model.rates.u`: expected a number, got 'x'."),
        (("embedding_dim: 4", "rates: [1]"),
         "`model.rates`: expected a block of fields, got [1]."),
        (("model:", "train: {optimizer: adamm}\nmodel:"),
         "`train.optimizer`: expected 'adam', 'adamw', 'sgd' or 'adagrad', got 'adamm'. "
         "Did you mean `adam`?"),
        (("model:", "train: {plateau_factor: 1}\nmodel:"),
         "`train.plateau_factor`: expected a number below 1.0, got 1."),
        (("model:", "train: [1]\nmodel:"),
         "`train`: expected a block of fields, got [1]."),
        (("model:", "trian: {}\nmodel:"),
         "`trian` is not a field of Experiment. Did you mean `train`?"),
        (("model:", "seeds: []\nmodel:"), "`seeds`: expected at least 1 items, got []."),
        (("model:", "seeds: [1, 1]\nmodel:"),
         "`seeds`: expected different seeds of at least 0, got [1, 1]."),
        (("model:", "name: a/b\nmodel:"), "`name`: expected text like ^[\\w.-]+$, got 'a/b'."),
        (("model:", "embedding: {l2: 1}\nmodel:"),
         "embedding: `l2` needs mode=dense, got l2=1.0 with mode=sparse. Set mode=dense, or l2=0."),
        (("class: toy_zoo.ToyData, ", ""),
         "`dataset`: `class` is missing: expected the import path of a Dataset class, got None."),
        (("toy_zoo.ToyData", "toy_zoo.ToyDate"),
         "`dataset`: module `toy_zoo` has no class `ToyDate`. Did you mean `ToyData`?"),
        (("toy_zoo.ToyData", "toy_zooo.ToyData"),
         "`dataset`: `toy_zooo.ToyData`: there is no module `toy_zooo`. "
         "Check the spelling and sys.path."),
        (("toy_zoo.ToyData", "recsys.dta.dataset.X"),
         "`dataset`: `recsys.dta.dataset.X`: there is no module `dta` in `recsys`. "
         "Did you mean `data`?"),
        (("toy_zoo.ToyData", "toy_zoo.deeper.ToyData"),
         "`dataset`: `toy_zoo.deeper.ToyData`: there is no module `deeper` in `toy_zoo`. "
         "Check the spelling and sys.path."),
        (("toy_zoo.ToyData", "ToyData"),
         "`dataset`: expected the import path of a Dataset class, say "
         "`recsys.models.ctr.dcn_v2.DCNv2`, got 'ToyData'."),
        (("toy_zoo.ToyData", "toy_zoo.HalfData"),
         "`dataset`: `toy_zoo.HalfData` is not a Dataset class but an abstract class. "
         "Name a concrete subclass of recsys.data.dataset.Dataset."),
        (("toy_zoo.ToyModel", "toy_zoo.ToyData"),
         "`model`: `toy_zoo.ToyData` is not a RecModel class but another class. "
         "Name a concrete subclass of recsys.base.RecModel."),
        (("toy_zoo.ToyModel", "toy_zoo.build"),
         "`model`: `toy_zoo.build` is not a RecModel class but a function. "
         "Name a concrete subclass of recsys.base.RecModel."),
        (("toy_zoo.ToyModel", "os.system"),
         "`model`: `os.system` is not a RecModel class but a builtin function. "
         "Name a concrete subclass of recsys.base.RecModel."),
    ],
)  # fmt: skip
def test_what_is_refused_and_in_what_words(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    assert BASE.count(change[0]) == 1
    assert refuse(tmp_path, BASE.replace(*change)) == message


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    text = BASE.replace("num_rows: 20", "num_rows: x").replace("{embedding_dim: 2}", "{pol: 1}")
    message = refuse(
        tmp_path, text + "train: {batch_size: 0, lerning_rate: 1}\n", "train.precision=fp8"
    )
    lines = message.splitlines()
    assert lines[0] == "5 problems."
    places = {re.search(r"`(\S+?)`", line).group(1) for line in lines[1:]}  # pyright: ignore
    assert places == {
        "dataset.num_rows", "model.tables.user.pol", "train.batch_size", "train.lerning_rate",
        "train.precision",
    }  # fmt: skip
    assert sum("--set train.precision=fp8: " in line for line in lines) == 1


def test_a_missing_block_is_named(tmp_path: Path) -> None:
    message = refuse(tmp_path, "dataset: {class: toy_zoo.ToyData}\n")
    assert message == "`model` is missing. Experiment needs `dataset`, `model`."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping with `dataset:` and `model:`, got an empty file"),
        ("- 1\n", "got a list"),
        ("model:\n  a: 1\n  b: 2\n  a: 3\n", "line 4, column 3: key `a` is written twice"),
        ("train: {1: 2}\n", "line 1, column 9: a key must be text, got 1"),
        ("train: [1\n", "line 2, column 1: expected ',' or ']'"),
        ("x: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("a: &x {b: 1}\nc: {<<: *x}\n", "`c` is not a field of Experiment"),
        ("a: \x00\n", "not YAML"),
    ],
)
def test_malformed_files(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(path)


def test_malformed_json(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key `a` is written twice"):
        load(write(tmp_path, '{"a": 1, "a": 2}', "x.json"))
    with pytest.raises(ConfigError, match=r"x\.json, line 1, column 7"):
        load(write(tmp_path, '{"a": }', "x.json"))


def test_missing_and_undecodable_files(tmp_path: Path) -> None:
    write(tmp_path, BASE, "dcn_v2.yaml")
    with pytest.raises(ConfigError, match=r"no such file. Did you mean `dcn_v2.yaml`\?"):
        load(tmp_path / "dcnv2.yaml")
    with pytest.raises(ConfigError, match=r"no such file\. Give the path of a YAML file"):
        load(tmp_path / "nowhere" / "a.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(ConfigError, match="expected UTF-8 text, got byte 3 that is not"):
        load(tmp_path / "latin.yaml")


def test_an_import_error_inside_a_module_passes_through(tmp_path: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_has"):
        load(write(tmp_path, BASE.replace("toy_zoo.ToyModel", "toy_broken.ToyModel")))


def test_resolve_class_gives_the_very_class() -> None:
    import toy_zoo  # pyright: ignore

    assert resolve_class("toy_zoo.ToyModel", CTRModel) is toy_zoo.ToyModel
    assert class_path(toy_zoo.ToyModel) == "toy_zoo.ToyModel"
    with pytest.raises(ConfigError, match="expected the import path of a Dataset class"):
        resolve_class("a..b", Dataset)


def test_a_block_takes_and_builds_what_its_type_argument_says() -> None:
    import toy_zoo  # pyright: ignore

    class ToyBlock(AnyModelBlock[toy_zoo.ToyModel, Schema]):
        """Which toy."""

    schema = toy_zoo.ToyData(toy_zoo.ToyData.Config()).schema()
    block = validate(ToyBlock, {"class": "toy_zoo.ToyModel", "hidden": [2]}, (), "here")
    assert ToyBlock.base is block.model_class is type(block.build(schema)) is toy_zoo.ToyModel
    assert block.build(schema).config.hidden == (2,)
    assert ToyBlock.model_validate_json(block.model_dump_json()) == block
    assert ModelBlock.base is RecModel and not hasattr(AnyModelBlock, "base")
    with pytest.raises(ConfigError, match="is not a ToyModel class but another class"):
        validate(ToyBlock, {"class": "recsys.models.ctr.lr.LR"}, (), "here")


def test_experiments_cannot_be_changed(tmp_path: Path) -> None:
    experiment = load(write(tmp_path, BASE))
    with pytest.raises(ValidationError, match="frozen"):
        experiment.seeds = (9,)  # pyright: ignore


CONFIGS = sorted((Path(__file__).parent.parent / "configs").rglob("*.yaml"))
# Clusters: test_ray_configs.py; searches: tune/test_sweep.py.
CONFIGS = [p for p in CONFIGS if p.parent.name != "ray" and not p.name.startswith("tune_")]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_survives(path: Path, tmp_path: Path) -> None:
    experiment = load_any(path)
    experiment.save(tmp_path / "again.json")
    assert load_any(tmp_path / "again.json") == experiment
    if path.parent.name != "sweeps":
        assert experiment.model.class_path.split(".")[-2] == path.stem
