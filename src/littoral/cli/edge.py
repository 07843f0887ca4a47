"""``littoral edge``: run a device."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from littoral.cli.edge_words import by_whom, in_words, status_in_words
from littoral.cli.ranges import number, whole

if TYPE_CHECKING:
    from littoral.bundle import InputSpec
    from littoral.edge.answer import Answer
    from littoral.edge.dense import DenseAnswer
    from littoral.edge.device import Device
    from littoral.edge.sources import Item

Subparsers = argparse._SubParsersAction
FIRST_SESSION_S = 5.0
"""How long a device that is to ask the cloud waits for it before its first frame."""


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("edge", help="run a device: answers for a folder, a pipe or a local HTTP endpoint")
    parser.add_argument("bundle", type=Path, help="the bundle's directory")
    parser.add_argument("folder", type=Path, nargs="?", help="a folder of images, answered in the order of their names")
    parser.add_argument(
        "--stdin",
        choices=("paths", "frames"),
        help="read file names, one to a line, or frames, each after its length (4 bytes, little endian)",
    )
    parser.add_argument(
        "--http",
        type=whole(0, 65_535),
        metavar="PORT",
        help="answer POST /infer on this loopback port, 0 for any",
    )
    parser.add_argument("--state", type=Path, help="folder for key, outbox and versions; needed with --cloud")
    parser.add_argument("--cloud", help="the cloud's address, such as https://cloud.example:8600")
    parser.add_argument("--token", help="one-time token, if this device is not enrolled yet")
    parser.add_argument("--ca-file", type=Path, help="PEM certificates to trust instead of the system's")
    parser.add_argument("--name", help="what people will call this device (default: the host's name)")
    parser.add_argument("--resize", action="store_true", help="scale images of another size instead of refusing them")
    parser.add_argument("--fps", type=number(above=True), help="answer at most so many frames a second")
    parser.add_argument("--no-adapt", action="store_true", help="keep the source's statistics, whatever the frames are")
    parser.add_argument(
        "--budget",
        type=number(),
        metavar="KB",
        help="kB of samples per 1000 frames in the long run; a device begins with what 1000 frames give, and borrows "
        "up to as much again when the world changes (default: 12 %% of raw)",
    )
    parser.add_argument(
        "--published", action="store_true", help="choose samples by the published criteria, without a budget or recall"
    )
    parser.add_argument("--entropy-max", type=float, metavar="SHARE", help="of ln K: send no frame of more entropy")
    parser.add_argument("--entropy-min", type=float, metavar="SHARE", help="of ln K: send no frame of less entropy")
    parser.add_argument("--diversity-margin", type=float, metavar="COSINE", help="largest likeness, with --published")
    parser.add_argument("--stride", type=int, help="measure statistics on one frame of so many (default: 2)")
    parser.add_argument("--measure-batch", type=int, help="frames that are measured at a time (default: 16)")
    parser.add_argument(
        "--offload",
        type=int,
        metavar="LEVEL",
        help="ask the cloud to finish each frame, at this level of the bundle's split; 0 is the coarsest",
    )
    parser.add_argument(
        "--split", type=int, metavar="NUMBER", help="with --offload, the split point to offload from (default: 0)"
    )
    parser.add_argument(
        "--picture",
        metavar="CODING",
        help="ask the cloud's teacher to answer each frame from a picture: lossless, png, webp-<q> or jpeg-<q>; "
        "needs no split point",
    )
    parser.add_argument(
        "--deadline",
        type=float,
        metavar="MS",
        help="with --offload, --picture or --route, answer within so long, whoever does (default: 200)",
    )
    parser.add_argument(
        "--route",
        action="store_true",
        help="let the bundle's router choose for each frame: exit early, finish, or ask the cloud",
    )
    parser.add_argument(
        "--price-ms",
        type=float,
        metavar="SHARE",
        help="with --route, what a millisecond is worth in wrong answers (default: 0.0005)",
    )
    parser.add_argument(
        "--price-byte",
        type=float,
        metavar="SHARE",
        help="with --route, what a byte to the cloud is worth in wrong answers (default: 0.000001)",
    )
    parser.add_argument("--no-pictures", action="store_true", help="with --route, send no pictures of whole frames")
    parser.add_argument(
        "--exits", action="store_true", help="leave early at the bundle's exits, once their thresholds are certified"
    )
    parser.add_argument(
        "--risk",
        type=float,
        metavar="SHARE",
        help="with --exits or --route, the most frames whose early answer may be another than the whole network's "
        "(default: 0.05)",
    )
    parser.add_argument("--no-personal", action="store_true", help="with --exits or --route, keep the shipped heads")
    parser.add_argument("--status-every", type=number(), metavar="SECONDS", help="print the counters so often, too")
    parser.add_argument(
        "--flush", type=number(), default=5.0, metavar="SECONDS", help="how many seconds to go on sending at the end"
    )
    parser.add_argument(
        "--maps", type=Path, metavar="FOLDER", help="write label maps there, as PNG files by the number of the frame"
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines: answer, error and status")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer until the source ends; 1 if any frame could not be answered."""
    from littoral.bundle import Bundle
    from littoral.edge.device import Device

    if problem := _cannot_be(args) or _ways_to_answer(args):
        print(f"littoral edge: {problem}", file=sys.stderr)
        return 2
    bundle = Bundle.open(args.bundle)
    if args.exits and not bundle.manifest.exits:
        print(f"littoral edge: {args.bundle} has no exits; build it with 'littoral build --exits N'", file=sys.stderr)
        return 2
    args.exits = args.exits or (args.route and bool(bundle.manifest.exits))
    if args.maps is not None:
        if bundle.manifest.task != "segmentation":
            print(f"littoral edge: --maps is for segmentation, this bundle for {bundle.manifest.task}", file=sys.stderr)
            return 2
        args.maps.mkdir(parents=True, exist_ok=True)
    config = _config(args)
    items = _items(bundle.manifest.input, args) if args.http is None else None
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # by way of Device.close
    with Device(bundle, state_dir=args.state, link=_link(args), config=config) as device:
        if items is None:
            return _serve(device, args)
        try:
            failed = _answer_all(device, items, args)
        finally:  # also after Ctrl-C, which is how an endless stream ends
            _end(device, args)
    return 1 if failed else 0


def _cannot_be(args: argparse.Namespace) -> str | None:
    """What is wrong with the options that say where frames come from and what is sent of them."""
    if (args.folder is not None) + (args.stdin is not None) + (args.http is not None) != 1:
        return "give one of FOLDER, --stdin and --http"
    if args.http is not None and (args.fps is not None or args.status_every is not None):
        return (
            "leave out --fps and --status-every: with --http who asks sets the pace, and GET /status has the counters"
        )
    if args.http is not None and args.maps is not None:
        return "--maps is for a folder or --stdin; leave it out with --http"
    if args.cloud and not args.state:
        return "--cloud needs --state, the folder where the device keeps what is not yet sent"
    if args.published and args.budget is not None:
        return "--published has no byte budget; leave out one of --published and --budget"
    if args.diversity_margin is not None and not args.published:
        return "--diversity-margin is a criterion of --published; give both"
    if (args.offload is not None or args.picture is not None) and not args.cloud:
        option = "--offload" if args.offload is not None else "--picture"
        return f"{option} needs --cloud, which is to finish the frames"
    return None


def _ways_to_answer(args: argparse.Namespace) -> str | None:
    """What is wrong with the options that say who answers."""
    offloads = args.offload is not None or args.picture is not None
    priced = args.price_ms is not None or args.price_byte is not None
    if args.route and not args.cloud:
        return "--route needs --cloud, which some frames are for; without one give --exits"
    if offloads and (args.route or args.exits):
        asks = "--picture" if args.offload is None else "--offload"
        return f"leave out one of {'--route' if args.route else '--exits'} and {asks}"
    if args.offload is not None and args.picture is not None:
        return "leave out one of --offload and --picture: a frame goes by one way"
    if priced and not args.route:
        return "--price-ms and --price-byte are of --route; give that too"
    if args.no_pictures and not args.route:
        return "--no-pictures is of --route; give that too"
    if args.split is not None and args.offload is None:
        return "--split is of --offload; give that too"
    if args.deadline is not None and not (offloads or args.route):
        return "--deadline is of --offload, --picture and --route; give one of them too"
    if (args.risk is not None or args.no_personal) and not (args.exits or args.route):
        return "--risk and --no-personal are of --exits and --route; give one of them too"
    return None


def _config(args: argparse.Namespace) -> Any:
    from littoral.core.budget import BudgetConfig
    from littoral.core.product import ProductConfig
    from littoral.core.selection import SelectionConfig
    from littoral.edge.device_config import DeviceConfig
    from littoral.edge.offload_config import OffloadConfig
    from littoral.edge.updater import UpdaterConfig

    bounds = _given(entropy_max_fraction=args.entropy_max, entropy_min_fraction=args.entropy_min)
    device = _given(statistics_stride_frames=args.stride, statistics_batch_frames=args.measure_batch)
    if args.published:
        selection: Any = SelectionConfig(**bounds, **_given(diversity_margin=args.diversity_margin))
        device["updater"] = UpdaterConfig(remembered_versions=0)
    else:
        budget = BudgetConfig(bytes_per_1000_frames=None if args.budget is None else 1000 * args.budget)
        selection = ProductConfig(**bounds, budget=budget)
    if args.offload is not None or args.picture is not None:
        more = _given(level=args.offload, picture=args.picture, split=args.split, deadline_ms=args.deadline)
        device["offload"] = OffloadConfig(mode="always", **more)
    if args.exits:
        device["exits"] = _exits(args)
    if args.route:
        device["route"] = _route(args)
    return DeviceConfig(adapt_statistics=not args.no_adapt, selection=selection, **device)


def _exits(args: argparse.Namespace) -> Any:
    from littoral.core.exit_control import ControlConfig
    from littoral.edge.exit_config import ExitConfig

    config = ExitConfig(control=ControlConfig(**_given(risk=args.risk)))
    return replace(config, personal=None) if args.no_personal else config


def _route(args: argparse.Namespace) -> Any:
    from littoral.core.route_plan import Prices
    from littoral.core.route_words import RouteConfig

    prices = Prices(**_given(ms=args.price_ms, byte=args.price_byte))
    return RouteConfig(prices=prices, pictures=not args.no_pictures, **_given(deadline_ms=args.deadline))


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given; the others keep their defaults."""
    return {name: value for name, value in options.items() if value is not None}


def _link(args: argparse.Namespace) -> Any:
    if not args.cloud:
        return None
    from littoral.edge.link import CloudLink, LinkConfig

    return CloudLink(args.cloud, config=LinkConfig(ca_file=args.ca_file), token=args.token, name=args.name)


def _items(spec: InputSpec, args: argparse.Namespace) -> Iterator[Item]:
    from littoral.edge.sources import from_folder, from_frames, from_paths

    if args.folder is not None:
        return from_folder(args.folder, spec, resize=args.resize)
    if args.stdin == "paths":
        return from_paths(sys.stdin, spec, resize=args.resize)
    return from_frames(sys.stdin.buffer, spec, resize=args.resize)


def _answer_all(device: Device, items: Iterable[Item], args: argparse.Namespace) -> int:
    """Answer every frame of the source; how many could not be answered."""
    from littoral.edge.http import answer_as_dict
    from littoral.errors import FrameError, ModelOutputError

    failed, names, maps = 0, device.bundle.manifest.class_names, args.maps
    if args.offload is not None or args.picture is not None or args.route:
        _await_cloud(device)
    pace, tell_status = _pacer(args.fps), _teller(device, args)
    for name, frame in items:
        pace()
        try:
            if isinstance(frame, FrameError):
                raise frame
            answer = device.infer(frame)
        except (FrameError, ModelOutputError) as error:
            failed += 1
            text = str(error) if str(error).startswith(name) else f"{name}: {error}"
            _print(args, {"type": "error", "input": name, "error": str(error)}, text)
            continue
        if maps is not None:
            _write_map(maps / f"{answer.frame_id}.png", answer)
        sure = f"{in_words(answer, names)}, version {answer.version}, cloud {answer.cloud}"
        text = f"{name}: {sure}, {answer.latency_ms:.2f} ms{by_whom(answer, args)}"
        _print(args, {"type": "answer", "input": name, **answer_as_dict(answer, names)} if args.json else {}, text)
        tell_status()
    return failed


def _await_cloud(device: Device) -> None:
    """Let the first session open, since a folder of a few pictures is through sooner."""
    until = time.monotonic() + FIRST_SESSION_S
    while (status := device.status()).cloud != "connected":
        if time.monotonic() > until:
            why = f" ({status.link_error})" if status.link_error else ""
            print(
                f"littoral edge: no session with the cloud after {FIRST_SESSION_S:g} s{why}; the device answers until "
                "there is one",
                file=sys.stderr,
            )
            return
        time.sleep(0.02)


def _write_map(path: Path, answer: Answer | DenseAnswer) -> None:
    """A label map as a grey PNG whose values are the class numbers."""
    import numpy as np
    from PIL import Image

    from littoral.edge.dense import DenseAnswer

    assert isinstance(answer, DenseAnswer)
    assert isinstance(answer.answer, np.ndarray)
    Image.fromarray(answer.answer).save(path)


def _pacer(fps: float | None) -> Callable[[], None]:
    due = time.monotonic()

    def pace() -> None:
        nonlocal due
        if fps:
            due = max(due + 1 / fps, time.monotonic() - 1)
            time.sleep(max(due - time.monotonic(), 0))

    return pace


def _teller(device: Device, args: argparse.Namespace) -> Callable[[], None]:
    last = time.monotonic()

    def tell() -> None:
        nonlocal last
        if args.status_every and time.monotonic() - last >= args.status_every:
            last = time.monotonic()
            _print_status(device, args)

    return tell


def _serve(device: Device, args: argparse.Namespace) -> int:
    from littoral.edge.http import Endpoint

    endpoint = Endpoint(device, port=args.http, resize=args.resize)
    url = f"http://{endpoint.host}:{endpoint.port}"
    _print(args, {"type": "listening", "url": url}, f"POST an image to {url}/infer; stop with Ctrl-C")
    try:
        endpoint.serve()
    finally:
        endpoint.close()
        _end(device, args)
    return 0


def _end(device: Device, args: argparse.Namespace) -> None:
    """Go on sending for a while, and print the counters."""
    cloud = device.status().cloud
    device.close(args.flush)
    _print_status(device, args, cloud=cloud)


def _print_status(device: Device, args: argparse.Namespace, *, cloud: str | None = None) -> None:
    """Print the counters; of a closed device with what ``cloud`` was before, since a link that was closed is away."""
    status = device.status()
    status = status if cloud is None else status._replace(cloud=cloud)
    _print(args, {"type": "status", **status._asdict()}, status_in_words(status, args))


def _print(args: argparse.Namespace, document: dict[str, Any], text: str) -> None:
    shown = json.dumps(document) if args.json else text.encode(errors="backslashreplace").decode()  # names are bytes
    print(shown, flush=True)
