"""Two gloo ranks equal one local process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from tests.embeddings import ranks

CASES = [f"{kind},sparse,auto" for kind in ("sgd", "adagrad", "rowwise_adagrad")]
CASES += ["rowwise_adagrad,sparse,row_wise", "rowwise_adagrad,sparse,table_wise"]
CASES += ["adam,dense,auto", "sgd,dense,row_wise", "sgd,sparse,column_wise"]
CASES += ["adagrad,sparse,column_wise"]
CASES += [f"{kind},sparse,data_parallel" for kind in ("sgd", "adagrad", "rowwise_adagrad")]
CASES += ["adam,dense,data_parallel", "rowwise_adagrad,sparse,mixed", "adam,dense,mixed"]
pytestmark = [pytest.mark.distributed, pytest.mark.filterwarnings("ignore::UserWarning")]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One launch for all cases; importing torchrec takes longer than running them."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "cases").write_text(" ".join(CASES))
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.embeddings.ranks"]
    processes = [
        subprocess.Popen([*command, str(rank), str(folder)], cwd=root, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=180)[1].decode() for process in processes]
    assert all(process.returncode == 0 for process in processes), errors
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process(results, case):
    kind, mode, _ = case.split(",")
    local = ranks.make_collection()
    config = EmbeddingOptimizerConfig(kind=kind, mode=mode, learning_rate=0.1)
    optimizer = local.attach_optimizer(config)

    def step(seed):
        optimizer.zero_grad()
        ranks.loss(local, ranks.make_batch(seed, None)).backward()
        optimizer.step()

    for seed in range(4):
        step(seed)
    for result in results:
        assert list(result[case]["weights"]) == list(local.state_dict())
        assert sorted(result[case]["states"]) == sorted(optimizer.state_dict())
        for name, value in {**local.state_dict(), **optimizer.state_dict()}.items():
            found = {**result[case]["weights"], **result[case]["states"]}[name]
            torch.testing.assert_close(found, value, atol=1e-6, rtol=1e-5)
    step(9)
    for result in results:
        for name, value in local.state_dict().items():
            torch.testing.assert_close(result[case]["resumed"][name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_pipeline_computes_the_same_bits(results, case):
    for result in results:
        plain, pipelined = result[case], result[f"{case},pipelined"]
        for part in ("weights", "states", "resumed"):
            assert plain[part].keys() == pipelined[part].keys()
            for name, value in plain[part].items():
                assert torch.equal(pipelined[part][name], value), (part, name)


def test_the_big_table_is_spread_and_the_plan_says_so(results):
    plan = results[0]["sgd,sparse,auto"]["plan"]
    assert "embedding.person  row_wise    0-1" in plan
    assert "rank 1:" in plan and plan == results[1]["sgd,sparse,auto"]["plan"]


def test_batches_of_unequal_size_are_refused_on_every_rank(results):
    """Trap: they crash or hang deep inside torchrec."""
    for rank, size in ((0, 12), (1, 6)):
        expected = f"equal size, got {size} rows on rank {rank}, 6 to 12 over all. Pad the last"
        assert expected in results[rank]["uneven"]
        assert expected in results[rank]["uneven,pipelined"]
