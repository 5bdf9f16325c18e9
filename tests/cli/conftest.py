"""The command line in this process, and one small training for all commands that need a run."""

import logging
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from recsys.cli.main import main


def cli(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


@pytest.fixture(autouse=True)
def quiet_logging():
    yield
    logger = logging.getLogger("recsys")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)
    logging.captureWarnings(False)


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "small.yaml"
    path.write_text(
        "dataset: {class: recsys.datasets.synthetic.Synthetic, num_rows: 3000, valid_rows: 600,\n"
        "          test_rows: 600}\n"
        "model: {class: recsys.models.ctr.lr.LR}\n"
        "train: {batch_size: 256, evaluations_per_epoch: 1, bootstrap_samples: 20,\n"
        "        num_threads: 1}\n"
    )
    return path


@pytest.fixture(scope="session")
def trained(config: Path) -> tuple[Path, str]:
    """A run folder and what training said."""
    cache = config.parent / "cache"
    run_dir = config.parent / "run"
    result = cli("train", "--config", config, "--run-dir", run_dir, "--cache-dir", cache,
                    "--set", "train.learning_rate=1e-2")  # fmt: skip
    return run_dir, result.output


@pytest.fixture(scope="session")
def cf_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cf") / "light_gcn.yaml"
    path.write_text(
        "dataset: {class: recsys.datasets.planted_communities.PlantedCommunities, num_users: 60,\n"
        "          num_items: 40, num_communities: 3, mean_items: 9}\n"
        "model: {class: recsys.models.graph.light_gcn.LightGCN, embedding_dim: 4, num_layers: 1}\n"
        "train: {batch_size: 128, num_threads: 1}\n"
        "evaluation: {ks: [5, 20], bootstrap_samples: 20}\n"
    )
    return path


@pytest.fixture(scope="session")
def recommending(cf_config: Path) -> tuple[Path, str]:
    """The run folder of a collaborative filter and what training said."""
    run_dir = cf_config.parent / "run"
    result = cli("train", "--config", cf_config, "--run-dir", run_dir)
    return run_dir, result.output
