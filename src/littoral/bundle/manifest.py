"""``bundle.json`` as frozen dataclasses: what a device must know before it loads anything."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from littoral.core.affine import NormLayer
from littoral.core.heads import MAX_FEATURES
from littoral.core.tasks import Classification, Task, task_of
from littoral.errors import BundleError

SCHEMA = 1
CLOUD_FOLDER = "cloud/"
"""What lies below it is never sent to a device."""

T = TypeVar("T")


MAX_MEAN, MAX_STD = 2.0, 8.0
"""Of a channel, on the scale 0..1: beyond it somebody has taken the scale 0..255."""


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What a frame is: uint8 ``(height, width, channels)``; normalisation happens inside segment 0.

    ``mean`` and ``std`` are per channel on the scale 0..1.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(-MAX_MEAN <= value <= MAX_MEAN for value in self.mean):
            raise ValueError(f"mean is of each channel on the scale 0..1, got {self.mean}; divide by 255")
        if not all(0 < value <= MAX_STD for value in self.std):
            raise ValueError(f"std is of each channel on the scale 0..1 and above 0, got {self.std}; divide by 255")

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.height, self.width, self.channels)

    @property
    def num_bytes(self) -> int:
        return self.height * self.width * self.channels


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One weightless ONNX graph. ``tensors`` names the initialisers that it takes from ``weights.safetensors``."""

    file: str
    input: str
    output: str
    tensors: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StatisticsSpec:
    """The graph that a device runs now and then to estimate BatchNorm statistics.

    Inputs: ``frames`` (uint8 BHWC), ``alpha`` (float32 scalar: the weight of this batch in the statistics that the
    graph itself normalises with), and for each BatchNorm layer its four tensors by name. Outputs for each layer:
    ``<layer>.batch_mean`` ``(C,)`` and ``<layer>.batch_mean_square`` ``(C,)``, and of a classifier
    ``statistics/scores``, what the network answers.

    ``fingerprint_file`` is the first part of the source's network, up to the fingerprint's layer
    (`littoral.core.recall.fingerprint_layer`). Input: ``frames``; outputs: that layer's ``.batch_mean`` and
    ``.batch_mean_square``. ``drift_threshold`` is the distance between the fingerprints of two batches of
    ``drift_batch`` source frames that is not exceeded by chance, calibrated at build.

    ``source_world_file`` holds what the source's frames look like at the last BatchNorm
    (`littoral.core.nearness.SourceWorld`); None in a bundle of before there was such a file.
    """

    file: str
    tensors: tuple[str, ...]
    fingerprint_file: str
    fingerprint_tensors: tuple[str, ...]
    drift_threshold: float
    drift_batch: int
    source_world_file: str | None = None


@dataclass(frozen=True, kw_only=True)
class ProbeSpec:
    """Source frames with the answers that the source gives them; an update must keep ``min_agreement`` of these.

    It is the value of the task's metric, with the source's answers as truths: for a classifier the share of labels.
    """

    file: str
    num_frames: int
    min_agreement: float


@dataclass(frozen=True, kw_only=True)
class TorchModel:
    """How the cloud rebuilds a network: ``package.module:factory``, its keyword arguments, and a state dict file."""

    factory: str
    kwargs: dict[str, Any]
    file: str


@dataclass(frozen=True, kw_only=True)
class SplitSpec:
    """A place where a device may send a payload in the place of finishing by itself.

    ``encoder_file`` is an ONNX graph with its weights: it does not change in the field. Its output is ``latent``,
    float32 ``(batch, C, H, W)``; its input is ``frames`` as of segment 0 or, where ``segment`` is a number, that
    segment's output as ``features``. ``codec_file`` holds the tables and gains of all levels
    (`littoral.bundle.split.SplitCodec`), ``model`` what the cloud runs on the symbols.
    """

    encoder_file: str
    codec_file: str
    segment: int | None
    model: TorchModel


@dataclass(frozen=True, kw_only=True)
class ExitSpec:
    """A place where a device may answer without running the segments after it.

    ``segment`` is the one on whose output it stands, any but the last. ``stem_file`` is an ONNX graph with its weights,
    which does not change in the field: input ``features``, that output; output ``pooled``, float32
    ``(batch, num_features)``. None where the segment's output is ``(batch, num_features)`` already. ``threshold`` is
    the confidence at which a frame leaves, on logits over ``temperature``; None: off, as shipped. ``macs`` are the
    multiply-accumulates of stem and head for one frame. The deep exit stands right before the last segment, and its
    head is that segment's layer.
    """

    segment: int
    stem_file: str | None
    temperature: float
    threshold: float | None
    macs: int
    num_features: int
    is_deep: bool = False


@dataclass(frozen=True, kw_only=True)
class ExitPromise:
    """What the shipped thresholds promise: on frames like ``num_frames`` of the source, answers that differ from the
    whole network's are at most the share ``level``; the promise fails for at most the share ``delta`` of builds.
    """

    level: float
    delta: float
    procedure: str
    num_frames: int
    empirical_risk: float
    """On these frames."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The whole of ``bundle.json``."""

    schema: int = SCHEMA
    name: str
    task: str
    class_names: tuple[str, ...]
    input: InputSpec
    segments: tuple[Segment, ...]
    weights_file: str
    norm_layers: tuple[NormLayer, ...]
    statistics: StatisticsSpec | None
    probe: ProbeSpec
    envelope_max_delta: dict[str, float]
    source_metrics: dict[str, float]
    student: TorchModel
    teacher: TorchModel | None
    """None only where nothing adapts."""
    replay_file: str | None
    """Likewise."""
    rehearsed_file: str | None
    """Affine values that the cloud's first job in a domain starts from; None: the source's."""
    splits: tuple[SplitSpec, ...] = ()
    """Left out of the JSON where there are none, so that an older littoral reads such a bundle too."""
    exits: tuple[ExitSpec, ...] = ()
    """From the earliest. Where there are none, the four fields of exits are left out likewise."""
    heads_file: str | None = None
    """What `littoral.bundle.exits.ExitHeads` reads."""
    exit_promise: ExitPromise | None = None
    """Left out where no exit has a threshold."""
    segment_macs: tuple[int, ...] = ()
    """Multiply-accumulates of each segment for one frame; only where there are exits."""
    route_file: str | None = None
    """What `littoral.bundle.route_tables.RouteTables` reads; left out likewise where there is no router."""
    task_options: dict[str, Any] = field(default_factory=dict)
    """Of the task, where they are not the usual ones (`littoral.core.tasks.Task.options`); else left out likewise."""
    files: dict[str, str] = field(default_factory=dict)
    """Relative path -> SHA-256 in hexadecimal, for every file of the bundle but bundle.json and bundle.sig."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def adapts(self) -> bool:
        """Whether a cloud teaches this student (docs/adr/0017): classifiers only."""
        return self.task == Classification.name

    def make_task(self) -> Task[Any, Any]:
        """The task with its classes, its input and its options."""
        return task_of(
            self.task,
            num_classes=self.num_classes,
            input_height=self.input.height,
            input_width=self.input.width,
            options=self.task_options,
        )

    def to_json(self) -> bytes:
        """Canonical bytes: sorted keys, no white space; their SHA-256 is the bundle's digest."""
        fields = dataclasses.asdict(self)
        for name in ("splits", "exits", "heads_file", "exit_promise", "segment_macs", "route_file", "task_options"):
            if not fields[name]:
                del fields[name]
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Parse and check the shape of every field.

        Raises:
            BundleError: not JSON, another schema, an unknown or missing field, a value of the wrong type, a task that
                there is not, or a split, an exit or a router that the bundle's segments and files do not allow.
        """
        try:
            raw = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"bundle.json is not JSON ({error}); build the bundle again") from error
        if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
            came = raw.get("schema") if isinstance(raw, dict) else type(raw).__name__
            raise BundleError(f"bundle.json has schema {came!r}, this littoral reads schema {SCHEMA}; build it again")
        try:
            manifest = _parse(cls, raw, "bundle.json")
        except ValueError as error:
            raise BundleError(f"bundle.json has a value that cannot be: {error}; build it again") from error
        try:
            manifest.make_task()
        except ValueError as error:
            raise BundleError(f"bundle.json names a task that cannot be: {error}; build it again") from error
        if manifest.adapts and (manifest.teacher is None or manifest.replay_file is None):
            raise BundleError(f"a bundle for {manifest.task} has a teacher and a replay sample; build it again")
        for index, split in enumerate(manifest.splits):
            _check_split(split, manifest, f"bundle.json.splits[{index}]")
        if manifest.statistics is not None and (name := manifest.statistics.source_world_file) is not None:
            _check_device_file(name, manifest, "bundle.json.statistics.source_world_file")
        _check_exits(manifest)
        if manifest.route_file is not None:
            if not manifest.exits or not (manifest.splits or manifest.teacher):
                raise BundleError("bundle.json has a route_file, but no exits, or nobody to ask; build it again")
            _check_device_file(manifest.route_file, manifest, "bundle.json.route_file")
        return manifest


def _check_split(split: SplitSpec, manifest: Manifest, where: str) -> None:
    last = len(manifest.segments) - 2
    if split.segment is not None and not 0 <= split.segment <= last:
        raise BundleError(
            f"{where}.segment is {split.segment}, expected null or one of 0 to {last}: the last of the "
            f"{len(manifest.segments)} segments gives the answer; build the bundle again"
        )
    for name, of_cloud in ((split.encoder_file, False), (split.codec_file, False), (split.model.file, True)):
        if name not in manifest.files or name.startswith(CLOUD_FOLDER) != of_cloud:
            place = f"below {CLOUD_FOLDER}" if of_cloud else f"outside {CLOUD_FOLDER}"
            raise BundleError(f"{where} names {name!r}, expected a listed file {place}; build the bundle again")


def _check_exits(manifest: Manifest) -> None:
    exits, count = manifest.exits, len(manifest.segments)
    if not exits:
        if manifest.heads_file is not None or manifest.exit_promise is not None or manifest.segment_macs:
            raise BundleError(
                "bundle.json has no exits, so it cannot have heads_file, exit_promise or segment_macs; build it again"
            )
        return
    if manifest.task != Classification.name:
        raise BundleError(f"bundle.json has exits, but its task is {manifest.task}; only a classifier has exits")
    if len(manifest.segment_macs) != count or min(manifest.segment_macs) < 0 or sum(manifest.segment_macs) < 1:
        raise BundleError(
            f"bundle.json.segment_macs are {manifest.segment_macs}, expected one of 0 or more for each of {count} "
            "segments; build it again"
        )
    stands = [each.segment for each in exits]
    if stands != sorted(set(stands)) or not 0 <= stands[0] <= stands[-1] <= count - 2:
        raise BundleError(
            f"bundle.json.exits stand on segments {stands}, expected rising ones of 0 to {count - 2}; build it again"
        )
    _check_device_file(manifest.heads_file, manifest, "bundle.json.heads_file")
    for index, each in enumerate(exits):
        _check_exit(each, manifest, f"bundle.json.exits[{index}]", is_last=index == len(exits) - 1)
    promise = manifest.exit_promise
    if promise is None and any(each.threshold is not None for each in exits):
        raise BundleError("an exit of bundle.json has a threshold, but there is no exit_promise; build it again")
    if promise is not None and not (
        0 < promise.level < 1 and 0 < promise.delta < 1 and promise.num_frames >= 1 and 0 <= promise.empirical_risk <= 1
    ):
        raise BundleError(f"bundle.json.exit_promise is {promise}, its shares must lie in 0..1; build it again")


def _check_exit(each: ExitSpec, manifest: Manifest, where: str, *, is_last: bool) -> None:
    if each.stem_file is not None:
        _check_device_file(each.stem_file, manifest, f"{where}.stem_file")
    if each.is_deep and not (is_last and each.stem_file is None and each.segment == len(manifest.segments) - 2):
        raise BundleError(
            f"{where} is deep, so it is the last exit, right before the last segment, and has no stem; build it again"
        )
    if not 0 < each.temperature < math.inf:
        raise BundleError(f"{where}.temperature is {each.temperature}, expected a positive number; build it again")
    if each.threshold is not None and not 0 <= each.threshold <= 1:
        raise BundleError(f"{where}.threshold is {each.threshold}, expected null or 0 to 1; build it again")
    if each.macs < 0 or not 1 <= each.num_features <= MAX_FEATURES:
        raise BundleError(
            f"{where} has macs {each.macs} and num_features {each.num_features}, expected 0 or more and 1 to "
            f"{MAX_FEATURES}; build it again"
        )


def _check_device_file(name: str | None, manifest: Manifest, where: str) -> None:
    if name is None or name not in manifest.files or name.startswith(CLOUD_FOLDER):
        raise BundleError(f"{where} is {name!r}, expected a listed file outside {CLOUD_FOLDER}; build it again")


def _parse(kind: type[T], raw: Any, where: str) -> T:
    """Turn parsed JSON into a dataclass, strictly: the dataclass's own annotations are the schema."""
    if not isinstance(raw, dict):
        raise BundleError(f"{where} should be an object, got {type(raw).__name__}")
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    required = {
        f.name
        for f in dataclasses.fields(kind)  # type: ignore[arg-type]
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if set(raw) - known or required - set(raw):
        raise BundleError(f"{where}: unknown fields {sorted(set(raw) - known)}, missing {sorted(required - set(raw))}")
    return kind(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in raw.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _value(next(a for a in args if a is not type(None)), value, where)
    if origin is typing.Literal:
        if value not in args:
            raise BundleError(f"{where} is {value!r}, expected one of {args}")
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_value(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {str(k): _value(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _parse(hint, value, where)  # type: ignore[arg-type]
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise BundleError(f"{where} is {type(value).__name__} {str(value)[:40]!r}, expected {hint}")
