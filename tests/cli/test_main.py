"""The command line: its flags are few and pinned, its errors short, its log on request JSON."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from recsys import __version__
from recsys.cli.main import main
from recsys.errors import ConfigError
from tests.cli.conftest import cli

ROOT = Path(__file__).parents[2]
FLAGS = {
    "": ["--debug", "--log-json", "--version"],
    "compress": [
        "--budget", "--cache-dir", "--config", "--dtypes", "--jobs", "--out", "--schemes",
        "--seeds", "--set",
    ],
    "evaluate": [
        "--cache-dir", "--columns", "--compare", "--data", "--json", "--lists", "--per-user",
        "--split", "RUN_DIR",
    ],
    "export": ["--freeze", "--out", "--to", "-o", "RUN_DIR"],
    "fetch": ["--cache-dir", "--set", "DATASET"],
    "index": [
        "--aspect", "--beside", "--codes", "--content", "--id-column", "--items", "--out", "-o",
        "RUN_DIR",
    ],
    "predict": [
        "--batch-size", "--columns", "--keep", "--negative-rate", "--num-threads", "--out", "-o",
        "INPUT", "RUN_DIR",
    ],
    "recommend": [
        "--all-users", "--candidates", "--explain", "--history", "--k", "--num-threads", "--out",
        "--similar-to", "--text", "--unknown", "--users", "--users-file", "-o", "RUN_DIR",
    ],
    "serve": [
        "--address", "--host", "--num-threads", "--port", "--ray", "--root", "--set", "--watch",
        "--workers", "DIR",
    ],
    "tune": [
        "--address", "--cache-dir", "--keep-models", "--out", "--ray", "--set", "--storage",
        "--sweep", "--workers",
    ],
    "train": [
        "--address", "--cache-dir", "--config", "--ranks", "--ray", "--resume", "--run-dir",
        "--seeds", "--set", "--storage", "--timeout", "--workers",
    ],
}  # fmt: skip
"""Every new flag is a promise: extend this list knowingly; settings belong into the YAML."""


def test_flags_are_pinned() -> None:
    commands: dict[str, click.Command] = {"": main, **main.commands}
    found = {}
    for name, command in commands.items():
        names = [option for p in command.params for option in p.opts if option[0] == "-"]
        names += [p.make_metavar(click.Context(command)) for p in command.params
                  if isinstance(p, click.Argument)]  # fmt: skip
        found[name] = sorted(names)
    assert found == {name: sorted(flags) for name, flags in FLAGS.items()}


@pytest.mark.parametrize("command", sorted(FLAGS))
def test_help_teaches_by_example(command: str) -> None:
    text = cli(*([command] if command else []), "--help").output
    assert f"recsys {command}".strip() in text.split("Examples:")[1]
    if command:
        options = main.commands[command].params
        assert all(o.help for o in options if isinstance(o, click.Option))


def test_examples_in_the_help_name_real_things() -> None:
    text = "".join(cli(command, "--help").output for command in main.commands)
    for config in re.findall(r"configs/\S+\.yaml", text):
        assert (ROOT / config).is_file(), config
    flags = {flag for names in FLAGS.values() for flag in names} | {"--help", "--nproc-per-node"}
    assert set(re.findall(r"(?<=\s)--[a-z-]+", text)) <= flags


def test_version() -> None:
    assert cli("--version").output == f"recsys, version {__version__}\n"


def test_python_m_recsys_is_recsys() -> None:
    command = [sys.executable, "-m", "recsys", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == f"recsys, version {__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from recsys.cli.main import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pyarrow', 'pandas', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_errors_are_one_message_and_exit_code_2(tmp_path: Path, config: Path) -> None:
    result = cli("train", "--config", tmp_path / "none.yaml", code=2)
    assert result.stderr == (
        f"ConfigError: {tmp_path}/none.yaml: there is no such file. Give the path of a YAML file.\n"
    )
    assert result.stdout == ""
    result = cli("train", "--config", config, "--set", "model.embeding_dim=1", code=2)
    assert result.stderr == (
        f"ConfigError: {config}: --set model.embeding_dim=1: `model.embeding_dim` is not a field "
        "of LR.Config. Did you mean `embedding_dim`?\n"
    )
    result = cli("predict", tmp_path, "x.csv", "-o", "y.parquet", code=2)
    assert result.stderr.startswith(f"CheckpointError: {tmp_path} has no model.json.")


def test_debug_shows_where_it_came_from(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--debug", "train", "--config", str(tmp_path / "no.yaml")])
    assert isinstance(result.exception, ConfigError)


def test_bad_usage_is_told_by_click() -> None:
    assert "Missing option '--config'" in cli("train", code=2).stderr
    assert "No such command 'trian'" in cli("trian", code=2).stderr


def test_json_logging_is_one_object_a_line(tmp_path: Path, capsys) -> None:
    @main.command("say", hidden=True)
    def say() -> None:
        logging.getLogger("recsys.data").info("read %d rows", 7)
        try:
            raise ValueError("oh")
        except ValueError:
            logging.getLogger("recsys.data").exception("failed")

    try:
        lines = cli("--log-json", "say").stderr.splitlines()
        first, second = (json.loads(line) for line in lines)
        assert first["message"] == "read 7 rows" and first["level"] == "info"
        assert first["logger"] == "recsys.data" and second["exception"].endswith("ValueError: oh")
        plain = cli("say").stderr
        assert "INFO recsys.data: read 7 rows" in plain
    finally:
        del main.commands["say"]


def test_a_library_import_configures_no_logging() -> None:
    code = (
        "import logging, recsys.serving.predictor, recsys.train.run\n"
        "assert not logging.getLogger('recsys').handlers and not logging.getLogger().handlers"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
