"""How far the coder is from the entropy, and how fast: the reference, the accelerator, and CompressAI's path.

All code the same symbols, drawn from the tables themselves or measured; in turns, so that a machine that slows down
slows all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from littoral.bench.split.compressai_coder import Way, compressai_ways
from littoral.core.codec import Symbols, decode, encode, rate_bits
from littoral.core.codec_tables import ChannelPrior, CodecTables, FrequencyTable
from littoral.train.contexts import fit_contexts

NUM_SYMBOLS = 2_000
"""Of the payload whose time with the reference is a promise."""
LARGE_SYMBOLS = 72_600
"""Of the latent of Entropic Student at 224 x 224 pixels."""
PROMISED_BYTES = 12
CODERS = ("reference", "accelerator", "compressai", "compressai_lists")
"""As the keys of `speed` call them; the last is CompressAI's from lists that are ready."""
_CEILING = 1_000_000


def laplace_tables(num_symbols: int, *, num_channels: int, seed: int = 0) -> CodecTables:
    """Tables of one level with peaks of many widths, as learned ones have them, for about so many symbols."""
    rng = np.random.default_rng(seed)
    values = np.arange(-40, 41)
    priors = []
    for scale in np.exp(rng.uniform(np.log(0.3), np.log(3), num_channels)):
        pmf = np.exp(-np.abs(values) / scale)
        priors.append(ChannelPrior(pmf=pmf, first_value=-40, escape=1e-7 * float(pmf.sum())))
    width = max(1, round(num_symbols / num_channels))
    return CodecTables(height=1, width=width, levels=(FrequencyTable.from_priors(priors, max_bytes=_CEILING),))


def draw_symbols(tables: CodecTables, *, level: int, num_payloads: int, seed: int = 0) -> list[Symbols]:
    """Symbols as the tables say that they come, escapes left out."""
    rng, table = np.random.default_rng(seed), tables.level(level)
    num_channels, height, width = tables.shape(level)
    out = []
    for _ in range(num_payloads):
        rows = []
        assert isinstance(table, FrequencyTable)
        for counts, first in zip(table.rows, table.first_values, strict=True):
            weights = counts[:-1].astype(np.float64)
            rows.append(first + rng.choice(len(weights), size=height * width, p=weights / weights.sum()))
        out.append(np.array(rows, np.int32).reshape(num_channels, height, width))
    return out


def overhead(symbols: Sequence[Symbols], tables: CodecTables, *, level: int) -> dict[str, float]:
    """Payload bytes against the ideal code length under the tables, and whether all keep within the promise."""
    ideal = [rate_bits(one, tables, level=level) / 8 for one in symbols]
    sent = [len(encode(one, tables, level=level)) for one in symbols]
    return {
        "ideal_bytes": round(float(np.mean(ideal)), 3),
        "bytes": round(float(np.mean(sent)), 3),
        "overhead_bytes": round(float(np.mean(np.subtract(sent, ideal))), 3),
        "overhead_fraction": round(sum(sent) / sum(ideal) - 1, 6),
        "within_promise": bool(np.all(np.array(sent) <= 1.01 * np.array(ideal) + PROMISED_BYTES)),
    }


def speed(
    symbols: Sequence[Symbols], tables: CodecTables, *, level: int, rounds: int, compressai: bool = True
) -> dict[str, Any]:
    """Milliseconds to encode and to decode a payload, medians, for each coder that is here.

    Keys are ``encode_ms_<coder>`` and so on; a coder that is not here has None and its reason.
    """
    ways = _ways(symbols, tables, level)
    reasons: dict[str, Any] = {}
    if compressai:
        try:
            ways.update(compressai_ways(symbols, tables, level))
        except ImportError as error:
            reasons["compressai_reason"] = f"compressai cannot be imported here ({error})"
    times: dict[str, list[float]] = {}
    for number in range(rounds):
        for name, (encode_one, decode_one) in ways.items():
            for way in ("encode", "decode"):
                call = encode_one if way == "encode" else decode_one
                started = time.perf_counter_ns()
                call(number % len(symbols))
                times.setdefault(f"{way}_ms_{name}", []).append((time.perf_counter_ns() - started) / 1e6)
    out: dict[str, Any] = {"num_symbols": int(np.prod(tables.shape(level))), "rounds": rounds}
    for name in CODERS:
        both = 0.0
        for way in ("encode", "decode"):
            found = times.get(f"{way}_ms_{name}")
            out[f"{way}_ms_{name}"] = round(float(np.median(found)), 5) if found else None
            both += float(np.median(found)) if found else 0.0
        out[f"symbols_per_second_{name}"] = round(2e3 * out["num_symbols"] / both) if both else None
    if tables.level(level).coder is tables.level(level).reference_coder:
        reasons["accelerator_reason"] = "neither constriction nor numba is installed here"
    return {**out, **reasons}


def _ways(symbols: Sequence[Symbols], tables: CodecTables, level: int) -> dict[str, Way]:
    payloads = [encode(one, tables, level=level) for one in symbols]

    def way(use_reference: bool) -> Way:
        return (
            lambda i: encode(symbols[i], tables, level=level, use_reference=use_reference),
            lambda i: decode(payloads[i], tables, use_reference=use_reference),
        )

    table = tables.level(level)
    ways = {"reference": way(True)}
    if table.coder is not table.reference_coder:
        ways["accelerator"] = way(False)
    return ways


def smooth_symbols(count: int, *, seed: int = 0) -> list[Symbols]:
    """As many as `NUM_SYMBOLS`, 20 channels of 10 x 10: each place alike to those around it."""
    noise = np.random.default_rng(seed).normal(0, 2.0, (count, 20, 12, 12))
    smooth = sum(noise[:, :, dy : dy + 10, dx : dx + 10] for dy in range(3) for dx in range(3)) / 3
    return list(np.rint(smooth).astype(np.int32))


def context_speed(*, rounds: int) -> dict[str, Any]:
    """The same of tables that are chosen by neighbours, on symbols that they were not fitted to."""
    table = fit_contexts(np.stack(smooth_symbols(300)))
    tables = CodecTables(height=10, width=10, levels=(table,))
    symbols = smooth_symbols(20, seed=1)
    row = {**overhead(symbols, tables, level=0), **speed(symbols, tables, level=0, rounds=rounds, compressai=False)}
    return {
        f"contexts_{key}": value
        for key, value in row.items()
        if "compressai" not in key and not key.endswith("_reason")
    }


def measure_codec(*, quick: bool) -> dict[str, Any]:
    """The row of the table: 2,000 symbols against the promise, of both kinds of tables, and a large latent for the
    throughput."""
    small = laplace_tables(NUM_SYMBOLS, num_channels=20)
    large = laplace_tables(LARGE_SYMBOLS, num_channels=24)
    rounds = 40 if quick else 400
    drawn = draw_symbols(small, level=0, num_payloads=20 if quick else 200)
    out = {**overhead(drawn, small, level=0), **speed(drawn, small, level=0, rounds=rounds)}
    out.update(context_speed(rounds=max(rounds // 4, 3)))
    many = draw_symbols(large, level=0, num_payloads=2)
    wide = speed(many, large, level=0, rounds=max(rounds // 20, 3))
    out.update({f"large_{key}": value for key, value in wide.items() if not key.endswith("_reason")})
    speeds = {name: wide[f"symbols_per_second_{name}"] for name in CODERS}
    fast = speeds.pop("accelerator")
    for name, other in speeds.items():
        out[f"speedup_over_{name}"] = round(fast / other, 2) if fast and other else None
    return out
