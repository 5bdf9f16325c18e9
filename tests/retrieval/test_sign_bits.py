import pytest
import torch

from recsys.retrieval.sign_bits import pack_signs, unpack_signs


@pytest.mark.parametrize("width", [1, 7, 8, 9, 40])
def test_bits_come_back_as_signs(width):
    positive = torch.rand(50, width, generator=torch.Generator().manual_seed(width)) > 0.5
    packed = pack_signs(positive)
    assert packed.shape == (50, -(-width // 8)) and packed.dtype == torch.uint8
    signs = unpack_signs(packed)
    assert torch.equal(signs[:, :width] > 0, positive) and bool((signs.abs() == 1).all())
    number = int("".join(str(int(bit)) for bit in reversed(positive[0, :8].tolist())), 2)
    assert int(packed[0, 0]) == number
