"""``recsys export``: a program, or a folder with frozen tables."""

from pathlib import Path

from recsys.serving.artefact import stored_bytes
from recsys.serving.predictor import Predictor
from tests.cli.conftest import cli


def test_export_writes_a_program(trained: tuple[Path, str], tmp_path: Path) -> None:
    out = tmp_path / "model.pt2"
    assert f"exported to {out}" in cli("export", trained[0], "-o", out).output
    assert out.is_file() and (tmp_path / "model.pt2.json").is_file()


def test_export_freezes_into_a_folder(trained: tuple[Path, str], tmp_path: Path) -> None:
    out = tmp_path / "frozen"
    said = cli("export", trained[0], "--freeze", "int8", "--to", out).output
    assert f"frozen in int8 to {out}: tables of {stored_bytes(out):,} bytes" in said
    assert stored_bytes(out) == Predictor.load(out).model.embeddings.bytes("infer").total
    error = cli("export", trained[0], "--freeze", "int3", "--to", out, code=2)
    assert "frozen tables are stored as fp32, fp16, int8, int4, int2; got 'int3'" in error.stderr
    error = cli("export", trained[0], "--to", tmp_path / "folder", code=2)
    assert "A folder needs a dtype" in error.stderr
