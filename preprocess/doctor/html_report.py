"""A diagnosis as one HTML file that needs nothing else: no script, no font, no picture from elsewhere."""

from collections.abc import Iterable, Sequence
from html import escape

from preprocess.doctor.diagnose import Diagnosis
from preprocess.doctor.findings import DETECTORS, Finding, Severity

__all__ = ["render_html"]


def render_html(diagnosis: Diagnosis) -> str:
    """Draw a diagnosis. Everything that comes from the data set is escaped."""
    groups = diagnosis.by_detector()
    severities: tuple[Severity, ...] = ("error", "warning", "note")
    ordered = [(name, group) for level in severities for name, group in groups.items() if group[0].severity == level]
    looked = "Every clip was opened." if diagnosis.deep else "Headers were read; no clip was opened."
    parts = [
        "<header><h1>MELD under examination</h1>",
        f"<p><code>{escape(str(diagnosis.root))}</code> · {looked}</p></header>",
        _cards(diagnosis),
        "<h2>Splits</h2>",
        _splits(diagnosis),
        "<h2>What the detectors found</h2>" if ordered else "<h2>The detectors found nothing</h2>",
        *(_section(name, group) for name, group in ordered),
        _known(diagnosis),
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>mmsent doctor</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


_AT_MOST = 500
"""Rows drawn of a detector; `--json` has them all."""

_STYLE = """
:root { color-scheme: light dark; --text: #1d2330; --faint: #667085; --ground: #f6f7f9; --card: #fff; --line: #e3e6eb;
  --error: #c4320a; --warning: #a86400; --note: #2f6fbd; --good: #1a7f4b; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ec; --faint: #98a2b3; --ground: #14171c; --card: #1c2027;
  --line: #2e343e; --error: #ff8a65; --warning: #f5c04f; --note: #7db4f5; --good: #5fd398; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { margin: 0; font-size: 26px; }
h2 { margin: 36px 0 12px; font-size: 18px; }
header p, .meaning, .more { color: var(--faint); margin: 4px 0 0; }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 24px; }
.card, details, .plain { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.card { padding: 14px 16px; }
.card b { display: block; font-size: 28px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.card span { color: var(--faint); }
details { margin: 10px 0; padding: 12px 16px; border-left: 4px solid var(--note); }
summary { cursor: pointer; font-weight: 600; }
summary small { color: var(--faint); font-weight: 400; margin-left: 6px; }
.plain { overflow-x: auto; padding: 4px 16px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 8px 0; }
th, td { text-align: left; vertical-align: top; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); }
th { color: var(--faint); font-weight: 500; }
tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.error { border-left-color: var(--error); } .warning { border-left-color: var(--warning); }
.card.error b, .tag.error { color: var(--error); } .card.warning b, .tag.warning { color: var(--warning); }
.card.note b, .tag.note { color: var(--note); } .card.good b, .seen { color: var(--good); }
.card.error, .card.warning { border-left-width: 1px; border-left-color: var(--line); }
a { color: var(--note); }
"""


def _cards(diagnosis: Diagnosis) -> str:
    rows = sum(split.num_rows for split in diagnosis.splits)
    clips = sum(split.num_clips for split in diagnosis.splits)
    confirmed = sum(bool(entry.confirmed_by) for entry in diagnosis.listed)
    cards = [("", f"{rows:,}", "rows"), ("", f"{clips:,}", "clips")]
    for severity in ("error", "warning", "note"):
        count = sum(finding.severity == severity for finding in diagnosis.findings)
        cards.append((severity if count else "good", f"{count:,}", f"{severity}s"))
    cards.append(("", f"{confirmed:,} of {len(diagnosis.listed):,}", "known issues confirmed"))
    drawn = "".join(f'<div class="card {kind}"><b>{value}</b><span>{name}</span></div>' for kind, value, name in cards)
    return f'<div class="cards">{drawn}</div>'


def _splits(diagnosis: Diagnosis) -> str:
    rows = [
        (
            escape(split.name),
            f"{split.num_rows:,} of {split.official_rows:,}",
            f"{split.num_clips:,} of {split.official_clips:,}",
            f"<code>{escape(split.csv)}</code>",
            f"<code>{escape(split.clip_folder)}</code>" if split.clip_folder else "none",
            escape(split.text_form) + (", byte for byte" if split.table else ""),
        )
        for split in diagnosis.splits
    ]
    columns = ("split", "rows", "clips", "annotations", "clip folder", "text")
    return f'<div class="plain">{_table(columns, rows)}</div>'


def _section(name: str, group: Sequence[Finding]) -> str:
    detector = DETECTORS[name]
    rows = [
        (escape(item.split), f"<code>{escape(item.where)}</code>", escape(item.detail)) for item in group[:_AT_MOST]
    ]
    more = f'<p class="more">and {len(group) - _AT_MOST:,} more: see --json</p>' if len(group) > _AT_MOST else ""
    opened = " open" if detector.severity == "error" else ""
    return (
        f'<details class="{detector.severity}"{opened}><summary>'
        f'<span class="tag {detector.severity}">{len(group):,}</span> {escape(detector.title)}'
        f"<small>{detector.severity} · {escape(name)}</small></summary>"
        f'<p class="meaning">{escape(detector.meaning)}</p>'
        f'<div class="scroll">{_table(("split", "where", "what"), rows)}</div>{more}</details>'
    )


def _known(diagnosis: Diagnosis) -> str:
    if not diagnosis.listed:
        return ""
    rows = []
    for entry in diagnosis.listed:
        links = " ".join(
            f'<a href="{escape(link)}">{escape(link.removeprefix("https://github.com/"))}</a>' for link in entry.links
        )
        verdict = f'<span class="{"seen" if entry.confirmed_by else ""}">{escape(entry.verdict)}</span>'
        rows.append((escape(entry.split), f"<code>{escape(entry.clip)}</code>", escape(entry.problem), verdict, links))
    table = _table(("split", "clip", "problem", "here", "said in"), rows)
    return f'<h2>Publicly known of these rows and files</h2><div class="plain">{table}</div>'


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Draw a table of cells that are HTML already."""
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"
