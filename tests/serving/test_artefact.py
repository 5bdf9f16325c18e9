"""An artefact loads back equal, and nothing damaged, foreign or untrusted loads at all."""

import hashlib
import json
import pickletools
import re
import shutil
from pathlib import Path

import pytest
import torch

from recsys.data.encoder import FeatureEncoder
from recsys.errors import CheckpointError, SchemaError
from recsys.models.ctr.lr import LR
from recsys.schema import Label
from recsys.serving.artefact import load_artefact, save_artefact
from recsys.serving.folder import artefact_folder, artefact_version


class OwnLR(LR):
    """Not in recsys.models."""

    class Config(LR.Config):
        """The same."""


def rewrite(folder: Path, **changes: object) -> None:
    """Changes model.json and makes its digest right again, as an attacker would."""
    path = folder / "model.json"
    manifest = json.loads(path.read_text()) | changes
    del manifest["digest"]
    content = json.dumps(manifest, sort_keys=True)
    manifest["digest"] = hashlib.sha256(content.encode()).hexdigest()
    path.write_text(json.dumps(manifest))


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_loads_back_equal(artefact: Path, model: LR, encoder: FeatureEncoder) -> None:
    loaded, loaded_encoder, metadata, version = load_artefact(artefact)
    assert type(loaded) is LR and not loaded.training
    assert loaded.config == model.config and loaded.schema == model.schema
    assert loaded_encoder.schema == encoder.schema
    assert loaded_encoder.state == encoder.state
    assert metadata == {"seed": 1} and version == artefact_version(artefact.parent)
    mine, theirs = model.state_dict(), loaded.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert all(p.device.type == "cpu" and not p.is_meta for p in loaded.parameters())
    # The run folder works as well.
    assert artefact_folder(artefact.parent) == artefact


def test_holds_data_only(artefact: Path) -> None:
    found = files(artefact)
    vocabularies = {f"encoder/{name}.parquet" for name in ("user", "hour", "tags")}
    assert set(found) == {
        "model.json", "model.safetensors", "schema.json", "encoder/encoder.json", *vocabularies,
    }  # fmt: skip
    for name, content in found.items():
        with pytest.raises(ValueError):
            list(pickletools.genops(content))
        assert not content.startswith(b"PK"), name
    manifest = json.loads(found["model.json"])
    assert manifest["class"] == "recsys.models.ctr.lr.LR"
    assert manifest["files"]["schema.json"] == hashlib.sha256(found["schema.json"]).hexdigest()
    assert {"recsys", "torch", "python"} <= set(manifest["versions"])


def test_state_of_another_moment_can_be_saved(
    tmp_path: Path, model: LR, encoder: FeatureEncoder
) -> None:
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    folder = save_artefact(tmp_path / "m", model, encoder, state=state)
    assert load_artefact(folder).model.state_dict()["bias"].item() == pytest.approx(1.05)


def test_replaces_an_artefact_but_nothing_else(
    artefact: Path, model: LR, encoder: FeatureEncoder, tmp_path: Path
) -> None:
    save_artefact(artefact, model, encoder, {"seed": 2})
    assert load_artefact(artefact).metadata == {"seed": 2}
    assert [p.name for p in artefact.parent.iterdir()] == ["model"]
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="thesis holds other files and is not overwritten"):
        save_artefact(other, model, encoder)
    assert (other / "chapter1.tex").read_text() == "years of work"


def test_a_failed_save_leaves_the_old_one(
    artefact: Path, model: LR, encoder: FeatureEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, directory: Path) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(FeatureEncoder, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_artefact(artefact, model, encoder, {"seed": 3})
    monkeypatch.undo()
    assert load_artefact(artefact).metadata == {"seed": 1}
    assert [p.name for p in artefact.parent.iterdir()] == ["model"]


def test_refuses_an_encoder_of_another_schema(
    tmp_path: Path, model: LR, encoder: FeatureEncoder
) -> None:
    other = encoder.schema.model_copy(update={"labels": (Label(name="buy"),)})
    with pytest.raises(SchemaError, match="model and encoder have different schemas"):
        save_artefact(
            tmp_path / "m", model, FeatureEncoder(other, encoder.state, encoder.vocabularies)
        )


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "schema.json", "encoder/encoder.json", "encoder/user.parquet"],
)
def test_damage_names_the_file(artefact: Path, name: str) -> None:
    path = artefact / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(f"{path} is damaged: its checksum")):
        load_artefact(artefact)
    path.unlink()
    with pytest.raises(CheckpointError, match=re.escape(f"{path} is missing")):
        load_artefact(artefact)


def test_a_changed_or_broken_manifest_is_refused(artefact: Path) -> None:
    path = artefact / "model.json"
    text = path.read_text()
    path.write_text(text.replace('"seed": 1', '"seed": 2'))
    with pytest.raises(CheckpointError, match=r"model\.json was changed after it was written"):
        load_artefact(artefact)
    path.write_text(text[:100])
    with pytest.raises(CheckpointError, match=r"model\.json is damaged \(JSONDecodeError"):
        load_artefact(artefact)
    path.write_text("[]")
    with pytest.raises(CheckpointError, match=r"model\.json is damaged \(TypeError"):
        load_artefact(artefact)
    path.write_text(text)
    rewrite(artefact, format_version=99)
    with pytest.raises(CheckpointError, match="expected format version 1, got 99"):
        load_artefact(artefact)


def test_a_file_slipped_in_is_refused(artefact: Path) -> None:
    shutil.copy(artefact / "encoder/user.parquet", artefact / "encoder/extra.parquet")
    with pytest.raises(CheckpointError, match=r"extra\.parquet does not belong to this model"):
        load_artefact(artefact)


def test_a_file_must_be_listed(artefact: Path) -> None:
    listed = json.loads((artefact / "model.json").read_text())["files"]
    del listed["model.safetensors"]
    rewrite(artefact, files=listed)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        load_artefact(artefact)


@pytest.mark.parametrize(
    "path",
    [
        "os.system", "subprocess.Popen", "recsys.base.CTRModel", "recsys.modelsx.ctr.LR",
        "tests.serving.test_artefact.OwnLR", 7,
    ],
)  # fmt: skip
def test_classes_outside_recsys_models_are_not_resolved(
    artefact: Path, path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(artefact, **{"class": path})
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"imported {name}"))
    with pytest.raises(CheckpointError, match="An artefact may only name classes under"):
        load_artefact(artefact)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("recsys.models.ctr.lr.torch", "is not a RecModel class but a module"),
        ("recsys.models.ctr.lr.Field", "is not a RecModel class but a function"),
        ("recsys.models.ctr.lr.Batch", "is not a RecModel class but another class"),
        ("recsys.models.ctr.lr.LRR", "has no class `LRR`. Did you mean `LR`"),
        ("recsys.models.ctr.lrr.LR", "there is no module `lrr` in `recsys.models.ctr`"),
        ("recsys.models.../x.LR", "expected the import path of a RecModel class"),
    ],
)
def test_only_models_are_resolved_under_recsys_models(
    artefact: Path, path: str, message: str
) -> None:
    rewrite(artefact, **{"class": path})
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_artefact(artefact)


def test_the_caller_may_give_the_class(artefact: Path, encoder: FeatureEncoder) -> None:
    own = OwnLR(OwnLR.Config(), encoder.schema)
    save_artefact(artefact, own, encoder)
    with pytest.raises(CheckpointError, match="pass `model_class`"):
        load_artefact(artefact)
    assert type(load_artefact(artefact, model_class=OwnLR).model) is OwnLR


def test_a_config_that_does_not_fit_is_named(artefact: Path) -> None:
    rewrite(artefact, config={"embedding_dim": 2, "dropout": 0.5})
    with pytest.raises(CheckpointError, match=r"does not fit recsys\.models\.ctr\.lr\.LR") as error:
        load_artefact(artefact)
    assert "`embedding_dim`: expected a number of at most 1, got 2." in str(error.value)
    assert "`dropout` is not a field of LR.Config" in str(error.value)


def test_weights_that_do_not_fit_are_named(tmp_path: Path, model: LR, encoder) -> None:
    state = {k: v for k, v in model.state_dict().items() if k != "bias"}
    folder = save_artefact(tmp_path / "m", model, encoder, state=state)
    with pytest.raises(CheckpointError, match=r"(?s)model\.safetensors does not fit.*bias"):
        load_artefact(folder)


def test_no_artefact_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere does not exist, so there is no model\.js"):
        load_artefact(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="Give the folder of a finished run"):
        load_artefact(tmp_path)


def test_a_file_is_no_artefact(artefact: Path, model: LR, encoder: FeatureEncoder) -> None:
    file = artefact / "model.safetensors"
    before = file.read_bytes()
    with pytest.raises(CheckpointError, match=r"safetensors is a file, not a folder, so there is "):
        load_artefact(file)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a file and is not overwrit"):
        save_artefact(file, model, encoder)
    assert file.read_bytes() == before


def test_an_index_is_no_artefact(artefact: Path) -> None:
    rewrite(artefact, format="recsys index")
    with pytest.raises(CheckpointError, match=r"expected the format 'recsys model', got 'recsys i"):
        load_artefact(artefact)


def test_a_run_of_several_seeds_asks_which(artefact: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        shutil.copytree(artefact, tmp_path / "many" / f"seed-{seed}" / "model")
    with pytest.raises(
        CheckpointError, match=r"each of several seeds\. Give one: .*/seed-1, .*/se"
    ):
        load_artefact(tmp_path / "many")
    assert load_artefact(tmp_path / "many" / "seed-2").metadata == {"seed": 1}
