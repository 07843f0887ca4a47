"""The page and the plot of the split table, from its document. Pure: text in, text out."""

from collections.abc import Callable, Iterable
from statistics import fmean
from typing import Any

import split_dense_section
import svg
from curves import Curve, draw
from result_page import FactsMaker, TableMaker, assemble
from split_keys import EXPLAINED

from littoral.bench.split.curves import Curve as RateCurve
from littoral.bench.split.curves import bytes_at

Rows = list[dict[str, Any]]
PLOT = "split.svg"
Summary = dict[str, Any]
_BUSY = 1.3
"""Time over processor time, from where on a machine was not alone with what it measured."""
_LOCAL = "points_over_local_only"
_TOOK = ("seconds", "cpu_seconds")
_CURVES = ("split", "codec", "features")
SIDE_PLOT = "split-side-by-side.svg"
_TRAINED = (
    (
        "split",
        "Splits",
        "All with the same teacher, frames and epochs; the same epochs are not the same number of the optimiser's "
        "*steps*, since batches differ. A segment's work is what the device does anyway where it runs its own network "
        "on every frame; the device pays both. `encode ms`: encoder on ONNX Runtime and coder, one thread.",
    ),
    (
        "compared",
        "Side by side",
        "Every method with the same teacher and frames, and {epochs} epochs each: too few for the best of any, and so "
        "many that a night is enough for all of them. `product_single` is the product's network trained for one rate. "
        "Entropic Student's stages have half of the epochs each; with few of them its mimicry is far from done.",
    ),
)
"""Kinds of rows with a split's points, a title, and what there is to say."""
_PLOT_WORDS = (
    "Bytes with headers, but for *webp, no header*. Dashed: what sends nothing (`local_only` the better of its "
    "shapes that are there) and what sends the frame losslessly."
)


def page(name: str, document: dict[str, Any], table: TableMaker, facts: FactsMaker) -> str:
    """The whole page."""
    sections = []
    if plot(document) is not None:
        words = _PLOT_WORDS + _frames_words(document["rows"])
        sections = ["## Accuracy against bytes", f"![right answers against bytes of a frame]({PLOT})", words]
    rows, summary = document["rows"], document["summary"]
    sections += [*points(rows, table), *local(rows, table, summary), *codecs(rows, table)]
    sections += [part for make in (timing, link, leakage, robust) for part in make(rows, table, summary)]
    sections += [part for make in (coder, split_dense_section.section) for part in make(rows, table)]
    teacher = ", ".join(document["config"].get("teacher", []))
    intro = (
        f"CIFAR-10, {teacher} as teacher and tail, ResNet-20 as the device's network. Made by `littoral bench split`; "
        "each row has the commit that it was made with. Bytes are those of a frame as sent: of a payload with its "
        "header and checksum, of a picture's whole file. *No header* is less the file of a blank frame of the same "
        "size and quality. Curves of codecs are of the first 2,000 test frames in a full run. "
        "Means over the seeds; in brackets how far the highest and the lowest lie apart."
    )
    return assemble(name, document, intro=intro, sections=sections, table=table, facts=facts, explained=EXPLAINED)


def _frames_words(rows: Rows) -> str:
    """On which frames the curves are, and how much easier or harder these are than all of them."""
    if not (few := _codec_frames(rows)):
        return ""
    words = f" All of it on the first {few:,} test frames, as the codecs; `*`: on all test frames, no other is known."
    for row in rows:
        if row["method"] == "cloud_lossless" and row["kind"] == "fixed" and "subset_accuracy" in row:
            words += (
                f" On these the cloud given the frame without loss is right on {row['subset_accuracy']:.2f} %, on all "
                f"on {row['accuracy']:.2f}."
            )
    return words


def _codec_frames(rows: Rows) -> int | None:
    """How many test frames the curves of codecs are of."""
    return next((row["test_frames"] for row in rows if row["kind"] == "codec" and "test_frames" in row), None)


def points(rows: Rows, table: Callable[..., str]) -> list[str]:
    """What was trained, by level."""
    sections = []
    for kind, title, words in _TRAINED:
        if chosen := [row for row in rows if row["kind"] == kind]:
            epochs = " and ".join(str(n) for n in sorted({row["epochs"] for row in chosen if "epochs" in row}))
            sections += [f"## {title}", words.format(epochs=epochs), *_picture(kind), _points(rows, chosen, table)]
    return sections


def _picture(kind: str) -> list[str]:
    return [f"![right answers against bytes of a frame, side by side]({SIDE_PLOT})"] if kind == "compared" else []


def _points(rows: Rows, chosen: Rows, table: Callable[..., str]) -> str:
    encode = {
        (row["variant"], row["level"]): row["encode_ms"] for row in rows if row["kind"] == "timing"
    }  # of the product
    lines = []
    for (method, variant, level), group in _grouped(chosen, "method", "variant", "level"):
        first = group[0]
        ms = encode.get((variant, level)) if (method, first["kind"]) == ("product", "split") else None
        lines.append(
            [method, variant, level, len(group), _steps(group), _spread(group, "accuracy", 2),
             _spread(group, "bytes", 1), _mean(group, "bytes_p95", 0), _spread(group, "subset_accuracy", 2),
             _spread(group, "subset_bytes", 1), first["encoder_macs"] / 1e6, first["segment_macs"] / 1e6,
             "" if ms is None else f"{ms:.2f}"]
        )  # fmt: skip
    few = f"of the first {count:,}" if (count := _codec_frames(rows)) else "of the codecs' frames"
    head = ["method", "variant", "level", "seeds", "steps", "right, %", "bytes", "p95", f"{few}: right, %", "bytes",
            "encoder MMAC", "segment MMAC", "encode ms"]  # fmt: skip
    return table(head, lines)


def readme_table(document: dict[str, Any], table: TableMaker) -> str:
    """The product's levels, each beside the smallest picture that is as often right, for people who read one page."""
    rows = document["rows"]
    lines: Rows = []
    levels = [row for row in rows if (row["kind"], row["method"]) == ("split", "product")]
    pictures = [row for row in rows if (row["kind"], row["method"]) == ("codec", "webp") and "accuracy" in row]
    webp = RateCurve.of((row["bytes_without_header"], row["accuracy"]) for row in pictures) if pictures else None
    for level in sorted({row["level"] for row in levels}):
        group = [row for row in levels if row["level"] == level]
        right = fmean(row["accuracy"] for row in group)
        beside = fmean(row.get("subset_accuracy", row["accuracy"]) for row in group)  # on the frames of the pictures
        picture = None if webp is None else bytes_at(webp, beside)
        found = "none is" if picture is None else f"{picture:.0f}"
        lines.append([level, f"{right:.1f}", _mean(group, "bytes", 0), found])
    ends = {row["method"]: f"{row['accuracy']:.1f}" for row in rows if row["kind"] == "fixed"}
    seeds = ", ".join(map(str, sorted({row["seed"] for row in levels})))
    words = (
        f"CIFAR-10, seeds of training: {seeds}. The device runs the first part of ResNet-20 and an encoder"
        f"{_device_share(document['summary'])}, and ResNet-56 in the cloud goes on from there; or the cloud answers a "
        f"WebP picture. The device alone is right on {ends.get('device_only', '?')} %, the cloud given the frame "
        f"without loss on {ends.get('cloud_lossless', '?')}."
    )
    if pictures:
        header = fmean(row["bytes"] - row["bytes_without_header"] for row in pictures)
        words += (
            " WebP: the bytes with which the cloud is as often right, read off between two measured qualities, without "
            f"the {header:.0f} bytes of a blank frame's file; a split's are with its header."
        )
        if few := _codec_frames(rows):
            words += f" WebP is of the first {few:,} test frames, and compared on them."
    if worse := [str(line[0]) for line in lines if float(line[1]) < float(ends.get("device_only", 0))]:
        words += (
            f" Levels that are right less often than the device alone, if the cloud is asked for every frame: "
            f"{', '.join(worse)}. A split pays where the device asks for the frames that it is unsure of, as in the "
            "table of the Wi-Fi cell."
        )
    if document["config"].get("missing"):
        summary = document["summary"]
        words += f" The table is not finished: {summary['units_done']} of {summary['units_planned']} units are there."
    words += " All of it: [docs/results/split.md](docs/results/split.md). Made by `littoral bench split`."
    head = ["a split's level", "right, %", "bytes a frame", "WebP as often right: bytes without header"]
    return table(head, lines) + "\n\n" + words


def _device_share(summary: dict[str, Any]) -> str:
    """What the split costs the device, as a share of its whole network; empty where the summary does not tell."""
    share = summary.get("device_macs_over_resnet20")
    return f" ({share:.0%} of the whole network's work)" if share else ""


def local(rows: Rows, table: Callable[..., str], summary: Summary) -> list[str]:
    """What sends nothing, and what sends everything."""
    chosen = [row for row in rows if row["kind"] in ("fixed", "local_only")]
    if not chosen:
        return []
    lines = [
        [method, variant, len(group), _steps(group), _spread(group, "accuracy", 2),
         _spread(group, "subset_accuracy", 2), group[0]["network_macs"] / 1e6]
        for (method, variant), group in _grouped(chosen, "method", "variant")
    ]  # fmt: skip
    words = (
        "`local_only` starts from nothing, and is trained for as many epochs on the same frames with the same teacher; "
        "the product starts from trained ResNet-20 and ResNet-56 weights. Named by the work that it may do, and its "
        "shape."
    )
    shapes = {summary[key] for key in sorted(summary) if key.startswith(_LOCAL) and key.endswith("_shapes")}
    if shapes:
        words += (
            f" Of the planned shapes not all are trained ({', '.join(sorted(shapes))}), so the better one is not known "
            "and the points over `local_only` may be fewer."
        )
    steps = {summary[key] for key in sorted(summary) if key.startswith(_LOCAL) and key.endswith("_steps")}
    if steps:
        words += (
            " It had as many epochs as the product, but in larger batches and so fewer steps "
            f"({', '.join(sorted(steps))}), which flatters the product."
        )
    few = f"of the first {count:,}" if (count := _codec_frames(rows)) else "of the codecs' frames"
    head = ["method", "variant", "seeds", "steps", "right, %", few, "MMAC"]
    return ["## Nothing sent, and everything", words, table(head, lines)]


def codecs(rows: Rows, table: Callable[..., str]) -> list[str]:
    """Pictures and packed features into the unmodified teacher."""
    chosen = [row for row in rows if row["kind"] in ("codec", "features")]
    if not chosen:
        return []
    keys = ("method", "variant", "quality", "accuracy", "bytes", "bytes_p50", "bytes_p95", "bytes_without_header")
    lines = [[row.get(key) for key in keys] + [row.get("skipped")] for row in chosen]
    head = ["method", "of", "quality", "right, %", "bytes", "p50", "p95", "no header", "not made"]
    words = (
        "`features_*`: the teacher's own features in 8 bits, packed by the standard library's zlib or lzma (zstandard "
        "is no dependency)."
    )
    return ["## Codecs into the same teacher", words, table(head, lines)]


def timing(rows: Rows, table: Callable[..., str], summary: Summary) -> list[str]:
    """Milliseconds on the device."""
    chosen = [row for row in rows if row["kind"] == "timing"]
    if not chosen:
        return []
    keys = ("variant", "level", "student_ms", "segment_ms", "encoder_ms", "coder_ms", "encode_ms")
    words = "Medians on ONNX Runtime, batch 1, one thread, in turns with the whole student."
    took = [{**row, **{name: row.get(f"measured_{name}", row.get(name)) for name in _TOOK}} for row in chosen]
    words += _busy(took, *_TOOK)
    words += _codec_words(chosen, summary)
    return ["## Time on the device", words, table(list(keys), [[row[key] for key in keys] for row in chosen])]


def link(rows: Rows, table: Callable[..., str], summary: Summary) -> list[str]:
    """Device to cloud to device."""
    chosen = [row for row in rows if row["kind"] == "link"]
    if not chosen:
        return []
    keys = ("variant", "way", "level", "quality", "accuracy", "bytes", "latency_ms", "latency_ms_p95", "segment_ms",
            "encode_ms", "up_ms", "queue_ms", "tail_ms", "tail_cpu_ms", "down_ms", "road_ms")  # fmt: skip
    keys = keys if any("tail_cpu_ms" in row for row in chosen) else tuple(key for key in keys if key != "tail_cpu_ms")
    rate = chosen[0]["bits_per_second"] / 1e6
    words = (
        f"A relay between loopback sockets lets {rate:g} Mbit/s through each way; the milliseconds in the variant's "
        "name are of the round trip, half each way. WebP at the coarsest quality that is as often right as the split "
        "on the same frames, and at the effort that takes the least time with sending. Medians, in turns. "
        "*Device to cloud*: `device.infer` over the "
        "wire that ships, with its own time for both ways together."
    )
    if few := chosen[0].get("test_frames"):
        words += f" Right answers are of the first {few:,} test frames."
    words += _parts_words(summary)
    words += _busy(chosen, "tail_ms", "tail_cpu_ms")
    if unknown := _variants(row for row in chosen if row["way"] == "split" and "tail_cpu_ms" not in row):
        words += f" Whether other programs kept the machine busy was not recorded: {unknown}."
    words += _codec_words(chosen, summary)
    return ["## Over a slow link", words, table(list(keys), [[row.get(key) for key in keys] for row in chosen])]


def _parts_words(summary: Summary) -> str:
    """What the quoted figure is made of."""
    whole, road, work = (summary.get(f"link_{part}_split_over_webp") for part in ("latency", "road", "work"))
    if whole is None or road is None or work is None:
        return ""
    words = (
        f" The summary's {whole:.2f} of WebP's time is link and work together: of the link's part (`up_ms` and "
        f"`down_ms`, with how late the relay is woken) the split has {road:.2f}, of the work at both ends {work:.2f}, "
        "each at the level where it is most."
    )
    if road >= 1:
        words += " So what it gains is work, not time on the link."
    return words


def leakage(rows: Rows, table: Callable[..., str], summary: Summary) -> list[str]:
    """What can be seen in the symbols."""
    chosen = [row for row in rows if row["kind"] == "leakage"]
    if not chosen:
        return []
    lines = [
        [row["variant"], "the mean frame" if row["level"] is None else row["level"], row["psnr_db"], row["ssim"]]
        for row in chosen
    ]
    words = "A decoder trained to rebuild frames from the symbols, on held-out frames. Other attackers may do better."
    words += _codec_words(chosen, summary)
    return ["## Leakage", words, table(["variant", "level", "PSNR, dB", "SSIM"], lines)]


def robust(rows: Rows, table: Callable[..., str], summary: Summary) -> list[str]:
    """Bytes and accuracy under corruptions."""
    chosen = [row for row in rows if row["kind"] == "robust"]
    if not chosen:
        return []
    keys = ("variant", "corruption", "severity", "level", "accuracy", "bytes", "bytes_p95", "refused")
    words = "`refused`: frames over their level's ceiling, sent at a coarser one."
    words += _codec_words(chosen, summary)
    return ["## Under corruption", words, table(list(keys), [[row[key] for key in keys] for row in chosen])]


def _busy(rows: Rows, wall: str, cpu: str) -> str:
    """A sentence where it took so much longer than a processor was had for that other programs must have run."""
    found = [row for row in rows if row.get(wall) and row.get(cpu) and row[wall] > _BUSY * row[cpu]]
    return f" Measured on a machine that was busy with other programs: {_variants(found)}." if found else ""


def _codec_words(rows: Rows, summary: Summary) -> str:
    """A sentence where the summary says that a codec is not the split row's."""
    found = [row for row in rows if f"{row['kind']}_{row['variant'].replace('-', '_')}_codec" in summary]
    if not found:
        return ""
    return f" Their codec is another than that of the split's own rows, or it is not known which: {_variants(found)}."


def _variants(rows: Iterable[dict[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(row["variant"] for row in rows))


def coder(rows: Rows, table: Callable[..., str]) -> list[str]:
    """The coder's own numbers."""
    chosen = [row for row in rows if row["kind"] == "codec_speed"]
    if not chosen:
        return []
    left_out = {"kind", "method", "variant", "seed", "teacher", "test_frames", "epochs", "train_frames", "seconds",
                "cpu_seconds"}  # fmt: skip
    lines = [[key, value] for key, value in chosen[0].items() if key not in left_out]
    return ["## The coder", table(["what", "value"], lines)]


def _grouped(rows: Rows, *keys: str) -> list[tuple[tuple[Any, ...], Rows]]:
    groups: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return list(groups.items())


def _steps(group: Rows) -> str:
    return " and ".join(f"{steps:,}" for steps in sorted({row["steps"] for row in group if "steps" in row}))


def _mean(group: Rows, key: str, digits: int) -> str:
    return f"{fmean(row[key] for row in group):,.{digits}f}"


def _spread(group: Rows, key: str, digits: int) -> str:
    """The mean and how far the ends lie apart; empty where a row lacks it."""
    if any(key not in row for row in group):
        return ""
    values = [row[key] for row in group]
    return _mean(group, key, digits) + (f" ({max(values) - min(values):.{digits}f})" if len(values) > 1 else "")


# -- the plot ----------------------------------------------------------------------------------------------------------


def curves(rows: Rows, kinds: tuple[str, ...] = _CURVES) -> dict[str, Curve]:
    """By name the points ``(bytes, right)`` in the order of their bytes, each the mean over the seeds: on the frames
    that the codecs' curves are of."""
    out: dict[str, Curve] = {}
    chosen = [row for row in rows if row["kind"] in kinds and row.get("bytes") and "accuracy" in row]
    for (method, variant, _, quality), group in _grouped(chosen, "method", "variant", "level", "quality"):
        name = f"product, from {variant}" if method == "product" else method
        size, right = (fmean(_on_few(row, key) for row in group) for key in ("bytes", "accuracy"))
        out.setdefault(name, []).append((size, right))
        if method == "webp" and quality is not None:
            bare = fmean(row["bytes_without_header"] for row in group)
            out.setdefault("webp, no header", []).append((bare, right))
    return {name: sorted(found) for name, found in out.items()}


def flats(rows: Rows) -> dict[str, float]:
    """By name the accuracy of what sends nothing, or all of the frame, on the same frames; `*`: on all."""
    out: dict[str, float] = {}
    for (method, _), group in _grouped(
        [row for row in rows if row["kind"] in ("fixed", "local_only")], "method", "variant"
    ):
        name = f"local_only {group[0]['network_macs'] / 1e6:.1f} MMAC" if method == "local_only" else method
        name += "" if all("subset_accuracy" in row for row in group) else " *"
        out[name] = max(out.get(name, 0.0), fmean(_on_few(row, "accuracy") for row in group))
    return out


def _on_few(row: dict[str, Any], key: str) -> float:
    """On the frames of the codecs: what is of more has both."""
    return float(row.get(f"subset_{key}", row[key]))


def plot(document: dict[str, Any]) -> str | None:
    """An SVG of accuracy against bytes; None without a curve."""
    return draw(curves(document["rows"]), flats(document["rows"]), ours="product")


def plots(document: dict[str, Any]) -> dict[str, str]:
    """By name of file, what the page shows."""
    side = draw(curves(document["rows"], ("compared",)), {}, ours="product")
    return svg.named(PLOT, plot(document)) | svg.named(SIDE_PLOT, side) | split_dense_section.plots(document)
