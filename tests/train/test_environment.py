import subprocess

import torch

from recsys.train.environment import environment, git_revision


def test_names_versions_and_machine():
    found = environment()
    assert found["versions"]["torch"] == torch.__version__
    assert found["torch_threads"] == torch.get_num_threads()
    assert found["cpu"] and found["cores"] >= 1


def test_revision_says_whether_files_are_changed(tmp_path):
    assert git_revision(tmp_path) is None
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    clean = git_revision(tmp_path)
    assert clean is not None and len(clean) == 12
    (tmp_path / "file").write_text("2")
    assert git_revision(tmp_path) == clean + "+"
