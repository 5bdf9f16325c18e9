"""Last.fm: who listened to which artist how often, and who trusts whom.

Source: the folder ``data/lastfm`` of gusye1234/LightGCN-PyTorch, made from HetRec 2011 (Last.fm,
http://www.lastfm.com). Licence: HetRec 2011's (no commercial use, citation asked for). Lines are
``user <tab> artist <tab> plays``. 1,892 users (ids from 1; 12 of them only in the trust network),
4,489 artists, 42,135 pairs to train on and 10,533 for test. Split: as given, a fifth at random over
all pairs; ``split.valid`` of every user's training items validates.

Traps:
    - Two users of the test file have no training item, and 41 test pairs are about 13 artists
      that training does not know. They stay in, and are counted in the report.
    - Plays span five powers of ten; they are weights. Published figures do not use them.
    - Other sets are called Last.fm too: KGCN's (`recsys.datasets.knowledge_folder`) keeps other
      pairs of the same log, KGAT's is another log.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recsys.data.files import find_file, needed_path
from recsys.graph.dataset import InteractionDataset
from recsys.graph.interactions import InteractionSplits
from recsys.graph.number_files import read_columns
from recsys.graph.readers import read_weighted_pairs
from recsys.graph.splitting import GivenSplit

_ADVICE = (
    "Get data1.txt, test1.txt and trustnetwork.txt from "
    "https://github.com/gusye1234/LightGCN-PyTorch (data/lastfm), put them into one folder, and "
    "set `path` to it."
)


class LastFM(InteractionDataset):
    """Plays of artists, with a network of trust between users.

    Args:
        config: Where the files are, and which part of train validates.

    Raises:
        DataError: From `splits`: files are missing, cut or malformed.

    Source:
        Cantador, Brusilovsky and Kuflik, "2nd Workshop on Information Heterogeneity and Fusion in
        Recommender Systems (HetRec 2011)", RecSys 2011; split of He et al., "LightGCN", SIGIR 2020.
    """

    homepage = "https://grouplens.org/datasets/hetrec-2011/"
    licence = "HetRec 2011: no commercial use, citation asked for"

    class Config(InteractionDataset.Config):
        """Where the files are, and which part of train validates."""

        path: str | None = None
        """Folder with the files. ``trustnetwork.txt`` may be absent; then users without a pair are
        not known."""
        split: GivenSplit = GivenSplit()
        """Which part of train validates."""

    config: Config

    def splits(self, cache_dir: Path) -> InteractionSplits:
        """Reads both files of plays."""
        del cache_dir
        path = needed_path(self.config.path, "Last.fm", _ADVICE)
        files = {
            split: find_file(path, [file], _ADVICE)
            for split, file in (("train", "data1.txt"), ("test", "test1.txt"))
        }
        return read_weighted_pairs(files, self.config.split, np.unique(self._trust()))

    def trust(self, cache_dir: Path) -> np.ndarray:
        """Who trusts whom, by number of user.

        Args:
            cache_dir: As for `splits`.

        Returns:
            (2, pairs) int64: who, and whom. Without pairs where the file is absent.

        Raises:
            DataError: The file is cut or malformed.
        """
        users = self.splits(cache_dir).train.users
        return np.stack([users.numbers(ids) for ids in self._trust()])

    def _trust(self) -> np.ndarray:
        """The trust network by id, (2, pairs)."""
        path = needed_path(self.config.path, "Last.fm", _ADVICE)
        file = Path(path).expanduser() / "trustnetwork.txt"
        if not file.is_file():
            return np.empty((2, 0), np.int64)
        return np.stack(read_columns(file, ("user", "trusted")))
