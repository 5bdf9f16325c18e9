from typing import ClassVar

import pytest

from recsys.datasets.movielens_side import MovieLensSide
from recsys.errors import DataError
from recsys.testing.aspect_dataset import AspectDatasetConformance
from recsys.testing.dataset import shared_pack

FILMS = (
    "1::One::1995::G::x::Drama, War::Ann A::Ann A (story), Bob B (play)::Cy C, Di D::Plot 1.::u\n"
    "2::Two::1995::G::x::Drama::Ann A::Bob B::Di D::N/A::u\n"
    "4::Four::1995::G::x::N/A::Eve E::N/A::N/A::Plot 4.::u\n"
)
OWN = "1::One (1995)::War\n2::Two (1995)::War|Comedy\n4::Four (1995)::Comedy\n"


def write(folder, films=FILMS, **more):
    (folder / "movies_extrainfos.dat").write_text(films)
    (folder / "movies.dat").write_text(OWN)
    return MovieLensSide.Config(path=str(folder), **more)


class TestMovieLensSide(AspectDatasetConformance):
    dataset = MovieLensSide
    pairs: ClassVar = {"genre": 1, "director": 1, "writers": 1, "cast": 1}

    def config(self, folder):
        return write(folder, rule={"valid": 0, "test": 0.34})


def test_labels_texts_and_own_genres(tmp_path):
    table = MovieLensSide(write(tmp_path)).table(tmp_path)
    assert table.labels_of(0) == {
        "genre": ["Drama", "War"], "director": ["Ann A"], "writers": ["Ann A", "Bob B"],
        "cast": ["Cy C", "Di D"],
    }  # fmt: skip
    assert table.texts == ("Plot 1.", "", "Plot 4.") and table.report["items_without_text"] == 1
    config = write(tmp_path, genres="movielens", aspects=("genre",), title=True)
    table = MovieLensSide(config).table(tmp_path)
    assert table.report["pairs:genre"] == 2 and table.texts[0] == "One: Plot 1."


@pytest.mark.parametrize(
    ("films", "text"),
    [
        (FILMS + "5::Five\n", r"expected an id and 10 more cells .* got 2 .*\n.*row 4"),
        (FILMS.replace("4::Four", "x::Four"), "expected an id and 10 more cells"),
        (FILMS.replace("4::Four", "2::Four"), "film 2 is there twice"),
    ],
)
def test_what_is_refused(tmp_path, films, text):
    with pytest.raises(DataError, match=text):
        MovieLensSide(write(tmp_path, films)).table(tmp_path)


def test_the_real_pack(tmp_path):
    path = str(shared_pack("ml1m_side", "ml1m_side_melu"))
    people = ("director", "writers", "cast")
    table = MovieLensSide(MovieLensSide.Config(path=path, aspects=people)).table(tmp_path)
    assert len(table) == 3881 and table.report["items_without_text"] == 36
    assert [table.report[f"labels:{name}"] for name in people] == [2185, 5403, 7977]
    assert [table.report[f"pairs:{name}"] for name in people] == [6658, 7161, 27_061]
