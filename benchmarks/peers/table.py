"""The rows in Markdown: medians over the rounds, ratios as medians of the ratios within a round."""

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.peers.rounds import Row

__all__ = ["markdown", "median_ratio", "spread"]

_LIMIT = "copy limit, one thread"
_OURS = "mmsent, 1 reader"


def markdown(rows: Sequence[Row], num_samples: int) -> str:
    """Return two tables: what was measured, fastest first, and how each loader was used."""
    measured = sorted((row for row in rows if not row.failure), key=lambda row: -statistics.median(_rates(row)))
    by_title = {row.title: row for row in measured}
    lines = [
        "| loader | samples/s (lowest, highest) | of the limit | mmsent, 1 reader, is so many times as fast "
        "| CPU s per 1,000 | first batch, s | own memory, MB (of it imports) | resident, MB "
        "| samples/s, every byte read |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in measured:
        assert row.memory is not None
        lines.append(
            f"| {row.title} | {spread(_rates(row))} | {_times(row, by_title.get(_LIMIT))} "
            f"| {_times(by_title.get(_OURS), row)} "
            f"| {statistics.median(timing.cpu_seconds for timing in row.timings):.3f} "
            f"| {statistics.median(timing.first_batch_seconds for timing in row.timings):.3f} "
            f"| {row.memory.own:,.0f} ({row.imports_megabytes:,.0f}) | {row.memory.resident:,.0f} "
            f"| {spread([timing.reading_samples_per_second for timing in row.timings])} |"
        )
    lines += [f"| {row.title} | {_one_line(row.failure)} |{' |' * 7}" for row in rows if row.failure]
    lines += ["", "| loader | version | converting, s per 1,000 | how it is used |", "|---|---|---|---|"]
    for row in _first_of_each(rows):
        seconds = row.conversion_seconds / num_samples * 1000
        title = row.title.partition(",")[0]
        lines.append(f"| {title} | {row.version or '—'} | {seconds:.1f} | {row.settings} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Return median, lowest and highest."""
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}, {max(values):,.0f})"


def median_ratio(values: Iterable[float], base: Iterable[float]) -> float:
    """Return the median of the ratios round by round."""
    return statistics.median(value / other for value, other in zip(values, base, strict=True))


def _rates(row: Row) -> list[float]:
    return [timing.samples_per_second for timing in row.timings]


def _times(row: Row | None, base: Row | None) -> str:
    """Return how many times as fast a row is; nothing where one of the two was not measured."""
    if row is None or base is None:
        return ""
    ratio = median_ratio(_rates(row), _rates(base))
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def _first_of_each(rows: Iterable[Row]) -> list[Row]:
    return list({row.peer: row for row in reversed(list(rows))}.values())[::-1]


def _one_line(reason: str) -> str:
    return " ".join(reason.split()).replace("|", "/")
