from collections import Counter

import pytest
import torch

from recsys.errors import CheckpointError, DataError
from recsys.graph.aspect_batches import AspectLoader
from recsys.graph.aspects import AspectRule, aspect_table

ROWS = [(n, "k", f"k{n % 3}") for n in range(12)] + [(n, "m", f"m{n % 2}") for n in range(7)]
ROWS += [(n, "m", "both") for n in (0, 1)] + [(11, "m", "alone")]


def table(rows=ROWS, test=0.0):
    texts = {n: str(n) for n in range(12)}
    items, aspects, names = zip(*rows)
    return aspect_table(texts, items, aspects, names, AspectRule(valid=0, test=test))


def labels(found, item, aspect):
    return set(found.labels_of(item).get(found.aspects[aspect], ()))


def test_pairs_share_a_label_of_the_one_aspect_of_their_batch():
    found = table(test=0.2)
    train, seen = set(found.members("train").tolist()), Counter()
    for batch in AspectLoader(found, 4):
        for row, (i, j) in enumerate(zip(batch.anchor.tolist(), batch.positive.tolist())):
            assert i != j and {i, j} <= train
            assert labels(found, i, batch.aspect) & labels(found, j, batch.aspect)
            seen[batch.aspect, i] += 1
            for column, other in enumerate(batch.positive.tolist()):
                share = labels(found, i, batch.aspect) & labels(found, other, batch.aspect)
                assert bool(batch.alike[row, column]) == bool(share)
    for aspect, name in enumerate(found.aspects):
        has = found.has_label(name, "train").toarray()
        wanted = {i: int(((has[i] > 0) & (has.sum(0) > 1)).sum()) for i in range(12)}
        assert {i: seen[aspect, i] for i in range(12)} == wanted


def test_the_other_item_is_any_of_the_label():
    rule = AspectRule(valid=0, test=0)
    found = aspect_table(dict.fromkeys(range(4), ""), range(4), ["k"] * 4, ["x"] * 4, rule)
    loader, pairs = AspectLoader(found, 4), Counter()
    for _ in range(300):
        for batch in loader:
            pairs.update(zip(batch.anchor.tolist(), batch.positive.tolist()))
    assert set(pairs) == {(i, j) for i in range(4) for j in range(4) if i != j}
    assert min(pairs.values()) > 60 and sum(pairs.values()) == 1200


def test_batches_are_of_even_size_and_another_epoch_is_another():
    loader = AspectLoader(table(), 5)
    epochs = [[(batch.aspect, batch.anchor.tolist()) for batch in loader] for _ in range(2)]
    assert epochs[0] != epochs[1] and len(epochs[0]) == len(loader) == 5
    assert sorted(len(items) for _, items in epochs[0]) == [4, 4, 4, 4, 5]


def test_a_position_is_exact():
    whole = AspectLoader(table(), 4, seed=3)
    wanted = [batch for _ in range(2) for batch in whole]
    cut, again = AspectLoader(table(), 4, seed=3), AspectLoader(table(), 4, seed=3)
    passes = iter(cut)
    first = [next(passes) for _ in range(3)]
    again.load_state_dict(cut.state_dict())
    rest = [batch for _ in range(2) for batch in again]
    assert len(first + rest) == len(wanted)
    for found, expected in zip(first + rest, wanted):
        assert found.aspect == expected.aspect
        assert torch.equal(found.anchor, expected.anchor)
        assert torch.equal(found.positive, expected.positive)
    with pytest.raises(CheckpointError, match="batch_size=4"):
        AspectLoader(table(), 5, seed=3).load_state_dict(cut.state_dict())
    other = table([*ROWS, (5, "k", "k0")])
    with pytest.raises(CheckpointError, match="data="):
        AspectLoader(other, 4, seed=3).load_state_dict(cut.state_dict())


def test_nothing_alike_is_refused():
    rows = [(n, "k", f"k{n}") for n in range(12)]
    with pytest.raises(DataError, match="no two training items share a label"):
        AspectLoader(table(rows))
