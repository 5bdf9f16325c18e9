"""Vectors of new items from their content."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from recsys.errors import DataError
from recsys.retrieval.content_vectors import ContentVectors, _Ridge, _Seen
from recsys.serving.vectors import Vectors


def linear_world(count: int = 300, noise: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    content = torch.randn(count, 6, generator=random) + 2
    vectors = content @ torch.randn(6, 4, generator=random) + 1
    return content, vectors + noise * torch.randn(vectors.shape, generator=random)


def bent_world(count: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors that no linear map of the content can give."""
    random = torch.Generator().manual_seed(4)
    content = torch.randn(count, 3, generator=random)
    signs = torch.stack([content[:, 0] * content[:, 1], content[:, 1] * content[:, 2],
                         content[:, 0].abs(), content[:, 2].square()], 1)  # fmt: skip
    return content, signs - signs.mean(0)


def test_a_linear_map_is_found_and_kept(tmp_path: Path) -> None:
    content, vectors = linear_world()
    guess = ContentVectors()
    fit = guess.fit(content[:250], Vectors(np.arange(250), vectors[:250].numpy(), version="v7"))
    assert fit.held_out == 25 and fit.linear == fit.trained == 1 and fit.epochs == 0
    found = guess.vectors(content[250:])
    np.testing.assert_allclose(found, vectors[250:].numpy(), atol=0.02)
    again = ContentVectors.load(guess.save(tmp_path / "new" / "guess.safetensors"))
    np.testing.assert_array_equal(again.vectors(content[250:].tolist()), found)
    assert again.version == guess.version == "v7" and again.width == 6


def test_the_ridge_is_a_share_of_the_mean_square_of_centred_contents(monkeypatch) -> None:
    monkeypatch.setattr("recsys.retrieval.content_vectors._BLOCK", 64)
    content, vectors = linear_world(noise=1.0)
    guess = ContentVectors()
    ridge = guess.fit(content, vectors).ridge
    x, y = (part.double() - part.double().mean(0) for part in (content, vectors))
    inside = x.T @ x + ridge * x.square().sum() / 6 * torch.eye(6)
    expected = x @ torch.linalg.solve(inside, x.T @ y) + vectors.double().mean(0)
    np.testing.assert_allclose(guess.vectors(content), expected.numpy(), atol=1e-4)
    wide = torch.cat([content, torch.zeros(300, 500)], 1)  # the other of the two systems
    other = ContentVectors()
    other.fit(wide, vectors)
    other._start(_Ridge(wide, vectors), ridge * 506 / 6)  # zeros thin the mean square out
    np.testing.assert_allclose(other.vectors(wide), expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("hard", [True, False])
def test_training_finds_what_no_linear_map_can(hard: bool) -> None:
    content, vectors = bent_world()
    guess = ContentVectors(epochs=40, hidden=64, learning_rate=1e-2, hard_negatives=hard)
    said: list[str] = []
    fit = guess.fit(content[:500], vectors[:500], say=said.append)
    assert fit.linear < 0.7 and fit.trained > 0.93 and fit.epochs > 10
    assert said[0].startswith("epoch 1/40  50 held-out items at ") and len(said) == 5
    near = functional.cosine_similarity(
        torch.from_numpy(guess.vectors(content[500:])), vectors[500:]
    )
    assert near.median() > 0.8


def test_training_is_the_same_each_time() -> None:
    content, vectors = bent_world(60)
    first, second = (ContentVectors(epochs=3, hidden=8) for _ in range(2))
    assert first.fit(content, vectors) == second.fit(content, vectors)
    np.testing.assert_array_equal(first.vectors(content), second.vectors(content))


def test_hard_negatives_are_near_and_not_the_same() -> None:
    content, vectors = linear_world(noise=0.5)
    guess = ContentVectors()
    guess.fit(content, vectors)
    rows = torch.arange(100, 200)
    mined = guess._with_near(content[rows], vectors[rows], rows, torch.Generator().manual_seed(0))
    own, beside = mined.view(-1, 2).T
    assert own.tolist() == rows.tolist()
    near = functional.normalize(guess._guess(content[rows]), dim=1) @ functional.normalize(
        vectors[rows], dim=1).T  # fmt: skip
    other = beside != own
    assert other.float().mean() > 0.9
    drawn = near[torch.arange(100), beside - 100][other]
    usual = near[~torch.eye(100, dtype=torch.bool)]
    assert drawn.median() > usual.quantile(0.9)


def test_histories_and_their_targets_are_of_one_user() -> None:
    users, rows = [5, 5, 5, 9, 7, 7], [0, 1, 2, 3, 4, 5]
    owner = {row: user for user, row in zip(users, rows)}
    seen = _Seen(users, rows, 6)
    history, offsets, targets = seen.draw(200, torch.Generator().manual_seed(0))
    assert set(targets.tolist()) == {0, 1, 2, 4, 5}  # the user with one item has no history
    for n, target in enumerate(targets.tolist()):
        part = history[offsets[n] : offsets[n + 1]].tolist()
        assert part and target not in part
        assert {owner[row] for row in part} == {owner[target]}
    few = seen.among(torch.tensor([2, 0, 5]), 6)  # by their new numbers
    history, offsets, targets = few.draw(50, torch.Generator().manual_seed(0))
    assert set(targets.tolist()) == {0, 1} == set(history.tolist())


def test_sequences_pull_items_of_a_user_together() -> None:
    random = torch.Generator().manual_seed(5)
    content, vectors = torch.randn(200, 8, generator=random), torch.randn(200, 4, generator=random)
    users = torch.arange(400) % 40
    rows = torch.arange(400) % 200  # user u has the rows u, u + 40, ...

    def apart(weight: float) -> float:
        guess = ContentVectors(epochs=3, hidden=64, learning_rate=1e-2, sequence_weight=weight)
        guess._start(_Ridge(content, vectors), 1.0)
        for _ in guess._train(content, vectors, 30, _Seen(users, rows, 200)):
            pass
        found = functional.normalize(torch.from_numpy(guess.vectors(content)), dim=1)
        return float((found[:40] * found[40:80]).sum(1).mean())

    assert apart(3.0) > apart(0.0) + 0.3


def test_what_is_refused(tmp_path: Path) -> None:
    content, vectors = linear_world(30)
    for wrong, name in (({"epochs": -1}, "epochs"), ({"hidden": 0}, "hidden"),
                        ({"batch_size": 3}, "batch_size"), ({"temperature": 0}, "temperature"),
                        ({"learning_rate": float("nan")}, "learning_rate"),
                        ({"sequence_weight": -1}, "sequence_weight")):  # fmt: skip
        with pytest.raises(DataError, match=f"`{name}`"):
            ContentVectors(**wrong)  # type: ignore[arg-type]
    guess = ContentVectors()
    with pytest.raises(DataError, match="nothing is learned"):
        guess.vectors(content)
    with pytest.raises(DataError, match="nothing is learned"):
        guess.save(tmp_path / "x.safetensors")
    with pytest.raises(DataError, match="at least 20, got 30 and 29"):
        guess.fit(content, vectors[:29])
    with pytest.raises(DataError, match="at least 20, got 19"):
        guess.fit(content[:19], vectors[:19])
    with pytest.raises(DataError, match="content"):
        guess.fit(content * float("nan"), vectors)
    trained = ContentVectors(epochs=1, sequence_weight=1.0)
    with pytest.raises(DataError, match="expected `pairs`"):
        trained.fit(content, vectors)
    with pytest.raises(DataError, match="rows from 0 to 29"):
        trained.fit(content, vectors, ([0], [30]))
    with pytest.raises(DataError, match="of one length"):
        trained.fit(content, vectors, ([0, 1], [3]))
    trained.fit(content, vectors, ([], []))  # nobody has anything: content alone
    guess.fit(content, vectors)
    with pytest.raises(DataError, match="expected 6 columns, got 5"):
        guess.vectors(content[:, :5])
    (tmp_path / "damaged").write_bytes(b"1234")
    for name in ("missing", "damaged"):
        with pytest.raises(DataError, match="expected what `ContentVectors"):
            ContentVectors.load(tmp_path / name)
    Vectors(np.arange(30), vectors.numpy()).write(tmp_path / "vectors.safetensors")
    with pytest.raises(DataError, match="expected what `ContentVectors"):
        ContentVectors.load(tmp_path / "vectors.safetensors")
