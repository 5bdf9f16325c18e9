import zipfile
from typing import ClassVar

import pyarrow.parquet as pq
import pytest

from recsys.data.prepare import prepare
from recsys.datasets import movielens
from recsys.datasets.movielens import MovieLens
from recsys.errors import DataError
from recsys.testing.dataset import DatasetConformance, positives, shared_pack

RATINGS = [(1, 10, 5, 100), (2, 11, 3, 101), (1, 11, 4, 102), (3, 12, 1, 103), (2, 10, 3, 104)]


def write_100k(folder):
    flags = ["0"] * 19
    comedy, war = [*flags], [*flags]
    comedy[5] = war[5] = war[17] = "1"
    films = [
        f"10|Café (1995)|01-Jan-1995||http://x|{'|'.join(comedy)}",
        f"11|Front (1960)|09-Feb-1960||http://y|{'|'.join(war)}",
        f"12|unknown||||{'|'.join(flags)}",
    ]
    (folder / "u.data").write_text("".join("\t".join(map(str, r)) + "\n" for r in RATINGS))
    (folder / "u.user").write_text("1|24|M|technician|85711\n2|53|F|other|94043\n")
    (folder / "u.item").write_bytes("".join(f"{film}\n" for film in films).encode("latin-1"))


def write_1m(folder):
    (folder / "ratings.dat").write_text("".join("::".join(map(str, r)) + "\n" for r in RATINGS))
    (folder / "users.dat").write_text("1::M::24::12::85711\n2::F::50::0::94043\n")
    films = "10::Café (1995)::Comedy\n11::Front: a::b (1960)::Comedy|War\n"
    (folder / "movies.dat").write_bytes(films.replace("a::b", "a:b").encode("latin-1"))


def write_recbole(folder):
    rows = "".join("\t".join(map(str, r)) + "\n" for r in RATINGS)
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / "ml-100k.inter").write_text(head + rows)
    head = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    (folder / "ml-100k.user").write_text(f"{head}1\t24\tM\ttechnician\t85711\n2\t53\tF\tother\t9\n")
    head = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    films = "10\tCafé\t1995\tComedy\n11\tFront\t1960\tComedy War\n"
    (folder / "ml-100k.item").write_text(head + films)


WRITE = {"100k": write_100k, "1m": write_1m, "recbole": write_recbole}


class TestMovieLens(DatasetConformance):
    dataset = MovieLens
    counts: ClassVar = {"train": 3, "valid": 1, "test": 1}

    def config(self, folder):
        write_recbole(folder)
        return MovieLens.Config(edition="recbole", path=str(folder), valid=0.2, test=0.2)

    def test_by_time(self, tmp_path):
        data = self.made(tmp_path)
        prepared = prepare(data.schema(), data.splits(tmp_path), tmp_path / "prepared")
        assert positives(prepared) == {"train": 2, "valid": 0, "test": 0}


@pytest.mark.parametrize("edition", ["100k", "1m", "recbole"])
def test_joined_features_by_hand(tmp_path, edition):
    WRITE[edition](tmp_path)
    data = MovieLens(MovieLens.Config(edition=edition, path=str(tmp_path)))
    table = pq.read_table(data.splits(tmp_path / "cache").source.files[0])
    first, second, fourth = (table.slice(k, 1).to_pylist()[0] for k in (0, 1, 3))
    assert (first["user_id"], first["item_id"], first["rating"]) == ("1", "10", "5")
    assert (first["gender"], first["age"], first["zip_code"]) == ("M", "24", "85711")
    assert (first["release_year"], first["genres"]) == ("1995", ["Comedy"])
    assert second["genres"] == ["Comedy", "War"] and second["release_year"] == "1960"
    assert fourth["gender"] is None  # user 3 is not among the users
    assert fourth["genres"] in (None, []) and fourth["release_year"] is None
    assert [path.name for path in (tmp_path / "cache").glob("*/*")] == ["rows.parquet"]


def test_threshold_and_ignore(tmp_path):
    write_100k(tmp_path)

    def counted(**options):
        config = MovieLens.Config(path=str(tmp_path), valid=0, test=0, **options)
        data = MovieLens(config)
        prepared = prepare(data.schema(), data.splits(tmp_path / "cache"), tmp_path / "prepared")
        return prepared.split_rows["train"], positives(prepared)["train"], prepared.counts

    assert counted()[:2] == (5, 2)
    assert counted(threshold=3.0)[:2] == (5, 4)
    rows, clicks, counts = counted(ignore=(3.0,))
    assert (rows, clicks, counts["ignored_rows"]) == (3, 2, 2)


def test_without_side_features():
    schema = MovieLens(MovieLens.Config(side_features=False)).schema()
    assert schema.keys == ("user_id", "item_id")


def test_random_split(tmp_path):
    write_100k(tmp_path)
    splits = MovieLens(MovieLens.Config(path=str(tmp_path), split="random", seed=3)).splits(
        tmp_path
    )
    assert (splits.kind, splits.seed) == ("random", 3)


def test_errors_name_the_users_own_file(tmp_path):
    write_1m(tmp_path)
    (tmp_path / "ratings.dat").write_text("1::10::5::100\n1::10::5\n")
    data = MovieLens(MovieLens.Config(edition="1m", path=str(tmp_path)))
    with pytest.raises(DataError, match=r"(?s)expected 4 cells, got 3.*ratings.dat, row 2"):
        data.splits(tmp_path / "cache")
    write_recbole(tmp_path)
    (tmp_path / "ml-100k.user").write_text("user_id:token\tage:token\n1\t2\n")
    data = MovieLens(MovieLens.Config(edition="recbole", path=str(tmp_path)))
    with pytest.raises(DataError, match=r"columns are missing: `gender`.*(?s:.)*ml-100k.user"):
        data.splits(tmp_path / "cache")
    write_recbole(tmp_path)
    users = tmp_path / "ml-100k.user"
    users.write_bytes(users.read_bytes().replace(b"other", b"\xff"))
    with pytest.raises(DataError, match=r"(?s)expected UTF-8, got b'\\xff'.*ml-100k.user, row 2"):
        data.splits(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))


def test_missing_files_say_where_to_get_them(tmp_path):
    with pytest.raises(DataError, match=r"expected `u.data` in .*ml-100k.zip.*set `path`"):
        MovieLens(MovieLens.Config(path=str(tmp_path))).splits(tmp_path)
    with pytest.raises(DataError, match=r"RecBole's ml-100k cannot be fetched.*RUCAIBox/RecBole"):
        MovieLens(MovieLens.Config(edition="recbole")).splits(tmp_path)


def test_a_fetched_archive_is_unpacked_once(tmp_path, monkeypatch):
    """All but the download itself, which only the test below does."""
    inside = tmp_path / "inside"
    inside.mkdir()
    write_100k(inside)
    archive, asked = tmp_path / "ml-100k.zip", []
    with zipfile.ZipFile(archive, "w") as files:
        for path in inside.iterdir():
            files.write(path, f"ml-100k/{path.name}")

    def fetched(url, checksum, cache_dir):
        asked.append((url, checksum))
        return archive

    monkeypatch.setattr(movielens, "fetch", fetched)
    data = MovieLens(MovieLens.Config())
    table = pq.read_table(data.splits(tmp_path / "cache").source.files[0])
    assert table.num_rows == 5
    assert asked == [movielens._ARCHIVES["100k"]]
    assert data.splits(tmp_path / "cache") == data.splits(tmp_path / "cache")


@pytest.mark.network
def test_fetched(tmp_path):
    splits = MovieLens(MovieLens.Config(edition="1m")).splits(tmp_path)
    assert pq.read_metadata(splits.source.files[0]).num_rows == 1_000_209


def test_the_real_pack(tmp_path):
    folder = shared_pack("ml100k_recbole", "ml100k_recbole")
    data = MovieLens(MovieLens.Config(edition="recbole", path=str(folder)))
    splits = data.splits(tmp_path)
    table = pq.read_table(splits.source.files[0])
    assert table.num_rows == 100_000
    assert len(set(table["user_id"].to_pylist())) == 943
    assert len(set(table["item_id"].to_pylist())) == 1_682
    assert table["gender"].null_count == 0
    prepared = prepare(data.schema(), splits, tmp_path / "prepared")
    assert sum(prepared.split_rows.values()) == 100_000
    assert sum(positives(prepared).values()) == 55_375  # ratings of 4 and 5
