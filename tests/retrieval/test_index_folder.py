import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from recsys.errors import CheckpointError, DataError
from recsys.retrieval.adapter import CosineAdapter
from recsys.retrieval.index import Index
from recsys.retrieval.prefix_codes import PrefixCodes
from recsys.retrieval.product_codes import ProductCodes
from recsys.retrieval.recurrent_codes import RecurrentCodes
from recsys.retrieval.rows import Rows
from recsys.retrieval.scalar_codes import ScalarCodes
from recsys.retrieval.sign_codes import SignCodes

RANDOM = np.random.default_rng(0)
VECTORS, QUERIES = RANDOM.normal(size=(300, 12)), RANDOM.normal(size=(9, 12))
META = pa.table({"price": RANDOM.integers(0, 9, 300), "kind": RANDOM.choice(["x", "y"], 300)})


def made(codes=None):
    ids = [f"item {n}" for n in range(300)]
    index = Index(VECTORS, ids, META, prior=range(300), version="v1", codes=codes, rescore=3)
    index.delete(ids[10:40])
    index.upsert(VECTORS[:5] * 2, ids[5:10], meta=META.slice(0, 5))
    return index


EVERY = [
    None,
    ScalarCodes(4, dims=8),
    SignCodes(2),
    PrefixCodes(5, bits=16, normalize=True),
    PrefixCodes(5, bits=8),
    ProductCodes(5),
    RecurrentCodes(11, levels=3, hidden=8, epochs=1),
]


@pytest.mark.parametrize("codes", EVERY, ids=lambda codes: "float" if codes is None else codes.name)
def test_a_loaded_index_finds_the_same(codes, tmp_path):
    index = made(codes)
    again = Index.load(index.save(tmp_path / "index"), version="v1")
    assert again.ids.tolist() == index.ids.tolist() and again.row_bytes == index.row_bytes
    assert again.meta.equals(index.meta.combine_chunks())
    queries = np.vstack([QUERIES, np.zeros((1, 12))])
    one, two = (i.search(queries, 7, exact=True) for i in (index, again))
    assert one.ids.tolist() == two.ids.tolist()
    assert one.scores.tobytes() == two.scores.tobytes()
    # Without the rows of deleted items plans are the same too.
    index, again = again, Index.load(again.save(tmp_path / "again"), verify=False)
    for options in ({}, {"rescore": 0}, {"where": pc.field("price") < 4, "exclude": ["item 3"]}):
        one, two = (i.search(queries, 7, **options) for i in (index, again))
        assert one.ids.tolist() == two.ids.tolist() and one.plans == two.plans
        assert one.scores.tobytes() == two.scores.tobytes()


def test_a_loaded_index_takes_updates_and_saves_over_itself(tmp_path):
    folder = made(ScalarCodes(8)).save(tmp_path / "index")
    index = Index.load(folder)
    index.add(VECTORS[:1] * 9, ["new"], meta=META.slice(0, 1))
    index.delete(["item 0"])
    before = index.search(QUERIES, 5)
    index.save(folder)
    assert index.search(QUERIES, 5).ids.tolist() == before.ids.tolist()  # still mapped
    again = Index.load(folder)
    assert again.search(QUERIES, 5).ids.tolist() == before.ids.tolist()
    assert "new" in again and "item 0" not in again
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def file_of(tensor):
    """The file that a tensor's memory is mapped from."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, _, end = line.split()[0].partition("-")
        if int(start, 16) <= tensor.data_ptr() < int(end, 16):
            return line.partition("/")[1] + line.partition("/")[2]
    return ""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_vectors_may_stay_on_disk(tmp_path):
    """Built from a mapped table and loaded again, only codes are copied, nothing is written."""
    table = VECTORS.astype(np.float32)
    np.save(tmp_path / "vectors.npy", table)
    before = (tmp_path / "vectors.npy").read_bytes()
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    index = Index(mapped, range(300), codes=ProductCodes(6), rescore=30)
    again = Index.load(index.save(tmp_path / "index"))
    assert [file_of(one._state.vectors.block(0, 300)) for one in (index, again)] == [
        str(tmp_path / "vectors.npy"), str(tmp_path / "index" / "vectors.npy"),
    ]  # fmt: skip
    true = Index(table, range(300)).search(QUERIES, 7)
    for one in (index, again):
        found = one.search(QUERIES, 7)
        assert found.plans == ("codes",) * 9
        assert found.ids.tolist() == true.ids.tolist()
        assert found.scores.tobytes() == true.scores.tobytes()
    index.upsert(table[:1] * 9, [0])
    assert (tmp_path / "vectors.npy").read_bytes() == before
    np.save(tmp_path / "bad.npy", np.where(np.arange(300)[:, None] == 7, np.nan, table))
    with pytest.raises(DataError, match="first row 8"):
        Index(np.load(tmp_path / "bad.npy", mmap_mode="r").astype(np.float32), range(300))


def test_an_empty_index_and_integers_survive(tmp_path):
    index = Index(np.eye(3), [4, 5, 6])
    index.delete([4, 5, 6])
    again = Index.load(index.save(tmp_path / "index"))
    assert len(again) == 0 and len(again.search([1, 1, 1], 2)[0].ids) == 0
    full = Index.load(Index(np.eye(3), [4, 5, 6]).save(tmp_path / "full"))
    assert full.search([0, 0, 1], 1).ids.tolist() == [6] and full.ids.dtype == np.int64


def test_the_cut_off_travels_along(tmp_path):
    index = made()
    which = np.repeat(np.arange(9), 30)
    scores = RANDOM.random(270)
    index.adapter = CosineAdapter(version="v1").fit(QUERIES, which, scores, scores > 0.5, epochs=2)
    again = Index.load(index.save(tmp_path / "index"))
    assert again.adapter.version == "v1"
    assert again.adapter.threshold(0.8) == index.adapter.threshold(0.8)
    one, two = (i.search(QUERIES, 7, cutoff=0.5, min_results=2) for i in (index, again))
    assert one.ids.tolist() == two.ids.tolist()
    np.testing.assert_array_equal(one.probabilities, two.probabilities)


@pytest.mark.parametrize(
    "name",
    ["items.parquet", "meta.parquet", "vectors.npy", "codes-codes.npy", "codes.safetensors"],
)
@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_torn_files_are_refused(name, harm, tmp_path):
    folder = made(ScalarCodes(4)).save(tmp_path / "index")
    path = folder / name
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(CheckpointError, match=r"expected .* bytes"):
            Index.load(folder, verify=False)
    else:
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 255])
        path.write_bytes(content[:middle] + flipped + content[middle + 1 :])
    with pytest.raises(CheckpointError, match=name):
        Index.load(folder)


def test_a_manifest_that_was_changed_or_is_of_another_format_is_refused(tmp_path):
    folder = made().save(tmp_path / "index")
    path = folder / "index.json"
    text = path.read_text()
    for harmed, match in (
        (text.replace('"v1"', '"v2"'), "changed after it was written"),
        (json.dumps({**json.loads(text), "format_version": 9}), "expected format version 1, got 9"),
        (text[:50], "damaged"),
        ("[]", "damaged"),
    ):
        path.write_text(harmed)
        with pytest.raises(CheckpointError, match=match):
            Index.load(folder)
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="does not exist"):
        Index.load(folder)


def test_other_versions_and_other_folders_are_refused(tmp_path):
    index = made()
    folder = index.save(tmp_path / "index")
    with pytest.raises(CheckpointError, match="of model version 'v1', expected 'v2'"):
        Index.load(folder, version="v2")
    assert Index.load(folder).search(QUERIES, 1, version="v1").plans == ("exact",) * 9
    with pytest.raises(DataError, match="model version 'v2'"):
        Index.load(folder).search(QUERIES, 1, version="v2")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not overwritten"):
        index.save(tmp_path / "other")
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"
    with pytest.raises(CheckpointError, match=r"txt is a file, not a folder, so there is no index"):
        Index.load(tmp_path / "other" / "thesis.txt")


@pytest.mark.parametrize("codes", [ScalarCodes(8), ScalarCodes(4), SignCodes(2), ProductCodes(5)])
@pytest.mark.parametrize("change", ["wider", "narrower", "floats", "flat"])
def test_codes_of_other_codes_are_refused_when_they_are_loaded(codes, change, tmp_path):
    """Whoever forged the folder made its checksums fit; nothing may be read that is not there."""
    index = Index(VECTORS, range(300), codes=codes)
    rows = index._state.parts["codes"].block(0, 300)
    forged = {
        "wider": torch.cat([rows, rows], -1), "narrower": rows[..., :-1].clone(),
        "floats": rows.float(), "flat": rows.flatten(1)[:, 0].clone(),
    }[change]  # fmt: skip
    index._state.parts["codes"] = Rows(forged)
    folder = index.save(tmp_path / "index")
    with pytest.raises(CheckpointError, match="its files do not fit each other"):
        Index.load(folder)
