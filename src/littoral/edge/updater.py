"""Runs the steps of an update (`littoral.edge.update_steps`) on a bundle, a disk, and whatever builds a model.

Bad content never raises: it becomes a `Receipt`, and the installed version goes on serving.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Generic, TypeVar

import numpy as np

from littoral.bundle import Bundle, Envelope, SignedVersion
from littoral.core.affine import apply_delta, decode_delta
from littoral.core.arrays import FloatArray
from littoral.core.recall import NO_DOMAIN, fingerprint_layer
from littoral.core.scenes import SOURCE, Memory, Remembered, forget
from littoral.edge.update_steps import UpdaterConfig, UpdateState, gone_back, step
from littoral.edge.update_words import (
    Action,
    Build,
    Built,
    Decode,
    Decoded,
    Event,
    Failed,
    GoBack,
    Install,
    Installed,
    Keep,
    Load,
    Loaded,
    Moved,
    Observed,
    Probe,
    Probed,
    Received,
    Record,
    Recorded,
    Say,
    SourceWanted,
    Stage,
    Staged,
    Tidy,
    Verified,
    Verify,
    Wanted,
)
from littoral.edge.versions import MAX_VERSION, VersionState, VersionStore
from littoral.errors import LittoralError, ModelOutputError, StorageError, UpdateRejected
from littoral.wire.messages import MAX_TEXT_CHARS, Receipt

__all__ = ["Updater", "UpdaterConfig"]

log = logging.getLogger("littoral.edge.updater")

_REMEMBERED_RECEIPTS = 64

C = TypeVar("C")


class Updater(Generic[C]):
    """Takes signed versions, and takes them back. One thread at a time; `highest_version` from any.

    Args:
        bundle: What the versions are for.
        store: The versions on the disk.
        build: Makes a model from affine values; the model does not serve yet.
        probe: How much of the bundle's probe is kept, 0..1, by the task's metric; NaN when an output is not finite.
        install: Puts a model into service as a version.
        fits: Whether a version may serve in the world that the device is in; what may not is only remembered.
        config: See `UpdaterConfig`.
    """

    def __init__(
        self,
        bundle: Bundle,
        store: VersionStore,
        *,
        build: Callable[[dict[str, FloatArray]], C],
        probe: Callable[[C], float],
        install: Callable[[C, int], None],
        fits: Callable[[Remembered], bool] = lambda entry: True,
        config: UpdaterConfig | None = None,
    ) -> None:
        self._bundle, self._store = bundle, store
        self._build, self._probe, self._install, self._fits = build, probe, install, fits
        self._layer = fingerprint_layer(bundle.manifest.norm_layers)
        self._config = config or UpdaterConfig()
        self._state = UpdateState(disk=store.state, phase="trusted" if store.state.trusted else "watched")
        self._envelope: Envelope | None = None
        self._said: deque[tuple[int, str]] = deque(maxlen=_REMEMBERED_RECEIPTS)
        self._signed: SignedVersion | None = None
        self._values: dict[str, FloatArray] | None = None
        self._candidate: C | None = None
        self._start_counts = True
        """Whether this start counts against the installed version, as it does until near the source."""

    @property
    def highest_version(self) -> int:
        """The highest version seen; only newer ones are taken."""
        return self._state.disk.highest_seen

    @property
    def remembered(self) -> Memory:
        """What can be recalled."""
        return self._state.disk.remembered

    @property
    def state(self) -> UpdateState:
        """Where it is, for people and tests."""
        return self._state

    # Start.

    def boot(self) -> tuple[int, dict[str, FloatArray]]:
        """The version to serve and its affine values: the installed one, else the one before, else the source.

        Never raises for what is on the disk; `VersionState.reasons` says why a version is not served.
        """
        before = self._store.state
        disk = self._judged(before)
        values = None
        while disk.installed != SOURCE and values is None:
            try:
                values = self._read(disk.installed)
            except (LittoralError, ValueError, KeyError, TypeError) as error:
                log.error("version %d is not served: %s", disk.installed, error)
                disk = gone_back(disk, f"storage: {error}")
        if values is None:
            values = dict(self._bundle.source_affine)
        self._state = UpdateState(disk=disk, phase="trusted" if disk.trusted else "watched")
        if disk != before:
            self._keep(disk)
        self._store.tidy()
        return disk.installed, values

    def _judged(self, disk: VersionState) -> VersionState:
        """The state as the bundle at hand and the number of starts make it."""
        digest = self._bundle.digest.hex()
        if disk.bundle != digest:
            if disk.bundle:
                log.warning("the bundle has changed; versions for %s are forgotten", disk.bundle[:12])
            disk = VersionState(bundle=digest, reasons=disk.reasons)
        disk = replace(disk, remembered=tuple(entry for entry in disk.remembered if self._is_fingerprint(entry)))
        if disk.pending is not None and disk.attempts >= self._config.max_attempts:
            reason = f"storage: the device stopped {disk.attempts} times while it tried this version"
            log.error("version %d is given up: %s", disk.pending, reason)
            disk = replace(
                disk,
                pending=None,
                attempts=0,
                highest_seen=max(disk.highest_seen, disk.pending),
                remembered=forget(disk.remembered, disk.pending),
            ).because(disk.pending, reason)
        if not disk.trusted:
            disk = replace(disk, boots=disk.boots + 1)
            if disk.boots > self._config.max_boots:
                reason = f"watch: the device was started {disk.boots} times before it could trust this version"
                log.error("version %d is taken back: %s", disk.installed, reason)
                disk = gone_back(disk, reason)
        return disk

    def _is_fingerprint(self, entry: Remembered) -> bool:
        try:
            return self._layer is not None and bool(entry.centre(self._layer).size)
        except ValueError as error:
            log.error("version %d is not remembered: %s", entry.version, error)
            return False

    def _read(self, version: int) -> dict[str, FloatArray]:
        """The values of a version on the disk, which was verified when it came."""
        if version == SOURCE:
            return dict(self._bundle.source_affine)
        signed = self._store.load(version)
        claim = json.loads(signed.manifest)
        if claim["version"] != version or claim["bundle_digest"] != self._bundle.digest.hex():
            raise ValueError(f"the file of version {version} holds another version")
        if hashlib.sha256(signed.payload).hexdigest() != claim["payload_sha256"]:
            raise ValueError(f"the payload of version {version} has changed on the disk")
        layers = self._bundle.manifest.norm_layers
        values = apply_delta(self._bundle.source_affine, decode_delta(signed.payload, layers), layers)
        if not all(np.isfinite(value).all() for value in values.values()):
            raise ValueError(f"a value of version {version} is not finite")
        return values

    # What comes from the cloud and from the frames.

    def set_envelope(self, envelope: Envelope) -> None:
        """Take the verified envelope that versions are held against. Another cohort's versions are forgotten."""
        self._envelope = envelope
        disk = self._state.disk
        if disk.cohort == envelope.cohort:
            return
        if disk.cohort:
            if disk.installed != SOURCE:
                log.warning("this device is in the cohort %r now; the source values serve", envelope.cohort)
                self._go_back(SOURCE)
                self._state = replace(self._state, recent=())
            disk = VersionState(reasons=disk.reasons)
        disk = replace(disk, bundle=self._bundle.digest.hex(), cohort=envelope.cohort)
        self._state = replace(self._state, disk=disk, phase="trusted" if disk.trusted else "watched")
        self._keep(disk)

    def receive(self, signed: SignedVersion) -> Receipt | None:
        """Take a version through all steps up to serving it.

        Returns:
            What to tell the cloud: ``installed``, or ``rejected`` with a code and a reason; None when there is nothing
            new to tell, as for the version that is installed already or one that was refused the same way before.
            ``remembered`` when it is for another world than the one that the device is in.
        """
        self._signed = signed
        try:
            return self._run(Received())
        finally:
            self._signed = self._values = self._candidate = None

    def recall(self, version: int) -> Receipt | None:
        """Put a remembered version into service, with everything that a new one has to pass but its order.

        Returns:
            ``recalled``, or ``rejected`` with a code and a reason; None when it is in service or not remembered.
        """
        try:
            return self._run(Wanted(version))
        finally:
            self._signed = self._values = self._candidate = None

    def moved(self) -> None:
        """The world changed: entropies observed so far are not compared with those to come."""
        self._run(Moved())

    def set_waiting(self, near: bool) -> None:
        """Whether the source's values serve whatever is installed; where it was known already nothing changes.

        How unsure the source is says nothing of a version, nor the other way: what was observed is forgotten. Where its
        values serve, the installed version has nothing to do with how the device fares, so this start does not count.
        """
        counts = None if near != self._start_counts else not near
        self._start_counts = not near
        if near != self._state.disk.waits or counts is not None:
            self._run(Moved(waits=near, counts=counts))

    def serve_source(self) -> None:
        """Put the source's values into service; what served stays remembered."""
        self._run(SourceWanted())

    def observe(self, entropy_nats: float, *, frames: int = 1) -> Receipt | None:
        """Take note of how sure the version in service is.

        Args:
            entropy_nats: The mean entropy of the last frames; not finite when an answer was not.
            frames: How many frames it is the mean of.
        Returns:
            What to tell the cloud when the version was taken back, else None.
        """
        return self._run(Observed(entropy_nats, max(1, frames)))

    # Running the steps.

    def _run(self, event: Event) -> Receipt | None:
        receipt, events = None, deque([event])
        while events:
            self._state, actions = step(self._state, events.popleft(), self._config)
            for action in actions:
                if isinstance(action, Say):
                    receipt = self._say(action)
                elif (follows := self._perform(action)) is not None:
                    events.append(follows)
        return receipt

    def _say(self, action: Say) -> Receipt | None:
        about, refused = (action.version, action.code), action.outcome in ("rejected", "reverted")
        known = action.outcome == "rejected" and about in self._said
        level = logging.WARNING if refused and not known else logging.INFO
        log.log(level, "version %d %s %s %s", action.version, action.outcome, action.code, action.reason)
        if known:
            return None
        self._said.append(about)
        return Receipt(
            version=action.version, outcome=action.outcome, code=action.code, reason=action.reason[:MAX_TEXT_CHARS]
        )

    def _perform(self, action: Action) -> Event | None:
        """Do it; whatever goes wrong becomes an event."""
        version = self._state.version or None
        try:
            return self._do(action)
        except UpdateRejected as error:
            return Failed(error.code, str(error), version)
        except StorageError as error:
            return Failed("storage", str(error), version)
        except ModelOutputError as error:
            return Failed("not-finite", str(error), version)
        except Exception as error:  # whatever the runtime raises: the version that serves must go on serving
            log.exception("version %s: %s failed", version, type(action).__name__)
            code = "malformed" if isinstance(action, (Verify, Decode)) else "probe"
            return Failed(code, f"{type(action).__name__.lower()} failed: {error}", version)

    def _do(self, action: Action) -> Event | None:
        match action:
            case Verify():
                return self._verify()
            case Load(version):
                return self._load(version)
            case Decode():
                assert self._signed is not None
                assert self._envelope is not None
                bundle = self._bundle
                self._values = self._signed.affine(self._envelope, bundle.source_affine, bundle.manifest.norm_layers)
                return Decoded()
            case Stage(version):
                assert self._signed is not None
                self._store.stage(version, self._signed)
                return Staged()
            case Record(disk):
                self._store.save(disk)
                return Recorded(disk)
            case Build():
                assert self._values is not None
                self._candidate = self._build(self._values)
                return Built()
            case Probe():
                assert self._candidate is not None
                return Probed(float(self._probe(self._candidate)), self._bundle.manifest.probe.min_agreement)
            case Install(version):
                assert self._candidate is not None
                self._install(self._candidate, version)
                return Installed()
            case Keep(disk):
                self._keep(disk)
            case GoBack(version):
                self._go_back(version)
            case Tidy():
                self._store.tidy()
        return None

    def _verify(self) -> Verified:
        assert self._signed is not None
        if self._envelope is None:
            raise UpdateRejected("unsigned", "a version came before the envelope that says who may sign it")
        claim = self._signed.verify(self._envelope)
        if claim.schema != 1 or not 0 < claim.version <= MAX_VERSION or not 0 <= claim.domain <= MAX_VERSION:
            said = f"schema {claim.schema}, version {claim.version}, domain {claim.domain}"
            raise UpdateRejected("malformed", f"{said}: out of range")
        entry = Remembered(version=claim.version, domain=claim.domain, fingerprint=claim.fingerprint)
        if (claim.domain == NO_DOMAIN) != (claim.fingerprint == ""):
            raise UpdateRejected("malformed", "a version names a domain without a fingerprint, or the other way round")
        if claim.domain == NO_DOMAIN:
            return Verified(claim.version, entry)
        try:
            if self._layer is None:
                raise ValueError("this bundle has no layer that fingerprints are of")
            entry.centre(self._layer)
        except ValueError as error:
            raise UpdateRejected("malformed", f"the version's fingerprint is not one: {error}") from error
        return Verified(claim.version, entry, self._fits(entry))

    def _load(self, version: int) -> Loaded:
        """Read a remembered version; hold it against the envelope as it is now, if one has come since the start."""
        try:
            self._values = self._read(version)
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(str(error)) from error
        if self._envelope is not None:
            signed = self._store.load(version)
            signed.verify(self._envelope)
            bundle = self._bundle
            self._values = signed.affine(self._envelope, bundle.source_affine, bundle.manifest.norm_layers)
        return Loaded()

    def _keep(self, disk: VersionState) -> None:
        try:
            self._store.save(disk)
        except StorageError as error:
            log.error("%s", error)

    def _go_back(self, version: int) -> None:
        """Serve a version that served before; the source when it cannot be read or built."""
        for number in (version, SOURCE):
            try:
                self._install(self._build(self._read(number)), number)
            except Exception:  # as above; there is the source to try, and after it what serves now
                log.exception("version %d cannot be put back into service", number)
                continue
            if number != self._state.disk.installed:
                self._state = replace(self._state, disk=replace(self._state.disk, installed=number))
                self._keep(self._state.disk)
            return
