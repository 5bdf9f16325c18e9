"""Files and folders that are whole or not there."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.errors import CheckpointError
from recsys.folders import (
    FolderFormat,
    fingerprint,
    fingerprints,
    made_once,
    sha256,
    whole_file,
    write_json,
    write_text,
)

FORMAT = FolderFormat("about.json", "a shelf", 2, "Give a shelf.")
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""SHA-256 of `abc`, from FIPS 180-2, appendix B.1."""


def fill(*numbers):
    """Fills a folder with books that all tell the same numbers."""

    def write(draft):
        (draft / "inner").mkdir()
        for name in ("one", "inner/two"):
            (draft / name).write_text(" ".join(map(str, numbers)))
        return {"numbers": numbers, "versions": {"recsys": "7.5"}, "files": fingerprints(draft)}

    return write


def content(folder):
    """What the books and the manifest of a sound folder tell, all the same."""
    manifest = FORMAT.read(folder)
    for name, wanted in manifest["files"].items():
        FORMAT.check(folder / name, wanted)
    told = {(folder / name).read_text() for name in ("one", "inner/two")}
    assert told == {" ".join(map(str, manifest["numbers"]))}
    return manifest["numbers"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------------------------ files


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "new" / "result.json"
    write_json(path, {"a": [1, "\u00e9"]})
    assert path.read_bytes() == b'{\n "a": [\n  1,\n  "\\u00e9"\n ]\n}\n'
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half of it, then \udc80")
    assert json.loads(path.read_text()) == {"a": [1, "\u00e9"]}
    write_text(path, "\u00e9")
    assert path.read_bytes() == b"\xc3\xa9"
    assert names(path.parent) == ["result.json"]


def test_a_draft_ends_like_its_file_and_goes_when_writing_fails(tmp_path):
    path = tmp_path / "out.parquet"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as draft:
        assert draft.parent == tmp_path and draft.suffix == ".parquet"
        assert draft.name.startswith(".out.") and ".partial" in draft.name
        draft.write_text("half")
        assert path.read_text() == "old"
        raise KeyboardInterrupt
    assert names(tmp_path) == ["out.parquet"] and path.read_text() == "old"
    with pytest.raises(FileNotFoundError), whole_file(path):
        pass  # nothing was written
    assert path.read_text() == "old"


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    path = tmp_path / "a"
    with whole_file(path) as first, whole_file(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # finished last
    assert names(tmp_path) == ["a"]


def test_checksums(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_text("abc")
    (tmp_path / "a").write_bytes(b"")
    assert sha256(tmp_path / "b" / "x") == ABC
    assert fingerprint(tmp_path / "b" / "x") == {"bytes": 3, "sha256": ABC}
    empty = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    assert list(fingerprints(tmp_path).items()) == [
        ("a", empty),
        ("b/x", {"bytes": 3, "sha256": ABC}),
    ]


# ---------------------------------------------------------------------------------- made once


def test_made_once_is_all_or_nothing(tmp_path):
    calls = []

    def make(folder):
        calls.append(folder)
        (folder / "x").write_text("1")

    final = made_once(tmp_path / "deep" / "made", make)
    assert made_once(final, make) == final
    assert len(calls) == 1 and (final / "x").read_text() == "1"

    def broken(folder):
        (folder / "x").write_text("1")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        made_once(tmp_path / "broken", broken)
    assert names(tmp_path) == ["deep"] and names(tmp_path / "deep") == ["made"]


def test_made_once_yields_to_another_process(tmp_path):
    final = tmp_path / "made"

    def slow(folder):
        (folder / "x").write_text("mine")
        final.mkdir()
        (final / "x").write_text("theirs")

    assert (made_once(final, slow) / "x").read_text() == "theirs"
    assert names(tmp_path) == ["made"]


# ------------------------------------------------------------------------------------ whole folders


def test_the_manifest_by_hand(tmp_path):
    FORMAT.write(tmp_path / "shelf", fill(1, 2))
    path = tmp_path / "shelf" / "about.json"
    found = json.loads(path.read_text())
    book = {"bytes": 3, "sha256": hashlib.sha256(b"1 2").hexdigest()}
    expected = {
        "format": "a shelf",
        "format_version": 2,
        "numbers": [1, 2],
        "versions": {"recsys": "7.5"},
        "files": {"inner/two": book, "one": book},
    }
    digest = hashlib.sha256(json.dumps(expected, sort_keys=True).encode()).hexdigest()
    assert found == {**expected, "digest": digest}
    assert path.read_text() == json.dumps(found, indent=1) + "\n"
    assert FORMAT.read(tmp_path / "shelf") == expected


def test_keys_that_are_numbers_and_letters_of_all_kinds_survive(tmp_path):
    FORMAT.write(tmp_path / "a", lambda draft: {"counts": {10: 1, 9: 2}, "name": "\u00e9\u5e93"})
    # As text "10" sorts before "9": a digest of the numbers would differ.
    assert FORMAT.read(tmp_path / "a")["counts"] == {"10": 1, "9": 2}
    assert "\u00e9\u5e93" in (tmp_path / "a" / "about.json").read_text(encoding="utf-8")


def test_a_folder_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    shelf = tmp_path / "deep" / "v1.5"
    FORMAT.write(shelf, fill(1))
    FORMAT.write(shelf, lambda draft: {**fill(2)(draft), "more": True})
    assert content(shelf) == [2] and names(shelf.parent) == ["v1.5"]
    (tmp_path / "empty").mkdir()
    FORMAT.write(tmp_path / "empty", fill(3))
    assert content(tmp_path / "empty") == [3]


def test_what_is_something_else_is_not_overwritten(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis").write_text("mine")
    with pytest.raises(CheckpointError, match="file is a file and is not overwritten"):
        FORMAT.write(tmp_path / "file", fill(1))
    with pytest.raises(CheckpointError, match="work holds other files and is not overwritten"):
        FORMAT.write(tmp_path / "work", fill(1))
    assert names(tmp_path) == ["file", "work"]
    assert (tmp_path / "file").read_text() == (tmp_path / "work" / "thesis").read_text() == "mine"


def fail_at(monkeypatch, number):
    """The n-th step of writing a folder fails. Returns the steps that were taken."""
    taken = []

    def counted(kind, step):
        def run(*args, **options):
            taken.append(kind)
            if len(taken) == number:
                raise OSError("No space left on device")
            return step(*args, **options)

        return run

    monkeypatch.setattr("recsys.folders.force", counted("force", lambda path: None))
    monkeypatch.setattr(Path, "rename", counted("rename", Path.rename))
    monkeypatch.setattr(Path, "write_text", counted("write", Path.write_text))
    return taken


def test_a_failure_at_any_step_leaves_the_old_or_the_new_folder(tmp_path, monkeypatch):
    shelf = tmp_path / "shelf"
    found, taken = [], []
    for number in range(1, 30):
        shutil.rmtree(shelf, ignore_errors=True)
        FORMAT.write(shelf, fill(1))
        with monkeypatch.context() as patch:
            taken = fail_at(patch, number)
            try:
                FORMAT.write(shelf, fill(2))
            except OSError:
                pass
            else:
                break
        found += content(shelf)
        assert not [name for name in names(tmp_path) if ".partial" in name]
    # Two books and the manifest, each and both folders forced, two renames, the parent forced. Only
    # then, with the new folder in its place, does the old one go.
    assert taken == ["write"] * 3 + ["force"] * 5 + ["rename"] * 2 + ["force"]
    assert found == [1] * 10 + [2]


KILL = """
import os, pathlib, sys
from recsys.folders import FolderFormat, fingerprints

FORMAT = FolderFormat("about.json", "a shelf", 2, "Give a shelf.")

def fill(number):
    def write(draft):
        (draft / "inner").mkdir()
        for name in ("one", "inner/two"):
            (draft / name).write_text(str(number))
        return {"numbers": [number], "files": fingerprints(draft)}
    return write

def die_at(number):
    # Every call that opens, makes, renames or removes something is a step.
    left = number
    def hook(event, args):
        nonlocal left
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            left -= 1
            if left == 0:
                os._exit(9)
    sys.addaudithook(hook)

number, code = 0, 9
while code:
    number += 1
    shelf = pathlib.Path(sys.argv[1], str(number), "shelf")
    shelf.parent.mkdir()
    if sys.argv[2] == "old":
        FORMAT.write(shelf, fill(1))
    child = os.fork()
    if child == 0:
        die_at(number)
        FORMAT.write(shelf, fill(2))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def state_after_a_kill(shelf):
    """What a reader finds; content raises for anything but a whole folder."""
    if shelf.exists():
        return content(shelf)
    with pytest.raises(CheckpointError, match="does not exist") as caught:
        FORMAT.read(shelf)
    old = [path for path in shelf.parent.iterdir() if path.suffix == ".old"]
    if not old:
        return "nothing"
    assert f"A save was cut off; {old[0]} is the one before" in str(caught.value)
    return f"{content(old[0])} aside"


@pytest.mark.parametrize(
    ("before", "states"), [("nothing", ["nothing", [2]]), ("old", [[1], "[1] aside", [2]])]
)
def test_a_process_killed_at_any_step_leaves_the_old_or_the_new_folder(tmp_path, before, states):
    subprocess.run([sys.executable, "-c", KILL, str(tmp_path), before], check=True)
    runs = sorted(tmp_path.iterdir(), key=lambda path: int(path.name))
    found = [state_after_a_kill(run / "shelf") for run in runs]
    assert len(found) > 10 and names(runs[-1]) == ["shelf"]
    assert [now for n, now in enumerate(found) if n == 0 or now != found[n - 1]] == states
    assert found.count("[1] aside") == (1 if before == "old" else 0)  # a moment between renames


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("cut", "two is damaged: expected 3 bytes, got 2. Copy it again."),
        ("flip", "two is damaged: its checksum is not the one in about.json. Copy it again."),
        ("gone", "two is missing. Copy the whole folder again."),
        ("folder", "two is missing. Copy the whole folder again."),
    ],
)
def test_a_tampered_file_is_named(tmp_path, harm, message):
    FORMAT.write(tmp_path / "shelf", fill(1, 2))
    path = tmp_path / "shelf" / "inner" / "two"
    wanted = FORMAT.read(tmp_path / "shelf")["files"]["inner/two"]
    FORMAT.check(path, wanted)
    path.unlink()
    if harm == "folder":
        path.mkdir()
    elif harm != "gone":
        path.write_text({"cut": "1 ", "flip": "1 3"}[harm])
    with pytest.raises(CheckpointError) as caught:
        FORMAT.check(path, wanted)
    assert str(caught.value) == f"{tmp_path}/shelf/inner/{message}"
    if harm == "flip":
        FORMAT.check(path, wanted, checksum=False)  # sizes are equal
    if harm == "cut":
        with pytest.raises(CheckpointError, match="checksum"):
            FORMAT.check(path, {"sha256": wanted["sha256"]})  # formats that keep no sizes


def test_manifests_that_are_not_what_was_written(tmp_path):
    shelf = tmp_path / "shelf"
    FORMAT.write(shelf, fill(1))
    path = shelf / "about.json"
    text = path.read_text()
    for harmed, message in (
        (text[:30], "about.json is damaged (JSONDecodeError"),
        ("[]", "about.json is damaged (TypeError"),
        ("{}", "about.json is damaged (KeyError('format'))"),
        (text.replace("a shelf", "a box"), "expected the format 'a shelf', got 'a box'. Give a s"),
        (
            text.replace('version": 2', 'version": 3'),
            "expected format version 2, got 3. Load it with the recsys version that wrote it: 7.5.",
        ),
        (text.replace("  1\n", "  5\n"), "changed after it was written (its digest differs)"),
        (json.dumps({"format": "a shelf", "format_version": 2}), "its digest differs"),
    ):
        path.write_text(harmed)
        assert harmed != text
        with pytest.raises(CheckpointError) as caught:
            FORMAT.read(shelf)
        assert message in str(caught.value)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"about\.json is damaged \(UnicodeDecodeError"):
        FORMAT.read(shelf)


def test_what_is_no_such_folder_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    for name, state in (
        ("nowhere", "nowhere does not exist, so there is no about.json. Give a shelf."),
        ("file", "file is a file, not a folder, so there is no about.json. Give a shelf."),
        ("", f"{tmp_path.name} has no about.json. Give a shelf."),
    ):
        with pytest.raises(CheckpointError) as caught:
            FORMAT.read(tmp_path / name)
        assert str(caught.value).endswith(state)
