"""Codes from their short names, for command lines and settings.

Stability: caller
"""

from __future__ import annotations

import re
from collections.abc import Callable

from recsys.errors import ConfigError
from recsys.retrieval.codes import Codes
from recsys.retrieval.faiss_codes import FaissCodes
from recsys.retrieval.prefix_codes import PrefixCodes
from recsys.retrieval.product_codes import ProductCodes
from recsys.retrieval.recurrent_codes import RecurrentCodes
from recsys.retrieval.scalar_codes import ScalarCodes
from recsys.retrieval.sign_codes import SignCodes

_FORMS: dict[str, Callable[..., Codes]] = {
    r"sq(\d+)": ScalarCodes,
    r"pca(\d+)-sq(\d+)": lambda dims, bits: ScalarCodes(bits, dims),
    r"prefix(\d+)": PrefixCodes,
    r"prefix(\d+)-f(16)": PrefixCodes,
    r"prefix(\d+)-sq(4|8)": PrefixCodes,
    r"sign(\d+)": SignCodes,
    r"pca(\d+)-sign(\d+)": lambda dims, levels: SignCodes(levels, dims),
    r"opq(\d+)": ProductCodes,
    r"pq(\d+)": lambda parts: ProductCodes(parts, rotate=False),
    r"bebr(\d+)x(\d+)": RecurrentCodes,
}


def codes_named(name: str) -> Codes:
    """The codes whose `Codes.name` is this, with their default settings.

    Args:
        name: ``sq8``, ``pca32-sq4``, ``prefix64``, ``prefix64-f16``, ``prefix64-sq8``, ``sign2``,
            ``pca32-sign4``, ``opq16``, ``pq16``, ``bebr128x2``, or ``faiss`` and what its
            ``index_factory`` takes: ``faiss HNSW32 efSearch=64``.

    Raises:
        ConfigError: There is no such name, or faiss is not installed.
        DataError: A number in it is out of range.

    Example:
        >>> codes_named("pca32-sq4").options()
        {'bits': 4, 'dims': 32}
    """
    kind, _, rest = name.partition(" ")
    if kind == "faiss" and rest:
        factory, _, search = rest.partition(" ")
        return FaissCodes(factory, search)
    for form, make in _FORMS.items():
        found = re.fullmatch(form, name)
        if found:
            return make(*map(int, found.groups()))
    raise ConfigError(
        f"expected codes such as sq8, sq4, pca32-sq4, prefix64, sign2, opq16, bebr128x2 or "
        f"'faiss HNSW32', got {name!r}."
    )
