import importlib.util

import pytest

from recsys.config import EmbeddingConfig
from recsys.errors import ConfigError, ShardingError
from recsys.models.ctr.lr import LR
from recsys.testing.data import tiny_schema
from recsys.train.backend import attach_tables, choose_backend
from recsys.train.ranks import Ranks


@pytest.mark.parametrize(
    ("asked", "world_size", "device", "expected"),
    [
        ("auto", 1, "cpu", "local"),
        ("auto", 2, "cpu", "torchrec"),
        ("auto", 1, "cuda", "torchrec"),
        ("local", 1, "cuda", "local"),
        ("torchrec", 1, "cpu", "torchrec"),
    ],
)
def test_choice(asked, world_size, device, expected):
    assert choose_backend(asked, Ranks(0, world_size), device) == expected


def test_local_on_several_ranks():
    with pytest.raises(ConfigError, match=r"backend=local .* got 3 ranks. Use backend=torchrec"):
        choose_backend("local", Ranks(0, 3), "cpu")


def test_torchrec_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    model = LR(LR.Config(), tiny_schema())
    with pytest.raises(ShardingError, match=r"not installed.\s*Install recsys\[sharded\]"):
        attach_tables(model, EmbeddingConfig(), "torchrec")


def test_a_model_without_tables_needs_no_optimizer():
    model = LR(LR.Config(), tiny_schema("dense"))
    assert attach_tables(model, EmbeddingConfig(), "local") is None
