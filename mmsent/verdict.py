"""What bounds training on this machine, in words, from what was measured."""

from collections.abc import Sequence

from shards.timing import Group, Kind, Timing

__all__ = ["verdict"]

_FREE = 0.02
"""Of the time that a trainer may wait; below it data is free."""

_NOTABLE = 1.1
"""Times as fast: from here on a setting is worth a change."""


def verdict(timings: Sequence[Timing]) -> list[str]:
    """Say what bounds training here, by how much, and which setting to change.

    Args:
        timings: Of the ways of `mmsent.bench`, with at least those of the limit and of this loader.

    Returns:
        Sentences, the most important first.
    """
    limit, *_ = _of(timings, "loading", "limit")
    ours = sorted(_of(timings, "loading", "ours"), key=lambda timing: timing.median)
    best = ours[-1]
    headroom, fed = (next(iter(_of(timings, "training", kind)), None) for kind in ("headroom", "fed"))
    if headroom is not None and fed is not None:
        lines = _training(headroom, fed, best, ours)
        demand = headroom.median
    else:
        reasons = [
            timing.failure.splitlines()[0] for timing in timings if timing.group == "training" and timing.failure
        ]
        because = f" ({reasons[0]})" if reasons else ""
        lines = [f"What bounds training is not known, since the trainer was not measured{because}."]
        demand = 0.0
    share = f"{best.times(limit):.2f} of what one thread copies"
    lines.append(f"The loader gives {best.median:,.0f} samples/s with {_readers(best)}: {share}.")
    others = [*_of(timings, "loading", "other"), *_of(timings, "decoding", "other")]
    for other in sorted(others, key=lambda timing: -timing.median):
        where = "decoding on every access, " if other.group == "decoding" else ""
        rates = f"{_rate(other)} samples/s, the loader {best.times(other):,.1f} times as many"
        line = f"{where}{other.name}: {rates}"
        if demand > other.median:
            line += f"; training on it would wait for {1 - other.median / demand:.0%} of the time"
        lines.append(f"{line[0].upper()}{line[1:]}.")
    return lines


def _training(headroom: Timing, fed: Timing, best: Timing, ours: list[Timing]) -> list[str]:
    waiting = max(0.0, 1 - fed.times(headroom))
    rates = f"{_rate(headroom)} samples/s on a batch that is there, {_rate(fed)} on the loader's"
    if waiting <= _FREE:
        spare = best.median / headroom.median
        return [
            f"The model bounds training here, not the data: {rates}. The loader could feed {spare:,.0f} times as much.",
            "To train faster, change the model or the device: frozen encoders, fewer `--frames`, `--precision`, a GPU.",
        ]
    lines = [f"The data bounds training here: {rates}; {waiting:.0%} of the time goes into waiting."]
    now = next((timing for timing in ours if timing.num_readers == fed.num_readers), ours[0])
    if best.num_readers != now.num_readers and best.times(now) >= _NOTABLE:
        lines.append(f"Set `--readers {best.num_readers}`, which loads {best.times(now):.1f} times as fast.")
    elif best.median > 2 * headroom.median:
        lines.append(
            "The loader alone is fast enough: it and the model compete for the processor or for memory. Leave it a "
            "core, or make smaller samples (`mmsent preprocess --frames`, `--size`)."
        )
    else:
        lines.append("More `--readers` do not help: make smaller samples (`mmsent preprocess --frames`, `--size`).")
    return lines


def _of(timings: Sequence[Timing], group: Group, kind: Kind) -> list[Timing]:
    return [item for item in timings if item.group == group and item.kind == kind and item.samples_per_second]


def _readers(timing: Timing) -> str:
    return f"{timing.num_readers} reader{'s' * (timing.num_readers > 1)}"


def _rate(timing: Timing) -> str:
    return f"{timing.median:,.0f}" if timing.median >= 100 else f"{timing.median:.2g}"
