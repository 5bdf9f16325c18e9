import numpy as np
import pytest

from recsys.datasets.onet import ONet
from recsys.errors import DataError
from recsys.testing.any_dataset import AnyDatasetConformance
from recsys.testing.dataset import shared_pack

FILES = {
    "Occupation Data": "O*NET-SOC Code\tTitle\tDescription\n11\tChief\tLeads.\n12\tNurse\tCares.\n",
    "Alternate Titles": "O*NET-SOC Code\tAlternate Title\tShort Title\n"
    + "".join(f"11\tChief {n}\tn/a\n" for n in range(10))
    + "".join(f"12\tNurse {n}\tn/a\n" for n in range(9))
    + "12\tChief 0\tn/a\n",
    "Technology Skills": "O*NET-SOC Code\tExample\tCommodity Title\n11\tExcel\tSheets\n"
    "11\tCalc\tSheets\n12\tExcel\tSheets\n12\tEpic\tMedical\n",
}


def write(folder, **other):
    for name, text in FILES.items():
        (folder / f"{name}.txt").write_text(other.get(name.split()[0], text))
    return {"path": str(folder)}


class TestONet(AnyDatasetConformance):
    dataset = ONet

    def config(self, folder):
        return ONet.Config(**write(folder), min_times=1)


def test_titles_occupations_and_skills(tmp_path):
    data = ONet(ONet.Config(**write(tmp_path), min_times=1))
    found = data.matches(tmp_path)
    assert found.items.values.tolist() == ["11", "12"]
    assert found.item_texts == ("Chief. Leads.", "Nurse. Cares.")
    assert found.concepts.values.tolist() == ["Medical", "Sheets"]
    assert found.item_concepts.keys.tolist() == [1, 2, 3]
    assert sum(len(split) for _, split in found.relevance.items()) == 20
    # 19 titles: 2 to validate, 4 to test. Training titles know what their occupations need.
    degrees = found.query_concepts.user_degrees()
    train = np.unique(found.relevance.train.user)
    assert len(train) == 13 and (degrees[train] > 0).all() and degrees.astype(bool).sum() == 13
    again = data.matches(tmp_path)
    np.testing.assert_array_equal(again.relevance.test.keys, found.relevance.test.keys)
    plain = ONet(data.config.model_copy(update={"title_concepts": False})).matches(tmp_path)
    assert len(plain.query_concepts) == 0
    np.testing.assert_array_equal(plain.relevance.test.keys, found.relevance.test.keys)


def test_examples_and_rare_concepts(tmp_path):
    config = ONet.Config(**write(tmp_path), concepts="example", min_times=2)
    found = ONet(config).matches(tmp_path)
    assert found.concepts.values.tolist() == ["Excel"] and found.report["rare_concepts"] == 2


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"Occupation": "O*NET-SOC Code\tTitle\tDescription\n1\ta\tb\n1\ta\tb\n"}, "there twice"),
        ({"Occupation": "O*NET-SOC Code\tTitle\n1\ta\n"}, "Description"),
        ({"Alternate": "O*NET-SOC Code\tAlternate Title\n1\t\n"}, "expected a value, got nothing"),
        ({"Technology": "O*NET-SOC Code\tCommodity Title\n77\tSheets\n"}, "no concept is left"),
    ],
)
def test_what_is_refused(tmp_path, other, text):
    with pytest.raises(DataError, match=text):
        ONet(ONet.Config(**write(tmp_path, **other))).matches(tmp_path)


def test_the_real_pack(tmp_path):
    path = str(shared_pack("onet", "onet"))
    found = ONet(ONet.Config(path=path)).matches(tmp_path)
    assert len(found.items) == 1016
    assert sum(len(split) for _, split in found.relevance.items()) == 52_752
    assert found.report["unknown_rows"] == 0 and found.report["items_without_concept"] == 106
