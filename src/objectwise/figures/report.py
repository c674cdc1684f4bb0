"""One self-contained page: numbers, figures, the configuration, and the command that made them.

Everything is inside the file (styles, pictures as data), so that it can be mailed, archived and opened without a network.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from objectwise.core import UserError
from objectwise.core.files import write_text
from objectwise.figures.style import figure_png


@dataclass(frozen=True)
class Table:
    """A small table.

    Attributes:
        header: name of each column.
        rows: values, as many in each row as there are names; floats are shown with four digits.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Section:
    """A part of a report, shown in this order: heading, text, table, figures.

    Attributes:
        heading: a short title.
        text: plain text; empty lines separate paragraphs.
        figures: (matplotlib figure or PNG bytes, caption) pairs; the caption is also what a screen reader says.
        table: numbers, or None.
    """

    heading: str
    text: str = ""
    figures: Sequence[tuple[Figure | bytes, str]] = ()
    table: Table | None = None


def write_report(
    path: Path | str,
    title: str,
    sections: Sequence[Section] = (),
    *,
    summary: str = "",
    notices: Sequence[str] = (),
    numbers: Mapping[str, object] | None = None,
    config: str | None = None,
    command: str | None = None,
) -> Path:
    """Write a self-contained HTML page; all texts are plain and are escaped.

    Args:
        path: the file; its folder must exist.
        title: what the page is about.
        sections: the parts, in order.
        summary: one or two sentences under the title.
        notices: sentences that must not be overlooked ("smoke run: numbers are meaningless", a collapse).
        numbers: name -> value, or (value, explanation); shown as a table at the top.
        config: the resolved configuration as text (YAML), folded away.
        command: the command line that produced the page.

    Returns:
        the path.

    Raises:
        UserError: where the file cannot be written, or a table's row does not fit its header.
    """
    parts = [f"<header><h1>{_text(title)}</h1>"]
    if summary:
        parts.append(f'<div class="lead">{_paragraphs(summary)}</div>')
    parts.append("</header>")
    parts += [f'<p class="notice" role="note">{_text(notice)}</p>' for notice in notices]
    if numbers:
        parts.append(f'<section aria-label="Numbers">{_numbers(numbers)}</section>')
    parts += [_section(section) for section in sections]
    parts.append(_provenance(command, config))
    page = _PAGE.format(title=_text(title), style=_STYLE, body="\n".join(parts))
    write_text(Path(path), page)
    return Path(path)


def _section(section: Section) -> str:
    parts = [f"<section><h2>{_text(section.heading)}</h2>"]
    if section.text:
        parts.append(_paragraphs(section.text))
    if section.table is not None:
        parts.append(_table(section.table))
    parts += [_figure(figure, caption) for figure, caption in section.figures]
    return "\n".join([*parts, "</section>"])


def _figure(figure: Figure | bytes, caption: str) -> str:
    shown = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    if isinstance(figure, bytes):
        return f'<figure><div class="scroll"><img src="{_data(figure)}" alt="{_text(caption)}"></div>{shown}</figure>'
    width = round(96 * float(figure.get_figwidth()))
    # On a narrow screen a wide figure scrolls sideways rather than shrink until its labels cannot be read.
    least = min(width, max(540, round(0.62 * width)))
    size = f'width="{width}" style="min-width:{least}px"'
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{_data(figure_png(figure, theme="dark"))}">'
    image = f'<img src="{_data(figure_png(figure))}" alt="{_text(caption)}" {size}>'
    return f'<figure><div class="scroll"><picture>{dark}{image}</picture></div>{shown}</figure>'


def _numbers(numbers: Mapping[str, object]) -> str:
    rows = []
    for name, entry in numbers.items():
        value, note = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, "")
        label = name.replace("_", " ")
        rows.append(
            f'<tr><th scope="row">{_text(label)}</th><td class="value">{_value(value)}</td><td>{_text(note)}</td></tr>'
        )
    return f'<div class="scroll"><table class="numbers"><tbody>{"".join(rows)}</tbody></table></div>'


def _table(table: Table) -> str:
    for row in table.rows:
        if len(row) != len(table.header):
            raise UserError(f"a table has {len(table.header)} columns and a row of {len(row)} values")
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in table.header)
    body = "".join(
        "<tr>" + "".join(f"<td{_numeric(value)}>{_value(value)}</td>" for value in row) + "</tr>" for row in table.rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _provenance(command: str | None, config: str | None) -> str:
    parts = []
    if command:
        parts.append(f"<h2>How this was made</h2><pre><code>{_text(command)}</code></pre>")
    if config:
        parts.append(f"<details><summary>Configuration</summary><pre><code>{_text(config)}</code></pre></details>")
    return f"<footer>{''.join(parts)}</footer>" if parts else ""


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_text(part.strip())}</p>" for part in text.split("\n\n") if part.strip())


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def cell_text(value: object) -> str:
    """A value of a table as it is shown: floats with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _value(value: object) -> str:
    return _text(cell_text(value))


def _numeric(value: object) -> str:
    return ' class="value"' if isinstance(value, int | float) else ""


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --muted: #676e7b; --rule: #d9dce3; --paper: #ffffff; --panel: #f5f6f8;
  --accent: #2563c9; --notice: #fff4e0; --notice-edge: #d9730d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ee; --muted: #a0a7b4; --rule: #3a404c; --paper: #171a21;
  --panel: #20242d; --accent: #6ea8ff; --notice: #33291a; --notice-edge: #e69138; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: clamp(1.25rem, 4vw, 3.5rem) clamp(1rem, 4vw, 2rem) 4rem; }
h1 { font-size: clamp(1.6rem, 4.5vw, 2.3rem); line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 .6rem; text-wrap: balance; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 3rem 0 .5rem; letter-spacing: -0.005em; }
p { max-width: 42rem; margin: .5rem 0 1rem; overflow-wrap: anywhere; }
.lead p { font-size: 1.1rem; color: var(--muted); }
.notice { max-width: none; background: var(--notice); border-left: 4px solid var(--notice-edge); border-radius: 4px;
  padding: .7rem 1rem; }
.scroll { overflow-x: auto; }
figure { margin: 1.25rem 0 2rem; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { color: var(--muted); font-size: .9rem; max-width: 42rem; margin-top: .5rem; }
table { border-collapse: collapse; margin: 1rem 0 1.5rem; font-size: .95rem; }
th, td { text-align: left; vertical-align: baseline; padding: .45rem 1.25rem .45rem 0; border-bottom: 1px solid var(--rule); }
thead th { color: var(--muted); font-weight: 600; }
tbody th { font-weight: 400; }
.value { font-variant-numeric: tabular-nums; }
.numbers .value { font-weight: 650; white-space: nowrap; }
.numbers td:last-child { color: var(--muted); padding-right: 0; }
pre { background: var(--panel); border: 1px solid var(--rule); border-radius: 6px; padding: .8rem 1rem; overflow-x: auto;
  font: .85rem/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
details { margin-top: 1rem; }
summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
@media print { details > pre { display: block; } figure { break-inside: avoid; } }
"""
