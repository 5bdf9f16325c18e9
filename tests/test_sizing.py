"""The arithmetic of benchmarks/sizing.py against numbers from paper, and the tables in the docs."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from benchmarks import sizing
from benchmarks.sizing import Job, chosen, exchanged, fits, size, survival

TEXT = (Path(__file__).parent.parent / "docs" / "cluster.md").read_text()
SMALL = Job(rows=6400, features=4, dim=8, batch=10, columns=2, host_gpus=2, dense_weights=100)
"""4 tables of 1600 rows, width 8; 10 rows a rank; hosts of 2."""


@pytest.mark.parametrize(
    ("optimizer", "state"),
    [("sgd", 0), ("rowwise_adagrad", 4 * 1600), ("adagrad", 4 * 1600 * 8), ("adam", 8 * 1600 * 8)],
)
def test_bytes_of_one_whole_table_a_rank(optimizer, state):
    found = size(dataclasses.replace(SMALL, optimizer=optimizer), "table_wise", 4)
    assert (found.tables, found.state) == (4 * 1600 * 8, state)


def test_bytes_where_tables_do_not_divide():
    assert size(SMALL, "table_wise", 8).tables == 4 * 1600 * 8  # 4 of 8 ranks hold one
    assert size(SMALL, "column_wise", 8).tables == 4 * 1600 * 4
    assert size(SMALL, "row_wise", 8).tables == 4 * 6400 * 8 / 8
    assert size(SMALL, "table_row_wise", 4).tables == 4 * 3200 * 8 / 2  # 2 tables on 2 ranks
    assert size(SMALL, "grid_shard", 16).tables == 4 * 1600 * 4 / 2  # half a table on 2 ranks
    assert size(SMALL, "data_parallel", 4).tables == 4 * 6400 * 8


def test_one_rank_says_nothing():
    assert exchanged(SMALL, "table_wise", 1) == (0, 0, 0)
    assert size(SMALL, "row_wise", 1).communication == size(SMALL, "row_wise", 1).reduced == 0


def test_table_wise_all_to_all():
    """40 rows x 1 table x 8 numbers, out and back; 40 ids and 40 lengths out; 1/4 stays."""
    near, far, held = exchanged(SMALL, "table_wise", 4)
    assert held == 4 * 40 * 8
    assert near + far == pytest.approx((2 * held + 4 * 80) * 3 / 4)
    assert far == pytest.approx(2 * near)  # one neighbour, two ranks on the other host


def test_column_wise_sends_ids_to_every_part():
    near, far, held = exchanged(SMALL, "column_wise", 4)
    assert held == 4 * 40 * 2 * 4  # two halves of a table
    assert near + far == pytest.approx((2 * held + 2 * 4 * 80) * 3 / 4)


def test_row_wise_reduce_scatter_grows_with_the_ranks():
    """Every rank has a part of all 40 x 4 vectors; lengths go to every rank."""
    near, far, held = exchanged(SMALL, "row_wise", 4)
    assert held == 4 * 40 * 4 * 8
    assert near + far == pytest.approx((2 * held + 4 * (40 + 40 * 4)) * 3 / 4)
    eight = exchanged(SMALL, "row_wise", 8)
    assert sum(eight[:2]) == pytest.approx((2 * 2 * held + 4 * (40 + 40 * 8)) * 7 / 8)


def test_table_row_wise_adds_within_the_host_and_sends_sums():
    near, far, held = exchanged(SMALL, "table_row_wise", 4)
    assert held == 4 * 40 * 2 * 8
    ids = 4 * (40 + 40 * 2)
    assert near == pytest.approx(ids / 4 + 2 * held / 2)
    assert far == pytest.approx(ids / 2 + 2 * held / 2 / 2)


def test_all_reduce_of_dense_gradients():
    assert size(SMALL, "table_wise", 4).reduced == 4 * 100 * 2 * 3 / 4


def test_steps_and_speed():
    job = dataclasses.replace(
        SMALL, flops=6e6, flops_share=1, hbm=1e30, fixed=0.5, latency=0,
        nvlink=1e3, network=1e30, link_share=1, host_gpus=4,
    )  # fmt: skip
    found = size(job, "table_wise", 4)
    assert found.compute == pytest.approx(0.5 + 6 * 100 * 10 / 6e6)
    assert found.communication == pytest.approx((found.local + 600) / 1e3)
    assert found.step(overlap=False) == found.compute + found.communication
    assert found.step(overlap=True) == max(found.compute, found.communication)


def test_what_is_chosen_fits_and_is_no_other_algorithm():
    found = chosen(Job(), 64)
    assert fits(Job(), found) == "yes" and found.placement == "table_wise"
    assert fits(Job(), size(Job(), "column_wise", 64)) == "refused"
    assert chosen(Job(optimizer="adagrad"), 64).placement == "column_wise"
    assert fits(Job(), chosen(Job(), 1)) == "no"
    poor = Job(host_memory=1e11)
    assert fits(poor, size(poor, "row_wise", 8)) == "not host"


def test_checkpoints_and_goodput():
    """One rank a host, 1 GB to save: 8 s to write and 2 s to hash, 0.5 s of a stop, 10 to start."""
    job = Job(
        rows=2e9 / 40, features=2, dim=9, batch=1, host_gpus=1, storage_host=125e6,
        storage_all=1e12, copy=2e9, verify=0.5e9, restart=10, mtbf_hours=2, interval=100,
    )  # fmt: skip
    lives = survival(job, size(job, "table_wise", 2))
    assert lives.write == pytest.approx(10) and lives.stop == pytest.approx(0.5)
    assert lives.load == pytest.approx(10 + 1e9 / 0.5e9 + 8)
    assert lives.mtbf == 3600
    assert lives.goodput == pytest.approx(1 / (1 + 0.005 + (50 + 10 + 20) / 3600))
    assert lives.best_interval == pytest.approx(60)
    slow = dataclasses.replace(job, interval=4)  # the next one waits 6 s for the one before
    assert survival(slow, size(job, "table_wise", 2)).goodput == pytest.approx(
        1 / (1 + 6.5 / 4 + (2 + 10 + 20) / 3600)
    )
    blocking = dataclasses.replace(job, background=False)
    assert survival(blocking, size(job, "table_wise", 2)).stop == pytest.approx(10)


def test_parts_of_a_host_are_refused():
    with pytest.raises(SystemExit, match="whole hosts of 8"):
        sizing.main(["--ranks", "12"])


SHOWN = re.findall(
    r"```\npython benchmarks/sizing.py ?(.*)\n```\n\n((?:\|.*\n)+)", TEXT, flags=re.MULTILINE
)


def test_the_document_shows_tables():
    assert len(SHOWN) >= 4


@pytest.mark.parametrize(("arguments", "table"), SHOWN, ids=[a or "plain" for a, _ in SHOWN])
def test_tables_in_the_document_are_what_the_script_prints(arguments, table, capsys):
    sizing.main(shlex.split(arguments))
    assert capsys.readouterr().out == table
