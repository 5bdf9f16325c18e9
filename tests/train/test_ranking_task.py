"""Training steps of collaborative filters: what is judged, and two ranks like one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.cf_config import CFTrainConfig, RankingConfig
from recsys.evaluate.ranking import RankingOptions, evaluate_ranking
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Interactions, Names
from recsys.models.graph.light_gcn import LightGCN
from recsys.testing.cf import tiny_interactions
from recsys.train.ranking_task import RankingTask, Validation
from recsys.train.ranks import Ranks
from recsys.types import PairBatch
from tests.train import ranking_ranks

ROOT = Path(__file__).parents[2]


def pairs(keep) -> Interactions:
    whole = tiny_interactions()
    return whole.take(keep(whole.item % 4))


SEEN, RELEVANT = pairs(lambda rest: rest > 0), pairs(lambda rest: rest == 0)


def task(model: LightGCN | None = None) -> RankingTask:
    model = model or LightGCN(LightGCN.Config(embedding_dim=4), InteractionGraph.of(SEEN))
    model.reset_parameters(0)
    ranking = RankingConfig(ks=(3, 5))
    return RankingTask(model, CFTrainConfig(monitor="hr@3"), ranking, None, Ranks.current())


# --------------------------------------------------------------------------------- validation


@pytest.mark.parametrize("count", [1, 7, 28])
def test_so_many_users_are_judged_with_all_that_is_relevant_to_them(count):
    found = Validation.of(SEEN, RELEVANT, count, seed=3)
    users = np.unique(found.relevant.user)
    assert len(users) == min(count, len(np.unique(RELEVANT.user)))
    wanted = RELEVANT.keys[np.isin(RELEVANT.user, users)]
    assert found.relevant.keys.tolist() == wanted.tolist()
    assert found.seen is SEEN
    again = Validation.of(SEEN, RELEVANT, count, seed=3)
    assert again.relevant.keys.tolist() == wanted.tolist(), "the same at every start"


def test_other_seeds_choose_other_users():
    chosen = {tuple(np.unique(Validation.of(SEEN, RELEVANT, 5, s).relevant.user)) for s in range(9)}
    assert len(chosen) > 1


@pytest.mark.parametrize("count", [None, 1000])
def test_all_users_are_judged_where_that_is_asked_for_or_there_are_no_more(count):
    assert Validation.of(SEEN, RELEVANT, count, seed=3).relevant is RELEVANT


# ------------------------------------------------------------------------------------ judging


@pytest.mark.parametrize("training", [True, False])
def test_a_judgement_is_the_evaluation_and_leaves_the_mode(training):
    one = task()
    one.model.train(training)
    found = one.judge(Validation(SEEN, RELEVANT), 5, 1.0)
    assert one.model.training == training
    wanted = evaluate_ranking(one.model.eval(), SEEN, RELEVANT, one._options).metrics
    assert found.values == wanted
    assert found.shown == ("recall@5", "ndcg@5") and found.problem == ""
    assert one.monitor == "hr@3" and one.higher_is_better()


def test_lists_that_are_all_equal_are_a_problem():
    class Alike(LightGCN):
        class Config(LightGCN.Config):
            """The same."""

        def scores(self, users):
            return torch.arange(20.0).repeat(len(users), 1)

    everybody = np.arange(30)
    names = Names(everybody), Names(np.arange(20))
    seen = Interactions(*names, everybody, np.zeros(30, np.int64))
    relevant = Interactions(*names, everybody, np.ones(30, np.int64))
    model = Alike(Alike.Config(embedding_dim=2), InteractionGraph.of(seen))
    found = task(model).judge(Validation(seen, relevant), 5, 1.0)
    assert found.problem.startswith("the model gives every user the same list")


def test_the_loss_of_one_rank_is_the_model_s():
    one = task()
    batch = PairBatch(torch.tensor([0, 1]), torch.tensor([1, 2]), torch.tensor([[3], [4]]))
    assert torch.equal(one.loss(batch), one.model.loss(batch))


# ---------------------------------------------------------------------------------- two ranks


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory):
    """One launch for all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.train.ranking_ranks"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*command, str(rank), str(folder)], cwd=ROOT, env=env,
                         stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]  # fmt: skip
    try:
        errors = [process.communicate(timeout=900)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(errors)[-3000:]
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.distributed
@pytest.mark.parametrize("case", ranking_ranks.CONFIGS)
def test_sharded_tables_on_two_ranks_train_like_one_process(on_two_ranks, case):
    """Losses, vectors and metrics; the last step has parts of different size."""
    model = ranking_ranks.built()
    parts = [ranking_ranks.loader(model, rank) for rank in range(2)]
    sizes = []

    def batches():
        for first, second in zip(*parts, strict=True):
            sizes.append((first.batch_size, second.batch_size))
            yield ranking_ranks.together(first, second)

    config = ranking_ranks.CONFIGS[case]
    losses, vectors = ranking_ranks.train(model, config, "local", batches)
    assert any(one != two for one, two in sizes), "a short step is among them"
    options = RankingOptions(ks=(5,), bootstrap_samples=0, slice_groups=0)
    metrics = evaluate_ranking(model, SEEN, RELEVANT, options).metrics
    for found in (result[case] for result in on_two_ranks):
        assert found["losses"] == pytest.approx(losses, rel=1e-5)
        torch.testing.assert_close(found["vectors"], vectors, rtol=1e-4, atol=1e-5)
        assert found["metrics"] == pytest.approx(metrics)
