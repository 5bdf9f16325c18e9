from typing import ClassVar

import numpy as np
import pytest

from recsys.datasets.knowledge_folder import KnowledgeFolder
from recsys.errors import ConfigError, DataError
from recsys.testing.dataset import shared_pack
from recsys.testing.interaction_dataset import InteractionDatasetConformance

KG = "1 0 8\n2 0 8\n8 1 9\n"


def write_lists(folder):
    (folder / "train.txt").write_text("0 1 2 3 4\n1 1 2\n")
    (folder / "test.txt").write_text("0 5\n1 4\n")
    (folder / "kg_final.txt").write_text(KG)


def write_labelled(folder):
    rows = [f"{user} {item} {int(item < 4)}\n" for user in range(2) for item in range(8)]
    (folder / "ratings_final.txt").write_text("".join(rows))
    (folder / "kg_final.txt").write_text(KG)


def write_plays(folder):
    plays = [f"{user}\t{item}\t{user + item}\n" for user in (2, 3) for item in (50, 51, 52, 53, 99)]
    (folder / "user_artists.dat").write_text("userID\tartistID\tweight\n" + "".join(plays))
    links = "".join(f"{50 + entity}\t{entity}\n" for entity in range(4))
    (folder / "item_index2entity_id.txt").write_text(links)
    (folder / "kg.txt").write_text("0\ta.origin\t7\n1\ta.genre\t7\n")


class TestLists(InteractionDatasetConformance):
    dataset = KnowledgeFolder
    counts: ClassVar = {"train": 4, "valid": 2, "test": 2}

    def config(self, folder):
        write_lists(folder)
        return KnowledgeFolder.Config(path=str(folder), split={"kind": "given", "valid": 0.3})

    def test_items_are_entities(self, tmp_path):
        graph = self.made(tmp_path).knowledge(tmp_path)
        assert graph.entities.values.tolist() == [1, 2, 3, 4, 5, 8, 9]
        assert graph.head.tolist() == [0, 1, 5] and graph.tail.tolist() == [5, 5, 6]

    def test_given_splits_are_not_split_again(self, tmp_path):
        config = self.config(tmp_path).model_copy(update={"split": {"kind": "by_user"}})
        config = KnowledgeFolder.Config.model_validate(config.model_dump())
        with pytest.raises(ConfigError, match=r"are split already; got split.kind=by_user"):
            KnowledgeFolder(config).splits(tmp_path)
        with pytest.raises(ConfigError, match=r"there are labels in ratings_final.txt only"):
            self.made(tmp_path).labelled(tmp_path)

    def test_a_graph_about_other_items(self, tmp_path):
        data = self.made(tmp_path)
        (tmp_path / "kg_final.txt").write_text("80 0 81\n")
        with pytest.raises(DataError, match=r"no triple names an item"):
            data.knowledge(tmp_path)


class TestLabelled(InteractionDatasetConformance):
    dataset = KnowledgeFolder
    counts: ClassVar = {"train": 4, "valid": 2, "test": 2}

    def config(self, folder):
        write_labelled(folder)
        return KnowledgeFolder.Config(path=str(folder))

    def test_the_negatives_are_split_alike(self, tmp_path):
        data = self.made(tmp_path)
        splits, labelled = data.splits(tmp_path), data.labelled(tmp_path)
        assert {name: len(part) for name, part in labelled.items()} == {
            "train": 8,
            "valid": 4,
            "test": 4,
        }
        for name, split in splits.items():
            part = labelled[name]
            assert part.label.mean() == 0.5
            np.testing.assert_array_equal(part.item[part.label == 1], split.item)
            assert (part.item[part.label == 0] >= 4).all()
        assert splits.train.num_items == 8  # also those that only negatives name


class TestPlays(InteractionDatasetConformance):
    dataset = KnowledgeFolder
    counts: ClassVar = {"train": 4, "valid": 2, "test": 2}

    def config(self, folder):
        write_plays(folder)
        return KnowledgeFolder.Config(path=str(folder))

    def test_ids_of_artists_and_of_entities(self, tmp_path):
        data = self.made(tmp_path)
        splits, graph = data.splits(tmp_path), data.knowledge(tmp_path)
        assert splits.train.items.values.tolist() == [50, 51, 52, 53]  # 99 has no entity
        assert splits.report["pairs_of_unlinked_items"] == 2
        assert graph.entities.values.tolist() == [0, 1, 2, 3, 7]
        assert graph.relations.values.tolist() == ["a.genre", "a.origin"]

    def test_cleaning(self, tmp_path):
        config = KnowledgeFolder.Config(
            path=self.config(tmp_path).path, cleaning={"min_weight": 55}
        )
        splits = KnowledgeFolder(config).splits(tmp_path)
        # Plays are user + artist: 2 + 53, 3 + 52 and 3 + 53 are enough.
        assert splits.report["light_pairs"] == 5
        assert sum(len(split) for _, split in splits.items()) == 3


def test_which_layout(tmp_path):
    with pytest.raises(DataError, match=r"expected one of \['train.txt', 'ratings_final.txt', "):
        KnowledgeFolder(KnowledgeFolder.Config(path=str(tmp_path))).splits(tmp_path)
    write_labelled(tmp_path)
    write_plays(tmp_path)
    data = KnowledgeFolder(KnowledgeFolder.Config(path=str(tmp_path)))
    assert data.splits(tmp_path).train.num_items == 8
    data = KnowledgeFolder(KnowledgeFolder.Config(path=str(tmp_path), layout="plays"))
    assert data.splits(tmp_path).train.num_items == 4
    (tmp_path / "kg.txt").unlink()
    with pytest.raises(DataError, match=r"expected `kg.txt` in"):
        data.splits(tmp_path)
    config = KnowledgeFolder.Config(path=str(tmp_path), cleaning={"min_user": 2})
    with pytest.raises(ConfigError, match=r"`cleaning` is for plays"):
        KnowledgeFolder(config).splits(tmp_path)
    with pytest.raises(DataError, match=r"`path` is needed"):
        KnowledgeFolder(KnowledgeFolder.Config()).splits(tmp_path)


def test_the_real_packs_are_one_log(tmp_path):
    shape = []
    for folder in ("kg_music_mcclk", "kg_music_kgcn"):
        path = shared_pack("kg_music", folder)
        data = KnowledgeFolder(KnowledgeFolder.Config(path=str(path)))
        splits, graph = data.splits(tmp_path), data.knowledge(tmp_path)
        total = sum(len(split) for _, split in splits.items())
        assert (splits.train.num_users, splits.train.num_items, total) == (1_872, 3_846, 21_173)
        assert (len(graph), len(graph.entities), len(graph.relations)) == (15_518, 9_366, 60)
        shape.append(np.bincount(graph.head, minlength=9_366))
        if folder == "kg_music_mcclk":
            labelled = data.labelled(tmp_path)
            assert sum(len(part) for part in labelled.values()) == 42_346
            assert len(labelled["test"]) == 2 * 4_235
    # The same graph: triples by entity, items in the order of their ids as artists or as entities.
    np.testing.assert_array_equal(np.sort(shape[0]), np.sort(shape[1]))
