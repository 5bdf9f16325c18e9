import zipfile

import numpy as np
import pytest

from recsys.datasets.skill2vec import Skill2vec
from recsys.errors import DataError
from recsys.testing.any_dataset import AnyDatasetConformance
from recsys.testing.dataset import shared_pack

# Twenty ads of two titles; every ad has SQL, coders have Java too, and each ad one skill alone.
LINES = "".join(
    f"{n},{'Coder' if n % 2 else ' data  Clerk'},SQL,{'JAVA' if n % 2 else ''},own {n},,\n"
    for n in range(20)
)


def data(folder, text=LINES, **more):
    (folder / "ads.csv").write_text(text)
    more = {"min_skill": 2, "min_title": 2} | more
    return Skill2vec(Skill2vec.Config(path=str(folder), **more))


class TestSkill2vec(AnyDatasetConformance):
    dataset = Skill2vec

    def config(self, folder):
        return data(folder).config


def test_ads_titles_and_skills(tmp_path):
    found = data(tmp_path).matches(tmp_path)
    assert found.items.values.tolist() == ["coder", "data clerk"]
    assert found.concepts.values.tolist() == ["java", "sql"]
    assert found.query_texts[:2] == ("sql", "java, sql")
    assert found.item_concepts.keys.tolist() == [0, 1, 3]
    assert [len(split) for _, split in found.relevance.items()] == [14, 2, 4]
    assert (found.report["ads"], found.report["ads_left_out"]) == (20, 0)


def test_items_learn_from_training_ads_alone(tmp_path):
    """A skill of one held-out ad of twenty is not among its title's."""
    first = data(tmp_path, min_skill=1, min_share=0.01).matches(tmp_path)
    train = set(first.relevance.train.users.values[first.relevance.train.user].tolist())
    told = set(first.concepts.values[first.item_concepts.item].tolist())
    assert {name for name in told if name.startswith("own")} == {f"own {n}" for n in train}
    again = data(tmp_path, min_skill=1, min_share=0.01).matches(tmp_path)
    np.testing.assert_array_equal(first.item_concepts.keys, again.item_concepts.keys)


def test_a_zip_is_read_without_unpacking(tmp_path):
    with zipfile.ZipFile(tmp_path / "ads.csv.zip", "w") as archive:
        archive.writestr("ads.csv", LINES)
        archive.writestr("__MACOSX/._ads.csv", "x")
    config = Skill2vec.Config(path=str(tmp_path), min_skill=2, min_title=2)
    assert len(Skill2vec(config).matches(tmp_path).queries) == 20
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ads.csv.zip"]
    (tmp_path / "ads.csv.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"not readable.*skill2vec-dataset"):
        Skill2vec(config).matches(tmp_path)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("0,a,b\nx,a,b\n", r"expected a number, a title and skills, got 'x,a,b'.*\n.*row 2"),
        ("0,a,b\n0,a,b\n", "ad 0 is there twice"),
        ("0,a,\n1,a,\n", "no ad is left of 2"),
        ("", "no ad is left of 0"),
    ],
)
def test_what_is_refused(tmp_path, text, error):
    with pytest.raises(DataError, match=error):
        data(tmp_path, text).matches(tmp_path)


@pytest.mark.slow
def test_the_real_pack(tmp_path):
    path = str(shared_pack("skill2vec", "skill2vec"))
    found = Skill2vec(Skill2vec.Config(path=path)).matches(tmp_path)
    assert found.report["ads"] == 50_000 and found.report["ads_left_out"] == 18_844
    assert (len(found.queries), len(found.items)) == (31_156, 1642)
