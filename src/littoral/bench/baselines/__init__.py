"""The methods that people would use instead, and the published system: our own writing, published settings.

Each is a factory of `littoral.bench.method.MethodFactory`'s form. Cards: ``docs/methods/baselines.md`` and
``docs/methods/cema-parity.md``.
"""

from __future__ import annotations

from littoral.bench.baselines.batch_norm import batch_norm
from littoral.bench.baselines.cema import parity_batch, parity_paper, parity_shipped
from littoral.bench.baselines.cotta import cotta
from littoral.bench.baselines.eata import eata
from littoral.bench.baselines.eta import eta
from littoral.bench.baselines.rdumb import rdumb
from littoral.bench.baselines.roid import roid
from littoral.bench.baselines.sar import sar
from littoral.bench.baselines.source import source
from littoral.bench.baselines.teacher_answers import teacher_answers
from littoral.bench.baselines.teacher_everything import teacher_everything
from littoral.bench.baselines.tent import tent
from littoral.bench.method import MethodFactory

BASELINES: dict[str, MethodFactory] = {
    "source": source,
    "batch_norm": batch_norm,
    "tent": tent,
    "eta": eta,
    "eata": eata,
    "sar": sar,
    "cotta": cotta,
    "roid": roid,
    "rdumb": rdumb,
    "parity_shipped": parity_shipped,
    "parity_paper": parity_paper,
    "parity_batch": parity_batch,
    "teacher_answers": teacher_answers,
    "teacher_everything": teacher_everything,
}
"""By the name that the tables use."""

__all__ = ["BASELINES"]
