"""The cloud's half of a split: payloads in, the network's outputs out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from littoral.bundle import Bundle, SplitCodec
from littoral.cloud.adapt import choose_device
from littoral.cloud.one_batch import answer_in_one_batch, rows_of
from littoral.core.arrays import FloatArray
from littoral.core.codec import decode
from littoral.errors import BundleError, LittoralError
from littoral.models.factory import load_model


class Tail:
    """Decoder and tail of one of a bundle's split points. For one thread at a time; nothing in it changes.

    Args:
        bundle: Opened with ``require_cloud``.
        index: Which of the bundle's split points.
        device: ``auto`` (CUDA where torch has it), ``cpu`` or ``cuda``.
    Raises:
        BundleError: there is no such split point, or its network cannot be rebuilt, or does not take its symbols.
        ValueError: the device is not to be had.
    """

    def __init__(self, bundle: Bundle, index: int = 0, *, device: str = "auto") -> None:
        self.codec, self.index = SplitCodec.open(bundle, index), index
        self.device = choose_device(device)
        spec = bundle.manifest.splits[index].model
        self._model = load_model(spec, bundle.load_tensors(spec.file)).to(self.device)
        levels = self.codec.num_levels
        try:  # a network that is not made for these tables fails now and not at the first request
            self._run(np.zeros((levels, *self.codec.latent_shape), np.float32), np.arange(levels))
        except (RuntimeError, IndexError) as error:
            raise BundleError(
                f"the network in {spec.file} does not take the symbols of split point {index}, {levels} levels of "
                f"{self.codec.latent_shape}: {error}; build the bundle again"
            ) from error

    @property
    def tables_name(self) -> bytes:
        """What a payload for this tail says in its header (`core.codec.PayloadHeader.tables_name`)."""
        return self.codec.tables.name

    def answer(self, payloads: Sequence[bytes]) -> list[FloatArray | LittoralError]:
        """Decode each payload and run them through the network as one batch, whatever their levels.

        Args:
            payloads: From untrusted peers. One that is refused does not touch the others.
        Returns:
            For each payload, in order, the network's output without the batch's axis, float32, or what is wrong: a
            `PayloadError`, or a `ModelOutputError` where the output is not finite.
        """
        return answer_in_one_batch(
            payloads, self._decoded, self._answered, lambda each: f"a payload of level {each[0]}"
        )

    def _decoded(self, payload: bytes) -> tuple[int, FloatArray]:
        found = decode(payload, self.codec.tables)
        return found.level, self.codec.padded(found.symbols)

    def _answered(self, decoded: Sequence[tuple[int, FloatArray]]) -> FloatArray:
        return self._run(np.stack([latent for _, latent in decoded]), np.array([level for level, _ in decoded]))

    def _run(self, symbols_BCHW: FloatArray, levels_B: np.ndarray) -> FloatArray:
        with torch.inference_mode():
            symbols = torch.from_numpy(symbols_BCHW).to(self.device)
            outputs = self._model(symbols, torch.from_numpy(levels_B.astype(np.int64)).to(self.device))
        return rows_of(outputs, len(symbols_BCHW), f"the tail of split point {self.index}")
