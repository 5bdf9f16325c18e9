"""Lists from ids, checked by hand and against a computation user by user."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from torch import Tensor

from recsys.cf import CFModel, EmbeddingModel
from recsys.errors import ConfigError, DataError, TrainingError
from recsys.graph.explanation import Explanation, Node, Reason
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Interactions, Names
from recsys.models.graph.ease import EASE
from recsys.models.graph.item_knn import ItemKNN
from recsys.models.graph.light_gcn import LightGCN
from recsys.models.graph.most_pop import MostPop
from recsys.serving import recommender as module
from recsys.serving.recommender import Recommender
from recsys.serving.recommender_folder import save_recommender
from recsys.serving.vectors import read_vectors

USERS, ITEMS = Names(["ann", "bob", "cid", "dan"]), Names(["a", "b", "c", "d", "e"])
TRAIN = Interactions(USERS, ITEMS, np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 1, 2, 3, 3]))
"""ann: a b; bob: b c d; cid: d; dan: nothing. Nobody has e."""
SCORES = torch.tensor([
    [9.0, 8.0, 1.0, 2.0, 2.0],
    [5.0, 9.0, 9.0, 9.0, 4.0],
    [1.0, 1.0, 1.0, 9.0, 1.0],
    [0.0, 0.0, 0.0, 0.0, 0.0],
])  # fmt: skip


class Fixed(CFModel):
    """Scores that are written down."""

    class Config(CFModel.Config):
        """None."""

    table = SCORES

    def scores(self, users: Tensor) -> Tensor:
        return self.table[users]


def fixed(seen: Interactions = TRAIN, table: Tensor = SCORES) -> Recommender:
    model = Fixed(Fixed.Config(), InteractionGraph.of(TRAIN))
    model.table = table
    return Recommender(model, seen)


def light_gcn(**options) -> LightGCN:
    config = LightGCN.Config(embedding_dim=4, num_layers=2, **options)
    model = LightGCN(config, InteractionGraph.of(TRAIN))
    model.reset_parameters(2)
    return model.eval()


def ease() -> EASE:
    model = EASE(EASE.Config(l2=1.0), InteractionGraph.of(TRAIN))
    model.fit(lambda line: None)
    return model


def ids(found) -> list[list[str]]:
    return [[item for item, _ in one] for one in found]


# ------------------------------------------------------------------------------------- lists


def test_lists_are_in_the_order_of_the_question_without_what_was_seen():
    found = fixed().recommend(["cid", "ann"], k=3)
    assert found.asked.tolist() == ["cid", "ann"]
    assert found[0] == [("a", 1.0), ("b", 1.0), ("c", 1.0)], "ties go to the lower number"
    assert found[1] == [("d", 2.0), ("e", 2.0), ("c", 1.0)]
    assert found.table().to_pylist()[3] == {
        "user": "ann", "rank": 1, "item": "d", "score": 2.0, "by_popularity": False,
    }  # fmt: skip


def test_a_list_ends_where_no_item_is_left():
    found = fixed().recommend(["bob"], k=20)
    assert found[0] == [("a", 5.0), ("e", 4.0)]
    assert found.table().num_rows == 2


def test_seen_items_may_stay_and_what_other_splits_have_is_seen_too():
    assert ids(fixed().recommend(["ann"], k=2, exclude_seen=False)) == [["a", "b"]]
    more = TRAIN.union(Interactions(USERS, ITEMS, np.array([0]), np.array([3])))
    assert ids(fixed(more).recommend(["ann"], k=2)) == [["e", "c"]]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"filter": ["c", "a"]}, ["c"]),
        ({"filter": {"c": 1, "e": 2}}, ["e", "c"]),
        ({"filter": lambda names: names > "c"}, ["d", "e"]),
        ({"filter": np.array([True, True, True, False, False])}, ["c"]),
        ({"exclude": ["d"]}, ["e", "c"]),
        ({"filter": ["d", "e"], "exclude": ["d"]}, ["e"]),
        ({"filter": []}, []),
        ({"filter": lambda names: np.zeros(5, bool)}, []),
    ],
)
def test_filters(options, wanted):
    assert ids(fixed().recommend(["ann"], k=5, **options)) == [wanted]


def test_a_mask_is_made_once_and_used_often():
    one = fixed()
    mask = one.mask(["c", "d"], exclude=["d"])
    assert mask.tolist() == [False, False, True, False, False]
    assert ids(one.recommend(["ann"], filter=mask)) == [["c"]]
    one.mask(mask, exclude=["c"])
    assert mask[2], "a mask of the caller is not changed"


def test_scores_of_the_model_are_not_changed():
    one = fixed()
    one.recommend(["ann", "bob"], k=3, exclude_seen=True)
    assert one.model.scores(torch.tensor([0]))[0].tolist() == [9.0, 8.0, 1.0, 2.0, 2.0]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 6), max_size=9), st.integers(1, 12), st.integers(1, 4),
    st.sets(st.integers(0, 10)), st.integers(0, 10**6),
)  # fmt: skip
def test_equals_a_computation_user_by_user(asked, k, rows_per_block, allowed, seed):
    random = np.random.default_rng(seed)
    seen = random.random((7, 11)) < 0.4
    seen[:, 0] |= ~seen.any(1)
    user, item = np.nonzero(seen)
    train = Interactions(Names(range(7)), Names(range(100, 111)), user, item)
    model = Fixed(Fixed.Config(), InteractionGraph.of(train))
    model.table = torch.from_numpy(random.integers(0, 4, (7, 11)).astype(np.float32))
    before, module._BLOCK_BYTES = module._BLOCK_BYTES, 4 * 11 * rows_per_block
    try:
        found = Recommender(model, train).recommend(asked, k, filter=[100 + i for i in allowed])
    finally:
        module._BLOCK_BYTES = before
    for user, got in zip(asked, found, strict=True):
        free = [i for i in sorted(allowed) if not seen[user, i]]
        free.sort(key=lambda i: -float(model.table[user, i]))  # stable: by number
        wanted = [(100 + i, float(model.table[user, i])) for i in free[:k]]
        assert got == wanted


def test_threads_get_what_one_gets():
    one = Recommender(light_gcn(), TRAIN)
    wanted = ids(one.recommend(["ann", "bob", "cid"], 3))
    folded = ids(one.recommend_for([["a", "b"]], 3))
    fresh = Recommender(light_gcn(), TRAIN)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(fresh.recommend, ["ann", "bob", "cid"], 3) for _ in range(40)]
        more = [pool.submit(fresh.recommend_for, [["a", "b"]], 3) for _ in range(40)]
        assert all(ids(job.result()) == wanted for job in jobs)
        assert all(ids(job.result()) == folded for job in more)


# ----------------------------------------------------------------------------- unknown users


def test_unknown_users_are_an_error_that_names_one_and_the_ways_out():
    with pytest.raises(DataError, match=r"user 'anna' is not known\. Did you mean `ann`\?.*recom"):
        fixed().recommend(["bob", "anna"])
    with pytest.raises(DataError, match=r"user 'dan' has no training interaction.*unknown="):
        fixed().recommend(["dan"])


def test_unknown_users_get_the_popular_or_nothing():
    found = fixed().recommend(["eve", "ann", "dan"], 3, unknown="popular")
    assert found[0] == [("b", 2.0), ("d", 2.0), ("a", 1.0)]
    assert found[1][0] == ("d", 2.0) and ids(found)[2] == ["b", "d", "a"]
    assert found.by_popularity.tolist() == [True, False, True]
    assert found.table()["by_popularity"].to_pylist() == [True] * 3 + [False] * 3 + [True] * 3
    found = fixed().recommend(["eve", "ann"], 1, unknown="skip")
    assert found.asked.tolist() == ["ann"] and found[0] == [("d", 2.0)]
    assert len(fixed().recommend(["eve"], unknown="skip")) == 0
    assert fixed().recommend([], 3).table().num_rows == 0


def test_what_valid_has_of_a_user_without_training_pairs_is_left_out():
    seen = TRAIN.union(Interactions(USERS, ITEMS, np.array([3]), np.array([1])))
    assert ids(fixed(seen).recommend(["dan"], 2, unknown="popular")) == [["d", "a"]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.recommend("ann"), r"expected a list of ids, got the text 'ann'\. Write \['a"),
        (lambda r: r.recommend(["ann"], k=0), "k: expected at least 1, got 0"),
        (lambda r: r.recommend(["ann"], unknown="pop"), "expected error, popular or skip, got 'p"),
        (lambda r: r.recommend(["ann"], filter=np.ones(3, bool)), r"mask of all 5 items .*\(3,\)"),
        (lambda r: r.recommend(["ann"], filter=lambda n: [1] * 5), "mask of all 5 items .*int64"),
        (lambda r: r.recommend_for("ab"), "histories: expected one of each, by name or in a list"),
        (lambda r: r.recommend_for(["ab"]), "0: expected a list of item ids, got the text 'ab'"),
        (lambda r: r.recommend_for([["a"]]), "Fixed has no vectors of users that it was not tra"),
        (lambda r: r.similar_items(["a"]), "Fixed cannot say which items are alike"),
        (lambda r: r.explain("ann", "c"), "Fixed cannot explain its scores"),
        (lambda r: r.explain(None, "c"), "expected one of user, history, text, not several"),
        (lambda r: r.recommend_texts(["words"]), "knows users by their interactions, not by texts"),
        (lambda r: r.explain(None, "c", text="words"), "by their interactions, not by texts"),
        (lambda r: r.recommend_texts("words"), "texts: expected one of each, by name or in a list"),
        (lambda r: r.recommend_texts([3]), "expected a text of 0, got int"),
        (lambda r: r.explain("ann", "c", k=0), "k: expected at least 1"),
        (lambda r: r.vectors(), "Fixed has no vectors of users and items"),
        (lambda r: r.vectors_of({"x": ["ann"]}), "Fixed has no vectors of new items"),
    ],
)
def test_wrong_questions(call, message):
    with pytest.raises(ConfigError, match=message):
        call(fixed())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.recommend(["ann"], filter=["z"]), r"filter: item 'z' is not known.*np\.isin"),
        (lambda r: r.recommend(["ann"], exclude=["z"]), "exclude: item 'z' is not known"),
        (lambda r: r.similar_items(["z"]), "item 'z' is not known"),
        (lambda r: r.similar_items(["e"]), "item 'e' was not seen in training"),
        (lambda r: r.explain("eve", "c"), "user 'eve' is not known"),
        (lambda r: r.explain("ann", "z"), "item 'z' is not known"),
        (lambda r: r.recommend_for([["a", "z"]]), "item 'z' is not known"),
        (lambda r: r.recommend_for([["a", "e"]]), "item 'e' was not seen in training, so it says"),
        (lambda r: r.recommend_for({"eve": []}), "'eve': expected at least one item, got none"),
        (lambda r: r.recommend_for([{"a": -1.0}]), "0: expected weights above 0"),
        (lambda r: r.recommend_for([{"a": float("nan")}]), "0: expected weights above 0"),
    ],
)
def test_unknown_ids(call, message):
    with pytest.raises(DataError, match=message):
        call(fixed())


def test_nan_is_no_score():
    table = SCORES.clone()
    table[1, 4] = torch.nan
    with pytest.raises(TrainingError, match="scores for 'bob' are NaN"):
        fixed(table=table).recommend(["ann", "bob"])


def test_model_and_interactions_must_fit():
    other = Interactions(USERS, Names(["a"]), np.array([0]), np.array([0]))
    with pytest.raises(ConfigError, match="4 users and 5 items, the interactions have 4 and 1"):
        fixed(other)


# ------------------------------------------------------------------------------------ fold-in


@pytest.mark.parametrize("model", [ease(), light_gcn()], ids=["ease", "light_gcn"])
def test_a_history_gets_what_its_scores_say(model):
    one = Recommender(model, TRAIN)
    found = one.recommend_for({"eve": ["d", "b", "d"], "fay": ["c"]}, k=5)
    assert found.asked.tolist() == ["eve", "fay"]
    history = csr_array(np.array([[0, 1, 0, 1, 0]], np.float32))
    scores = model.scores_of(history)[0]
    wanted = sorted([0, 2, 4], key=lambda i: -float(scores[i]))
    assert found.numbers[0].tolist() == [*wanted, -1, -1]
    assert found.scores[0][:3].tolist() == pytest.approx(scores[wanted].tolist())
    kept = one.recommend_for([["d", "b"]], k=5, exclude_seen=False)
    assert set(ids(kept)[0]) == set("abcde")


def test_fitted_models_give_known_users_the_same_either_way():
    one = Recommender(ease(), TRAIN)
    assert ids(one.recommend(["bob"], 3)) == ids(one.recommend_for([["b", "c", "d"]], 3))


def test_a_folded_user_is_a_known_one_without_the_own_row():
    """z_u = e_u / (K + 1) + what the items pass on: exact for linear propagation."""
    model = light_gcn()
    own = model.rows().detach()[:3] / 3
    found = model.folded_in(model.graph.matrix()[:3])
    torch.testing.assert_close(found + own, model.vectors()[0][:3])


def test_models_without_a_linear_encoder_refuse_and_say_which_do():
    class Rows(LightGCN):
        class Config(LightGCN.Config):
            """The same."""

        def messages(self) -> Tensor:
            return EmbeddingModel.messages(self)

    model = Rows(Rows.Config(embedding_dim=2), InteractionGraph.of(TRAIN))
    model.reset_parameters(0)
    one = Recommender(model, TRAIN)
    for call in (
        lambda: one.recommend_for([["a"]]),
        lambda: one.explain("ann", "c"),
        lambda: one.vectors_of({"x": ["ann"]}),
    ):
        with pytest.raises(ConfigError, match=r"Rows has no vectors of users .*LightGCN.*EASE"):
            call()


def test_histories_may_skip_what_is_unknown():
    one = Recommender(light_gcn(), TRAIN)
    histories = {"eve": ["a", "z", "e"], "fay": ["z"], "gus": []}
    found = one.recommend_for(histories, 2, unknown="skip")
    assert found.asked.tolist() == ["eve"]
    assert ids(found) == ids(one.recommend_for([["a"]], 2))
    found = one.recommend_for(histories, 2, unknown="popular")
    assert found.by_popularity.tolist() == [False, True, True]
    assert ids(found)[1:] == [["b", "d"], ["b", "d"]]


def test_weights_of_a_history_count():
    model = ease()
    one = Recommender(model, TRAIN)
    even, heavy = one.recommend_for([{"a": 1.0, "d": 1.0}, {"a": 1.0, "d": 5.0}], 3)
    weights = model.weights.dense
    assert dict(even)["c"] == pytest.approx(float(weights[0, 2] + weights[3, 2]))
    assert dict(heavy)["c"] == pytest.approx(float(weights[0, 2] + 5 * weights[3, 2]))


def test_new_items_get_vectors_by_their_users():
    model = light_gcn()
    one = Recommender(model, TRAIN)
    found = one.vectors_of({"new": ["cid", "ann"]})
    matrix = csr_array(np.array([[1, 0, 1, 0]], np.float32))
    assert found.ids.tolist() == ["new"]
    np.testing.assert_allclose(found.values, model.folded_in(matrix, "item").numpy())
    # An old item by its own users is what it was, but for its row.
    again = one.vectors_of({"d": ["bob", "cid"]}).values[0]
    own = model.rows().detach()[4 + 3] / 3
    np.testing.assert_allclose(again + own.numpy(), one.vectors().values[3], rtol=1e-5)
    users = one.vectors_of({"eve": ["a"]}, "user")
    item = users.values @ one.vectors().values.T
    assert ids(one.recommend_for([["a"]], 1))[0][0] == "abcde"[int(item[0, 1:].argmax()) + 1]
    with pytest.raises(DataError, match="user 'zoe' is not known"):
        one.vectors_of({"new": ["zoe"]})
    with pytest.raises(ConfigError, match="EASE has no vectors of new items"):
        Recommender(ease(), TRAIN).vectors_of({"new": ["ann"]})


# ---------------------------------------------------------------------------- similar items


def test_similar_items_of_a_similarity_model_are_its_weights():
    model = ItemKNN(ItemKNN.Config(), InteractionGraph.of(TRAIN))
    model.fit(lambda line: None)
    found = Recommender(model, TRAIN).similar_items(["a", "d"], k=4)
    assert found[0] == [("b", pytest.approx(1 / 2**0.5))]
    assert [item for item, _ in found[1]] == ["c", "b"], "e shares no user with d"
    assert found.table().to_pylist()[0].keys() == {"item", "rank", "similar", "score"}


def test_similar_items_of_vectors_are_cosines():
    model = light_gcn()
    vectors = torch.nn.functional.normalize(model.vectors()[1], dim=1)
    found = Recommender(model, TRAIN).similar_items(["b"], k=9, exclude=["c"])
    cosines = vectors @ vectors[1]
    assert dict(found[0]) == pytest.approx({"a": float(cosines[0]), "d": float(cosines[3])})
    assert found.scores[0][0] >= found.scores[0][1], "and e, that nobody has, is like nothing"


# -------------------------------------------------------------------------------------- why


def test_reasons_of_a_similarity_model_add_up():
    model = ease()
    one = Recommender(model, TRAIN)
    found = one.explain("bob", "a", k=None)
    weights = model.weights.dense
    wanted = {"b": weights[1, 0], "c": weights[2, 0], "d": weights[3, 0]}
    assert {r.path[0].id: r.weight for r in found.reasons} == pytest.approx(
        {item: float(w) for item, w in wanted.items() if w != 0}
    )
    assert [r.weight for r in found.reasons] == sorted(r.weight for r in found.reasons)[::-1]
    assert found.score == pytest.approx(float(one.model.scores(torch.tensor([1]))[0, 0]))
    assert found.rest == 0 and found.item == "a" and found.score is not None
    first = one.explain("bob", "a", k=1)
    assert first.score == found.score and len(first.reasons) == 1
    assert first.rest == pytest.approx(found.score - first.reasons[0].weight)


@pytest.mark.parametrize("weighted", [False, True])
def test_reasons_of_linear_propagation_add_up_with_the_own_row(weighted):
    train = TRAIN
    if weighted:
        weight = np.array([1, 3, 0.5, 1, 2, 1], np.float32)
        train = Interactions(USERS, ITEMS, TRAIN.user, TRAIN.item, weight=weight)
    model = LightGCN(LightGCN.Config(embedding_dim=4), InteractionGraph.of(train, None, weighted))
    model.reset_parameters(1)
    one = Recommender(model.eval(), train)
    found = one.explain("bob", "a", k=None)
    assert {reason.path[0].id for reason in found.reasons} == {"b", "c", "d"}
    assert found.score == pytest.approx(float(model.scores(torch.tensor([1]))[0, 0]))
    own = model.rows().detach()[1] / 4 @ model.vectors()[1][0]
    assert found.rest == pytest.approx(float(own), abs=1e-6)
    assert sum(r.weight for r in found.reasons) + found.rest == pytest.approx(found.score)
    new = one.explain(None, "a", history=["b", "c", "d"])
    assert new.rest == pytest.approx(0, abs=1e-6)


def test_models_whose_scores_are_no_sum_over_items_do_not_pretend():
    model = MostPop(MostPop.Config(), InteractionGraph.of(TRAIN))
    model.fit(lambda line: None)
    one = Recommender(model, TRAIN)
    for user in ("bob", "cid"):  # with one item, too, though one part always adds up
        with pytest.raises(ConfigError, match="MostPop cannot explain its scores"):
            one.explain(user, "a")


def test_paths_of_a_model_are_told_with_ids():
    class Paths(Fixed):
        class Config(Fixed.Config):
            """None."""

        def explain(self, item, history, user=None):
            assert history.indices.tolist() == [1, 2, 3] and user == 1
            path = (Node("user", 1), Node("item", 2), Node("entity", 3))
            return Explanation(item, (Reason(0.5, path, ("saw", "like", "made")),), None)

    one = Recommender(Paths(Paths.Config(), InteractionGraph.of(TRAIN)), TRAIN)
    assert one.explain("bob", "a").text() == (
        "a\n  +0.50000  user bob -[saw]-> item c -[like]-> entity 3 -[made]-> item a"
    )


# ------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("ending", ["parquet", "safetensors"])
@pytest.mark.parametrize("names", [["ann", "b\u00f6b", "", "d"], [7, 3, 2**40, 0]])
def test_vectors_survive_a_file(tmp_path, ending, names):
    train = Interactions(Names(names), ITEMS, TRAIN.user, TRAIN.item)
    model = light_gcn()
    path = Recommender(model, train).export_vectors(tmp_path / f"new/users.{ending}", "user")
    found = read_vectors(path)
    assert found.ids.tolist() == names and found.metric == "dot"
    assert torch.equal(torch.from_numpy(found.values), model.vectors()[0])
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_vectors_of_a_file_that_is_none(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(fixed().recommend(["ann"]).table(), path)
    with pytest.raises(DataError, match=r"expected vectors as `Vectors\.write` writes them"):
        read_vectors(path)
    (tmp_path / "x.safetensors").write_bytes(b"12345678")
    with pytest.raises(DataError, match="expected vectors as"):
        read_vectors(tmp_path / "x.safetensors")
    with pytest.raises(DataError, match="expected vectors as"):
        read_vectors(tmp_path / "nowhere.safetensors")
    with pytest.raises(ConfigError, match=r"ends in \.parquet or \.safetensors, got x\.csv"):
        Recommender(light_gcn(), TRAIN).export_vectors("x.csv")


def test_vectors_whose_products_are_not_the_scores_are_refused():
    class Shifted(LightGCN):
        class Config(LightGCN.Config):
            """The same."""

        def scores(self, users: Tensor) -> Tensor:
            return super().scores(users) + torch.arange(5.0)

    model = Shifted(Shifted.Config(embedding_dim=2), InteractionGraph.of(TRAIN))
    model.reset_parameters(0)
    with pytest.raises(ConfigError, match="Shifted: scores are no dot products of its vectors"):
        Recommender(model, TRAIN).vectors()


def test_load_serves_what_was_saved(tmp_path):
    model = light_gcn()
    other = Interactions(USERS, ITEMS, np.array([0]), np.array([2]))
    save_recommender(tmp_path / "model", model, TRAIN, [other], {"seed": 5})
    threads = torch.get_num_threads()
    try:
        found = Recommender.load(tmp_path, num_threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert found.metadata == {"seed": 5}
    wanted = Recommender(model, TRAIN.union(other)).recommend(["ann", "bob"], 4)
    again = found.recommend(["ann", "bob"], 4)
    assert list(again) == list(wanted) and "c" not in ids(again)[0]
    assert re.match(r"c: -?0\.\d+\n  [+-]0", found.explain("ann", "c").text())
