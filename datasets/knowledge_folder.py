"""Interactions with a knowledge graph: folders of KGAT and KGIN, of MCCLK and RippleNet, of KGCN.

Three layouts; which one it is, is seen from the files:

- ``lists`` (xiangwang1223/knowledge_graph_attention_network, huangtinglin/Knowledge_Graph_based_
  Intent_Network): ``train.txt`` and ``test.txt`` with ``user item item ...`` lines and
  ``kg_final.txt`` with ``head relation tail``. Split: as given; a part of train validates.
- ``labelled`` (CCIIPLab/MCCLK, hwwang55/RippleNet and KGCN once preprocessed):
  ``ratings_final.txt`` with ``user item label`` and ``kg_final.txt``. Half of the pairs are
  negatives that somebody drew. Split: at random, 6 : 2 : 2.
- ``plays`` (hwwang55/KGCN, data/music): ``user_artists.dat`` with plays,
  ``item_index2entity_id.txt`` and ``kg.txt`` with named relations. Split: at random, 6 : 2 : 2.

KGCN's music: 42,346 labelled pairs (21,173 positive) of 1,872 users and 3,846 artists, 15,518
triples of 9,366 entities and 60 relations. Licence: none stated by the repositories; the data are
Last.fm's (HetRec 2011), Amazon's and Yelp's, and Freebase's (CC BY).

Traps:
    - In ``labelled`` folders the negatives were drawn from items that were not seen. Popularity
      alone has an AUC of .800 on music, as much as KGCN's published .794 to .796: judge by the
      margin over it, or rank all items.
    - In ``plays`` only artists that the knowledge graph knows are kept, as KGCN does; users who
      played no other are gone.
    - Items are entities. Where interactions miss an item that triples name, it is an entity among
      the others, and counted as ``unknown_items``.
    - KGAT's published NDCG is wrong (ideal gain of the retrieved list), and it is chosen on test.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from recsys.data.files import find_file, needed_path
from recsys.errors import ConfigError, DataError
from recsys.graph.cleaning import Cleaning
from recsys.graph.dataset import InteractionDataset
from recsys.graph.interactions import InteractionSplits
from recsys.graph.knowledge import KnowledgeGraph
from recsys.graph.readers import (
    LabelledPairs,
    read_labelled_pairs,
    read_linked_plays,
    read_user_item_lists,
    split_labelled,
)
from recsys.graph.splitting import GivenSplit, RandomSplit, Split, split_interactions
from recsys.graph.triples import read_named_triples, read_triples

Layout = Literal["lists", "labelled", "plays"]

_FILES: dict[str, tuple[str, ...]] = {
    "lists": ("train.txt", "test.txt", "kg_final.txt"),
    "labelled": ("ratings_final.txt", "kg_final.txt"),
    "plays": ("user_artists.dat", "item_index2entity_id.txt", "kg.txt"),
}
_ADVICE = (
    "Get the files from https://github.com/xiangwang1223/knowledge_graph_attention_network "
    "(Data/...), https://github.com/CCIIPLab/MCCLK or https://github.com/hwwang55/KGCN "
    "(data/music), put them into one folder, and set `path` to it."
)


class KnowledgeFolder(InteractionDataset):
    """Interactions and what is known about their items.

    Args:
        config: Where the files are, and how to split.

    Raises:
        DataError: From `splits`: files are missing, cut or malformed.

    Source:
        Wang et al., "KGAT", KDD 2019; Wang et al., "Knowledge Graph Convolutional Networks for
        Recommender Systems", WWW 2019; Zou et al., "Multi-level Cross-view Contrastive Learning
        for Knowledge-aware Recommender System", SIGIR 2022.
    """

    homepage = "https://github.com/hwwang55/KGCN"
    licence = "none stated by the repositories; HetRec 2011 and Freebase (CC BY) for music"

    class Config(InteractionDataset.Config):
        """Where the files are, and how to split."""

        path: str | None = None
        """Folder with the files."""
        layout: Layout | None = None
        """Where several layouts are in one folder: which one. Else it is seen from the files."""
        split: Split | None = None
        """How pairs are split; None is as published (see above)."""
        cleaning: Cleaning = Cleaning()
        """Of ``plays``: what to merge and to leave out."""

    config: Config

    def splits(self, cache_dir: Path) -> InteractionSplits:
        """Reads the interactions."""
        del cache_dir
        files = self._files()
        if "user_artists.dat" not in files and self.config.cleaning != Cleaning():
            raise ConfigError(
                f"`cleaning` is for plays (user_artists.dat); found {list(files)}. Remove it."
            )
        if "train.txt" in files:
            rule = self.config.split or GivenSplit()
            if not isinstance(rule, GivenSplit):
                raise ConfigError(
                    f"train.txt and test.txt are split already; got split.kind={rule.kind}. Set "
                    "it to given."
                )
            lists = {"train": files["train.txt"], "test": files["test.txt"]}
            return read_user_item_lists(lists, rule)
        if "ratings_final.txt" in files:
            pairs = read_labelled_pairs(files["ratings_final.txt"])
            return split_labelled(pairs, self._rule())[0]
        plays, links = files["user_artists.dat"], files["item_index2entity_id.txt"]
        found, report = read_linked_plays(plays, links, self.config.cleaning)
        return split_interactions(found, self._rule(), report)

    def labelled(self, cache_dir: Path) -> dict[str, LabelledPairs]:
        """The pairs of every split with the negatives of the file, for AUC as published.

        Args:
            cache_dir: As for `splits`.

        Raises:
            ConfigError: The layout has no labels.
            DataError: The file is missing, cut or malformed.
        """
        del cache_dir
        files = self._files()
        if "ratings_final.txt" not in files:
            raise ConfigError(f"there are labels in ratings_final.txt only; found {list(files)}.")
        return split_labelled(read_labelled_pairs(files["ratings_final.txt"]), self._rule())[1]

    def knowledge(self, cache_dir: Path) -> KnowledgeGraph:
        """Reads the triples."""
        items, files = self.splits(cache_dir).train.items, self._files()
        if "kg.txt" in files:
            return read_named_triples(files["kg.txt"], files["item_index2entity_id.txt"], items)
        return read_triples(files["kg_final.txt"], items)

    def _rule(self) -> Split:
        return self.config.split or RandomSplit(valid=0.2, test=0.2)

    def _files(self) -> dict[str, Path]:
        """The files of the layout, by name."""
        path = needed_path(self.config.path, "A folder with a knowledge graph", _ADVICE)
        layout = self.config.layout
        if layout is None:
            folder = Path(path).expanduser()
            first = (name for name, files in _FILES.items() if (folder / files[0]).is_file())
            layout = next(first, None)
        if layout is None:
            wanted = [names[0] for names in _FILES.values()]
            raise DataError(f"expected one of {wanted} in {path}. {_ADVICE}")
        return {name: find_file(path, [name], _ADVICE) for name in _FILES[layout]}
