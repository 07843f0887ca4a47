"""CompressAI's coder, measured beside ours: its compiled part alone, and the way its entropy models go to it.

The compiled part stands alone, so ``pip install --no-deps compressai`` is enough; the package around it asks for an
older NumPy than Littoral does. Source: CompressAI 1.2.8, ``entropy_models.py`` (`EntropyModel.compress`,
`EntropyModel.decompress`, `EntropyBottleneck._build_indexes`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from importlib.machinery import PathFinder
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from littoral.core.codec import Symbols
from littoral.core.codec_tables import CodecTables, FrequencyTable
from littoral.core.rans import TOTAL

Way = tuple[Callable[[int], object], Callable[[int], object]]
"""Encodes, and decodes, the payload of that number."""
_TOTAL = 1 << 16


def compressai_ways(symbols: Sequence[Symbols], tables: CodecTables, level: int) -> dict[str, Way]:
    """Ways to code symbols with CompressAI's tables of 16 bits.

    Returns:
        ``compressai``: from a tensor to a string and back as its entropy models do at each call: indices, symbols and
        all tables become lists of Python numbers first, and what was decoded a tensor afterwards. Rounding and medians
        are left out, since ours starts from whole numbers. ``compressai_lists``: the same from lists to lists.
    Raises:
        ImportError: it is not installed, or has no build for this machine.
        RuntimeError: what it decodes is not what it encoded.
    """
    coder = _compiled()
    table = tables.level(level)
    assert isinstance(table, FrequencyTable)
    cdfs = [cdf_of_16_bits(row) for row in table.rows]
    longest = max(map(len, cdfs))
    cdf_CL = torch.tensor([cdf + [0] * (longest - len(cdf)) for cdf in cdfs], dtype=torch.int32)
    length_C = torch.tensor([len(cdf) for cdf in cdfs], dtype=torch.int32)
    offset_C = torch.tensor(table.first_values.tolist(), dtype=torch.int32)
    channels, height, width = tables.shape(level)
    tensors = [torch.from_numpy(np.ascontiguousarray(one, np.int32)) for one in symbols]
    encoder, decoder = coder.RansEncoder(), coder.RansDecoder()

    def indices() -> list[int]:
        of_CHW = torch.arange(channels, dtype=torch.int32).view(-1, 1, 1).repeat(1, height, width)
        values: list[int] = of_CHW.reshape(-1).int().tolist()
        return values

    def lists() -> tuple[list[list[int]], list[int], list[int]]:
        return cdf_CL.tolist(), length_C.reshape(-1).int().tolist(), offset_C.reshape(-1).int().tolist()

    def encode(number: int) -> bytes:
        values = tensors[number].reshape(-1).int().tolist()
        coded: bytes = encoder.encode_with_indexes(values, indices(), *lists())
        return coded

    strings = [encode(number) for number in range(len(tensors))]

    def decode(number: int) -> torch.Tensor:
        values = decoder.decode_with_indexes(strings[number], indices(), *lists())
        out = cdf_CL.new_empty((channels, height, width))
        out[:] = torch.tensor(values, dtype=out.dtype).reshape(out.shape)
        return out

    if not all(torch.equal(decode(number), one) for number, one in enumerate(tensors)):
        raise RuntimeError("CompressAI's coder gives other symbols back than it was given")
    ready = [one.reshape(-1).tolist() for one in tensors]
    which, how = indices(), lists()
    return {
        "compressai": (encode, decode),
        "compressai_lists": (
            lambda number: encoder.encode_with_indexes(ready[number], which, *how),
            lambda number: decoder.decode_with_indexes(strings[number], which, *how),
        ),
    }


def cdf_of_16_bits(counts: NDArray[np.uint32]) -> list[int]:
    """Running sums to 2**16 of a channel's counts, every slot at least 1."""
    fine = np.maximum(1, np.floor(counts / TOTAL * _TOTAL)).astype(np.int64)
    fine[fine.argmax()] += _TOTAL - fine.sum()
    return [0, *np.cumsum(fine).tolist()]


def _compiled() -> Any:
    """Its extension module, without the package around it.

    Raises:
        ImportError: there is none here.
    """
    package = importlib.util.find_spec("compressai")
    folders = None if package is None else package.submodule_search_locations
    found = None if folders is None else PathFinder.find_spec("compressai.ans", folders)
    if found is None or found.loader is None:
        raise ImportError("No module named 'compressai.ans'; pip install --no-deps compressai")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
