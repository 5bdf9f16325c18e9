import numpy as np
import pytest

from recsys.errors import CheckpointError, DataError
from recsys.retrieval.adapter import CosineAdapter, labelled
from recsys.retrieval.index import Index


def planted(num_queries, seed, length=40):
    """Hits are relevant above a score that the first two values of the query say, with noise."""
    random = np.random.default_rng(seed)
    queries = random.normal(size=(num_queries, 8)).astype(np.float32)
    which = np.repeat(np.arange(num_queries), length)
    scores = random.random(num_queries * length)
    limit = 0.5 + 0.35 * np.tanh(2 * queries[which, 0]) + 0.1 * np.tanh(queries[which, 1])
    labels = random.random(len(scores)) < 1 / (1 + np.exp(-25 * (scores - limit)))
    return queries, which, scores, labels


@pytest.fixture(scope="module")
def adapter():
    return CosineAdapter().fit(*planted(600, 0), epochs=30)


def test_it_ranks_better_and_its_probabilities_hold(adapter):
    report = adapter.report(*planted(400, 1))
    assert report.pr_auc >= report.raw_pr_auc + 0.05  # measured: .980 against .817, ECE .024
    assert report.ece <= 0.03
    assert report.recall == pytest.approx(0.8, abs=0.05)
    assert report.precision > 0.8 and 0 <= report.empty < 0.2


def test_the_order_within_a_query_never_changes(adapter):
    random = np.random.default_rng(2)
    queries = 3 * random.normal(size=(50, 8))
    for query in range(50):
        scores = np.sort(random.normal(size=30) * 2)
        chances = adapter.probabilities(queries, np.full(30, query), scores)
        assert (np.diff(chances) >= 0).all() and chances[0] < chances[-1]


def test_a_threshold_keeps_the_share_it_promises(adapter):
    queries, which, scores, labels = planted(600, 0)
    chances = adapter.probabilities(queries, which, scores)
    limits = [adapter.threshold(share) for share in (1.0, 0.95, 0.8, 0.5)]
    assert limits == sorted(limits)
    kept = [(chances[labels] >= limit).mean() for limit in limits]
    assert kept == pytest.approx([1.0, 0.95, 0.8, 0.5], abs=0.03)


def test_the_index_cuts_lists_and_spares_the_prior(adapter):
    random = np.random.default_rng(3)
    index = Index(random.normal(size=(200, 8)) / 8, range(200), prior=range(200))
    plain = index.search(random.normal(size=(6, 8)), 30)
    assert plain.probabilities is None
    index.adapter = adapter
    queries = np.vstack([random.normal(size=(20, 8)), np.zeros((1, 8))])
    every = index.search(queries, 30)
    limit = float(np.nanmedian(every.probabilities))
    cut = index.search(queries, 30, cutoff=limit)
    least = index.search(queries, 30, cutoff=limit, min_results=4)
    for whole, short, some in zip(every, cut, least):
        if whole.fallback:
            assert short.ids.tolist() == whole.ids.tolist()
            assert np.isnan(short.probabilities).all()
            continue
        size = int((whole.probabilities >= limit).sum())
        assert short.ids.tolist() == whole.ids[:size].tolist()
        assert some.ids.tolist() == whole.ids[: max(size, 4)].tolist()
    assert len(cut.ids) < len(every.ids)
    assert cut.to_arrow()["probability"].type.value_type == "float"


def test_labelled_hits_leave_the_prior_out():
    index = Index(np.eye(3), [1, 2, 3], prior=[1, 2, 3])
    found = index.search([[3, 2, 1], [0, 0, 0], [0, 1, 0]], 2)
    pairs = labelled(found, [[2, 9], [1], np.array([1, 2])])
    assert pairs.which.tolist() == [0, 0, 2, 2]
    assert pairs.scores.tolist() == [3, 2, 1, 0]
    assert pairs.labels.tolist() == [False, True, True, True]
    with pytest.raises(DataError, match="relevant ids for 3 queries, got 1"):
        labelled(found, [[1]])


def test_a_state_gives_the_same_adapter_back(adapter):
    again = CosineAdapter.from_state(adapter.state())
    queries, which, scores, _ = planted(5, 4)
    one, two = (a.probabilities(queries, which, scores) for a in (adapter, again))
    assert one.tobytes() == two.tobytes() and again.version is None
    assert again.threshold(0.7) == adapter.threshold(0.7)
    with pytest.raises(CheckpointError, match="scale is missing"):
        CosineAdapter.from_state({n: t for n, t in adapter.state().items() if n != "scale"})


def test_a_fit_can_be_repeated():
    data = planted(60, 5)
    one, two = (CosineAdapter(seed=3).fit(*data, epochs=3).state() for _ in range(2))
    assert all(bool((one[name] == two[name]).all()) for name in one)


def test_bad_input_is_named(adapter):
    queries, which, scores, labels = planted(20, 6)
    index = Index(np.eye(8), range(8), version="v1")
    with pytest.raises(DataError, match="has no adapter"):
        index.search(queries, 3, cutoff=0.5)
    with pytest.raises(DataError, match="relevant and irrelevant"):
        CosineAdapter().fit(queries, which, scores, np.zeros_like(labels))
    with pytest.raises(DataError, match="one length"):
        CosineAdapter().fit(queries, which, scores[1:], labels)
    with pytest.raises(DataError, match="numbers of the 20 queries"):
        CosineAdapter().fit(queries, which + 1, scores, labels)
    with pytest.raises(DataError, match="must be finite"):
        CosineAdapter().fit(queries, which, np.full_like(scores, np.nan), labels)
    with pytest.raises(DataError, match="not been fitted"):
        CosineAdapter().threshold()
    with pytest.raises(DataError, match="`recall` must be"):
        adapter.threshold(0)
    with pytest.raises(DataError, match="queries of 8 values, got 3"):
        adapter.probabilities(queries[:, :3], which, scores)
    with pytest.raises(DataError, match="index has vectors of 2"):
        Index(np.eye(2), [1, 2]).adapter = adapter
    other = CosineAdapter(version="v2").fit(queries, which, scores, labels, epochs=1)
    with pytest.raises(DataError, match="model version 'v2', the index of 'v1'"):
        index.adapter = other
    index.adapter = adapter
    with pytest.raises(DataError, match="`cutoff` must be a probability"):
        index.search(queries, 3, cutoff=7)
