import torch

from recsys.retrieval.rows import Rows


def test_growing_leaves_older_copies_as_they_were():
    whole = torch.arange(400.0).reshape(200, 2)
    tables = [Rows(whole[:3])]
    for start in range(3, 200, 7):
        tables.append(tables[-1].append(whole[start : start + 7]))
    for table in tables:
        size = len(table)
        assert torch.equal(table.block(0, size), whole[:size])
        assert torch.equal(table.block(2, min(5, size)), whole[2 : min(5, size)])
        positions = torch.tensor([size - 1, 0, size // 2])
        assert torch.equal(table.take(positions), whole[positions])
    assert tables[0].row_bytes == 8
