"""Folders of CrossCBR's form: users, bundles and items as numbers, users' bundles already split.

| set | users | bundles | items | user-bundle | user-item | bundle-item |
|---|---|---|---|---|---|---|
| Youshu | 8,039 | 4,771 | 32,770 | 34,416 + 5,189 + 9,746 | 138,515 | 176,667 |
| NetEase | 18,528 | 22,864 | 123,628 | 302,303 | 1,128,065 | 1,778,838 |
| iFashion | 53,897 | 27,694 | 42,563 | 1,679,708 | 2,290,645 | 106,916 |

Source: github.com/mysbupt/CrossCBR (and MultiCBR, BundleGT: the same files). Licence: none stated.
Files: ``user_bundle_train.txt``, ``user_bundle_tune.txt``, ``user_bundle_test.txt``,
``user_item.txt``, ``bundle_item.txt`` with two numbers in a line, and ``<name>_data_size.txt`` (or
``count.json``) with the number of users, bundles and items. Without a size file numbers that occur
are the ids. Split: as given, 7 : 1 : 2 over pairs.

Counts of the table are published ones (the split of Youshu was counted), not checked here.

Traps:
    - Youshu was published with 51,377 pairs; its split files hold 49,351.
    - Published figures mask training pairs alone at test: validation bundles stay candidates.
    - Published runs choose epochs on validation@20, with recall and NDCG both better.

Stability: caller
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from recsys.data.files import find_file, needed_path
from recsys.errors import DataError
from recsys.graph.bundle_assembly import BundleCleaning, BundleNames, assemble
from recsys.graph.bundle_dataset import BundleDataset
from recsys.graph.bundles import BundleData
from recsys.graph.interactions import Names
from recsys.graph.number_files import read_columns, read_numbers
from recsys.graph.splitting import GivenSplit

_ADVICE = (
    "Get dataset.tgz from https://github.com/mysbupt/CrossCBR, unpack it, and set `path` to the "
    "folder of one data set."
)


class BundleFolder(BundleDataset):
    r"""Bundles in text files of numbers.

    Args:
        config: Where the files are, and what to refuse.

    Raises:
        DataError: From `bundle_data`: files are missing, cut or malformed.

    Source:
        Ma et al., "CrossCBR", KDD 2022; the sets are of Cao et al. 2017 (NetEase), Chen et al. 2019
        (Youshu, "Matching User with Item Set") and Chen et al. 2019 (iFashion, "POG").

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, text in {"user_bundle_train": "0\t0\n1\t1\n", "user_item": "0\t2\n",
        ...                        "user_bundle_test": "1\t0\n", "bundle_item": "0\t0\n1\t1\n",
        ...                        "toy_data_size": "2\t2\t4\n"}.items():
        ...         _ = (Path(folder) / f"{name}.txt").write_text(text)
        ...     data = BundleFolder(BundleFolder.Config(path=folder)).bundle_data(Path(folder))
        >>> data.num_items, data.report["items_without_bundle"], len(data.user_bundle.test)
        (4, 2, 1)
    """

    homepage = "https://github.com/mysbupt/CrossCBR"
    licence = "none stated by the repository"

    class Config(BundleDataset.Config):
        """Where the files are, and what to refuse."""

        path: str | None = None
        """Folder with the files."""
        split: GivenSplit = GivenSplit()
        """Which part of train validates where there is no ``user_bundle_tune.txt``."""
        cleaning: BundleCleaning = BundleCleaning()
        """What becomes of empty bundles, and of numbers beyond the size file."""

    config: Config

    def bundle_data(self, cache_dir: Path) -> BundleData:
        """Reads the files."""
        del cache_dir
        path = needed_path(self.config.path, "A folder of bundles", _ADVICE)
        taken = {"train": _pairs(path, "user_bundle_train.txt", ("user", "bundle"))}
        folder = Path(path).expanduser()
        for part, file in (("valid", "tune"), ("test", "test")):
            if (folder / f"user_bundle_{file}.txt").is_file():
                taken[part] = _pairs(path, f"user_bundle_{file}.txt", ("user", "bundle"))
        content = _pairs(path, "bundle_item.txt", ("bundle", "item"))
        alone = None
        if (folder / "user_item.txt").is_file():
            alone = _pairs(path, "user_item.txt", ("user", "item"))
        return assemble(
            taken, content, alone, _sizes(folder), self.config.split, self.config.cleaning
        )


def _pairs(path: str, name: str, columns: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    found = read_columns(find_file(path, [name], _ADVICE), columns)
    return found[0], found[1]


def _sizes(folder: Path) -> BundleNames:
    """Ids from 0 by the size file; no names where there is none."""
    files = sorted(folder.glob("*_size.txt"))
    if len(files) > 1:
        raise DataError(
            f"expected one size file in {folder}, got {[file.name for file in files]}. Keep the "
            "one of this data set."
        )
    if files:
        numbers = read_numbers(files[0]).values.tolist()
        if len(numbers) != 3:
            raise DataError(
                f"expected the numbers of users, bundles and items, got {len(numbers)} numbers.",
                file=str(files[0]),
            )
        return BundleNames(*(Names(np.arange(number)) for number in numbers))
    file = folder / "count.json"
    if not file.is_file():
        return BundleNames()
    try:
        found = json.loads(file.read_text("utf-8"))
        numbers = [found[name] for name in ("#U", "#B", "#I")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"expected an object with the numbers #U, #B and #I, got: {error!r}.", file=str(file)
        ) from None
    if not all(type(number) is int and number > 0 for number in numbers):
        raise DataError(f"expected numbers above 0, got {numbers}.", file=str(file))
    return BundleNames(*(Names(np.arange(number)) for number in numbers))
