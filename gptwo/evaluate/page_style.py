"""The style sheet of report.html: one column of text, aligned figures, light and dark, wide and narrow."""

from __future__ import annotations

CSS = """
:root {
  --paper: #ffffff; --panel: #f5f6f8; --ink: #15181c; --muted: #5a636e; --line: #dde1e6;
  --accent: #1f5fa8; --warm: #bf4a30; --good: #1b7547; --warn: #8a6000; --on-strong: #ffffff;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #12151a; --panel: #1a1f26; --ink: #e7eaee; --muted: #9aa4b0; --line: #2c333c;
    --accent: #74aef2; --warm: #f08c74; --good: #5cc491; --warn: #dcb24e; --on-strong: #0d1014;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial,
    "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "Noto Sans SC", sans-serif;
}
main { max-width: 1040px; margin: 0 auto; padding: 48px 32px 72px; }
h1 { font-size: 30px; line-height: 1.2; font-weight: 650; letter-spacing: -.01em; margin: 0 0 6px; }
h2 { font-size: 19px; line-height: 1.3; font-weight: 650; margin: 0 0 4px; }
h3 { font-size: 14px; line-height: 1.4; font-weight: 600; margin: 0 0 6px; }
p { margin: 0 0 8px; }
section { margin-top: 44px; }
.kicker, .facts, .hint, figcaption, .legend { color: var(--muted); font-size: 14px; }
.kicker { margin: 0 0 4px; }
.facts { margin: 0; }
.hint { max-width: 92ch; margin: 0 0 14px; }
.number, td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }

.verdict { margin-top: 28px; padding: 16px 20px; background: var(--panel); border-left: 4px solid var(--muted); }
.verdict.better { border-color: var(--good); }
.verdict.equal { border-color: var(--warn); }
.verdict.worse { border-color: var(--warm); }
.verdict .lead { font-size: 18px; line-height: 1.45; font-weight: 600; margin: 0; }
.verdict .detail { color: var(--muted); font-size: 14px; margin: 4px 0 0; }
.verdict ul { list-style: none; margin: 14px 0 0; padding: 12px 0 0; border-top: 1px solid var(--line); }
.verdict li { font-size: 14px; padding: 3px 0 3px 18px; position: relative; }
.verdict li::before {
  content: ""; position: absolute; left: 0; top: 10px; width: 8px; height: 8px; border-radius: 50%;
  background: var(--muted);
}
.verdict li.better::before { background: var(--good); }
.verdict li.equal::before { background: var(--warn); }
.verdict li.worse::before { background: var(--warm); }

.intervals { margin: 16px 0 26px; }
.intervals .row, .intervals .axis {
  display: grid; grid-template-columns: minmax(120px, 230px) 1fr 148px; column-gap: 18px; align-items: center;
}
.intervals .row { border-bottom: 1px solid var(--line); }
.intervals .name { font-size: 14px; padding: 6px 0; overflow-wrap: anywhere; }
.intervals .value { font-size: 14px; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.intervals .value small { color: var(--muted); font-size: 12.5px; margin-left: 6px; }
.intervals .tuned .name, .intervals .tuned .value b { font-weight: 650; }
.intervals .value b { font-weight: 500; }
.intervals svg { display: block; width: 100%; overflow: visible; }

.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-size: 14px; line-height: 1.4; }
table.wide { width: 100%; max-width: 640px; }
th { text-align: left; font-weight: 600; vertical-align: bottom; }
thead th { color: var(--muted); font-weight: 500; font-size: 13px; border-bottom: 1px solid var(--ink); }
th, td { padding: 6px 18px 6px 0; }
th:last-child, td:last-child { padding-right: 2px; }
tbody td, tbody th { border-bottom: 1px solid var(--line); vertical-align: top; }
tbody th { font-weight: 400; overflow-wrap: break-word; }
tbody.averages th, tbody.averages td { color: var(--muted); }
tbody.averages tr:first-child th, tbody.averages tr:first-child td { border-top: 1px solid var(--ink); }
td.best { font-weight: 650; }
td small, tbody th small { display: block; font-size: 12px; font-weight: 400; color: var(--muted); }
table.pinned th:first-child {
  min-width: 104px; position: sticky; left: 0; background: var(--paper); padding-right: 18px;
}
td.bar { width: 110px; min-width: 70px; padding-top: 12px; }
td.bar span { display: block; height: 7px; background: var(--line); }
td.bar i { display: block; height: 7px; background: var(--accent); }

.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 28px 40px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); gap: 28px 48px; }
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: var(--natural, 480px); }
figcaption { margin-top: 6px; max-width: 62ch; font-size: 13px; }
.figures { margin-top: 12px; }
.hint.after { margin-top: 10px; }
.legend { display: flex; min-height: 20px; flex-wrap: wrap; gap: 2px 16px; margin: 0 0 6px; font-size: 13px; }
.legend span::before {
  content: ""; display: inline-block; width: 14px; height: 3px; margin-right: 6px; vertical-align: middle;
  background: var(--swatch);
}
svg text { font-size: 12px; fill: var(--muted); font-variant-numeric: tabular-nums; font-family: inherit; }
svg .axis-line { stroke: var(--muted); stroke-width: 1; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .label { fill: var(--ink); }

.ranks { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 20px 48px; }
.ranks .key { grid-column: 1 / -1; display: flex; align-items: center; gap: 8px; margin: 0; font-size: 13px; }
.ranks .key span { color: var(--muted); }
.ranks .key i { width: 120px; height: 10px; background: linear-gradient(to right, var(--panel), var(--accent)); }
.ranks .map { display: grid; grid-template-columns: auto 1fr auto; column-gap: 8px; }
.ranks .map svg { width: 100%; max-width: none; overflow: visible; }
.ranks .side { min-width: 15px; text-align: right; font-variant-numeric: tabular-nums; }
.ranks .side span { display: block; font-size: 11.5px; color: var(--muted); }

table.examples { width: 100%; }
.examples td { overflow-wrap: anywhere; }
.examples .text { width: 52%; white-space: pre-wrap; }
.examples .right { color: var(--good); min-width: 90px; }
.examples .wrong { color: var(--warm); min-width: 90px; }
.examples .where { color: var(--muted); font-size: 13px; min-width: 116px; }

.facts-list {
  display: grid; grid-template-columns: minmax(140px, 280px) 1fr; gap: 1px 12px; margin: 0; font-size: 13px;
}
.facts-list dt { color: var(--muted); }
.facts-list dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }

.sample {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 14px 40px;
  padding: 14px 0; border-top: 1px solid var(--line);
}
.sample:first-of-type { border-top-color: var(--ink); }
.sample h3 { color: var(--muted); font-weight: 500; margin: 0; }
.sample p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }

details { border-top: 1px solid var(--line); }
details:last-of-type { border-bottom: 1px solid var(--line); }
section > details + details { border-top: 1px solid var(--line); }
summary { cursor: pointer; padding: 10px 0; font-size: 14px; font-weight: 600; }
details > :not(summary) { margin-bottom: 16px; }
.notes { margin: 0; padding-left: 20px; font-size: 14px; }
code { font: 13px/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
footer { margin-top: 48px; color: var(--muted); font-size: 13px; }

@media (max-width: 640px) {
  main { padding: 28px 18px 48px; }
  h1 { font-size: 25px; }
  section { margin-top: 36px; }
  .verdict { padding: 14px 16px; }
  .verdict .lead { font-size: 16.5px; }
  .intervals .row, .intervals .axis { grid-template-columns: 1fr auto; }
  .intervals .row { padding: 4px 0 8px; }
  .intervals .name { grid-column: 1; padding-bottom: 0; }
  .intervals .value { grid-column: 2; grid-row: 1; align-self: end; }
  .intervals .track { grid-column: 1 / -1; }
  .intervals .axis .name, .intervals .axis .value { display: none; }
  table.examples, .examples tbody, .examples tr, .examples td { display: block; width: auto; }
  .examples thead { display: none; }
  .examples tr { border-bottom: 1px solid var(--line); padding: 10px 0; }
  .examples tr:first-child { border-top: 1px solid var(--ink); }
  .examples td, .examples .text { border: 0; padding: 0 0 2px; width: auto; text-align: left; white-space: normal; }
  .examples .text { font-size: 15px; padding-bottom: 6px; }
  .examples td[data-label]::before {
    content: attr(data-label); display: inline-block; width: 92px; color: var(--muted); font-size: 13px;
  }
  th, td { padding-right: 14px; }
  td.bar, th.bar { display: none; }
  .facts-list { grid-template-columns: minmax(90px, 40%) 1fr; }
}
@media print {
  main { max-width: none; padding: 0; }
  section { break-inside: avoid; }
}
"""
