"""``littoral bundle``: look at a bundle, verify it, sign it, make keys."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from littoral.cli.numbers import all_plain, plain

if TYPE_CHECKING:
    from littoral.bundle import Bundle

Subparsers = argparse._SubParsersAction


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("bundle", help="inspect, verify and sign bundles; make release keys")
    parser.add_argument("--json", action="store_true", help="print JSON")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = actions.add_parser("inspect", help="what a bundle is and holds")
    inspect.add_argument("bundle", type=Path, help="the bundle's directory")
    verify = actions.add_parser("verify", help="check every byte of a bundle, and its signature")
    verify.add_argument("bundle", type=Path, help="the bundle's directory")
    verify.add_argument("--trust", help="the release key that must have signed it, in hexadecimal")
    sign = actions.add_parser("sign", help="sign a bundle with a release key")
    sign.add_argument("bundle", type=Path, help="the bundle's directory")
    sign.add_argument("--key", type=Path, required=True, help="the release key's file")
    keys = actions.add_parser("keys", help="make a release key, or show the one that is there")
    keys.add_argument("key", type=Path, help="the key's file")
    for action in actions.choices.values():  # before or after the action: both are natural
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what the action says."""
    return {"inspect": _inspect, "verify": _verify, "sign": _sign, "keys": _keys}[args.action](args)


def _inspect(args: argparse.Namespace) -> int:
    from littoral.bundle import Bundle

    bundle = Bundle.open(args.bundle)
    manifest, signer = bundle.manifest, bundle.signer()
    splits = [_split(bundle, index) for index in range(len(manifest.splits))]
    if args.json:
        print(
            json.dumps(
                {
                    "digest": bundle.digest.hex(),
                    "signed_by": signer.hex if signer else None,
                    **json.loads(manifest.to_json()),
                    "split_points": splits,
                }
            )
        )
        return 0
    kinds = [layer.kind for layer in manifest.norm_layers]
    affine = sum(2 * layer.num_channels for layer in manifest.norm_layers)
    rows = {
        "name": manifest.name,
        "digest": bundle.digest.hex(),
        "signed by": signer.fingerprint if signer else "nobody",
        "task": f"{manifest.task}, {manifest.num_classes} classes: {', '.join(manifest.class_names[:6])}"
        + (", …" if manifest.num_classes > 6 else ""),
        "input": f"uint8 {manifest.input.height} x {manifest.input.width} x {manifest.input.channels}",
        "segments": ", ".join(segment.file for segment in manifest.segments),
        "normalisation": ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))),
        "affine values": str(affine),
        "source metrics": all_plain(
            {k: v for k, v in manifest.source_metrics.items() if not k.startswith(("split", "exit", "router"))}
        ),
        "student": manifest.student.factory,
        "teacher": "none, so nothing adapts" if manifest.teacher is None else manifest.teacher.factory,
    }
    for key, value in rows.items():
        print(f"{key:<15}{value}")
    for split in splits:
        print("\n".join(_split_lines(split)))
    for line in (*_exit_lines(bundle), *_router_lines(bundle)):
        print(line)
    for name in sorted(manifest.files):
        path = bundle.path / name
        print(f"  {path.stat().st_size if path.exists() else 0:>10}  {name}")
    return 0


def _split(bundle: Bundle, index: int) -> dict[str, Any]:
    """What people want to know of a split point."""
    from littoral.bundle import SplitCodec
    from littoral.core.codec import expected_bits, predict_bytes

    codec, spec, metrics = SplitCodec.open(bundle, index), bundle.manifest.splits[index], bundle.manifest.source_metrics
    metric = bundle.manifest.make_task().metric_name
    levels = []
    for number, table in enumerate(codec.tables.levels):
        measured = f"split{index}.level{number}"
        predicted = predict_bytes(expected_bits(codec.tables, level=number))
        levels.append(
            {
                "kept_channels": table.num_channels,
                "typical_bytes": metrics.get(f"{measured}.payload_bytes", float(predicted)),
                "max_bytes": table.max_bytes,
                metric: metrics.get(f"{measured}.{metric}"),
            }
        )
    return {
        "segment": spec.segment,
        "latent": codec.latent_shape,
        "encoder_macs": metrics.get(f"split{index}.encoder_macs"),
        "tables": codec.tables.name.hex(),
        "tail": spec.model.factory,
        "metric": metric,
        "levels": levels,
    }


def _split_lines(split: dict[str, Any]) -> list[str]:
    """The same in words."""
    start = "frames" if split["segment"] is None else f"segment {split['segment']}"
    channels, height, width = split["latent"]
    macs = "" if split["encoder_macs"] is None else f", encoder {split['encoder_macs'] / 1e6:.3g} million MACs"
    lines = [f"{'split':<15}from {start}, latent {channels} x {height} x {width}{macs}, tables {split['tables']}"]
    for number, level in enumerate(split["levels"]):
        value = level[split["metric"]]
        told = "" if value is None else f", {split['metric']} {value:.4g}"
        lines.append(
            f"  level {number}: {level['kept_channels']} of {channels} channels, typically "
            f"{plain(level['typical_bytes'])} bytes, at most {level['max_bytes']}{told}"
        )
    return lines


def _exit_lines(bundle: Bundle) -> list[str]:
    """The exits, and what their thresholds promise, in words."""
    manifest = bundle.manifest
    lines = []
    for index, spec in enumerate(manifest.exits):
        agreement = manifest.source_metrics.get(f"exit{index}.agreement")
        where = f"after segment {spec.segment}{', deep' if spec.is_deep else ''}"
        lines.append(
            f"{'exit':<15}{where}, {spec.num_features} features, {spec.macs / 1e6:.3g} million MACs, "
            + ("off" if spec.threshold is None else f"threshold {spec.threshold:.4g}")
            + ("" if agreement is None else f", agreement {agreement:.4g}")
        )
    if (promise := manifest.exit_promise) is not None:
        share = manifest.source_metrics.get("exits.compute_share")
        lines.append(
            f"  of {promise.num_frames} source frames {promise.empirical_risk:.4g} are answered otherwise than by the "
            f"whole network; at most {promise.level:g} with a confidence of {1 - promise.delta:g}"
            + ("" if share is None else f"; {share:.3g} of the work")
        )
    return lines


def _router_lines(bundle: Bundle) -> list[str]:
    """What the router's tables say of each answer, in words."""
    from littoral.bundle import RouteTables

    if bundle.manifest.route_file is None:
        return []
    tables, metrics = RouteTables.open(bundle), bundle.manifest.source_metrics
    points, bins = tables.curves.local.shape

    def wrong(of: str) -> str:
        share = metrics.get(f"router.{of}.wrong")
        return "" if share is None else f", {100 * share:.3g} % wrong"

    by, counted = {"labels": "labels", "teacher": "the teacher"}[tables.wrong_by], metrics.get("router.num_frames")
    frames = "" if counted is None else f", counted on {counted:.0f} frames"
    lines = [f"{'router':<15}{points} points, {len(tables.ways)} ways, {bins} bins{frames} by {by}"]
    for p in range(1, points + 1):
        where = "whole network" if p == points else f"exit {p - 1}"
        lines.append(f"  {where}{wrong(f'point{p}')}")
    for way in tables.ways:
        name, of = f"split {way.split} level {way.level}, from point {way.point}", f"split{way.split}.level{way.level}"
        if way.is_picture:
            name, of = f"picture {way.coding}", f"picture.{way.coding}"
        lines.append(f"  {name}: {way.num_bytes:.5g} bytes{wrong(of)}")
    return lines


def _verify(args: argparse.Namespace) -> int:
    from littoral.bundle import Bundle, PublicKey

    trust = PublicKey.from_hex(args.trust) if args.trust else None
    has_cloud = (args.bundle / "cloud").is_dir()
    bundle = Bundle.open(args.bundle, require_cloud=has_cloud, trust=trust)
    signer = bundle.signer()
    told = {"digest": bundle.digest.hex(), "signed_by": signer.hex if signer else None, "cloud_part": has_cloud}
    signed = f"signed by {signer.fingerprint}" if signer else "not signed"
    print(json.dumps(told) if args.json else f"good: {bundle.digest.hex()}, {signed}")
    return 0


def _sign(args: argparse.Namespace) -> int:
    from littoral.bundle import Bundle, SigningKey
    from littoral.errors import LittoralError

    if not args.key.exists():
        raise LittoralError(f"there is no key at {args.key}; make one with 'littoral bundle keys {args.key}'")
    key, bundle = SigningKey.load_or_make(args.key), Bundle.open(args.bundle)
    bundle.sign(key)
    told = {"digest": bundle.digest.hex(), "signed_by": key.public.hex}
    print(json.dumps(told) if args.json else f"signed {bundle.short_digest} with {key.public.fingerprint}")
    return 0


def _keys(args: argparse.Namespace) -> int:
    from littoral.bundle import SigningKey

    made = not args.key.exists()
    key = SigningKey.load_or_make(args.key)
    told = {"public_key": key.public.hex, "fingerprint": key.public.fingerprint, "made": made}
    text = (
        f"{'made' if made else 'found'} {args.key}: public key {key.public.hex}, fingerprint {key.public.fingerprint}"
    )
    print(json.dumps(told) if args.json else text)
    return 0
