"""Every scheme on two gloo ranks equals one local process."""

from __future__ import annotations

import json
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from recsys.embeddings.compression.schemes import AnyScheme
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Scheme
from tests.embeddings.compression import ranks

SCHEMES: dict[str, dict[str, object]] = {
    "adapt_emb": {"kind": "adapt_emb"},
    "adapt_emb multiplexed": {"kind": "adapt_emb", "multiplex": True},
    "alpt": {"kind": "alpt"},
    "auto_dim": {"kind": "auto_dim", "width": 2},
    "auto_srh retrain": {"kind": "auto_srh", "stage": "retrain"},
    "cafe": {"kind": "cafe", "threshold": 1.0},
    "cafe multiplexed": {"kind": "cafe", "threshold": 1.0, "multiplex": True},
    "cce": {"kind": "cce", "cluster_every": 2, "cluster_growth": 1.0},
    "dedup": {"kind": "dedup"},
    "dedup merged": {"kind": "dedup", "block_rows": 4, "kept_blocks": 30, "merged": True},
    "deep_light": {"kind": "deep_light"},
    "dhe": {"kind": "dhe", "depth": 1, "hidden": 4},
    "double_hash": {"kind": "double_hash"},
    "dpq": {"kind": "dpq", "mode": "sx"},
    "hash": {"kind": "hash"},
    "hash multiplexed": {"kind": "hash", "multiplex": True},
    "hash_embedding": {"kind": "hash_embedding"},
    "low_precision": {"kind": "low_precision"},
    "mgqe": {"kind": "mgqe", "weight": 0.0},
    "mixed_dimension": {"kind": "mixed_dimension"},
    "opt_embed": {"kind": "opt_embed", "num_rows": 100, "width": 4},
    "pep": {"kind": "pep", "start": -2.0},
    "pep retrain": {"kind": "pep", "stage": "retrain"},
    "product_hash": {"kind": "product_hash", "parts": 2},
    "product_hash multiplexed": {"kind": "product_hash", "parts": 2, "multiplex": True},
    "qat": {"kind": "qat"},
    "quotient_remainder": {"kind": "quotient_remainder"},
    "quotient_remainder sum": {"kind": "quotient_remainder", "combine": "sum", "multiplex": True},
    "robe": {"kind": "robe"},
    "robe unaligned": {"kind": "robe", "aligned": False},
    "tt_rec": {"kind": "tt_rec"},
    "unified": {"kind": "unified"},
    "unified probes": {"kind": "unified", "chunk": 4, "probes": {"tags": 3, "user": 1}},
}
PLACEMENTS = (("row_wise", "rowwise_adagrad"), ("table_wise", "sgd"), ("column_wise", "adagrad"))
CASES = {
    f"{name}, {placement}": (scheme, placement, kind)
    for name, scheme in SCHEMES.items()
    for placement, kind in PLACEMENTS
}
NOT_HERE = {
    "full",  # test_torchrec_ranks.py
    "chosen_rows", "codes", "grid", "pruned",  # never trained
    "mixed_precision",  # its search draws nothing, but is tested as qat
}  # fmt: skip
"""Kinds that are not trained on ranks by this file, each with its reason beside it."""
ADAPTER: TypeAdapter[Scheme] = TypeAdapter(AnyScheme)
pytestmark = [pytest.mark.distributed, pytest.mark.filterwarnings("ignore::UserWarning")]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One launch for all cases; importing torchrec takes longer than running them."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "cases").write_text(json.dumps(CASES))
    command = [sys.executable, "-m", "tests.embeddings.compression.ranks"]
    root = Path(__file__).parents[3]
    processes = [
        subprocess.Popen([*command, str(rank), str(folder)], cwd=root, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=300)[1].decode() for process in processes]
    assert all(process.returncode == 0 for process in processes), errors
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process(results, case):
    scheme, _, kind = CASES[case]
    local = ranks.make(ADAPTER.validate_python(scheme))
    start = {name: tensor.clone() for name, tensor in local.state_dict().items()}
    config = EmbeddingOptimizerConfig(kind=kind, learning_rate=0.1)
    expected = ranks.train(local, local.attach_optimizer(config), None)
    assert any(not torch.equal(start[name], value) for name, value in expected.items())
    for result in results:
        assert list(result[case]) == list(expected)
        for name, value in expected.items():
            torch.testing.assert_close(result[case][name], value, atol=2e-6, rtol=1e-5)


@pytest.mark.slow
def test_a_pipeline_computes_the_same_bits_or_is_not_used(results):
    """CAFE and CCE choose rows by what the batch before taught; the other four send nothing."""
    plain = set()
    for case, (scheme, _, _) in CASES.items():
        for result in results:
            if f"{case},pipelined" not in result:
                plain.add(scheme["kind"])
                continue
            for name, value in result[case].items():
                assert torch.equal(result[f"{case},pipelined"][name], value), (case, name)
    assert plain == {"cafe", "cce", "alpt", "dhe", "low_precision", "tt_rec"}


def test_every_scheme_is_here():
    union = typing.get_args(typing.get_args(AnyScheme)[0])
    kinds = {member.model_fields["kind"].default for member in union}
    assert kinds == {str(scheme["kind"]) for scheme in SCHEMES.values()} | NOT_HERE
