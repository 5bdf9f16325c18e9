"""The model suite catches models that are wrong."""

import pytest
import torch

from recsys.models.ctr.fm import FM
from recsys.models.ctr.lr import LR
from recsys.testing.ctr import CTRConformance


def suite(model_class, config):
    return type("Suite", (CTRConformance,), {"model": model_class, "config": config})()


class Leaky(FM):
    """Its logits depend on the other rows of the batch."""

    class Config(FM.Config):
        """Same options."""

    def forward(self, batch):
        logits = super().forward(batch)
        return logits + logits.mean()


class Idle(LR):
    """Has a parameter that nothing uses."""

    class Config(LR.Config):
        """Same options."""

    def __init__(self, config, schema):
        super().__init__(config, schema)
        self.idle = torch.nn.Parameter(torch.zeros(1))


class Drifting(LR):
    """Start values from the global random state."""

    class Config(LR.Config):
        """Same options."""

    def reset_parameters(self, seed):
        super().reset_parameters(seed)
        torch.nn.init.normal_(self.bias)


def test_rows_that_see_each_other():
    tests = suite(Leaky, Leaky.Config(embedding_dim=4))
    with pytest.raises(AssertionError, match="not close"):
        tests.test_rows_do_not_see_each_other()
    with pytest.raises(AssertionError, match="not close"):
        tests.test_a_weight_counts_like_repetition()


def test_an_idle_parameter():
    tests = suite(Idle, Idle.Config())
    with pytest.raises(AssertionError, match="idle"):
        tests.test_step_reaches_every_parameter()
    tests.unreached = ("idle",)
    tests.test_step_reaches_every_parameter()


def test_global_randomness():
    with pytest.raises(AssertionError):
        suite(Drifting, Drifting.Config()).test_start_values_depend_on_the_seed_alone()


def test_a_class_that_cannot_be_found_again():
    class Local(LR):
        class Config(LR.Config):
            """Same options."""

    with pytest.raises((AttributeError, AssertionError)):
        suite(Local, Local.Config()).test_pickles_by_module_path()


def test_a_wrong_golden_loss(tmp_path, request):
    tests = suite(LR, LR.Config())
    type(tests).golden = tmp_path / "lr.json"
    (tmp_path / "lr.json").write_text('{"loss": 0.1, "tolerance": 1e-5}')
    if request.config.getoption("--update-golden"):
        pytest.skip("the file would be written anew")
    with pytest.raises(AssertionError):
        tests.test_golden_loss(request)
