"""Hard negatives are among the bundles with most in common, and never the user's own."""

import numpy as np
import pytest
import torch

from recsys.errors import CheckpointError, ConfigError
from recsys.graph.bundle_negatives import HardBundles, HardPairLoader
from recsys.graph.bundles import BundleContents, Bundles
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Interactions, Names
from recsys.graph.negatives import SamplingConfig
from recsys.graph.sampling import PairLoader


def graph():
    """20 users, 30 bundles of three of 25 items, drawn."""
    random = np.random.default_rng(3)
    taken = np.zeros((20, 30), bool)
    content, alone = np.zeros((30, 25), bool), np.zeros((20, 25), bool)
    for matrix, size in ((taken, 5), (content, 3), (alone, 6)):
        for row in matrix:
            row[random.choice(len(row), size, replace=False)] = True
    users, items = Names(range(20)), Names(range(25))
    bundles = Bundles(Names(range(30)), items, *np.nonzero(content))
    user, bundle = (torch.from_numpy(part) for part in np.nonzero(taken))
    contents = BundleContents(bundles, Interactions(users, items, *np.nonzero(alone)))
    pairs = InteractionGraph(20, 30, user, bundle, contents=contents)
    return pairs, taken, content.astype(int), alone.astype(int)


def loader(hard, first_epoch=0, sampling=None):
    return HardPairLoader(
        graph()[0], sampling, 16, seed=5, hard=hard, first_epoch=first_epoch
    )  # fmt: skip


@pytest.mark.parametrize("near", ["user", "bundle"])
def test_they_have_most_in_common_of_what_the_user_has_not(near):
    _, taken, content, alone = graph()
    hard = HardBundles(share=0.1, near_user=near == "user", near_bundle=near == "bundle")
    common = (alone if near == "user" else content) @ content.T
    drawn = set()
    for batch in loader(hard, sampling=SamplingConfig(num_negatives=2)):
        for user, bundle, negatives in zip(batch.user, batch.item, batch.negatives):
            counts = np.where(taken[user], -1, common[user if near == "user" else bundle])
            least = np.sort(counts)[-3]  # a tenth of 30
            for negative in negatives.tolist():
                assert not taken[user, negative] and counts[negative] >= least
                drawn.add(negative)
    assert len(drawn) > 10


def test_shares_of_pairs_and_the_first_epoch():
    plain = PairLoader(graph()[0], None, 16, seed=5)
    later = loader(HardBundles(), first_epoch=1)
    first, second = [[batch.negatives for batch in plain] for _ in range(2)]
    assert all(map(torch.equal, [batch.negatives for batch in later], first))
    found = [batch.negatives for batch in later]
    changed = torch.cat(found) != torch.cat(second)
    assert 0.6 < float(changed.float().mean()) < 0.9, "of 0.8 of the pairs, some by chance equal"
    none = loader(HardBundles(near_user=0, near_bundle=0))
    assert all(map(torch.equal, [batch.negatives for batch in none], first))


def test_a_position_is_that_of_its_options():
    first = loader(HardBundles())
    wanted = [batch.negatives for batch in first]
    again = loader(HardBundles())
    for count, _ in enumerate(again):
        if count == 2:
            break
    resumed = loader(HardBundles())
    resumed.load_state_dict(again.state_dict())
    rest = [batch.negatives for batch in resumed]
    assert all(map(torch.equal, rest, wanted[3:])) and len(rest) == len(wanted) - 3
    with pytest.raises(CheckpointError, match="hard"):
        loader(HardBundles(share=0.5)).load_state_dict(again.state_dict())


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"at most 1, got 1.2"):
        HardBundles(near_user=0.6, near_bundle=0.6)
    with pytest.raises(ConfigError, match="negatives are those of a pair"):
        loader(None, sampling=SamplingConfig(shared=True))
    pairs = graph()[0]
    assert pairs.contents is not None
    alone = InteractionGraph(
        20, 30, pairs.user, pairs.item, contents=BundleContents(pairs.contents.bundles)
    )
    with pytest.raises(ConfigError, match="near_user needs pairs"):
        HardPairLoader(alone)
    assert len(HardPairLoader(alone, hard=HardBundles(near_user=0))) == 1
