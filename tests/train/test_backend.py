import importlib.util

import pytest

from recsys.errors import ShardingError
from recsys.fit_config import EmbeddingConfig
from recsys.models.ctr.lr import LR
from recsys.testing.data import tiny_schema
from recsys.train.backend import attach_tables


def test_torchrec_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    model = LR(LR.Config(), tiny_schema())
    with pytest.raises(ShardingError, match=r"cannot be found. Install it"):
        attach_tables(model, EmbeddingConfig(), "torchrec")


def test_a_model_without_tables_needs_no_optimizer():
    model = LR(LR.Config(), tiny_schema("dense"))
    assert attach_tables(model, EmbeddingConfig(), "local") is None
