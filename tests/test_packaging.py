"""The wheel ships `recsys` alone and works in a clean environment; the pins agree."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, Version]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", name).lower(): Version(v) for name, v in pairs}


def test_every_pin_is_exact_and_inside_the_declared_range() -> None:
    exact = pins()
    groups = PROJECT["optional-dependencies"].values()
    for text in [*PROJECT["dependencies"], *(r for group in groups for r in group)]:
        requirement = Requirement(text)
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name == "fbgemm-gpu":
            continue  # the local meta-package, next test
        assert name in exact, f"{name} has no pin in requirements.txt"
        assert exact[name] in requirement.specifier, f"{text} against {exact[name]}"


def test_meta_package_names_the_pinned_cpu_wheel() -> None:
    meta = tomllib.loads((ROOT / "packaging/fbgemm-gpu/pyproject.toml").read_text())["project"]
    assert meta["version"] == "1.8.0+cpu"
    assert meta["dependencies"] == [f"fbgemm-gpu-cpu=={pins()['fbgemm-gpu-cpu']}"]


FORBIDDEN = ("torch", "torchrec", "fbgemm_gpu", "ray", "optuna", "sklearn", "matplotlib")


def loaded(statement: str, python: str = sys.executable, cwd: Path | None = None) -> list[str]:
    """Which of FORBIDDEN a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print([m for m in {FORBIDDEN} if m in sys.modules])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return eval(done.stdout.strip().splitlines()[-1])


def test_import_recsys_does_not_import_torch() -> None:
    assert loaded("import recsys, recsys.schema, recsys.errors") == []


@pytest.mark.parametrize("statement", [
    "from recsys.models.ctr.dlrm import DLRM",
    "from recsys.serving.predictor import Predictor",
])  # fmt: skip
def test_serving_imports_are_light(statement: str) -> None:
    assert set(loaded(statement)) <= {"torch"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    tree = out / "tree"
    ignore = shutil.ignore_patterns(".*", "*.so", "build", "*.egg-info", "runs", "__pycache__")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=ignore)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(out), "."]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_wheel_holds_recsys_alone_and_every_source(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"recsys"}
    for top in ("models", "datasets"):
        for path in (ROOT / top).rglob("*.py"):
            assert f"recsys/{path.relative_to(ROOT).as_posix()}" in names
    assert "recsys/py.typed" in names


@pytest.mark.slow
def test_wheel_works_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    """Clean of recsys and of the checkout; the heavy dependencies are borrowed by a path file."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = str(tmp_path / "env/bin/python")
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    site = next((tmp_path / "env/lib").glob("python*/site-packages"))
    ours = Path(subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.__path__[0])"],
        capture_output=True, text=True, check=True).stdout.strip()).parent  # fmt: skip
    (site / "borrowed.pth").write_text(f"{ours}\n")
    for path in sorted((ROOT / "models").rglob("*.py")):
        if path.name != "__init__.py":
            module = ".".join(["recsys", *path.relative_to(ROOT).with_suffix("").parts])
            check = f"import {module}, recsys; assert {str(site)!r} in recsys.__file__"
            assert set(loaded(check, python, tmp_path)) <= {"torch"}
