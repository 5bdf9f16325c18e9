"""Ray takes the files in configs/ray, and they name what is there."""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "configs" / "ray"
CLUSTERS = ("cluster.yaml", "on_prem.yaml")
ray = pytest.importorskip("ray", reason="needs ray")


def read(name: str) -> dict:
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.mark.parametrize("name", CLUSTERS)
def test_cluster_fits_rays_schema(name):
    jsonschema = pytest.importorskip("jsonschema")
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(read(name), json.loads(schema.read_text()))
    with pytest.raises(jsonschema.ValidationError, match="worker_nodes"):
        jsonschema.validate({**read(name), "worker_nodes": {}}, json.loads(schema.read_text()))


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_launcher_takes_it_with_its_defaults(name):
    util = pytest.importorskip("ray.autoscaler._private.util")
    config = util.prepare_config(read(name))
    util.validate_config(config)
    types = config["available_node_types"]
    assert config["max_workers"] == 2 == max(t.get("max_workers", 0) for t in types.values())
    assert config["head_node_type"] in types


def test_all_files_are_known():
    assert {path.name for path in FOLDER.iterdir()} == {*CLUSTERS, "runtime_env.yaml"}


@pytest.mark.parametrize("name", CLUSTERS)
def test_versions_and_paths_are_those_of_the_checkout(name):
    config = read(name)
    pinned = re.search(r"^ray==(\S+)", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)
    assert pinned is not None
    assert set(re.findall(r"ray\[default\]==([\d.]+)", (FOLDER / name).read_text())) == {pinned[1]}
    assert list(config["file_mounts"].values()) == ["."]
    assert all((ROOT / path).exists() for path in config["rsync_filter"])
    assert any("packaging/fbgemm-gpu" in command for command in config["setup_commands"])


def test_runtime_environment(monkeypatch):
    runtime_env = pytest.importorskip("ray.runtime_env")
    found = read("runtime_env.yaml")
    assert set(found) <= runtime_env.RuntimeEnv.known_fields
    assert set(found["config"]) <= runtime_env.RuntimeEnvConfig.known_fields
    monkeypatch.chdir(ROOT)
    assert runtime_env.RuntimeEnv(**found)["working_dir"] == "configs"
    assert (ROOT / found["working_dir"] / "ctr" / "dlrm.yaml").is_file()
