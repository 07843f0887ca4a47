"""Whether exits and splits pay: what a finished build says where they cost more than they can save."""

from __future__ import annotations

from collections.abc import Sequence

from littoral.bundle import Manifest
from littoral.bundle.exits import exit_costs


def what_does_not_pay(manifest: Manifest, segment_macs: Sequence[int]) -> list[str]:
    """A line for each exit and split that does not pay, with what to do instead; none where all do.

    Accuracies are compared only for splits of the frame, which are another network's: one that goes on from a segment
    is there to save the device work, and cannot be better than the network that it is a part of.

    Args:
        segment_macs: Multiply-accumulates of each segment for one frame, together the whole network's.
    """
    return [*_exits(manifest, segment_macs), *_splits(manifest, segment_macs)]


def _exits(manifest: Manifest, segment_macs: Sequence[int]) -> list[str]:
    costs = exit_costs(manifest.exits, segment_macs)
    dear = [
        f"exit {index} takes {_millions(each.macs)}, more than the {_millions(sum(costs.segment_macs[index + 1 :]))} "
        "of the network after it, so it saves nothing"
        for index, each in enumerate(manifest.exits)
        if not each.is_deep and each.macs > sum(costs.segment_macs[index + 1 :])
    ]
    share = manifest.source_metrics.get("exits.compute_share", 0.0)
    if share >= 1:
        dear.append(f"with its exits a frame takes {share:.3g} times the work of the network without them")
    cheaper = "; build with --exit-stem pooled, fewer features or fewer exits, or without exits"
    return [line + cheaper for line in dear]


def _splits(manifest: Manifest, segment_macs: Sequence[int]) -> list[str]:
    lines, metrics = [], manifest.source_metrics
    metric = manifest.make_task().metric_name
    alone = metrics.get(metric)
    for index, each in enumerate(manifest.splits):
        done = 0 if each.segment is None else sum(segment_macs[: each.segment + 1])
        macs = done + metrics.get(f"split{index}.encoder_macs", 0.0)
        if macs >= sum(segment_macs):
            lines.append(
                f"to offload by split {index} a device does {_millions(macs)}, to answer by itself "
                f"{_millions(sum(segment_macs))}; split earlier, or with a smaller encoder"
            )
        by_level = f"split{index}.level", f".{metric}"
        reached = [value for key, value in metrics.items() if key.startswith(by_level[0]) and key.endswith(by_level[1])]
        if each.segment is None and alone is not None and reached and max(reached) < alone:
            lines.append(
                f"at every level split {index} is worse than the device alone, whose {metric} is {alone:.4g}: at best "
                f"{max(reached):.4g}; train it longer (--split-epochs), split elsewhere, or take a stronger teacher"
            )
    return lines


def _millions(macs: float) -> str:
    return f"{macs / 1e6:.3g} million MACs"
