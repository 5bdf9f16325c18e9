"""KGAT against its equations, written out with dense matrices; its two phases; its reasons."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.nn import functional

from recsys.cf_config import CFEmbeddingConfig, CFTrainConfig, RankingConfig
from recsys.errors import ConfigError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Names
from recsys.graph.knowledge import KnowledgeGraph
from recsys.models.graph.kgat import KGAT
from recsys.models.graph.mf_bpr import MFBPR
from recsys.serving.recommender import Recommender
from recsys.serving.recommender_folder import save_recommender
from recsys.testing.cf import CFModelConformance, tiny_interactions, tiny_knowledge
from recsys.testing.embedding_model import tiny_graph
from recsys.testing.knowledge import KnowledgeModelConformance
from recsys.train.ranking_task import RankingTask
from recsys.train.ranks import Ranks
from recsys.train.trainer import Trainer
from recsys.types import PairBatch, TripleBatch
from tests.models.graph import kgat_ranks

ROOT = Path(__file__).parents[3]
PAIRS = PairBatch(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([[2, 4], [1, 4]]))


class TestSuite(KnowledgeModelConformance):
    model = KGAT
    config = KGAT.Config(embedding_dim=8, layers=(8, 4), message_dropout=0.0)
    cold_config: ClassVar = {"embedding_dim": 16, "layers": (16,)}
    learning_rate = 0.02


class TestStep(CFModelConformance):
    model = KGAT
    config = KGAT.Config(
        embedding_dim=8, layers=(8,), message_dropout=0.0, attention="step", aggregator="graphsage"
    )


def graph() -> InteractionGraph:
    """Users 0-2, items 3-7, entities 8-9; an item that is a tail, two relations of one pair."""
    head, relation, tail = np.array(
        [[0, 1, 2, 3, 4, 4, 5], [0, 0, 0, 0, 0, 1, 1], [5, 5, 6, 6, 6, 6, 4]]
    )
    known = KnowledgeGraph(
        Names([f"e{n}" for n in range(7)]), Names(["by", "in"]), 5, head, relation, tail
    )
    pairs = tiny_graph()
    return InteractionGraph(3, 5, pairs.user, pairs.item, knowledge=known)


def model(**options) -> KGAT:
    options = {"embedding_dim": 6, "layers": (5, 4), "message_dropout": 0.0, **options}
    made = KGAT(KGAT.Config(init_std=0.5, **options), graph())
    made.reset_parameters(1)
    return made


def dense_attention(found: KGAT, rows: torch.Tensor) -> torch.Tensor:
    """Attention by relation, (relations, N, N), from the equations."""
    edges = found.knowledge
    scores = torch.full((6, 10, 10), -torch.inf)
    for h, r, t in edges.triples():
        w, e = found.trans_r.weight[r], found.trans_r.translation[r]
        scores[r, h, t] = (w.T @ rows[t]) @ torch.tanh(w.T @ rows[h] + e)
    heads = scores.transpose(0, 1).reshape(10, -1)
    shares = heads.softmax(1).nan_to_num(0)
    return shares.view(10, 6, 10).transpose(0, 1)


def vectors(found: KGAT, rows: torch.Tensor, propagate: torch.Tensor) -> torch.Tensor:
    """From the equations of the class."""
    parts = [rows]
    layers: Any = zip(found.sums, [*found.products, *[None] * len(found.sums)])
    for sums, product in layers:
        around = propagate @ rows
        if found.config.aggregator == "graphsage":
            inner = torch.cat([rows, around], 1) @ sums.weight.T + sums.bias
        else:
            inner = (rows + around) @ sums.weight.T + sums.bias
        out = torch.where(inner > 0, inner, 0.2 * inner)
        if found.config.aggregator == "bi_interaction":
            inner = (rows * around) @ product.weight.T + product.bias
            out = out + torch.where(inner > 0, inner, 0.2 * inner)
        rows = out
        parts.append(rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12))
    return torch.cat(parts, 1)


# --------------------------------------------------------------------------------- pairs


@pytest.mark.parametrize("when", ["epoch", "step", "static"])
@pytest.mark.parametrize("aggregator", ["bi_interaction", "gcn", "graphsage"])
def test_loss_and_gradients_of_pairs_are_those_of_the_equations(aggregator, when):
    found = model(aggregator=aggregator, attention=when, l2=0.3, relation_dim=3)
    found.begin_epoch(0)
    loss = found.loss(PAIRS)
    tables = found.embeddings.table_parameters()
    parts = [p for layers in (found.sums, found.products) for p in layers.parameters()]
    gradient, *others = torch.autograd.grad(loss, [tables[0], *parts])

    rows = found.node_rows().detach().requires_grad_()
    with torch.no_grad():
        attention = dense_attention(found, rows)
    if when == "static":
        edge = (attention > 0).float()
        attention = edge / edge.sum(2, keepdim=True).clamp(min=1)
    wanted_vectors = vectors(found, rows, attention.sum(0))
    torch.testing.assert_close(found.eval().encode(), wanted_vectors[:8])
    scores = wanted_vectors[:3] @ wanted_vectors[3:8].T
    differences = scores[[0, 0, 2, 2], [2, 4, 1, 4]] - scores[[0, 0, 2, 2], [1, 1, 3, 3]]
    used = torch.tensor([0, 2, 4, 6, 5, 7, 4, 7])
    l2 = wanted_vectors[used].square().sum() / 4
    wanted = functional.softplus(differences).mean() + 0.3 * l2
    torch.testing.assert_close(loss, wanted)
    mine, *theirs = torch.autograd.grad(wanted, [rows, *parts])
    both = torch.cat([gradient[2:5], gradient[7:12], gradient[14:16]])
    torch.testing.assert_close(both, mine, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(others, theirs, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in found.trans_r.parameters()), "no gradient through attention"


def test_attention_of_a_head_adds_up_to_one():
    found = model()
    rows = found.node_rows().detach()
    attention = found.attend(rows)
    edges = found.knowledge
    wanted = dense_attention(found, rows)[edges.relation, edges.head, edges.tail]
    torch.testing.assert_close(attention, wanted)
    sums = torch.zeros(10).index_add_(0, edges.head, attention)
    torch.testing.assert_close(sums, torch.ones(10))
    found.begin_epoch(0)
    assert torch.equal(found.edge_weights(), attention)


def test_weights_of_static_attention_are_those_of_the_official_code():
    """The sum over relations of ``D_r^-1 A_r``: item 4 has two relations with entity 9."""
    found = model(attention="static")
    edges, weights = found.knowledge, found.edge_weights()
    of_item = {edges.relations[r]: float(w) for (h, r, t), w in zip(edges.triples(), weights)
               if h == 7}  # fmt: skip
    assert of_item == {"by": 1.0, "in": 1.0, "inverse in": 1.0}
    before = found.edge_weights().clone()
    found.begin_epoch(1)
    assert torch.equal(found.edge_weights(), before)


def test_attention_is_that_of_the_beginning_of_the_epoch():
    found = model()
    first = found.edge_weights().clone()
    found.begin_epoch(0)
    attention, before = found.edge_weights().clone(), found.eval().encode().detach()
    assert not torch.equal(attention, first)
    with torch.no_grad():
        found.trans_r.weight.mul_(3)
    found.begin_epoch(0)  # as where a run is resumed
    assert torch.equal(found.edge_weights(), attention)
    assert torch.equal(found.encode(), before)
    found.begin_epoch(1)
    assert not torch.equal(found.edge_weights(), attention)
    assert not torch.equal(found.encode(), before), "vectors follow"
    other = model()
    other.load_state_dict(found.state_dict())
    assert torch.equal(other.eval().encode(), found.encode())
    found.reset_parameters(1)
    assert torch.equal(found.edge_weights(), first)


def test_vectors_computed_for_evaluation_do_not_stop_training():
    """The operator is kept, so it must not be one that has no gradient."""
    found = model().eval()
    found.vectors()
    found.train().loss(PAIRS).backward()
    assert all(p.grad is not None for p in found.sums.parameters())


def test_message_dropout_takes_entries_of_layers():
    found = model(layers=(50,), message_dropout=0.25)
    torch.manual_seed(0)
    zeros = torch.stack([found.encode()[:, 6:] == 0 for _ in range(40)]).float().mean()
    assert abs(float(zeros) - 0.25) < 0.02  # 16,000 entries: 5 standard deviations
    assert not (found.eval().encode()[:, 6:] == 0).any()


# --------------------------------------------------------------------------------- triples


def test_loss_and_gradients_of_triples_are_those_of_the_equations():
    found = model(relation_dim=3, knowledge_l2=0.3)
    batch = TripleBatch(*torch.tensor([[0, 8, 7, 7], [0, 4, 1, 1], [4, 3, 9, 9], [9, 0, 8, 1]]))
    loss = found.loss(batch)
    table, *_ = found.embeddings.table_parameters()
    names = (table, found.trans_r.weight, found.trans_r.translation)
    gradient, *others = torch.autograd.grad(loss, names)

    rows = found.node_rows().detach().requires_grad_()
    total = torch.zeros(())
    for h, r, t, n in zip(*(part.tolist() for part in
                            (batch.head, batch.relation, batch.tail, batch.negative))):  # fmt: skip
        w, e = found.trans_r.weight[r], found.trans_r.translation[r]
        head, tail, other = rows[h] @ w, rows[t] @ w, rows[n] @ w
        near, far = (head + e - tail).square().sum(), (head + e - other).square().sum()
        total = total + functional.softplus(near - far)
        total = total + 0.15 * sum(part.square().sum() for part in (head, e, tail, other))
    torch.testing.assert_close(loss, total / 4)
    mine, *theirs = torch.autograd.grad(total / 4, [rows, *names[1:]])
    both = torch.cat([gradient[2:5], gradient[7:12], gradient[14:16]])
    torch.testing.assert_close(both, mine, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(others, theirs, rtol=1e-4, atol=1e-6)


def test_pairs_and_triples_take_turns():
    found = model()
    batches = list(found.loader(batch_size=2))
    assert [type(batch) for batch in batches] == [PairBatch] * 3 + [TripleBatch] * 3
    heads = torch.cat([batch.head for batch in batches[3:]])
    assert len(heads) == len(found.knowledge) == 2 * (6 + 7)
    parts = [list(found.loader(batch_size=1, rank=rank, world_size=2)) for rank in range(2)]
    assert [type(batch) for batch in parts[0]] == [type(batch) for batch in parts[1]]
    alone = model(knowledge_phase=False).loader(batch_size=2)
    assert [type(batch) for batch in alone] == [PairBatch] * 3


def test_a_phase_moves_what_it_uses_and_nothing_else():
    found = model()
    tables = found.embeddings.attach_optimizer(CFEmbeddingConfig(learning_rate=0.05))
    config = CFTrainConfig(learning_rate=0.05)
    task = RankingTask(found, config, RankingConfig(ks=(5,)), tables, Ranks.current())
    trainer = Trainer(task, tables, Path("unused"), "none")
    pairs, triples = list(found.loader(batch_size=6))
    for _ in range(2):  # so that the optimizer has moments of everything
        trainer._train_step(pairs, 1.0)
        trainer._train_step(triples, 1.0)
    layers, relations = list(found.sums.parameters()), list(found.trans_r.parameters())
    for batch, moved, kept in ((pairs, layers, relations), (triples, relations, layers)):
        before = [[p.detach().clone() for p in part] for part in (moved, kept)]
        trainer._train_step(batch, 1.0)
        assert not any(map(torch.equal, before[0], moved))
        assert all(map(torch.equal, before[1], kept))


def job(folder: Path, **train) -> Trainer:
    """Four epochs of 3 batches of pairs and 3 of triples."""
    torch.manual_seed(5)
    made = KGAT(
        KGAT.Config(embedding_dim=8, layers=(8,), message_dropout=0.3),
        InteractionGraph.of(tiny_interactions(), tiny_knowledge()),
    )
    made.reset_parameters(1)
    tables = made.embeddings.attach_optimizer(CFEmbeddingConfig(learning_rate=0.02))
    config = CFTrainConfig(num_epochs=4, learning_rate=0.02, **train)
    task = RankingTask(made, config, RankingConfig(ks=(5,)), tables, Ranks.current())
    return Trainer(task, tables, folder, "none")


def loader(made: Any):
    size = -(-made.graph.num_edges // 3)
    return made.loader(batch_size=size, seed=2)


@pytest.mark.parametrize("step", [1, 3, 5, 6, 8, 10, 17])
def test_a_run_stopped_at_any_step_ends_like_one_that_never_stopped(tmp_path, step):
    """Among pairs, between the phases, among triples and between epochs."""
    whole = job(tmp_path / "whole")
    whole.fit(loader(whole.model))
    cut = job(tmp_path / "cut", max_steps=step)
    cut.fit(loader(cut.model))
    again = job(tmp_path / "cut")
    found = again.fit(loader(again.model), resume=True)
    assert found.steps == 24
    states = [trainer.model.state_dict() for trainer in (whole, again)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert int(states[0]["attention_epoch"]) == 3


@pytest.mark.distributed
@pytest.mark.slow
def test_two_ranks_train_like_one_process(tmp_path):
    """Sharded tables; in each phase the weights of the other rest, as on one rank."""
    command = [sys.executable, "-m", "tests.models.graph.kgat_ranks"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=ROOT, env=env,
                         stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]  # fmt: skip
    try:
        errors = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(errors)[-3000:]
    made = kgat_ranks.built()
    parts = [made.loader(batch_size=37, seed=6, rank=rank, world_size=2) for rank in range(2)]

    def batches():
        return (kgat_ranks.together(*step) for step in zip(*parts, strict=True))

    losses, vectors = kgat_ranks.train(made, "local", batches)
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt")
        assert found["losses"] == pytest.approx(losses, rel=1e-4)
        torch.testing.assert_close(found["vectors"], vectors, rtol=1e-3, atol=1e-4)


# --------------------------------------------------------------------------------- start vectors


def test_users_and_items_start_from_a_trained_model(tmp_path):
    train = tiny_interactions()
    pairs = InteractionGraph.of(train, tiny_knowledge())
    trained = MFBPR(MFBPR.Config(embedding_dim=8), pairs)
    trained.reset_parameters(3)
    save_recommender(tmp_path / "mf" / "model", trained.eval(), train)
    config = KGAT.Config(embedding_dim=8, start_vectors=str(tmp_path / "mf"))
    made = KGAT(config, pairs)
    made.reset_parameters(1)
    users, items = trained.vectors()
    rows = made.node_rows()
    assert torch.equal(rows[:30], users) and torch.equal(rows[30:50], items)
    drawn = KGAT(KGAT.Config(embedding_dim=8), pairs)
    drawn.reset_parameters(1)
    assert torch.equal(drawn.node_rows()[50:], rows[50:]), "entities are drawn"
    compression = {"scheme": {"kind": "hash"}, "ratio": 0.5, "exact_rows": 0}
    small = KGAT.Config.model_validate({**config.model_dump(), "compression": compression})
    with pytest.raises(ConfigError, match="`user` is compressed"):
        KGAT(small, pairs).reset_parameters(1)


# --------------------------------------------------------------------------------- reasons


def test_reasons_are_the_paths_of_attention_by_enumeration():
    found = model()
    found.begin_epoch(0)
    edges = found.knowledge
    weights = dict(zip(edges.triples(), found.edge_weights().double().tolist()))
    user, item = 2, 4  # node 7; the user has items 0, 2, 3
    wanted = {}
    for (h, r, t), first in weights.items():
        if h != user or t == 7:
            continue
        for (h2, r2, t2), second in weights.items():
            if h2 != t or t2 < 3:
                continue
            if t2 == 7:
                wanted[(h, r, t, r2)] = first * second
            for (h3, r3, t3), third in weights.items():
                if h3 == t2 and t3 == 7 and t2 != 7:
                    wanted[(h, r, t, r2, t2, r3)] = first * second * third
    history = csr_array((np.ones(3, np.float32), [0, 2, 3], [0, 3]), shape=(1, 5))
    explained = found.explain(item, history, user)
    got = {}
    for reason in explained.reasons:
        numbers = [n.id if n.kind == "user" else n.id + 3 for n in reason.path]
        names = [edges.relations.index(name) for name in reason.relations]
        got[tuple(x for pair in zip(numbers, names) for x in pair)] = reason.weight
    assert got.keys() == wanted.keys() and len(got) >= 4
    assert all(abs(got[path] - wanted[path]) < 1e-9 for path in wanted)
    falling = [reason.weight for reason in explained.reasons]
    assert falling == sorted(falling, reverse=True) and explained.score is None
    with pytest.raises(ConfigError, match="that it was trained on"):
        found.explain(item, history)


def test_a_recommender_names_the_entities_of_paths(tmp_path):
    train, pairs = tiny_interactions(), InteractionGraph.of(tiny_interactions(), tiny_knowledge())
    made = KGAT(KGAT.Config(embedding_dim=8, layers=(8,)), pairs)
    made.reset_parameters(1)
    with pytest.raises(ConfigError, match="before its first epoch"):
        made.explain(8, pairs.matrix()[[2]], 2)
    made.begin_epoch(0)
    save_recommender(tmp_path / "model", made.eval(), train)
    served = Recommender.load(tmp_path / "model")
    history = train.item[train.user == 2]
    liked = next(int(i) for i in history if i % 3 == 2 and i != 8)
    reasons = served.explain("u2", "i8", k=None).reasons
    path = next(r for r in reasons if r.relations[1:] == ("in", "inverse in"))
    assert path.path[0].id == "u2" and path.path[2] == ("entity", "g2")
    assert f"i{liked}" in {reason.path[1].id for reason in reasons}
    assert len(served.recommend(["u2"], k=3)[0]) == 3


def test_weighted_pairs_are_refused():
    pairs = graph()
    weighted = InteractionGraph(
        3, 5, pairs.user, pairs.item, torch.ones(6), knowledge=pairs.knowledge
    )
    with pytest.raises(ConfigError, match="weighted: false"):
        KGAT(KGAT.Config(), weighted)
