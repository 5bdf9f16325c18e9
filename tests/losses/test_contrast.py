"""InfoNCE and POT in the shares that are asked for."""

import pytest
import torch

from recsys.losses.contrast import Contrast, PotConfig
from recsys.losses.info_nce import info_nce
from recsys.losses.pot import compactness_loss, pot_score


def views():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 3, generator=generator)


def test_without_pot_it_is_info_nce():
    first, second = views()
    everything, weights = torch.cat([second, first]), torch.tensor([1, 1, 2, 5])
    found = Contrast(0.3, normalize=False, limit=2.0)(first, second, everything, weights)
    wanted = info_nce(
        first, second, 0.3, among=everything, weights=weights, normalize=False, limit=2.0
    )
    assert found == wanted


def test_pot_takes_its_share():
    first, second = views()
    plain, pot = info_nce(first, second, 0.3), pot_score(first, second)
    for kappa in (0.0, 0.25, 1.0):
        found = Contrast(0.3, PotConfig(kappa=kappa))(first, second)
        torch.testing.assert_close(found, (1 - kappa) * plain + kappa * pot)


def test_bounds_of_the_worst_case():
    first, second = views()
    contrast = Contrast(0.3, PotConfig(kappa=0.5, mode="budget"))
    worst = torch.tensor([0.5, -1.0]), torch.tensor([2.0])
    bound = (compactness_loss(worst[0]) + compactness_loss(worst[1])) / 2
    found = contrast(first, second, worst=worst)
    torch.testing.assert_close(found, 0.5 * info_nce(first, second, 0.3) + 0.5 * bound)
    with pytest.raises(ValueError, match="give `worst`"):
        contrast(first, second)


def test_a_node_alone_has_no_compactness():
    first, second = (view[:1] for view in views())
    assert Contrast(0.3, PotConfig(kappa=0.5))(first, second) == 0
