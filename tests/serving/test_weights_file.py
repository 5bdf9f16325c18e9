import pytest
import torch
from safetensors.torch import load_file

from recsys.serving.weights_file import write_weights


def test_any_safetensors_reader_takes_it(tmp_path):
    base = torch.randn(7, 6)
    tensors = {
        "w": base,
        "view": base[1:5, 2:4],  # shares memory and has gaps
        "half": torch.randn(3, 5).half(),
        "brain": torch.randn(4).bfloat16(),
        "bits": torch.tensor([True, False, True]),
        "codes": torch.arange(9, dtype=torch.uint8).view(3, 3),
        "ids": torch.arange(4, dtype=torch.int64),
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 8),
        "narrow": torch.zeros(5, 0),
    }
    write_weights(tmp_path / "w.safetensors", tensors, block_bytes=32)
    found = load_file(tmp_path / "w.safetensors")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


def test_what_is_read_by_slices_is_never_read_whole(tmp_path):
    class Rows:
        shape, dtype = torch.Size((1000, 4)), torch.float32
        largest = 0

        def __getitem__(self, index: slice) -> torch.Tensor:
            Rows.largest = max(Rows.largest, index.stop - index.start)
            return torch.arange(index.start * 4.0, index.stop * 4.0).view(-1, 4)

    write_weights(tmp_path / "w.safetensors", {"t": Rows()}, block_bytes=160)
    assert Rows.largest == 10
    assert torch.equal(
        load_file(tmp_path / "w.safetensors")["t"], torch.arange(4000.0).view(1000, 4)
    )


def test_a_dtype_that_the_format_lacks_is_refused(tmp_path):
    with pytest.raises(KeyError, match="complex64"):
        write_weights(tmp_path / "w", {"c": torch.zeros(2, dtype=torch.complex64)})
