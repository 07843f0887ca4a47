"""The cloud's half of a split: payloads in, the network's outputs out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from littoral.bundle import Bundle, SplitCodec
from littoral.cloud.adapt import choose_device
from littoral.core.arrays import FloatArray
from littoral.core.codec import decode
from littoral.errors import BundleError, LittoralError, ModelOutputError, PayloadError
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
        answers: list[FloatArray | LittoralError | None] = [None] * len(payloads)
        positions, levels, latents = [], [], []
        for position, payload in enumerate(payloads):
            try:
                decoded = decode(payload, self.codec.tables)
            except PayloadError as error:
                answers[position] = error
                continue
            positions.append(position)
            levels.append(decoded.level)
            latents.append(self.codec.padded(decoded.symbols))
        if positions:
            for position, output in zip(positions, self._run(np.stack(latents), np.array(levels)), strict=True):
                answers[position] = _checked(output, levels[positions.index(position)])
        return answers  # type: ignore[return-value]

    def _run(self, symbols_BCHW: FloatArray, levels_B: np.ndarray) -> FloatArray:
        with torch.inference_mode():
            symbols = torch.from_numpy(symbols_BCHW).to(self.device)
            outputs = self._model(symbols, torch.from_numpy(levels_B.astype(np.int64)).to(self.device))
        if not isinstance(outputs, torch.Tensor) or len(outputs) != len(symbols_BCHW):
            raise BundleError(
                f"the tail of split point {self.index} does not give one tensor with a row for each input"
            )
        return np.asarray(outputs.float().cpu().numpy())


def _checked(output: FloatArray, level: int) -> FloatArray | ModelOutputError:
    if np.isfinite(output).all():
        return output
    return ModelOutputError(f"a payload of level {level} gave an output that is not finite; let the device answer")
