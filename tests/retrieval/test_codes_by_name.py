import importlib.util

import pytest

from recsys.errors import ConfigError, DataError
from recsys.retrieval.codes_by_name import codes_named
from recsys.retrieval.prefix_codes import PrefixCodes
from recsys.retrieval.product_codes import ProductCodes
from recsys.retrieval.recurrent_codes import RecurrentCodes
from recsys.retrieval.scalar_codes import ScalarCodes
from recsys.retrieval.sign_codes import SignCodes

EVERY = [
    ScalarCodes(8), ScalarCodes(4), ScalarCodes(4, dims=32), ScalarCodes(8, dims=16),
    PrefixCodes(64), PrefixCodes(64, bits=16), PrefixCodes(64, bits=8), PrefixCodes(32, bits=4),
    SignCodes(1), SignCodes(4, dims=32), ProductCodes(16), ProductCodes(8, rotate=False),
    RecurrentCodes(128, 2), RecurrentCodes(64, 3),
]  # fmt: skip


@pytest.mark.parametrize("codes", EVERY, ids=lambda codes: codes.name)
def test_a_name_gives_its_codes(codes):
    found = codes_named(codes.name)
    assert type(found) is type(codes) and found.options() == codes.options()
    assert found.name == codes.name


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")
@pytest.mark.parametrize("name", ["faiss HNSW32", "faiss IVF16,Flat nprobe=4"])
def test_names_of_faiss(name):
    assert codes_named(name).name == name


@pytest.mark.parametrize("name", ["", "sq", "sq8 ", "SQ8", "pca32", "prefix64-f8", "faiss", "opq"])
def test_other_names_are_refused(name):
    with pytest.raises(ConfigError, match=r"expected codes such as sq8.*got"):
        codes_named(name)


@pytest.mark.parametrize("name", ["sq5", "sign9", "pca0-sq4", "bebr0x2", "opq0", "prefix0"])
def test_numbers_out_of_range_are_refused(name):
    with pytest.raises(DataError, match="must be"):
        codes_named(name)
