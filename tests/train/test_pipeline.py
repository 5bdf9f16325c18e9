"""What it computes on ranks: test_torchrec_ranks.py; whole jobs: test_torchrun.py."""

import pytest
import torch

from recsys.config import TrainConfig
from recsys.embeddings.compression.cafe import CAFE
from recsys.embeddings.compression.hash import Hash
from recsys.embeddings.compression.plan import CompressionConfig
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.errors import ConfigError
from recsys.models.ctr.fm import FM
from recsys.train.click_task import ClickTask
from recsys.train.pipeline import OneByOne, Stretch, sparse_dist
from recsys.train.ranks import Ranks
from recsys.train.step import TrainStep
from tests.train.conftest import SCHEMA, MemoryLoader


def test_a_stretch_takes_no_more_than_it_may():
    source = iter(range(10))
    assert list(Stretch(source, 3)) == [0, 1, 2]
    stretch = Stretch(source, 5)
    taken = [next(stretch), next(stretch)]
    stretch.end()
    assert (taken, list(stretch), next(source)) == ([3, 4], [], 5)
    assert list(Stretch(source, 100)) == [6, 7, 8, 9]


def make_step(world_size: int, scheme=None) -> TrainStep:
    compression = scheme and CompressionConfig(scheme=scheme, ratio=0.8, exact_rows=0)
    model = FM(FM.Config(compression=compression), SCHEMA)
    tables = model.embeddings.attach_optimizer(EmbeddingOptimizerConfig())
    task = ClickTask(model, TrainConfig(), tables, Ranks())
    step = TrainStep(task, tables, Ranks())
    step.ranks = Ranks(0, world_size)
    return step


@pytest.mark.parametrize(
    ("step", "alternates", "reason"),
    [
        (lambda: make_step(1), False, "there is one rank"),
        (lambda: make_step(2, CAFE()), False, "what the batch before taught it"),
        (lambda: make_step(2), True, "batches for weights and batches for the structure"),
    ],
)
def test_where_indices_cannot_be_sent_ahead(step, alternates, reason):
    assert sparse_dist("auto", step(), torch.nn.Identity(), alternates) is None
    assert sparse_dist("none", step(), torch.nn.Identity(), alternates) is None
    with pytest.raises(ConfigError, match=f"sparse_dist cannot be: .*{reason}.* auto or none"):
        sparse_dist("sparse_dist", step(), torch.nn.Identity(), alternates)


def test_fixed_encoders_may_encode_ahead():
    assert make_step(1, Hash()).model.embeddings.encodes_ahead


def test_one_by_one_takes_a_batch_when_the_one_before_is_trained():
    step, taken = make_step(1), []

    def batches():
        for batch in MemoryLoader(96, 32):
            taken.append(batch)
            yield batch

    for number, (batch, loss) in enumerate(OneByOne(lambda b: step(b, 1.0), step).run(batches())):
        assert len(taken) == number + 1 and batch is taken[number] and loss > 0
