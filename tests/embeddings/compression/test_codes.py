"""Codes: packing by hand, values against plain indexing."""

from __future__ import annotations

import pytest
import torch

from recsys.embeddings.compression.codes import Codes, CodesEncoder, pack, packed_width, unpack
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.testing.table import SPEC, TableConformance
from tests.embeddings.compression.toy import check_bags, made, round_trip, table

HOT = 9
SCHEME = Codes(num_parts=2, num_centroids=32, hot_rows=HOT, rare_centroids=4)
MEAN = SPEC.model_copy(update={"pooling": "mean"})


def codes_of(tables) -> torch.Tensor:
    """The codes of indices 1, 2, ..., bit by bit from the buffers."""
    encoder = tables.trained()["embedding.item"].part.encoder
    assert isinstance(encoder, CodesEncoder)
    found = []
    for packed, bits in ((encoder.hot, 5), (encoder.rare, 2)):
        for row in packed.tolist():
            number = sum(byte << (8 * i) for i, byte in enumerate(row))
            found.append([number >> (bits * part) & ((1 << bits) - 1) for part in range(2)])
    return torch.tensor(found)


class TestCodes(TableConformance):
    scheme = SCHEME
    std_tolerance = 0.2  # few rows, each used by many ids

    def expected_bytes(self):
        return HOT * 2 + (39 - HOT) * 1 + 4 * 2 * (1 + 2 * 32)

    def sharing(self, index):
        codes = codes_of(self.tables())
        same = (codes == codes[index - 1]).any(dim=1)
        return {other for other in self.indices if same[other - 1]}


class TestCodesMean(TestCodes):
    spec = MEAN


@pytest.mark.parametrize("spec", [SPEC, MEAN])
def test_values_and_bags(spec):
    tables = made(SCHEME, spec)
    book = tables.state_dict()["embedding.item@codes.weight"]
    codes = codes_of(tables)
    assert codes[:HOT].max() > 3 >= codes[HOT:].max()
    dense = torch.zeros(40, 4)
    for index in range(1, 40):
        first, second = codes[index - 1].tolist()
        dense[index] = torch.cat([book[1 + first], book[33 + second]])
    check_bags(tables, dense)


@pytest.mark.parametrize("centroids", [2, 4, 8, 16, 32, 64, 128, 256])
@pytest.mark.parametrize("parts", [1, 3, 8])
def test_packing_round_trip(centroids, parts):
    codes = torch.randint(centroids, (50, parts))
    packed = pack(codes, centroids)
    assert packed.shape == (50, packed_width(parts, centroids)) and packed.dtype == torch.uint8
    assert torch.equal(unpack(packed, parts, centroids).long(), codes)


def test_packing_by_hand():
    # 10110 then 00111, lowest bits first: 0111 0110 in the first byte, 00 01 in the second.
    assert pack(torch.tensor([[0b10110, 0b01011]]), 32).tolist() == [[0b01110110, 0b01]]


def test_plans():
    with pytest.raises(ConfigError, match="Use `dpq` or `mgqe`"):
        Codes().plan([SPEC], None)
    spec = table("big", 1000)
    scheme = Codes(num_parts=2, num_centroids=16)
    size = 999 + 4 * 8 * 33
    assert scheme.plan([spec], size) == {"big": scheme}
    with pytest.raises(BudgetInfeasible) as error:
        scheme.plan([spec], size - 1)
    assert error.value.min_bytes == size
    assert round_trip(SCHEME) == SCHEME
