"""An index on disk: a folder of files and a manifest with the checksum of each. No pickle anywhere.

    index.json            format, version of the model, codes, checksums, versions
    items.parquet         ids, and the prior where there is one
    meta.parquet          a row an item, where there is any
    vectors.npy           float vectors, mapped into memory when loaded
    codes-*.npy           codes, where there are any, mapped too
    codes.safetensors     what the codes were learned to be
    adapter.safetensors   the cut-off, where there is one

It is written whole or not at all.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys import __version__
from recsys.errors import CheckpointError, DataError
from recsys.folders import FolderFormat, fingerprints
from recsys.retrieval.codes import Codes, ScannedCodes
from recsys.retrieval.faiss_codes import FaissCodes
from recsys.retrieval.item_ids import as_ids, check_distinct
from recsys.retrieval.prefix_codes import PrefixCodes
from recsys.retrieval.product_codes import ProductCodes
from recsys.retrieval.recurrent_codes import RecurrentCodes
from recsys.retrieval.scalar_codes import ScalarCodes
from recsys.retrieval.sign_codes import SignCodes

INDEX = "index.json"
"""Name of the manifest."""
_FORMAT = FolderFormat(INDEX, "recsys index", 1, "Give a folder that Index.save wrote.")
_ITEMS, _META, _VECTORS = "items.parquet", "meta.parquet", "vectors.npy"
_CODES, _ADAPTER = "codes.safetensors", "adapter.safetensors"
_EVERY = (ScalarCodes, SignCodes, PrefixCodes, ProductCodes, RecurrentCodes, FaissCodes)
_KINDS: dict[str, type[Codes]] = {cls.kind: cls for cls in _EVERY}


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Content:
    """All of an index."""

    version: str | None
    ids: NDArray
    vectors: Tensor
    meta: pa.Table | None
    prior: Tensor | None
    codes: Codes | None
    parts: Mapping[str, Tensor]
    rescore: int
    adapter: Mapping[str, Tensor] | None


def write_index(directory: Path | str, content: Content) -> Path:
    """Writes an index, whole or not at all; replaces an older one.

    Args:
        directory: The folder.
        content: All of it.

    Raises:
        CheckpointError: The folder exists and holds something else.
    """
    target = Path(directory)

    def fill(draft: Path) -> dict[str, Any]:
        _write_files(draft, content)
        return {**_described(content), "files": fingerprints(draft)}

    _FORMAT.write(target, fill)
    return target


def _write_files(draft: Path, content: Content) -> None:
    kind = pa.int64() if content.ids.dtype != object else pa.string()
    columns: dict[str, Any] = {"id": pa.array(content.ids, kind)}
    if content.prior is not None:
        columns["prior"] = content.prior.numpy()
    pq.write_table(pa.table(columns), draft / _ITEMS)
    if content.meta is not None:
        pq.write_table(content.meta, draft / _META)
    np.save(draft / _VECTORS, content.vectors.numpy(), allow_pickle=False)
    for name, part in content.parts.items():
        np.save(draft / f"codes-{name}.npy", part.numpy(), allow_pickle=False)
    if content.codes is not None:
        state = {n: t.contiguous() for n, t in content.codes.state().items()}
        save_file(state, str(draft / _CODES))
    if content.adapter is not None:
        save_file(dict(content.adapter), str(draft / _ADAPTER))


def _described(content: Content) -> dict[str, Any]:
    codes = content.codes
    described = None
    if codes is not None:
        described = {"kind": codes.kind, "options": codes.options(), "parts": list(content.parts)}
    return {
        "version": content.version,
        "items": len(content.ids),
        "dim": content.vectors.shape[1],
        "codes": described,
        "rescore": content.rescore,
        "versions": {
            "recsys": __version__,
            "torch": torch.__version__,
            "pyarrow": pa.__version__,
            "numpy": np.__version__,
        },
    }


def read_index(directory: Path | str, verify: bool = True) -> Content:
    """Reads an index; vectors and codes are mapped from their files, not copied.

    Args:
        directory: The folder.
        verify: Whether to compare checksums, which reads every file once; sizes always are.

    Raises:
        CheckpointError: A file is missing, damaged or of another format version.
    """
    folder = Path(directory)
    manifest = _FORMAT.read(folder)
    for name, wanted in manifest["files"].items():
        _FORMAT.check(folder / name, wanted, verify)
    try:
        return _content(folder, manifest)
    except (
        pa.ArrowException, SafetensorError, DataError, OSError, ValueError, LookupError,
        RuntimeError,
    ) as error:  # fmt: skip
        raise CheckpointError(f"{folder}: its files do not fit each other: {error}") from None


def _content(folder: Path, manifest: Mapping[str, Any]) -> Content:
    items = pq.read_table(folder / _ITEMS)
    ids = as_ids(items["id"].to_numpy())
    check_distinct(ids)
    files = manifest["files"]
    vectors = _mapped(folder / _VECTORS)
    described, codes, parts = manifest["codes"], None, {}
    if described is not None:
        if described["kind"] not in _KINDS:
            raise ValueError(f"codes of the kind {described['kind']!r} are not known here")
        codes = _KINDS[described["kind"]](**described["options"])
        codes.load_state(load_file(str(folder / _CODES)))
        parts = {name: _mapped(folder / f"codes-{name}.npy") for name in described["parts"]}
    prior = None
    if "prior" in items.column_names:
        prior = torch.from_numpy(items["prior"].to_numpy().astype(np.float32))
    meta = pq.read_table(folder / _META, memory_map=True) if _META in files else None
    sizes = {len(ids), len(vectors), manifest["items"], *(len(part) for part in parts.values())}
    if len(sizes) > 1 or vectors.dtype != torch.float32 or vectors.dim() != 2:
        raise ValueError(f"items, vectors and codes differ in number: {sorted(sizes)}")
    if isinstance(codes, ScannedCodes) and len(vectors):  # now rather than in the first search
        prepared = codes.prepare(torch.zeros(1, vectors.shape[1]))
        codes.products(prepared, {name: part[:1] for name, part in parts.items()})
    return Content(
        version=manifest["version"],
        ids=ids,
        vectors=vectors,
        meta=meta,
        prior=prior,
        codes=codes,
        parts=parts,
        rescore=manifest["rescore"],
        adapter=load_file(str(folder / _ADAPTER)) if _ADAPTER in files else None,
    )


def _mapped(path: Path) -> Tensor:
    """An array whose pages are read when they are needed. Nothing is ever written to the file."""
    array = np.load(path, mmap_mode="c", allow_pickle=False)
    return torch.from_numpy(array)
