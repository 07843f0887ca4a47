"""What personalising costs: counted multiply-accumulates, measured seconds, and the most memory that it takes."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

from littoral.bench.exits.chain import Chain
from littoral.bench.exits.learn import FRAMES_PER_DAY, labelled_frames, new_heads, show
from littoral.bench.exits.seen import Seen
from littoral.core.head_costs import (
    FLOPS_PER_MAC,
    closed_form_macs,
    full_fine_tuning_macs,
    published_exits_macs,
    sgd_head_macs,
)
from littoral.core.head_memory import FeatureMap
from littoral.core.head_state import write_state
from littoral.core.personal import PersonalConfig, PersonalHead

NUM_EPOCHS = 5
NUM_FITS = 10
"""One for each hundred of a thousand frames."""
PUBLISHED_HEAD_SHARE = 0.12
"""Of the network's work, all published exits together: what makes 2.2 of their cost against fine-tuning, as the paper
says; its own heads are not known."""


def counted(chain: Chain, *, num_frames: int = 1_000) -> dict[str, Any]:
    """FLOPs of personalising with so many frames. Ours: the sums and fits of all exits, and their stems for all frames.

    Features come from answering: the device runs no frame for learning alone but the audits, which latency counts.
    ``with_forward`` counts one whole forward pass for each frame all the same.
    """
    sizes = [(exit.head.num_features, exit.head.num_classes) for exit in chain.exits]
    sums = sum(closed_form_macs(d, k, num_frames=num_frames, num_fits=NUM_FITS) for d, k in sizes)
    stems = num_frames * sum(exit.macs for exit in chain.exits)
    ours = sums + stems
    forward = chain.full_macs
    full = full_fine_tuning_macs(forward, num_frames=num_frames, num_epochs=NUM_EPOCHS)
    published = published_exits_macs(
        forward, round(PUBLISHED_HEAD_SHARE * forward), num_frames=num_frames, num_epochs=NUM_EPOCHS
    )
    last = sgd_head_macs(*sizes[-1], num_frames=num_frames, num_epochs=NUM_EPOCHS)
    own_stems = published_exits_macs(forward, stems // num_frames, num_frames=num_frames, num_epochs=NUM_EPOCHS)
    return {
        "frames": num_frames,
        "epochs": NUM_EPOCHS,
        "forward_macs": forward,
        "exit_macs": sum(exit.macs for exit in chain.exits),
        "ours_flops": FLOPS_PER_MAC * ours,
        "ours_without_stems_flops": FLOPS_PER_MAC * sums,
        "ours_with_forward_flops": FLOPS_PER_MAC * (ours + num_frames * forward),
        "full_finetune_flops": FLOPS_PER_MAC * full,
        "published_exits_flops": FLOPS_PER_MAC * published,
        "published_with_our_stems_flops": FLOPS_PER_MAC * own_stems,
        "last_layer_sgd_flops": FLOPS_PER_MAC * (last + num_frames * forward),
        "full_over_ours": round(full / ours, 2),
        "published_over_ours": round(published / ours, 2),
        "published_with_our_stems_over_ours": round(own_stems / ours, 2),
        "full_over_ours_with_forward": round(full / (ours + num_frames * forward), 2),
        "published_over_ours_with_forward": round(published / (ours + num_frames * forward), 2),
    }


def measured_costs(chain: Chain, seen: Seen, *, config: PersonalConfig | None = None) -> dict[str, Any]:
    """Processor seconds of personalising all exits, and the most memory of one head at work at its fullest."""
    config = config or PersonalConfig()
    given, deep = labelled_frames(len(seen.personal), 0.1, seed=seen.user.index), seen.personal.deep_NK
    heads = new_heads(chain, config=config, seed=seen.user.index)
    begun = time.process_time()
    for i in range(len(seen.personal)):
        show(heads, seen.personal, i, day=i // FRAMES_PER_DAY, labelled=bool(given[i]), deep=deep)
    for head in heads:
        head.refresh()
    seconds = time.process_time() - begun
    peaks = [_peak(chain, seen, index, config) for index in range(len(chain.exits))]
    sizes: list[int] = []
    write_state(heads[-1], lambda data: sizes.append(len(data)))
    return {
        "personal_seconds": round(seconds, 3),
        "personal_frames": len(seen.personal),
        "peak_extra_memory_bytes": max(peaks),
        "state_bytes": sum(sizes),
        "largest_features": max(chain.num_features),
    }


def _peak(chain: Chain, seen: Seen, index: int, config: PersonalConfig) -> int:
    """Of one exit's head over ten days: sums, memory, fit, state, another affine version. Frames are not counted."""
    exit, part = chain.exits[index], seen.personal
    features, deep = part.features[index], part.deep_NK
    num_frames = min(len(part), 400)
    still = FeatureMap(scale_D=features[0] * 0 + 1, shift_D=features[0] * 0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        head = PersonalHead(
            exit.head,
            affine_version=0,
            seed=1,
            config=config,
            source_shares_K=chain.class_shares_K,
            moments=exit.moments,
        )
        for i in range(num_frames):
            label = int(part.labels_N[i]) if i % 10 == 0 else None
            head.observe(features[i], day=i * 10 // num_frames, affine_version=0, label=label, deep_K=deep[i])
        head.refresh()
        write_state(head, len)
        head.rebase(1, feature_map=still)
        head.refresh()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
