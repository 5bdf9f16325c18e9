from typing import ClassVar

import pytest
from pydantic import ValidationError

from recsys.datasets.recbole_interactions import RecBoleInteractions
from recsys.errors import DataError
from recsys.testing.dataset import shared_pack
from recsys.testing.interaction_dataset import InteractionDatasetConformance

HEAD = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def rows(pairs):
    return HEAD + "".join(f"{user}\t{item}\t4\t{n}\n" for n, (user, item) in enumerate(pairs))


class TestRecBoleInteractions(InteractionDatasetConformance):
    dataset = RecBoleInteractions
    counts: ClassVar = {"train": 16, "valid": 2, "test": 2}

    def config(self, folder):
        (folder / "x.inter").write_text(rows((u, i) for u in "ab" for i in range(10)))
        (folder / "x.kg").write_text(
            "head_id:token\trelation_id:token\ttail_id:token\nm.1\tby\tm.9\nm.9\tin\tm.8\n"
        )
        (folder / "x.link").write_text("item_id:token\tentity_id:token\n3\tm.1\n77\tm.7\n")
        return RecBoleInteractions.Config(path=str(folder))

    def test_knowledge(self, tmp_path):
        data = self.made(tmp_path)
        graph = data.knowledge(tmp_path)
        assert graph.entities.values[3] == "m.1" and graph.entities.values[0] == "item:0"
        assert (graph.head.tolist(), len(graph.entities)) == ([3, 11], 12)
        assert (graph.report["unknown_items"], graph.report["items_without_entity"]) == (1, 9)
        (tmp_path / "x.link").unlink()
        with pytest.raises(DataError, match=r"expected one `\*.link` in .*, got \[\]"):
            data.knowledge(tmp_path)
        (tmp_path / "x.kg").unlink()
        assert data.knowledge(tmp_path) is None


def test_files_that_come_split(tmp_path):
    parts = {"train": [("a", 1), ("b", 2)], "valid": [("a", 2)], "test": [("a", 3), ("c", 1)]}
    for name, pairs in parts.items():
        (tmp_path / f"x.{name}.inter").write_text(rows(pairs))
    config = RecBoleInteractions.Config(path=str(tmp_path), split={"kind": "given"})
    splits = RecBoleInteractions(config).splits(tmp_path)
    for name, split in splits.items():
        users, items = split.users.values[split.user], split.items.values[split.item]
        assert list(zip(users, items)) == [(user, str(item)) for user, item in parts[name]]
    assert splits.report["test_items_not_in_train"] == 1
    whole = RecBoleInteractions.Config(path=str(tmp_path))
    with pytest.raises(DataError, match=r"expected one `\*.inter` in .*, got \[\]"):
        RecBoleInteractions(whole).splits(tmp_path)
    with pytest.raises(ValidationError, match=r"a k-core .* is taken before a split"):
        RecBoleInteractions.Config(split={"kind": "given"}, cleaning={"min_item": 2})


def test_without_a_path_it_says_where_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"`path` is needed. Get the atomic files from"):
        RecBoleInteractions(RecBoleInteractions.Config()).splits(tmp_path)


def test_the_real_pack(tmp_path):
    config = RecBoleInteractions.Config(
        path=str(shared_pack("ml100k_recbole", "ml100k_recbole")), cleaning={"min_weight": 4}
    )
    splits = RecBoleInteractions(config).splits(tmp_path)
    pairs = sum(len(split) for _, split in splits.items())
    assert pairs == 100_000 - splits.report["light_pairs"] == 55_375
    graph = RecBoleInteractions(config).knowledge(tmp_path)
    assert graph.num_items == splits.train.num_items < 1_682
    assert graph.report["unknown_items"] > 0  # items that nobody liked have links too
