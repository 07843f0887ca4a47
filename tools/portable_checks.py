"""The bytes of payloads and of the wire, checked by any Python that has NumPy and msgpack, on any machine.

    python tools/portable_checks.py --write said.json     here: what this machine makes of the cases
    python tools/portable_checks.py --compare said.json   elsewhere: every byte and every value as it was there

Beside the golden files of the tests there are cases drawn from SHA-256, so that no library's random numbers decide on
them. A control is a deliberate mistake that a check has to see. The last line of stdout is one JSON document.
`tools/check_arm.py` runs this under emulated processors; it needs no pytest and no other package of ours.
"""
# ruff: noqa: T201

import argparse
import hashlib
import json
import platform
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from littoral.core import rans
from littoral.core.codec import decode, encode, rate_bits
from littoral.core.codec_contexts import ContextTable
from littoral.core.codec_tables import ChannelPrior, CodecTables, FrequencyTable, quantise_prior
from littoral.core.rans import RansStack
from littoral.errors import PayloadError, ProtocolError
from littoral.wire.envelope import Frame, decode_frame, encode_frame
from littoral.wire.messages import Receipt, Sample, Status, from_frame, to_frame

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
INT32 = (-(1 << 31), (1 << 31) - 1)
ROUND_TRIPS_PER_LEVEL = 6


class Wrong(Exception):
    """A byte or a value is not what it has to be."""


def same(came: object, expected: object, what: str) -> None:
    if came != expected:
        raise Wrong(f"{what}: {came!r:.120} came, expected {expected!r:.120}")


def drawn(*name: object) -> Iterator[int]:
    """Numbers of 32 bits without end, the same ones anywhere."""
    block = repr(name).encode()
    while True:
        block = hashlib.sha256(block).digest()
        yield from struct.unpack("<8I", block)


# Payloads.


def golden_payloads() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((GOLDEN / "codec-payloads.json").read_text())
    return document


def golden_tables(golden: dict[str, Any]) -> CodecTables:
    levels = []
    for channels in golden["priors"]:
        priors = [ChannelPrior(pmf=np.array(p, np.float64), first_value=f, escape=e) for p, f, e in channels]
        levels.append(FrequencyTable.from_priors(priors, max_bytes=golden["max_bytes"]))
    return CodecTables(height=golden["grid"][0], width=golden["grid"][1], levels=tuple(levels))


def check_tables(golden: dict[str, Any]) -> int:
    """The float64 weights give the golden whole numbers and digest, and tables read from a file in either byte order
    are those tables."""
    tables = golden_tables(golden)
    same([table.counts.tolist() for table in tables.levels], golden["counts"], "counts")
    same(tables.digest.hex(), golden["digest"], "digest of the tables")
    for order in "<>":
        tensors = {name: value.astype(value.dtype.newbyteorder(order)) for name, value in tables.to_tensors().items()}
        same(CodecTables.from_tensors(tensors).digest.hex(), golden["digest"], f"digest of tables read as {order}")
    return 3


def golden_contexts(file: str) -> tuple[CodecTables, dict[str, Any]]:
    """Tables that look at neighbours, and their payloads."""
    golden = json.loads((GOLDEN / file).read_text())
    tensors = {name: np.array(value["values"], value["type"]) for name, value in golden["tensors"].items()}
    tables = CodecTables.from_tensors(tensors)
    same(tables.digest.hex(), golden["digest"], f"digest of the tables in {file}")
    return tables, golden


def check_payloads(tables: CodecTables, golden: dict[str, Any]) -> int:
    """The reference coder gives the golden bytes for the golden symbols, and these back."""
    for case in golden["payloads"]:
        level, name = case["level"], case["name"]
        symbols = np.array(case["symbols"], np.int32).reshape(tables.shape(level))
        for order in "<>":
            payload = encode(symbols.astype(f"{order}i4"), tables, level=level, use_reference=True)
            same(payload.hex(), case["payload"], f"payload {name!r} of symbols in order {order}")
        decoded = decode(bytes.fromhex(case["payload"]), tables, use_reference=True)
        same((decoded.level, decoded.symbols.ravel().tolist()), (level, case["symbols"]), f"symbols of {name!r}")
    return len(golden["payloads"])


def random_contexts() -> CodecTables:
    """Two levels of three channels of 5 x 6, four bins and three fractions, which look far; one is of three groups."""
    numbers = drawn("contexts")

    def some(least: int, most: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        count = int(np.prod(shape))
        return np.array([least + next(numbers) % (most - least) for _ in range(count)], dtype).reshape(shape)

    rows = [
        quantise_prior(ChannelPrior(pmf=some(1, 1000, (9,), "f8"), first_value=0, escape=20.0)) for _ in range(4 * 3)
    ]
    table = ContextTable(
        height=5, width=6, mean_weights=some(-900, 900, (2, 3, 3, 4), "i2"),
        scale_weights=some(-300, 900, (2, 3, 3, 4), "i2"), mean_bias=some(-9000, 9000, (3, 5, 6), "i4"),
        scale_bias=some(0, 9000, (3, 1, 1), "i4"), thresholds=np.array([5000, 50_000, 400_000], "i4"),
        counts=np.stack(rows).reshape(4, 3, 10), first_value=-4, max_bytes=100_000, usual_bits=0,
    )  # fmt: skip
    grouped = replace(
        table, mean_weights=some(-900, 900, (2, 1, 1, 4), "i2"), scale_weights=some(-300, 900, (2, 1, 1, 4), "i2"),
        mean_bias=some(-9000, 9000, (3, 3, 1), "i4"), scale_bias=some(0, 9000, (3, 3, 1), "i4"),
        group_starts=np.array([1, 2], "u4"), group_weights=some(-300, 900, (3, 3, 2), "i2"),
    )  # fmt: skip
    return CodecTables(height=5, width=6, levels=(table, grouped))


def random_tables() -> CodecTables:
    """Three levels of an 8 x 6 latent: five channels, two, and one of which every value is an escape."""
    numbers = drawn("tables")
    levels = []
    for channels in (5, 2, 1):
        priors = []
        for _ in range(channels):
            pmf = np.array([1 + next(numbers) % 10_000 for _ in range(1 + next(numbers) % 40)], np.float64)
            first = INT32[1] if channels == 1 else -(next(numbers) % 30)
            priors.append(ChannelPrior(pmf=pmf[:1] if channels == 1 else pmf, first_value=first, escape=7.0))
        levels.append(FrequencyTable.from_priors(priors, max_bytes=100_000))
    return CodecTables(height=8, width=6, levels=tuple(levels))


def random_symbols(tables: CodecTables, level: int, number: int) -> np.ndarray:
    """Mostly small values; one in 16 is any int32 at all."""
    shape = tables.shape(level)
    numbers, values = drawn("symbols", level, number), []
    for _ in range(shape[0] * shape[1] * shape[2]):
        kind, value = next(numbers), next(numbers)
        values.append(value + INT32[0] if kind % 16 == 0 else value % 41 - 20)
    return np.array(values, np.int64).reshape(shape)


def payload_round_trips() -> dict[str, Any]:
    """What this machine makes of the drawn symbols; each payload comes back here."""
    return round_trips_of(random_tables()) | {
        f"contexts {key}": value for key, value in round_trips_of(random_contexts()).items()
    }


def round_trips_of(tables: CodecTables) -> dict[str, Any]:
    said: dict[str, Any] = {"digest": tables.digest.hex()}
    for level in range(len(tables.levels)):
        for number in range(ROUND_TRIPS_PER_LEVEL):
            symbols = random_symbols(tables, level, number)
            payload = encode(symbols, tables, level=level, use_reference=True)
            back = decode(payload, tables, use_reference=True).symbols
            same(back.tolist(), symbols.tolist(), f"symbols {number} of level {level}")
            same(back.dtype, np.dtype(np.int32), "their type")
            said[f"{level}/{number}"] = payload.hex()
            said[f"{level}/{number} bits"] = round(rate_bits(symbols, tables, level=level), 6)
    return said


def check_stack() -> int:
    """The reference coder alone: what was pushed is popped, bits among slots, and its bytes are little-endian words."""
    same(RansStack(0x0123456789ABCDEF, [0x11223344]).to_bytes().hex(), "44332211efcdab8967452301", "bytes of a stack")
    numbers, counts = drawn("stack"), [1, 5_000_000, (1 << 24) - 5_000_001]
    ends = [1, 5_000_001, 1 << 24]
    for _ in range(20):
        slots = [next(numbers) % 3 for _ in range(50)]
        bits = [(next(numbers) & ((1 << n) - 1), n) for n in range(1, 17)]
        stack = RansStack.start(check := next(numbers) >> 8)
        for value, num_bits in reversed(bits):
            stack.push_bits(value, num_bits)
        stack.push([ends[s] - counts[s] for s in slots], [counts[s] for s in slots])
        stack = RansStack.from_bytes(stack.to_bytes())
        same(stack.pop([(counts, ends)] * len(slots)), slots, "slots popped")
        same([(stack.pop_bits(num_bits), num_bits) for _, num_bits in bits], bits, "bits popped")
        same(stack.check, check, "the stack's check")
    return 20


# Frames and messages.


def golden_messages() -> dict[str, str]:
    document: dict[str, str] = json.loads((GOLDEN / "wire-messages.json").read_text())
    return document


def check_messages(golden: dict[str, str]) -> dict[str, str]:
    """Each golden frame is read and written as it was; what its fields say, to be compared with another machine."""
    said = {}
    for name, text in golden.items():
        frame = decode_frame(bytes.fromhex(text))
        message = from_frame(frame)
        same(type(message).__name__, name, "kind of message")
        again = to_frame(message, stream=frame.stream, sequence=frame.sequence)
        same(encode_frame(again).hex(), text, f"frame of {name}")
        said[name] = repr((frame.stream, frame.sequence, message))
    return said


def frame_round_trips() -> dict[str, str]:
    """Frames and messages with numbers at the edges of their formats; each comes back here."""
    said = {}
    counts = sorted({edge + by for n in (0, 5, 7, 8, 16, 32, 63) for edge in [1 << n] for by in (-1, 0)} | {2**64 - 1})
    for count in counts:
        frame = Frame(type=5, stream=count, sequence=count, key=b"k", deadline_ms=3_600_000, codec="a", body=b"\xff")
        messages = [Status(version=count, frames=1, selected=count, queued=2, dropped=count, statistics_resets=3)]
        frames = [frame, *(to_frame(message, stream=count) for message in messages)]
        for number, each in enumerate(frames):
            data = encode_frame(each)
            same(decode_frame(data), each, f"frame with {count}")
            said[f"{count}/{number}"] = data.hex()
        same(from_frame(frames[1]), messages[0], f"status with {count}")
    for value in (0.0, -0.0, 1.0, 5e-324, 2.2250738585072014e-308, 0.1, 1.7976931348623157e308, 2.0794415416798357):
        sample = Sample(
            frame_id=1, version=2, predicted=3, entropy_nats=value, coding="raw", image=b"\0" * 300, scene=4
        )
        back = from_frame(to_frame(sample, stream=1, sequence=1))
        same(repr(back), repr(sample), f"sample with {value}")
        said[f"entropy {value!r}"] = encode_frame(to_frame(sample, stream=1, sequence=1)).hex()
    for text in ("", "die Küste", "x" * 31, "x" * 32, "x" * 300, "\U0001f30a"):
        receipt = Receipt(version=1, outcome="rejected", code="probe", reason=text)
        same(from_frame(to_frame(receipt, stream=1, sequence=1)), receipt, f"receipt with {text!r:.20}")
        said[f"reason {text!r:.20} {len(text)}"] = encode_frame(to_frame(receipt, stream=1, sequence=1)).hex()
    return said


# Controls: each is a mistake that has to be seen.


def refused(call: Callable[[], object], error: type[Exception], what: str) -> int:
    try:
        call()
    except error:
        return 1
    raise Wrong(f"{what} was taken")


def damaged_payloads(tables: CodecTables, golden: dict[str, Any]) -> int:
    seen = 0
    for case in golden["payloads"]:
        payload = bytes.fromhex(case["payload"])
        bad = [payload[:at] for at in range(len(payload))]
        for at in range(len(payload)):
            bad += [payload[:at] + bytes([payload[at] ^ mask]) + payload[at + 1 :] for mask in (1, 0x80, 0xFF)]
        for data in bad:  # and with the sum over all bytes put right, so that only the checksum below can see it
            seen += refused(lambda d=data: decode(d, tables, use_reference=True), PayloadError, f"payload {data.hex()}")
            if len(data) == len(payload):
                evened = data[:3] + bytes([data[3] - sum(data) & 0xFF]) + data[4:]
                if evened != payload:
                    seen += refused(
                        lambda d=evened: decode(d, tables, use_reference=True), PayloadError, f"payload {evened.hex()}"
                    )
    return seen


def damaged_frames(golden: dict[str, str]) -> int:
    seen = 0
    for name, text in golden.items():
        data, body = bytes.fromhex(text), decode_frame(bytes.fromhex(text)).body
        bad = [data[:at] for at in range(len(data))]
        for at in range(len(data) - len(body), len(data)):  # within the body, which is last
            bad += [data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :] for mask in (1, 0x80, 0xFF)]
        for each in bad:
            seen += refused(lambda d=each: decode_frame(d), ProtocolError, f"{name} {each.hex()}")
    return seen


def wrong_golden_is_seen(golden: dict[str, Any]) -> int:
    """One symbol, one byte, one weight other than in the golden file."""
    seen = 0
    for key, change in (("payloads", 0), ("payloads", 1), ("counts", 2)):
        other = json.loads(json.dumps(golden))
        if change == 0:
            other[key][0]["symbols"][0] += 1
        elif change == 1:
            other[key][1]["payload"] = other[key][1]["payload"][:-1] + "0"
        else:
            other["priors"][0][0][0][4] += 1e-3
        seen += refused(lambda o=other: (check_tables(o), check_payloads(golden_tables(o), o)), Wrong, f"a wrong {key}")
    return seen


def other_byte_order_is_seen(golden: dict[str, Any]) -> int:
    """A coder that writes its words the other way round, as one that forgets the order does on the other machine."""
    right = rans._WORD
    rans._WORD = right.newbyteorder(">")
    try:
        seen = refused(lambda: check_payloads(golden_tables(golden), golden), Wrong, "a payload of big-endian words")
        return seen + refused(check_stack, Wrong, "a stack of big-endian words")
    finally:
        rans._WORD = right


def look(said_elsewhere: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run everything: what was shown, and what this machine said of the cases."""
    started = time.monotonic()
    golden, messages = golden_payloads(), golden_messages()
    tables = check_tables(golden)
    coded = [(golden_tables(golden), golden), *map(golden_contexts, ("codec-contexts.json", "codec-groups.json"))]
    payloads = sum(check_payloads(*each) for each in coded)
    stacks = check_stack()
    said = {"messages": check_messages(messages), "payloads": payload_round_trips(), "frames": frame_round_trips()}
    if said_elsewhere is not None:
        for part, cases in said_elsewhere["said"].items():
            for name, value in cases.items():
                same(said[part].get(name), value, f"{part} {name} here and on {said_elsewhere['machine']}")
            same(sorted(said[part]), sorted(cases), f"the cases of {part}")
    controls = {
        "damaged_payloads_refused": sum(damaged_payloads(*each) for each in coded),
        "damaged_frames_refused": damaged_frames(messages),
        "wrong_goldens_seen": wrong_golden_is_seen(golden),
        "other_byte_order_seen": other_byte_order_is_seen(golden),
    }
    if said_elsewhere is not None:
        controls["differences_seen"] = difference_is_seen(said, said_elsewhere)
    check_payloads(golden_tables(golden), golden)  # and the controls left nothing behind
    num_payloads = sum("bits" not in name for name in said["payloads"]) - 2
    shown = {
        "architecture": platform.machine(),
        "byte_order": sys.byteorder,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "msgpack": ".".join(str(part) for part in msgpack.version),
        "tables_checked": tables,
        "golden_payloads": payloads,
        "golden_messages": len(messages),
        "payload_round_trips": num_payloads,
        "stack_round_trips": stacks,
        "frame_round_trips": len(said["frames"]),
        "compared_with": None if said_elsewhere is None else said_elsewhere["machine"],
        **controls,
        "seconds": round(time.monotonic() - started, 1),
    }
    return shown, said


def difference_is_seen(said: dict[str, Any], elsewhere: dict[str, Any]) -> int:
    """The comparison itself: one case that the other machine would have answered otherwise."""
    seen = 0
    for part in elsewhere["said"]:
        name = sorted(elsewhere["said"][part])[0]
        seen += refused(lambda p=part, n=name: same(said[p][n], f"{elsewhere['said'][p][n]}!", n), Wrong, name)
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="write what this machine says of the cases")
    parser.add_argument("--compare", type=Path, help="a file that another machine wrote")
    arguments = parser.parse_args()
    elsewhere = json.loads(arguments.compare.read_text()) if arguments.compare else None
    try:
        shown, said = look(elsewhere)
    except Wrong as error:
        print(f"WRONG on {platform.machine()}: {error}", file=sys.stderr)
        return 1
    if arguments.write:
        machine = f"{platform.machine()}, {sys.byteorder}-endian, numpy {np.__version__}"
        arguments.write.write_text(json.dumps({"machine": machine, "said": said}))
    print(json.dumps(shown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
