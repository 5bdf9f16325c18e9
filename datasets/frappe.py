"""Frappe: which app was used in which context. libfm files, the Frappe_x1 split of BARS.

Source: github.com/hexiangnan/neural_factorization_machine (folder ``data/frappe``), also
huggingface.co/datasets/reczoo/Frappe_x1. Licence: research use, no redistribution, so it is not
fetched. Split: given files, drawn at random by the authors (70 / 20 / 10 %).

Schema: ten ids a row (user, item and eight of context), one label. Ids are numbered across all
fields, 5,382 in the three files together.

Traps:
    - The negatives are made: two for every positive, same user and context, another item. A share
      of positives of 1 / 3 says nothing about real click rates.
    - Labels are 1 and -1.
    - It is small and easy: 16 wide tables and no regularisation overfit within a few epochs, so
      choose the epoch on validation.
    - Users, items and contexts repeat across the splits: results do not say how a model treats
      later data.
    - BARS reports the test file; its figures belong to that file only.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from recsys.data.dataset import Dataset
from recsys.data.files import find_file, needed_path
from recsys.data.source import GivenSplits, Source
from recsys.errors import DataError
from recsys.schema import Categorical, Label, Schema

FIELDS = (
    "user",
    "item",
    "daytime",
    "weekday",
    "isweekend",
    "homework",
    "cost",
    "weather",
    "country",
    "city",
)
"""The ten fields, in the files' order."""

_NAMES = {
    "train": ("frappe.train.libfm", "frappe.train.rebuilt.libfm"),
    "valid": ("frappe.validation.libfm",),
    "test": ("frappe.test.libfm",),
}
_ADVICE = (
    "Get frappe.train.libfm, frappe.validation.libfm and frappe.test.libfm from "
    "https://github.com/hexiangnan/neural_factorization_machine/tree/master/data/frappe, put them "
    "into one folder, and set `path` to that folder."
)


class Frappe(Dataset):
    """App usage log with ten categorical fields.

    Args:
        config: Where the files are.

    Raises:
        DataError: From `splits`: the training or validation file is missing.

    Source:
        Baltrunas et al., "Frappe: Understanding the Usage and Perception of Mobile App
        Recommendations In-The-Wild", 2015; files of He and Chua, "Neural Factorization Machines",
        SIGIR 2017.

    Example:
        >>> Frappe(Frappe.Config(path="data/frappe")).schema().keys[:3]
        ('user', 'item', 'daytime')
    """

    homepage = "https://github.com/hexiangnan/neural_factorization_machine"
    licence = "research use only, no redistribution"

    class Config(Dataset.Config):
        """Where the files are."""

        path: str | None = None
        """Folder with the libfm files. The test file may be absent."""
        min_count: int = Field(default=1, ge=1)
        """Rarer ids share the OOV row."""

    config: Config

    def schema(self) -> Schema:
        """Ten ids and a label."""
        return Schema(
            features=tuple(
                Categorical(name=name, dtype="int", min_count=self.config.min_count)
                for name in FIELDS
            ),
            labels=(Label(name="label", threshold=0.5),),
            group="user",
        )

    def splits(self, cache_dir: Path) -> GivenSplits:
        """The libfm files as they are."""
        del cache_dir
        path = needed_path(self.config.path, "Frappe", _ADVICE)
        train, valid = (
            self._source(find_file(path, _NAMES[s], _ADVICE)) for s in _NAMES if s != "test"
        )
        try:
            test = self._source(find_file(path, _NAMES["test"], _ADVICE))
        except DataError:
            test = None
        return GivenSplits(train=train, valid=valid, test=test)

    def _source(self, file: Path) -> Source:
        return Source(files=(str(file),), format="libfm", columns=("label", *FIELDS))
