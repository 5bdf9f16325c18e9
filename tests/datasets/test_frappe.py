from typing import ClassVar

import pytest

from recsys.data.prepare import prepare
from recsys.datasets.frappe import Frappe
from recsys.errors import DataError
from recsys.testing.dataset import DatasetConformance, positives, shared_pack

LINES = [
    "1 5:1 20:1 30:1 31:1 32:1 33:1 34:1 35:1 36:1 37:1",
    "-1 5:1 21:1 30:1 31:1 32:1 33:1 34:1 35:1 36:1 37:1",
    "-1 6:1 22:1 30:1 31:1 32:1 33:1 34:1 35:1 36:1 38:1",
]


class TestFrappe(DatasetConformance):
    dataset = Frappe
    counts: ClassVar = {"train": 3, "valid": 2, "test": 1}

    def config(self, folder):
        for name, count in (("train", 3), ("validation", 2), ("test", 1)):
            lines = "".join(f"{line}\n" for line in LINES[:count])
            (folder / f"frappe.{name}.libfm").write_text(lines)
        return Frappe.Config(path=str(folder))

    def test_labels_and_ids_by_hand(self, tmp_path):
        data = self.made(tmp_path)
        prepared = prepare(data.schema(), data.splits(tmp_path), tmp_path / "prepared")
        assert positives(prepared) == {"train": 1, "valid": 1, "test": 1}
        # PAD and OOV come on top of the ids: two users, three items, one daytime.
        sizes = prepared.schema.num_embeddings()
        assert (sizes["user"], sizes["item"], sizes["daytime"], sizes["city"]) == (4, 5, 3, 4)


def test_the_test_file_may_be_absent_but_not_the_others(tmp_path):
    folder = tmp_path / "frappe"
    folder.mkdir()
    (folder / "frappe.train.rebuilt.libfm").write_text(LINES[0])
    data = Frappe(Frappe.Config(path=str(folder)))
    with pytest.raises(DataError, match=r"expected `frappe.validation.libfm` in .*neural_fact"):
        data.splits(tmp_path)
    (folder / "frappe.validation.libfm").write_text(LINES[0])
    assert data.splits(tmp_path).test is None


def test_without_a_path_it_says_where_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"Frappe cannot be fetched.*`path` is needed. Get frappe"):
        Frappe(Frappe.Config()).splits(tmp_path)


def test_the_real_pack(tmp_path):
    folder = shared_pack("frappe_trainval", "frappe")
    data = Frappe(Frappe.Config(path=str(folder)))
    prepared = prepare(data.schema(), data.splits(tmp_path), tmp_path / "prepared")
    assert prepared.split_rows == {"train": 202_027, "valid": 57_722}
    assert positives(prepared) == {"train": 67_604, "valid": 19_063}
    # 5,382 ids in all three files; three users are not among the training rows.
    lines = (folder / "frappe.train.rebuilt.libfm").read_text().split()
    seen = {cell for cell in lines if ":" in cell}
    assert len(seen) == 5_379
    assert sum(prepared.schema.num_embeddings().values()) - 2 * 10 == len(seen)
    assert prepared.schema.num_embeddings()["user"] - 2 == 957 - 3
