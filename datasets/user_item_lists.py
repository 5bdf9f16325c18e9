"""Folders with ``user item item ...`` lines: the split data of LightGCN, NGCF and UltraGCN.

| set | source (folder ``data`` or ``Data``) | users | items | train | test |
|---|---|---|---|---|---|
| Gowalla | gusye1234/LightGCN-PyTorch | 29,858 | 40,981 | 810,128 | 217,242 |
| ML-1M | xue-pai/UltraGCN | 6,022 | 3,043 | 796,244 | 99,455 |
| Electronics | xue-pai/UltraGCN | 1,435 | 1,522 | 31,887 | 4,044 |

Yelp2018 and Amazon-Book of the same repositories have the same form. Licence: none stated by the
repositories; each log has its owner's terms. Split: as given (a fifth of every user's items at
random is test; ML-1M and Electronics: a tenth, and their validation tenth was not published), and
``split.valid`` of every user's training items for validation.

Traps:
    - Published figures choose epochs and hyperparameters on test. Here they are chosen on the
      validation part; train once more with ``split.valid: 0`` for figures that compare.
    - NDCG of NGCF's and KGAT's own scripts is wrong (ideal gain of the retrieved list).
    - The split is at random: a user's later items help to guess earlier ones.
    - Several sets are called Gowalla; counts tell them apart.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path

from recsys.data.files import find_file, needed_path
from recsys.graph.dataset import InteractionDataset
from recsys.graph.interactions import InteractionSplits
from recsys.graph.readers import read_user_item_lists
from recsys.graph.splitting import GivenSplit

_ADVICE = (
    "Get train.txt and test.txt from https://github.com/gusye1234/LightGCN-PyTorch (data/gowalla, "
    "data/yelp2018, data/amazon-book) or https://github.com/xue-pai/UltraGCN (data/ml-1m, "
    "data/electronics), put them into one folder, and set `path` to it."
)


class UserItemLists(InteractionDataset):
    r"""Interactions that come split, a user and the user's items in a line.

    Args:
        config: Where the files are, and which part of train validates.

    Raises:
        DataError: From `splits`: files are missing, cut or malformed.

    Source:
        He et al., "LightGCN", SIGIR 2020; Mao et al., "UltraGCN", CIKM 2021; Wang et al., "Neural
        Graph Collaborative Filtering", SIGIR 2019.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "train.txt").write_text("0 5 6\n1 5\n")
        ...     _ = (Path(folder) / "test.txt").write_text("0 7\n1 6\n")
        ...     data = UserItemLists(UserItemLists.Config(path=folder))
        ...     splits = data.splits(Path(folder))
        >>> splits.test.items.values[splits.test.item].tolist()
        [7, 6]
    """

    homepage = "https://github.com/gusye1234/LightGCN-PyTorch"
    licence = "none stated by the repositories; the terms of each log hold"

    class Config(InteractionDataset.Config):
        """Where the files are, and which part of train validates."""

        path: str | None = None
        """Folder with the files."""
        train_file: str | None = None
        """Name of the training file, where it is not ``train.txt`` (or ``train.rebuilt.txt``)."""
        test_file: str | None = "test.txt"
        """Name of the test file; None where there is none."""
        valid_file: str | None = None
        """Name of the validation file, where there is one."""
        original_ids: bool = False
        """Take the ids of ``user_list.txt`` and ``item_list.txt`` instead of the numbers."""
        split: GivenSplit = GivenSplit()
        """Which part of train validates."""

    config: Config

    def splits(self, cache_dir: Path) -> InteractionSplits:
        """Reads the lists."""
        del cache_dir
        config = self.config
        path = needed_path(config.path, "A folder of lists", _ADVICE)
        train = [config.train_file] if config.train_file else ["train.txt", "train.rebuilt.txt"]
        files = {"train": find_file(path, train, _ADVICE)}
        for name, file in (("valid", config.valid_file), ("test", config.test_file)):
            if file is not None:
                files[name] = find_file(path, [file], _ADVICE)
        names = None
        if config.original_ids:
            names = {
                node: find_file(path, [f"{node}_list.txt"], _ADVICE) for node in ("user", "item")
            }
        return read_user_item_lists(files, config.split, names)
