"""A study in a database: PostgreSQL for real, started here as its own user."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from recsys.errors import ConfigError
from recsys.tune.study import Study
from recsys.tune.tune import tune
from tests.tune.test_tune import SCRIPT, outcome, search

pytest.importorskip("psycopg", reason="needs psycopg")
if shutil.which("initdb") is None or (os.geteuid() == 0 and shutil.which("runuser") is None):
    pytest.skip("needs the programs of a PostgreSQL server", allow_module_level=True)
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def database():
    """The URL of a fresh one."""
    folder = tempfile.mkdtemp(prefix="pg-", dir="/tmp")  # sockets want short paths
    user = []
    if os.geteuid() == 0:  # which PostgreSQL refuses to be
        shutil.chown(folder, "postgres")
        user = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    data = f"{folder}/data"
    command = [*user, "initdb", "-D", data, "-A", "trust", "-U", "tester"]
    subprocess.run(command, check=True, **quiet)
    server = subprocess.Popen(
        [*user, "postgres", "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1"], **quiet
    )
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.1)
    yield f"postgresql+psycopg://tester@127.0.0.1:{port}/postgres"
    server.send_signal(signal.SIGTERM)
    server.wait(timeout=30)
    shutil.rmtree(folder, ignore_errors=True)


def test_two_machines_join_one_study(tmp_path, cache, sweep_of, database):
    """Folders of two machines share nothing but the database and the name of the study."""
    sweep = sweep_of(trials=6)
    script = SCRIPT.replace("workers=int(sys.argv[4])", "storage=sys.argv[4]")
    (tmp_path / "sweep.json").write_text(sweep.model_dump_json(by_alias=True))
    jobs = []
    for machine in ("one", "two"):
        (tmp_path / machine).mkdir()
        folder = str(tmp_path / machine / "shared")
        command = [sys.executable, "-c", script, str(tmp_path / "sweep.json"), folder, str(cache)]
        jobs.append(subprocess.Popen([*command, database], cwd=ROOT))
    assert [job.wait(timeout=300) for job in jobs] == [0, 0]
    done = [
        {path.name for path in (tmp_path / machine / "shared/trials").iterdir()}
        for machine in ("one", "two")
    ]
    assert done[0] and done[1] and not done[0] & done[1]
    study, _ = search_in(sweep, tmp_path / "one/shared", tmp_path, cache, database)
    complete = [row for row in study.rows() if row.state == "complete"]
    assert 6 <= len(complete) <= 7  # both may draw the last one
    assert {Path(row.folder).name for row in complete} == done[0] | done[1]


def search_in(sweep, folder, tmp_path, cache, database) -> tuple[Study, list[str]]:
    """The study in a folder, with the database."""
    from recsys.tune.tune import TuneOptions

    said: list[str] = []
    options = TuneOptions(cache_dir=cache, say=said.append, storage=database)
    return tune(sweep, sweep.experiment(tmp_path), folder, options), said


def test_the_database_gives_what_the_journal_gives(tmp_path, cache, sweep_of, database):
    sweep = sweep_of(trials=4, sampler={"kind": "random"})
    journal, _ = search(sweep, tmp_path, cache)
    found, _ = search_in(sweep, tmp_path / "in-database", tmp_path, cache, database)
    assert outcome(found) == outcome(journal)


def test_another_search_in_the_database_is_refused(tmp_path, cache, sweep_of, database):
    search_in(sweep_of(trials=1), tmp_path / "a/same", tmp_path, cache, database)
    other = sweep_of(trials=1, limits={"bytes": "1GB"})
    with pytest.raises(ConfigError, match="study `same` holds another search: limits: `bytes`"):
        search_in(other, tmp_path / "b/same", tmp_path, cache, database)


def test_a_database_that_does_not_answer(tmp_path, cache, sweep_of):
    url = "postgresql+psycopg://tester@127.0.0.1:9/postgres"
    with pytest.raises(
        ConfigError, match=r"(?s)storage 127.0.0.1:9/postgres: .*database that answers"
    ):
        search_in(sweep_of(trials=1), tmp_path / "x", tmp_path, cache, url)
