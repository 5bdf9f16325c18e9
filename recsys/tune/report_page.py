"""A study as one web page that needs nothing else: pictures, styles and script are inside.

Stability: internal
"""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from recsys.tune.objectives import COSTS
from recsys.tune.report_data import (
    Findings,
    best_by_share,
    chosen,
    how_stored,
    metric_of,
    number_of,
    ratio_of,
    size_of,
    why_of,
)
from recsys.tune.study import TrialRow

_REJECTED = 200  # trials turned down that the page shows

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22252b; margin: 0; background: #f5f6f8; }
main { max-width: 1240px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 10px; }
p, li { max-width: 80ch; overflow-wrap: anywhere; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0; }
.card { background: #fff; border: 1px solid #e1e4e9; border-radius: 8px; padding: 10px 16px; }
.card b { display: block; font-size: 20px; font-variant-numeric: tabular-nums; }
.card span { color: #656b76; font-size: 13px; }
.scroll { overflow: auto; max-height: 640px; background: #fff; border: 1px solid #e1e4e9;
  border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th, td { padding: 5px 10px; text-align: left; vertical-align: top; }
th { position: sticky; top: 0; background: #eceef2; white-space: nowrap; }
.sortable th { cursor: pointer; }
.sortable th:focus-visible { outline: 2px solid #2563a8; outline-offset: -2px; }
th[aria-sort=ascending]::after { content: " \\2191"; }
th[aria-sort=descending]::after { content: " \\2193"; }
td { border-top: 1px solid #eef0f3; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.long { min-width: 30ch; overflow-wrap: anywhere; white-space: pre-line; }
tr.front td:first-child { box-shadow: inset 3px 0 #2563a8; font-weight: 600; }
tr.rejected, tr.failed, tr.stopped { color: #656b76; }
tr.failed td.long { color: #a33; }
figure { margin: 0 0 18px; }
img { max-width: 100%; background: #fff; border: 1px solid #e1e4e9; border-radius: 8px;
  box-sizing: border-box; padding: 12px; }
code { background: #eceef2; border-radius: 4px; padding: 1px 5px; overflow-wrap: anywhere; }
"""

_SCRIPT = """
for (const head of document.querySelectorAll(".sortable th")) {
  head.tabIndex = 0;
  head.onkeydown = event => { if (event.key === "Enter") head.onclick(); };
  head.onclick = () => {
    const body = head.closest("table").tBodies[0], at = head.cellIndex;
    const down = head.ariaSort === "ascending", value = row => row.cells[at].dataset.v;
    for (const other of head.parentNode.cells) other.ariaSort = "none";
    head.ariaSort = down ? "descending" : "ascending";
    body.append(...[...body.rows].sort((a, b) => {
      const x = value(a), y = value(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return down ? -order : order;
    }));
  };
}
"""


def page(findings: Findings, pictures: Mapping[str, Path], words: Sequence[str]) -> str:
    """The page.

    Args:
        findings: Of a study.
        pictures: PNG files by title.
        words: What was done and what to take.
    """
    name = html.escape(findings.study.name)
    parts = [f"<h1>{name}</h1>", _about(findings), _cards(findings), _list(words)]
    if findings.front:
        parts += [
            "<h2>The best by share of the full tables' bytes</h2>",
            _by_share(findings),
            "<h2>The front</h2>",
            _table(*cells_of(findings, findings.front)),
            _use(findings),
        ]
    if pictures:
        parts.append("<h2>Plots</h2>")
        parts += [_picture(title, path) for title, path in pictures.items()]
    if findings.unknown:
        parts.append(f"<p>Importance of settings: {html.escape(findings.unknown)}</p>")
    if findings.rows:
        parts += ["<h2>All trials</h2>", _all(findings)]
    content = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{content}\n"
        f"</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _about(findings: Findings) -> str:
    sweep, base = findings.study.sweep, findings.study.space.base
    limits = {k: v for k, v in sweep.limits.model_dump().items() if v is not None}
    model = str(base["model"]["class"]).rpartition(".")[2]
    data = str(base["dataset"]["class"]).rpartition(".")[2]
    text = f"{model} on {data}, searched for {', '.join(sweep.objectives)}"
    if limits:
        text += ", limits: " + ", ".join(f"{k} {v:,}" for k, v in limits.items())
    return f"<p>{html.escape(text)}</p>"


def _cards(findings: Findings) -> str:
    cards: list[tuple[str, str]] = []
    if findings.front:
        best = findings.front[0]
        cards.append((f"{best.values[findings.metric]:.5f}", f"best valid {findings.metric}"))
        size = size_of(best)
        if size is not None:
            cards.append((f"{size:,.0f}", "bytes of the best"))
        cards.append((str(len(findings.front)), "on the front"))
    cards += [(f"{count:,}", state) for state, count in findings.counts().items()]
    if findings.seconds:
        cards.append((f"{findings.seconds / 60:,.1f}", "minutes of training"))
    inner = "".join(
        f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(text)}</span></div>'
        for value, text in cards
    )
    return f'<div class="cards">{inner}</div>'


def _list(words: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in words) + "</ul>"


def _use(findings: Findings) -> str:
    best = findings.front[0]
    command = html.escape(f"recsys train --config {findings.study.directory / 'best.yaml'}")
    text = f"<p>Train the best: <code>{command}</code>"
    if best.dtype != "fp32":
        text += (
            f", then store its tables as they were judged: "
            f"<code>{html.escape(how_stored(findings, best.dtype))}</code>"
        )
    return text + ". The others of the front are in <code>front/</code>.</p>"


def _picture(title: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<figure><img alt="{html.escape(title)}" src="data:image/png;base64,{data}"></figure>'


# ------------------------------------------------------------------------------- tables


@dataclasses.dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Args:
        text: As it is shown.
        order: What it is sorted by, where that is a number.
    """

    text: str
    order: float | None = None


def cells_of(findings: Findings, rows: Sequence[TrialRow]) -> tuple[list[str], list[list[Cell]]]:
    """Headings and cells of a table of trials; the last column says what was chosen.

    Args:
        findings: Of a study.
        rows: Trials to show.
    """
    name, sweep, base = findings.metric, findings.study.sweep, findings.study.space.base
    more = [n for n in sweep.objectives[1:] if n not in COSTS]
    timed = any("lookup_us" in row.facts for row in rows)
    heads = ["trial", *(f"valid {n}" for n in (name, *more)), f"test {name}", "bytes", "of full"]
    heads += ["lookup us"] if timed else []
    table = []
    for row in rows:
        size, ratio = size_of(row), ratio_of(row)
        speed = number_of(row.facts.get("lookup_us"))
        line = [Cell(str(row.number), row.number)]
        for one in (name, *more):
            value, sd = metric_of(row, "valid", one)
            line.append(_metric_cell(row.values.get(one, value), sd))
        line.append(_metric_cell(*metric_of(row, "test", name)))
        line.append(Cell("-" if size is None else f"{size:,.0f}", size))
        line.append(Cell("-" if ratio is None else f"{ratio:.4f}", ratio))
        if timed:
            line.append(Cell("-" if speed is None else f"{speed:.3g}", speed))
        table.append([*line, Cell(chosen(base, row))])
    return [*heads, "chosen"], table


def _metric_cell(value: float | None, sd: float | None) -> Cell:
    if number_of(value) is None:
        return Cell("-")
    return Cell(f"{value:.5f}" if sd is None else f"{value:.5f} +- {sd:.5f}", value)


def _by_share(findings: Findings) -> str:
    shares = best_by_share(findings)
    heads, cells = cells_of(findings, [share.row for share in shares if share.row is not None])
    left = iter(cells)
    lines = []
    for share in shares:
        if share.row is None:
            empty = [Cell("-")] * (len(heads) - 1)
            lines.append([Cell(share.name), *empty, Cell("nothing is that small")])
        else:
            lines.append([Cell(share.name), *next(left)])
    return _table(["at most", *heads], lines, sortable=False)


def _all(findings: Findings) -> str:
    """Every trial, what was turned down only up to a number."""
    turned_down = [row for row in findings.rows if row.state == "rejected"]
    hidden = {row.number for row in turned_down[_REJECTED:]}
    rows = [row for row in findings.rows if row.number not in hidden]
    heads, cells = cells_of(findings, rows)
    heads = [heads[0], "state", *heads[1:-1], "seconds", heads[-1], "why"]
    lines = []
    for row, line in zip(rows, cells):
        seconds = number_of(row.facts.get("seconds"))
        took = Cell("-" if seconds is None else f"{seconds:,.1f}", seconds)
        known = f"from {findings.sources[row.number]}" if row.number in findings.sources else ""
        lines.append(
            [line[0], Cell(row.state), *line[1:-1], took, line[-1], Cell(why_of(row) or known)]
        )
    front = {row.number for row in findings.front}
    text = _table(heads, lines, [_kind(row, front) for row in rows])
    if hidden:
        text += f"<p>{len(hidden):,} more that were turned down are in <code>trials.csv</code>.</p>"
    return text


def _kind(row: TrialRow, front: set[int]) -> str:
    return "front" if row.number in front else row.state


def _table(
    heads: Sequence[str],
    lines: Sequence[Sequence[Cell]],
    kinds: Sequence[str] = (),
    sortable: bool = True,
) -> str:
    """Numbers right, and sorted as numbers."""
    last = {place for place, head in enumerate(heads) if head in ("chosen", "why")}
    text = {place for place, head in enumerate(heads) if head in ("state", "at most")} | last
    top = "".join(
        f"<th class={'t' if place in text else 'n'}>{html.escape(head)}</th>"
        for place, head in enumerate(heads)
    )
    rows = []
    for number, line in enumerate(lines):
        cells = []
        for place, cell in enumerate(line):
            order = cell.order if cell.order is not None else cell.text.strip("-")
            kind = "long" if place in last else "" if place in text else "n"
            cells.append(
                f'<td class="{kind}" data-v="{html.escape(str(order))}">'
                f"{html.escape(cell.text)}</td>"
            )
        kind = html.escape(kinds[number]) if kinds else ""
        rows.append(f'<tr class="{kind}">{"".join(cells)}</tr>')
    style = ' class="sortable"' if sortable else ""
    return (
        f'<div class="scroll"><table{style}><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
