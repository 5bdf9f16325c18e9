"""The house, checked: who imports whom, one door per heavy package, sizes, three files a model.

Works over the syntax trees of the real folders (links are skipped), so nothing is imported here.
"""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Layer of every part, and which parts of its own layer it may use (style: imports go downward).
LAYERS = {
    "errors": 0, "types": 0, "schema": 0, "hashing": 0, "folders": 0,
    "config_text": 0, "config_problems": 0, "native": 0,
    "data": 1, "embeddings": 1, "layers": 1, "losses": 1, "metrics": 1,
    "graph": 1,
    "base": 2, "cf": 2, "cf_fitted": 2, "cf_graph": 2, "cf_contrast": 2, "cf_knowledge": 2,
    "cf_bundle": 2, "node_model": 2, "aspect_model": 2, "fit_config": 2,
    "config": 3, "serving": 3, "evaluate": 3, "train": 3, "testing": 3, "tune": 3,
    "cf_config": 3, "node_config": 3, "set_config": 3, "aspect_config": 3,
    "models": 3, "datasets": 3, "retrieval": 3,
    "cli": 4, "__main__": 4,
}  # fmt: skip
SIDEWAYS = {
    "errors": set(),
    "types": set(),
    "schema": {"errors"},
    "hashing": {"errors"},
    "folders": {"errors"},
    "config_text": {"errors"},
    "config_problems": {"errors"},
    "native": set(),
    "embeddings": {"layers"},  # decoders start like layers
    "graph": {"data"},  # files, downloads
    "cf": {"base"},
    "cf_fitted": {"cf"},
    "cf_graph": {"cf"},
    "cf_contrast": {"cf", "cf_graph"},
    "cf_knowledge": {"cf", "cf_graph"},
    "cf_bundle": {"cf", "cf_graph"},
    "node_model": {"base"},
    "aspect_model": {"base"},
    "serving": {"config", "retrieval"},
    "evaluate": {"config", "cf_config", "node_config", "aspect_config", "serving"},
    "node_config": {"config"},
    "set_config": {"config"},
    "aspect_config": {"config", "set_config"},
    "cf_config": {"config", "node_config", "aspect_config"},
    "train": {"config", "cf_config", "node_config", "aspect_config", "serving", "evaluate"},
    "tune": {"config", "cf_config", "serving", "evaluate", "train"},
    "testing": {
        "config",
        "cf_config",
        "node_config",
        "aspect_config",
        "serving",
        "evaluate",
        "train",
    },
    "__main__": {"cli"},
}
DOORS = {
    "ray": lambda path: path.name.startswith("ray_"),
    "optuna": lambda path: "tune" in path.parts,
    "torch_geometric": lambda path: path.name == "propagation.py" or "graph" in path.parts,
    "faiss": lambda path: path.as_posix().endswith("retrieval/faiss_codes.py"),
    "fastapi": lambda path: path.as_posix().endswith("serving/http_app.py"),
    "starlette": lambda path: path.as_posix().endswith("serving/http_app.py"),
    "uvicorn": lambda path: path.as_posix().endswith("serving/http_app.py"),
    "torchrec": lambda path: path.name.startswith("torchrec_"),
    "fbgemm_gpu": lambda path: path.name.startswith("torchrec_"),
    "matplotlib": lambda path: path.as_posix().endswith("train/plots.py"),
    "tensorboard": lambda path: path.as_posix().endswith("train/tracking.py"),
    "upath": lambda path: path.as_posix().endswith("train/storage.py"),
    "fsspec": lambda path: path.as_posix().endswith("train/storage.py"),
    "sklearn": lambda path: False,
    "hypothesis": lambda path: False,
    "pytest": lambda path: "testing" in path.parts,
}
LONG_FUNCTIONS: set[str] = set()
"""`file.py:function` allowed above 60 lines, each with its reason beside it."""


def sources() -> list[Path]:
    """Every Python file of the library, links not followed."""
    found = []
    for top in ("recsys", "models", "datasets"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parents = [ROOT / top, *[p for p in path.parents if (ROOT / top) in p.parents]]
            if not any(p.is_symlink() for p in parents):
                found.append(path)
    return found


def part_of(path: Path) -> str:
    """The part a file belongs to: `data`, `models`, ..."""
    parts = path.relative_to(ROOT).parts
    if parts[0] != "recsys":
        return parts[0]
    return parts[1] if len(parts) > 2 else Path(parts[1]).stem


def imports(tree: ast.AST) -> list[str]:
    """Dotted names imported anywhere in a module."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at line {node.lineno}"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


FILES = sources()
IDS = [path.relative_to(ROOT).as_posix() for path in FILES]


def test_the_walk_sees_engine_and_leaves_once() -> None:
    assert len(FILES) == len(set(FILES)) > 20
    assert {"recsys", "models", "datasets"} == {p.relative_to(ROOT).parts[0] for p in FILES}
    assert not any("recsys/models" in name or "recsys/datasets" in name for name in IDS)


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_imports_go_down(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        assert imports(tree_of(path)) == []
        return
    for name in imports(tree_of(path)):
        if not name.startswith("recsys."):
            assert name.split(".")[0] not in {"models", "datasets"}, f"{path}: import recsys.{name}"
            continue
        other = name.split(".")[1]
        if other == "__version__" or (other == part and part not in {"models", "datasets"}):
            continue
        if part in {"models", "datasets"}:
            assert other not in {"models", "datasets"}, f"{path}: a leaf imports a leaf: {name}"
        if part == "datasets":
            assert LAYERS[other] == 0 or other in {"data", "graph"}, f"{path}: {name}"
        if other in {"models", "datasets"}:
            assert LAYERS[part] == 4, f"{path}: the engine imports a leaf: {name}"
        lower = LAYERS[other] < LAYERS[part]
        assert lower or other in SIDEWAYS.get(part, set()), f"{path}: {part} imports {name}"


def test_no_cycle_between_parts() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        used = {n.split(".")[1] for n in imports(tree_of(path)) if n.startswith("recsys.")}
        graph.setdefault(part_of(path), set()).update(used - {part_of(path)})
    done: list[str] = []
    while len(done) < len(graph):
        free = [p for p in graph if p not in done and graph[p] <= set(done) | {"__version__"}]
        assert free, f"cycle among {sorted(set(graph) - set(done))}"
        done += free


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_heavy_packages_have_one_door(path: Path) -> None:
    for name in imports(tree_of(path)):
        door = DOORS.get(name.split(".")[0])
        assert door is None or door(path.relative_to(ROOT)), f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_sizes(path: Path) -> None:
    tree = tree_of(path)
    lines = len(path.read_text().splitlines())
    assert lines <= 600, f"{path} has {lines} lines; split it"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start = node.body[0].lineno
            if ast.get_docstring(node) is not None and len(node.body) > 1:
                start = node.body[1].lineno
            span = (node.end_lineno or start) - start + 1
            allowed = span <= 60 or f"{path.name}:{node.name}" in LONG_FUNCTIONS
            assert allowed, f"{path}:{node.lineno} `{node.name}` has {span} lines"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_imports_stand_at_the_top(path: Path) -> None:
    if part_of(path) == "cli":
        pytest.skip("commands import inside so that --help is quick")
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not inner, f"{path}:{node.lineno} `{node.name}` imports inside a function"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_banned_names_and_words(path: Path) -> None:
    assert not {"utils", "helpers", "misc", "common"} & set(path.with_suffix("").parts)
    if path.name == "__init__.py":
        assert not any(n.startswith("recsys") for n in imports(tree_of(path))), "a re-export"
    assert path.read_text().isascii(), f"{path}: code is ASCII"


def test_every_model_is_exactly_three_files() -> None:
    leaves = [p for p in (ROOT / "models").rglob("*.py") if p.name != "__init__.py"]
    assert leaves
    for path in leaves:
        name = path.relative_to(ROOT / "models").with_suffix("")
        assert (ROOT / "configs" / name).with_suffix(".yaml").is_file(), f"no config for {name}"
        test = ROOT / "tests" / "models" / name.parent / f"test_{name.name}.py"
        assert test.is_file(), f"no test for {name}"
    for path in (p for p in (ROOT / "datasets").rglob("*.py")):
        assert (ROOT / "tests" / "datasets" / f"test_{path.stem}.py").is_file(), f"{path}"


def test_file_and_class_have_one_name() -> None:
    for top in ("models", "datasets"):
        for path in (ROOT / top).rglob("*.py"):
            classes = [n.name for n in tree_of(path).body if isinstance(n, ast.ClassDef)]
            wanted = path.stem.replace("_", "")
            public = [c for c in classes if not c.startswith("_")]
            if path.name != "__init__.py":
                assert wanted in [c.lower() for c in public], f"{path} has {public}"


def test_packages_in_pyproject_are_the_folders_on_disk() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in FILES}
    found = {name if name.startswith("recsys") else f"recsys.{name}" for name in folders}
    assert sorted(found | {"recsys.models"}) == sorted(listed)


def test_the_two_leaf_folders_are_links_without_init() -> None:
    for name in ("models", "datasets"):
        link = ROOT / "recsys" / name
        assert link.is_symlink() and link.readlink() == Path("..") / name
        assert not (ROOT / name / "__init__.py").exists()
