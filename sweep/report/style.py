"""The look of the HTML report: one stylesheet, light and dark by the reader's setting, plain black on white in print.

Kept as a Python string so that the report needs no file beside the code.
"""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fcfcfa; --ink: #1d2125; --soft: #5b6570; --faint: #8a939c; --line: #e3e4df; --rule: #b9bdb8;
  --accent: #1f5fa8; --loss: #a8321f; --gain: #24703a; --warn: #8a5a00; --band: #f2f3ee; --pick: #eaf1f9;
  --warm: #da7148; --hot: #560e04; --on-warm: #000; --on-hot: #fff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181b; --ink: #e4e6e8; --soft: #a2abb4; --faint: #7a848e; --line: #2a2f34; --rule: #4a525a;
    --accent: #7db4f0; --loss: #f08b78; --gain: #7fcb92; --warn: #e0b060; --band: #1c2024; --pick: #1b2734;
    --warm: #8a3622; --hot: #ffd9cb; --on-warm: #fff; --on-hot: #000;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 72rem; padding: 2.75rem 1.75rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums lining-nums; overflow-wrap: break-word;
}
header p { margin: 0; color: var(--soft); font-size: .875rem; }
h1 { margin: .1rem 0 1.75rem; font-size: 1.6rem; line-height: 1.25; font-weight: 650; letter-spacing: -.015em; }
h2 { margin: 3.25rem 0 .6rem; font-size: 1.15rem; font-weight: 650; letter-spacing: -.01em; }
h2 + p { margin-top: 0; }
p, li { max-width: 46rem; }
.verdict { margin: 0 0 1.5rem; padding: .1rem 0 .1rem 1.15rem; border-left: 3px solid var(--accent); }
.verdict.none { border-color: var(--warn); }
.verdict p { margin: 0; max-width: 54rem; font-size: 1.125rem; line-height: 1.55; }
.verdict strong { font-weight: 700; }
.note { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; margin: .75rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; line-height: 1.35; }
.caption { margin: .5rem 0 0; max-width: none; color: var(--soft); font-size: .8125rem; }
th, td { padding: .42rem 0 .42rem 1.25rem; text-align: right; white-space: nowrap; font-weight: 400; }
thead th { color: var(--soft); font-size: .75rem; vertical-align: bottom; border-bottom: 1px solid var(--rule); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody th {
  position: sticky; left: 0; background: var(--paper); padding-left: 0; padding-right: .6rem; text-align: left;
  font-weight: 550; max-width: 15rem; overflow: hidden; text-overflow: ellipsis;
}
thead th[colspan] { text-align: center; }
thead th:first-child { position: sticky; left: 0; background: var(--paper); text-align: left; padding-left: 0; }
tbody tr.chosen > * { background: var(--pick); }
tbody tr.off > * { color: var(--faint); }
td:last-child, th:last-child { padding-right: .35rem; }
.sign { display: inline-block; width: 1.5em; color: var(--accent); font-size: .8em; font-weight: 400; }
.err { color: var(--faint); font-size: .92em; padding-left: .35rem; }
.delta { color: var(--soft); padding-left: .5rem; }
.mark { padding-left: .15rem; }
td.mark { width: 1em; text-align: left; }
.loss { color: var(--loss); } .gain { color: var(--gain); } .failed { color: var(--loss); }
.partial { color: var(--warn); }
table.narrow { width: auto; }
td.from, th.from { text-align: left; color: var(--soft); padding-left: .9rem; }
.pending { color: var(--faint); }
.axes { margin: .9rem 0 .4rem; font-size: .875rem; color: var(--soft); }
.switch { position: absolute; opacity: 0; pointer-events: none; }
.axes label { display: inline-block; padding: .18rem .7rem; border: 1px solid var(--line); cursor: pointer; }
.axes label:first-of-type { border-radius: 5px 0 0 5px; margin-left: .5rem; }
.axes label:last-of-type { border-radius: 0 5px 5px 0; border-left: 0; }
#by-bits:checked ~ .axes [for="by-bits"], #by-bytes:checked ~ .axes [for="by-bytes"] {
  color: var(--ink); background: var(--band); font-weight: 550;
}
#by-bits:focus-visible ~ .axes [for="by-bits"], #by-bytes:focus-visible ~ .axes [for="by-bytes"] {
  outline: 2px solid var(--accent); outline-offset: 1px;
}
#by-bits:checked ~ .plots .bytes, #by-bytes:checked ~ .plots .bits { display: none; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 29rem), 1fr)); gap: 1.6rem 2.25rem; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
figcaption { font-size: .9rem; font-weight: 600; margin-bottom: .15rem; }
figcaption span { display: block; color: var(--soft); font-weight: 400; font-size: .8125rem; line-height: 1.4; }
svg { display: block; max-width: 100%; height: auto; overflow: visible; } svg:not([width]) { width: 100%; }
svg text { font-family: inherit; font-size: 11px; fill: var(--ink); }
svg .tick, svg .name { fill: var(--soft); font-size: 10.5px; }
svg .grid { stroke: var(--line); fill: none; } svg .axis { stroke: var(--rule); fill: none; }
svg .level { stroke: var(--faint); stroke-dasharray: 4 4; fill: none; }
svg .front { stroke: var(--accent); stroke-opacity: .45; stroke-width: 1.5; fill: none; }
svg .bar { stroke: var(--soft); stroke-opacity: .75; fill: none; }
svg .point { fill: var(--paper); stroke: var(--soft); stroke-width: 1.6; }
svg .point.on { fill: var(--accent); stroke: var(--paper); stroke-width: 1.2; }
svg .point.unsure { fill: var(--paper); stroke: var(--accent); stroke-width: 1.8; }
svg .ring { fill: none; stroke: var(--accent); stroke-width: 1.6; }
svg .reach { fill: transparent; }
svg .mark:hover .point { stroke: var(--ink); stroke-width: 2; }
svg .leader { stroke: var(--faint); stroke-width: .8; fill: none; }
svg .label { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; stroke-linejoin: round; }
svg .warm { fill: var(--warm); } svg .hot { fill: var(--hot); }
svg .value { font-size: 11px; fill: var(--on-warm); } svg .value.on { fill: var(--on-hot); }
svg .alike { fill: none; stroke: var(--on-warm); } svg .alike.on { stroke: var(--on-hot); }
svg .frame { fill: none; stroke: var(--ink); stroke-width: 2; }
svg.key { margin: 1rem 0 1.6rem; }
svg .label.off { fill: var(--soft); } svg .label.chosen { font-weight: 650; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.5rem; margin: .75rem 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
details { margin: .9rem 0 0; font-size: .9rem; } summary { color: var(--soft); cursor: pointer; }
td[title] { cursor: help; }
.failures { padding: 0; list-style: none; font-size: .9rem; }
.failures li { margin: .35rem 0; max-width: none; }
code { font: .92em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  body { padding: 1.5rem 1rem 2.5rem; }
  h1 { font-size: 1.35rem; margin-bottom: 1.25rem; }
  .verdict p { font-size: 1rem; }
  tbody th { max-width: 9rem; }
  svg text, svg .tick, svg .name { font-size: 12.5px; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .55rem; }
}
@media print {
  :root {
    color-scheme: light;
    --paper: #fff; --ink: #000; --soft: #444; --faint: #666; --line: #ddd; --rule: #999; --accent: #1f4f8a;
    --loss: #8a1f10; --gain: #1b5a2d; --warn: #6b4600; --band: #fff; --pick: #eef2f7;
    --warm: #da7148; --hot: #560e04; --on-warm: #000; --on-hot: #fff;
  }
  @page { margin: 14mm; }
  body { max-width: none; padding: 0; font-size: 10.5pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .axes { display: none; }
  .scroll { overflow: visible; } table { font-size: 8pt; } th, td { padding-left: .7em; }
  .plots { display: block; }
  figure { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.5rem; margin-bottom: 1.2rem; }
  figcaption { grid-column: 1 / -1; }
  #by-bits:checked ~ .plots .bytes, #by-bytes:checked ~ .plots .bits { display: block; }
  h2 { break-after: avoid; } tr { break-inside: avoid; }
}
"""
