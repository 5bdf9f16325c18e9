import numpy as np
import pytest

from recsys.errors import DataError
from recsys.graph.interactions import Names
from recsys.graph.log_reader import LogColumns, read_atomic
from recsys.graph.triples import (
    knowledge_graph,
    read_atomic_triples,
    read_named_triples,
    read_triples,
)
from recsys.testing.dataset import shared_pack

ITEMS = Names([2, 5, 7])


def named(graph):
    """The triples by id."""
    heads, tails = graph.entities.values[graph.head], graph.entities.values[graph.tail]
    return list(
        zip(heads.tolist(), graph.relations.values[graph.relation].tolist(), tails.tolist())
    )


def test_items_come_first_and_have_their_numbers():
    triples = ([9, 2, 5, 2, 5], [1, 0, 0, 0, 0], [8, 9, 9, 9, 7])
    graph = knowledge_graph(ITEMS, triples)
    assert graph.entities.values.tolist() == [2, 5, 7, 8, 9]
    assert graph.num_items == 3
    assert named(graph) == [(2, 0, 9), (5, 0, 7), (5, 0, 9), (9, 1, 8)]
    assert graph.report == {
        "unknown_items": 0,
        "duplicate_triples": 1,
        "items_without_triples": 0,
    }


def test_items_that_no_interaction_has_are_counted():
    graph = knowledge_graph(ITEMS, ([3, 2, 9], [0, 0, 0], [2, 4, 9]))
    assert graph.report["unknown_items"] == 2  # 3 and 4 are numbers of items, 9 is beyond them
    assert graph.report["items_without_triples"] == 2
    assert graph.entities.values.tolist() == [2, 5, 7, 3, 4, 9]


def test_links():
    items = Names(["a", "b", "c"])
    links = (["b", "a", "z"], ["m.1", "m.2", "m.3"])
    graph = knowledge_graph(items, (["m.2", "m.3"], ["by", "by"], ["m.1", "m.4"]), links)
    assert graph.entities.values.tolist() == ["m.2", "m.1", "item:c", "m.3", "m.4"]
    assert named(graph) == [("m.2", "by", "m.1"), ("m.3", "by", "m.4")]
    assert graph.report["unknown_items"] == 1  # z
    assert graph.report["items_without_entity"] == 1  # c
    assert graph.report["items_without_triples"] == 1


def test_items_that_share_an_entity():
    links = (["b", "a", "b"], ["m.1", "m.1", "m.2"])
    graph = knowledge_graph(Names(["a", "b"]), (["m.1"], ["by"], ["m.9"]), links)
    assert graph.report["items_sharing_an_entity"] == 1
    assert graph.report["items_with_more_entities"] == 0
    assert graph.entities.values.tolist() == ["m.1", "m.2", "m.9"]
    links = (["a", "a"], ["m.1", "m.2"])
    graph = knowledge_graph(Names(["a"]), (["m.1"], ["by"], ["m.2"]), links)
    assert graph.report["items_with_more_entities"] == 1
    assert named(graph) == [("m.1", "by", "m.2")]


def test_numbers_become_text_where_an_item_has_no_entity():
    graph = knowledge_graph(Names([51, 52]), ([0], [3], [9]), ([51], [0]))
    assert graph.entities.values.tolist() == ["0", "item:52", "9"]
    assert named(graph) == [("0", 3, "9")]


@pytest.mark.parametrize(
    ("triples", "links", "message"),
    [
        (
            ([8], [0], [9]),
            None,
            r"no triple names an item: items are like .*2.*, entities like .*8",
        ),
        ((["m.1"], ["r"], ["m.2"]), None, "no triple names an item"),
        ((["m.1"], ["r"], ["m.2"]), (["x"], ["m.1"]), "no triple names an item"),
        (([], [], []), None, "has no triple"),
    ],
)
def test_a_graph_about_other_items(triples, links, message):
    with pytest.raises(DataError, match=message):
        knowledge_graph(ITEMS, triples, links)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 0 9\n5 0\n", r"(?s)expected 3 numbers \(head, relation, tail\), got 2.*row 2"),
        ("2 0 -9\n", "a number that is not negative"),
        ("2 0 9", "may have been cut"),
        ("", "has no numbers"),
    ],
)
def test_faults_of_files(tmp_path, text, message):
    (tmp_path / "kg_final.txt").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_triples(tmp_path / "kg_final.txt", ITEMS)
    assert "kg_final.txt" in str(caught.value)


def test_named_relations(tmp_path):
    (tmp_path / "kg.txt").write_text("1\tb.y\t4\r\n0\ta.x\t4\r\n")
    (tmp_path / "links.txt").write_text("51\t1\r\n50\t0\r\n")
    graph = read_named_triples(tmp_path / "kg.txt", tmp_path / "links.txt", Names([50, 51]))
    assert named(graph) == [(0, "a.x", 4), (1, "b.y", 4)]
    for text, message in (
        ("1\tb.y\t4\nx\tb.y\t4\n", r"(?s)a whole number, got 'x'.*kg.txt, row 2, column `head`"),
        ("1\tb.y\t4\n1\tb.y\t-4\n", r"(?s)a number from 0, got -4.*kg.txt, row 2, column `tail`"),
        ("1\t\t4\n", r"(?s)expected a value, got nothing.*row 1, column `relation`"),
        ("1\tb.y\t4", "may have been cut"),
        ("1\tb.y\n", "expected 3 cells, got 2"),
    ):
        (tmp_path / "kg.txt").write_text(text)
        with pytest.raises(DataError, match=message):
            read_named_triples(tmp_path / "kg.txt", tmp_path / "links.txt", Names([50, 51]))


def test_the_real_atomic_files():
    folder = shared_pack("ml100k_recbole", "ml100k_recbole")
    items = read_atomic(folder / "ml-100k.inter", LogColumns())[0].items
    graph = read_atomic_triples(folder / "ml-100k.kg", folder / "ml-100k.link", items)
    assert (len(graph), len(graph.relations)) == (91_631, 24)
    assert graph.num_items - graph.report["items_without_entity"] == 1_598
    # The first line of the link file: item 476 is m.08gjyx.
    number = items.require(["476"], "item")[0]
    assert graph.entities.values[number] == "m.08gjyx"
    assert (np.minimum(graph.head, graph.tail) < graph.num_items).mean() > 0.9
