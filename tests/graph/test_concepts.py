import pytest

from recsys.errors import DataError
from recsys.graph.concepts import concept_matches
from recsys.graph.splitting import UserSplit

QUERIES = {"q1": "java", "q2": "nurse", "q3": "cook"}
ITEMS = {"dev": "Developer", "med": "Medic"}
WHOLE = UserSplit(valid=0, test=0)


def test_numbers_and_report_by_hand():
    found = concept_matches(
        QUERIES, ITEMS, (["q1", "q2", "q9", "q2"], ["dev", "med", "dev", "med"]),
        (["q1", "q1", "q1", "q2", "q9"], ["Java", "SQL", "Java", "", "SQL"]),
        (["dev", "dev", "med"], ["Java", "Git", "Care"]), WHOLE,
    )  # fmt: skip
    assert found.concepts.values.tolist() == ["Care", "Git", "Java", "SQL"]
    assert found.query_concepts.keys.tolist() == [2, 3]
    assert found.item_concepts.keys.tolist() == [1, 2, 4]
    assert found.relevance.train.keys.tolist() == [0, 3]
    assert found.query_texts == ("java", "nurse", "cook")
    expected = {
        "unknown_rows": 2, "duplicate_rows": 2, "rare_concepts": 0, "queries_without_concept": 2,
        "items_without_concept": 0, "concepts_of_queries_alone": 1, "concepts_of_items_alone": 2,
    }  # fmt: skip
    assert {name: found.report[name] for name in expected} == expected


def test_rare_concepts_are_left_out():
    """A row that repeats does not make a concept frequent; a query and an item do."""
    found = concept_matches(
        QUERIES, ITEMS, (["q1"], ["dev"]), (["q1", "q1", "q1"], ["Java", "SQL", "SQL"]),
        (["dev", "med"], ["Java", "Care"]), WHOLE, min_times=2,
    )  # fmt: skip
    assert found.concepts.values.tolist() == ["Java"] and found.report["rare_concepts"] == 2


def test_whole_queries_are_held_out():
    queries = {number: str(number) for number in range(20)}
    pairs = ([n for n in range(20) for _ in "ab"], ["dev", "med"] * 20)
    told = ([0], ["Java"])
    found = concept_matches(queries, ITEMS, pairs, told, ([], []), UserSplit(), by_query=True)
    parts = {name: set(split.user.tolist()) for name, split in found.relevance.items()}
    assert [len(part) for part in parts.values()] == [14, 2, 4]
    assert len(set.union(*parts.values())) == 20
    other = concept_matches(queries, ITEMS, pairs, told, ([], []), UserSplit(seed=1), True)
    assert set(other.relevance.test.user.tolist()) != parts["test"]


def test_what_is_refused():
    with pytest.raises(DataError, match="no concept is left of 1"):
        concept_matches(QUERIES, ITEMS, (["q1"], ["dev"]), (["q1"], ["Java"]), ([], []), WHOLE,
                        min_times=2)  # fmt: skip
    with pytest.raises(DataError, match="no relevant pair is left of 1"):
        concept_matches(QUERIES, ITEMS, (["q9"], ["dev"]), (["q1"], ["Java"]), ([], []), WHOLE)
    with pytest.raises(DataError, match="item_concepts: expected two columns"):
        concept_matches(QUERIES, ITEMS, (["q1"], ["dev"]), ([], []), (["dev"], []), WHOLE)
