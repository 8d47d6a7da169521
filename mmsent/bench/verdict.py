"""What bounds training on this machine, in words, from what was measured."""

from collections.abc import Sequence

from mmsent.bench.timing import Group, Kind, Timing

__all__ = ["three_figures", "verdict"]

_FREE = 0.05
"""Of the time that a trainer may wait; below it data is as good as free, and shared machines are no steadier."""

_PLENTY = 20.0
"""Times what the model takes: a loader that gives more is never waited for, and if steps took longer with it, that was
the machine."""

_MOST = 0.5
"""Of the time: from here on it is data that bounds training."""

_NOTABLE = 1.1
"""Times as fast: from here on a setting is worth a change."""

_SMALLER = "make smaller samples (`mmsent preprocess --frames`, `--size`)"


def verdict(timings: Sequence[Timing]) -> list[str]:
    """Say what bounds training here, by how much, and which setting to change.

    Args:
        timings: Of the cases of `mmsent.bench.cases`.

    Returns:
        Sentences, the most important first.
    """
    ours = sorted(_of(timings, "loading", "ours"), key=lambda timing: timing.median)
    limits = _of(timings, "loading", "limit")
    if not ours or not limits:
        return [f"Nothing can be said, since the loader was not measured{_because(timings, 'loading', 'ours')}."]
    best = ours[-1]
    headroom, fed = (next(iter(_of(timings, "training", kind)), None) for kind in ("headroom", "fed"))
    if headroom is not None and fed is not None:
        lines = _training(headroom, fed, best, ours)
    else:
        because = _because(timings, "training", "headroom") or _because(timings, "training", "fed")
        lines = [f"What bounds training is not known, since the trainer was not measured{because}."]
    share = f"{best.times(limits[0]):.2f} of what one thread copies"
    lines.append(f"The loader alone gives {three_figures(best.median)} samples/s with {_readers(best)}: {share}.")
    others = [*_of(timings, "loading", "other"), *_of(timings, "decoding", "other")]
    for other in sorted(others, key=lambda timing: -timing.median):
        ratio = best.times(other)
        line = (
            f"{other.name}: {three_figures(other.median)} samples/s; the loader gives {three_figures(ratio)} times that"
        )
        if headroom is not None and (waiting := 1 - other.median / headroom.median) > _FREE:
            line += f", and training on it would wait for at least {waiting:.0%} of the time"
        lines.append(f"{line[0].upper()}{line[1:]}.")
    return lines


def three_figures(value: float) -> str:
    """Write a number with three figures, or all of those before the point."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _training(headroom: Timing, fed: Timing, best: Timing, ours: list[Timing]) -> list[str]:
    now = next((timing for timing in ours if timing.num_readers == fed.num_readers), best)
    waiting = 1 - fed.times(headroom) if now.median < _PLENTY * headroom.median else 0.0
    alone, with_loader = three_figures(headroom.median), three_figures(fed.median)
    rates = f"{alone} samples/s on one batch again and again, {with_loader} on the loader's batches"
    unsteady = fed.spread[1] >= headroom.spread[0]  # a small difference between rates that overlap is none
    if waiting <= _FREE or (unsteady and waiting < _MOST):
        spare = now.median / headroom.median
        return [
            f"The model bounds training here, not the data: {rates}. The loader alone gives "
            f"{three_figures(spare)} times what the model takes.",
            "To train faster, change the model or the device: a GPU, `mmsent train --precision` or `--modalities`, or "
            "fewer frames (`mmsent preprocess --frames`).",
        ]
    what = "The data bounds training here" if waiting >= _MOST else "The model bounds training here, but waits for data"
    lines = [f"{what}: {rates}; {waiting:.0%} of the time is lost."]
    if now.median > 2 * headroom.median:
        spare = now.median / headroom.median
        lines.append(
            f"The loader alone gives {three_figures(spare)} times what the model takes, so more readers do not "
            "help: it and the model compete for the processor, or the shards are not in memory yet. Leave the loader a "
            f"core (`OMP_NUM_THREADS`), or {_SMALLER}."
        )
    elif best.num_readers != now.num_readers and best.times(now) >= _NOTABLE:
        lines.append(
            f"Give `mmsent train` `--set train.num_readers={best.num_readers}`, which loads "
            f"{best.times(now):.1f} times as fast."
        )
    else:
        lines.append(f"Other numbers of readers (`train.num_readers`) do not help: {_SMALLER}.")
    return lines


def _of(timings: Sequence[Timing], group: Group, kind: Kind) -> list[Timing]:
    return [item for item in timings if item.group == group and item.kind == kind and item.samples_per_second]


def _because(timings: Sequence[Timing], group: Group, kind: Kind) -> str:
    """Return in brackets why the first of some cases could not be measured; empty if it was."""
    failures = [item.failure.partition("\n")[0] for item in timings if (item.group, item.kind) == (group, kind)]
    return f" ({failures[0]})" if failures and failures[0] else ""


def _readers(timing: Timing) -> str:
    return f"{timing.num_readers} reader{'s' * (timing.num_readers > 1)}"
