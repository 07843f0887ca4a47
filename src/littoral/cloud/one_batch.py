"""What peers sent, answered by a network in one batch, so that one that is refused does not touch the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from littoral.core.arrays import FloatArray
from littoral.errors import BundleError, LittoralError, ModelOutputError

Sent = TypeVar("Sent")
Decoded = TypeVar("Decoded")


def answer_in_one_batch(
    sent: Sequence[Sent],
    decode: Callable[[Sent], Decoded],
    run: Callable[[Sequence[Decoded]], FloatArray],
    name: Callable[[Decoded], str],
) -> list[FloatArray | LittoralError]:
    """Decode each, and run what could be decoded through a network at once.

    Args:
        decode: Raises a `LittoralError` for what is refused.
        run: Gives an output for each, the batch first.
        name: What to call one whose output is not finite.
    Returns:
        For each that was sent, in order, its output without the batch's axis, or what is wrong with it.
    """
    decoded = [_decoded(each, decode) for each in sent]
    whole = [each for each in decoded if not isinstance(each, LittoralError)]
    outputs = iter(run(whole) if whole else ())
    return [each if isinstance(each, LittoralError) else _finite(next(outputs), name(each)) for each in decoded]


def rows_of(outputs: Any, num_rows: int, who: str) -> FloatArray:
    """A network's outputs as float32 on the processor, a row for each input.

    Raises:
        BundleError: they are none.
    """
    if not isinstance(outputs, torch.Tensor) or len(outputs) != num_rows:
        raise BundleError(f"{who} does not give one tensor with a row for each input")
    return np.asarray(outputs.float().cpu().numpy())


def _decoded(sent: Sent, decode: Callable[[Sent], Decoded]) -> Decoded | LittoralError:
    try:
        return decode(sent)
    except LittoralError as error:
        return error


def _finite(output: FloatArray, name: str) -> FloatArray | ModelOutputError:
    if np.isfinite(output).all():
        return output
    return ModelOutputError(f"{name} gave an output that is not finite; let the device answer")
