"""Whether payloads are exact: round trips by the reference and by the accelerator, and damage of every kind refused.

Axes: C channels, H height, W width.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from littoral.core.codec import Symbols, decode, encode
from littoral.core.codec_contexts import ContextTable
from littoral.core.codec_parts import NEAR, largest_near
from littoral.core.codec_tables import ChannelPrior, CodecTables, FrequencyTable, quantise_prior
from littoral.core.rans import RansStack
from littoral.core.rans_compiled import CompiledCoder
from littoral.errors import PayloadError

PER_TABLES = 100
"""Payloads that share tables; then new ones are drawn."""
_CEILING = 100_000
_SOMETIMES = 0.02
"""The share of symbols that lie anywhere within int32, so mostly outside of the tables."""
Say = Callable[[int, int], None]


def random_tables(rng: np.random.Generator) -> CodecTables:
    """Of 1 to 3 levels, 1 to 6 channels, 1 to 8 places a side and 1 to 40 values.

    Half of them look at neighbours, some of these in groups of channels.
    """
    height, width = (int(side) for side in rng.integers(1, 9, 2))
    levels: list[FrequencyTable | ContextTable] = []
    if rng.random() < 0.5:
        levels = [_random_contexts(rng, height, width) for _ in range(int(rng.integers(1, 4)))]
        return CodecTables(height=height, width=width, levels=tuple(levels))
    for _ in range(int(rng.integers(1, 4))):
        priors = []
        for _ in range(int(rng.integers(1, 7))):
            weights = rng.dirichlet(np.full(int(rng.integers(1, 41)), rng.choice([0.05, 0.5, 5.0])))
            priors.append(ChannelPrior(pmf=weights, first_value=int(rng.integers(-30, 10)), escape=1e-4))
        levels.append(FrequencyTable.from_priors(priors, max_bytes=_CEILING))
    return CodecTables(height=height, width=width, levels=tuple(levels))


def _random_contexts(rng: np.random.Generator, height: int, width: int) -> ContextTable:
    """Weights large enough that means and scales lie in many tables, and often far from the symbols."""
    channels, bins, num_fractions, num_slots = (int(rng.integers(1, most)) for most in (7, 6, 6, 40))
    starts = np.flatnonzero(rng.random(channels) < 0.3).astype(np.uint32)  # half of the latents have one group
    starts = starts[(starts > 0) & (rng.random() < 0.5)]
    ends = [*starts.tolist(), channels]
    near = ends[int(rng.integers(0, len(ends)))] if len(starts) else channels
    shape = (2, near, largest_near(ends, near), 4)
    places = (len(NEAR), 1) if len(starts) else (height, width) if rng.random() < 0.5 else (1, 1)
    rows = [
        quantise_prior(ChannelPrior(pmf=rng.dirichlet(np.full(num_slots, 0.5)), first_value=0, escape=1e-4))
        for _ in range(bins * num_fractions)
    ]
    return ContextTable(
        height=height,
        width=width,
        mean_weights=rng.integers(-1000, 1000, shape).astype(np.int16),
        scale_weights=rng.integers(-300, 1000, shape).astype(np.int16),
        mean_bias=rng.integers(-9000, 9000, (channels, *places)).astype(np.int32),
        scale_bias=rng.integers(0, 9000, (channels, len(NEAR) if len(starts) else 1, 1)).astype(np.int32),
        thresholds=np.sort(rng.integers(0, 30_000, bins - 1)).astype(np.int32),
        counts=np.stack(rows).reshape(bins, num_fractions, num_slots + 1),
        first_value=int(rng.integers(-num_slots, 1)),
        max_bytes=_CEILING,
        usual_bits=0,
        group_starts=starts,
        group_weights=rng.integers(-300, 1000, (len(NEAR), channels, len(starts))).astype(np.int16),
    )


def random_symbols(rng: np.random.Generator, tables: CodecTables, level: int) -> Symbols:
    """Int32 ``(C, H, W)``: most have a slot of their own, some are anywhere."""
    table, shape = tables.level(level), tables.shape(level)
    if isinstance(table, ContextTable):
        symbols = rng.integers(-3, 4, shape)
    else:
        spans = (table.num_slots.astype(np.int64) - 1)[:, None, None]
        symbols = table.first_values.astype(np.int64)[:, None, None] + rng.integers(0, spans, shape)
    limits = np.iinfo(np.int32)
    anywhere = rng.integers(limits.min, limits.max, shape, endpoint=True)
    return np.where(rng.random(shape) < _SOMETIMES, anywhere, symbols).astype(np.int32)


def _drawn(count: int, seed: int) -> Iterator[tuple[CodecTables, int, Symbols]]:
    rng = np.random.default_rng(seed)
    tables = random_tables(rng)
    for number in range(count):
        if number and number % PER_TABLES == 0:
            tables = random_tables(rng)
        level = int(rng.integers(len(tables.levels)))
        yield tables, level, random_symbols(rng, tables, level)


def round_trips(count: int, *, seed: int = 0, say: Say = lambda done, of: None) -> dict[str, Any]:
    """Encode and decode with both coders, each decoding what the other encoded.

    Returns:
        ``round_trips``, ``mismatches`` (of bytes or of symbols), ``symbols`` and ``bytes`` in all; ``accelerator``,
        whether there was one, since without it the reference is held against itself; and ``compiled``, whether the
        coder of large latents was held against the reference as well.
    """
    mismatches = num_symbols = num_bytes = 0
    accelerated, compiled = False, importlib.util.find_spec("numba") is not None
    for number, (tables, level, symbols) in enumerate(_drawn(count, seed), 1):
        table = tables.level(level)
        accelerated = accelerated or table.coder is not table.reference_coder
        payload = encode(symbols, tables, level=level)
        reference = encode(symbols, tables, level=level, use_reference=True)
        back = (decode(reference, tables), decode(payload, tables, use_reference=True))
        same = all(one.level == level and np.array_equal(one.symbols, symbols) for one in back)
        same = same and not (compiled and _compiled_differs(table, symbols))
        mismatches += payload != reference or not same
        num_symbols += symbols.size
        num_bytes += len(payload)
        say(number, count)
    return {
        "round_trips": count,
        "mismatches": mismatches,
        "symbols": num_symbols,
        "bytes": num_bytes,
        "accelerator": accelerated,
        "compiled": compiled,
    }


def _compiled_differs(table: FrequencyTable | ContextTable, symbols: Symbols) -> bool:
    """Whether the coder that is for large latents gives another stack, or other slots back, than the reference."""
    coded, coder = table.coded(symbols.reshape(len(symbols), -1).astype(np.int64)), CompiledCoder(table.rows)
    stack, same = (one.push(RansStack.start(1), coded.tables, coded.slots) for one in (coder, table.reference_coder))
    slots, left = coder.pop(stack, coded.tables, coded.slots.shape[1])
    return stack != same or left != RansStack.start(1) or not np.array_equal(slots, coded.slots)


def damage(count: int, *, seed: int = 0, say: Say = lambda done, of: None) -> dict[str, Any]:
    """Put every other value in the place of every byte of a payload, and cut it at every length.

    Returns:
        ``damaged_payloads``, how many were ``changed`` and ``cut``, and how many of these were ``accepted``.
    """
    changed = cut = accepted = 0
    for number, (tables, level, symbols) in enumerate(_drawn(count, seed), 1):
        payload = encode(symbols, tables, level=level)
        for position, value in enumerate(payload):
            before, after = payload[:position], payload[position + 1 :]
            for other in range(256):
                if other != value:
                    changed += 1
                    accepted += _is_accepted(before + bytes([other]) + after, tables)
            cut += 1
            accepted += _is_accepted(before, tables)
        say(number, count)
    return {"damaged_payloads": count, "changed": changed, "cut": cut, "accepted": accepted}


def _is_accepted(payload: bytes, tables: CodecTables) -> bool:
    try:
        decode(payload, tables)
    except PayloadError:
        return False
    return True


def measure_exactness(*, num_round_trips: int, num_damaged: int, say: Say) -> dict[str, Any]:
    """The row of the table; ``say`` is told of both parts as one."""
    of = num_round_trips + num_damaged
    trips = round_trips(num_round_trips, say=lambda done, _: say(done, of))
    return {**trips, **damage(num_damaged, seed=1, say=lambda done, _: say(num_round_trips + done, of))}
