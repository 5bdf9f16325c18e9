import numpy as np
import pytest
from scipy.sparse import csr_array

from recsys.graph.planted_interactions import PlantedInteractions, PlantedInteractionsConfig
from recsys.graph.splitting import UserSplit, split_interactions

SMALL = PlantedInteractionsConfig(num_users=300, num_items=200, num_communities=6)


def recall(scores, splits, k=20):
    """Mean recall@k of test, seen items masked, user by user."""
    found = []
    for user in range(splits.train.num_users):
        test = splits.test.item[splits.test.user == user]
        row = scores[user].copy()
        row[splits.train.item[splits.train.user == user]] = -np.inf
        if len(test):
            found.append(np.isin(test, np.argsort(-row)[:k]).mean())
    return float(np.mean(found))


def test_probabilities_by_hand():
    truth = PlantedInteractions(
        PlantedInteractionsConfig(num_users=1, num_items=3, num_communities=2, noise=0.2),
        tastes=np.array([[0.75, 0.25]]),
        members=np.array([[True, False], [True, True], [False, True]]),
        popularity=np.array([0.5, 0.3, 0.2]),
        degrees=np.array([2]),
    )
    # Community 0 is items 0 and 1 (5 : 3), community 1 items 1 and 2 (3 : 2).
    expected = [
        0.2 * 0.5 + 0.8 * (0.75 * 5 / 8),
        0.2 * 0.3 + 0.8 * (0.75 * 3 / 8 + 0.25 * 3 / 5),
        0.2 * 0.2 + 0.8 * (0.25 * 2 / 5),
    ]
    np.testing.assert_allclose(truth.probabilities(np.array([0]))[0], expected)


def test_probabilities_sum_to_one_even_with_communities_without_items():
    config = PlantedInteractionsConfig(num_users=20, num_items=3, num_communities=40, min_items=1)
    scores = PlantedInteractions.of(config).probabilities(np.arange(20))
    np.testing.assert_allclose(scores.sum(1), 1)


def test_draws_follow_the_probabilities():
    """The first item of many equal users, against what they should draw."""
    one = PlantedInteractions.of(SMALL)
    many = PlantedInteractions(
        SMALL.model_copy(update={"num_users": 20_000, "num_items": 200}),
        tastes=np.tile(one.tastes[:1], (20_000, 1)),
        members=one.members,
        popularity=one.popularity,
        degrees=np.ones(20_000, np.int64),
    )
    log = many.interactions()
    expected = one.probabilities(np.array([0]))[0]
    error = log.item_degrees() / 20_000 - expected
    assert np.abs(error / np.sqrt(expected / 20_000)).max() < 4.5


def test_the_same_seed_gives_the_same_and_another_another():
    first = PlantedInteractions.of(SMALL).interactions()
    again = PlantedInteractions.of(SMALL).interactions()
    other = PlantedInteractions.of(SMALL.model_copy(update={"seed": 8})).interactions()
    assert (first.keys == again.keys).all() and (first.time == again.time).all()
    assert len(other) != len(first) or (other.keys != first.keys).any()
    quiet = PlantedInteractions.of(SMALL.model_copy(update={"knowledge_noise": 0.0}))
    assert (quiet.interactions().keys == first.keys).all()  # its own stream


def test_degrees_follow_a_power_law_of_the_wanted_mean():
    truth = PlantedInteractions.of(PlantedInteractionsConfig(num_users=20_000, num_items=5_000))
    assert truth.degrees.min() == 5
    assert truth.degrees.mean() == pytest.approx(24, rel=0.1)
    assert truth.degrees.max() > 15 * np.median(truth.degrees)


def test_models_rank_as_they_should():
    """Popularity below neighbours below EASE below the oracle, with room between them."""
    truth = PlantedInteractions.of(PlantedInteractionsConfig())
    splits = split_interactions(truth.interactions(), UserSplit())
    train = splits.train
    seen = csr_array(
        (np.ones(len(train)), (train.user, train.item)), shape=(train.num_users, train.num_items)
    ).toarray()
    popularity = seen.sum(0)
    normal = seen / np.sqrt(np.maximum(popularity, 1))
    inverse = np.linalg.inv(seen.T @ seen + 50 * np.eye(train.num_items))
    ease = -inverse / np.diag(inverse)
    np.fill_diagonal(ease, 0)
    found = [
        recall(np.tile(popularity, (train.num_users, 1)), splits),
        recall(seen @ (normal.T @ normal), splits),
        recall(seen @ ease, splits),
        recall(truth.probabilities(np.arange(train.num_users)), splits),
    ]
    assert found == pytest.approx([0.215, 0.303, 0.327, 0.479], abs=0.01)


def test_with_noise_alone_the_oracle_is_popularity():
    truth = PlantedInteractions.of(SMALL.model_copy(update={"noise": 1.0}))
    scores = truth.probabilities(np.arange(5))
    np.testing.assert_allclose(scores, np.tile(truth.popularity, (5, 1)))


def test_knowledge_tells_the_communities():
    config = SMALL.model_copy(update={"knowledge_noise": 0.0})
    truth = PlantedInteractions.of(config)
    graph = truth.knowledge()
    assert graph.relations.values.tolist() == ["known_for", "maker", "style"]
    assert graph.entities.values[:2].tolist() == ["item:0", "item:1"]
    told = np.zeros_like(truth.members)
    of_style = graph.relation == 2
    styles = [int(name.split(":")[1]) for name in graph.entities.values[graph.tail[of_style]]]
    told[graph.head[of_style], styles] = True
    np.testing.assert_array_equal(told, truth.members)
    # A maker's home is a community of the item.
    home = {}
    for head, relation, tail in zip(graph.head, graph.relation, graph.tail):
        if relation == 0:
            home[head] = int(graph.entities.values[tail].split(":")[1])
    makers = graph.relation == 1
    for item, maker in zip(graph.head[makers], graph.tail[makers]):
        assert truth.members[item, home[maker]]
