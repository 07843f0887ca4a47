"""A cohort over a record, with a fake worker and gate."""

from __future__ import annotations

from cloud_peer import SMALL, FakeGate, FakeWorker, sample

from littoral.bundle import Bundle, SigningKey
from littoral.cloud.cohort import Cohort, Outcome
from littoral.cloud.executors import InlineExecutor
from littoral.cloud.jobs import AdaptConfig
from littoral.cloud.ledger import Ledger
from littoral.cloud.store import EnrolledDevice, Store

KEY = SigningKey(b"c" * 32)


def upload(store: Store, device: EnrolledDevice, first: int, count: int) -> None:
    """Record samples of these sequences."""
    entries = [(n, sample(n)) for n in range(first, first + count)]
    store.record(device.id, 7, entries, now=5.0).result()


class Bench:
    """A cohort that is worked step by step."""

    def __init__(self, store: Store, bundle: Bundle, config: AdaptConfig = SMALL, *, keep_images: bool = False) -> None:
        self.worker, self.gate, self.outcomes = FakeWorker(), FakeGate(), list[Outcome]()
        self.ledger = Ledger(store, "default")
        self.executor = InlineExecutor(self.worker)
        self.cohort = Cohort(
            bundle=bundle,
            ledger=self.ledger,
            executor=self.executor,
            check=self.gate.check,
            key=KEY,
            config=config,
            on_version=self.outcomes.append,
            clock=lambda: 100.0,
            keep_images=keep_images,
        )

    def work(self) -> list[Outcome]:
        """Steps until there is nothing to do."""
        return list(iter(self.cohort.step, None))
