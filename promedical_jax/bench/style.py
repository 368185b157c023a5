"""The page's style sheet. Calm paper and ink; blue is the aligned policy, grey the base, and good and bad differ in lightness and shape as well as in hue.

The hues (blue, teal, vermilion, amber) stay apart in the common forms of colour blindness (after Okabe and Ito 2008);
each pair of text and ground has a contrast of at least 4.5 in both themes.
"""

CSS = """
:root {
  --paper: #faf9f6; --card: #ffffff; --sunk: #f3f1ec; --ink: #1c2430; --soft: #5a6472; --rule: #e4e1d9; --grid: #ebe8e1;
  --aligned: #1f5fa8; --base: #6f7784; --side: #a85d00; --good: #0b6e63; --good-ground: #e3f2ef; --bad: #b93a0c; --bad-ground: #fcebe3;
  --shadow: 0 1px 2px rgb(28 36 48 / .04), 0 6px 24px rgb(28 36 48 / .05);
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #10141a; --card: #181e26; --sunk: #131820; --ink: #e8eaee; --soft: #9da7b5; --rule: #2a323d; --grid: #242c36;
    --aligned: #74b0f4; --base: #98a2b0; --side: #eba64a; --good: #5cc9b8; --good-ground: #12302d; --bad: #fb916a; --bad-ground: #3a2018;
    --shadow: none;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55; overflow-wrap: break-word;
  font: 400 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; font-variant-numeric: tabular-nums;
}
main, header, footer { max-width: 1120px; margin: 0 auto; padding: 0 clamp(16px, 4vw, 40px); }
header { padding-top: clamp(36px, 7vw, 84px); }
h1, h2, h3, h4, p, ul, figure, dl, dd, pre { margin: 0; padding: 0; }
h1 { font-size: clamp(2rem, 5.4vw, 3.35rem); line-height: 1.1; letter-spacing: -.025em; font-weight: 650; max-width: 19em; text-wrap: balance; }
h1 em { font-style: normal; color: var(--aligned); white-space: nowrap; }
h2 { font-size: clamp(1.4rem, 2.6vw, 1.75rem); line-height: 1.2; letter-spacing: -.015em; font-weight: 650; }
h3 { font-size: 1.08rem; font-weight: 650; }
h4 { font-size: .95rem; font-weight: 600; }
.over { font-size: .82rem; font-weight: 600; letter-spacing: .02em; color: var(--soft); margin-bottom: 18px; }
.lead { font-size: clamp(1.05rem, 1.8vw, 1.2rem); color: var(--soft); max-width: 44em; margin-top: 22px; text-wrap: pretty; }
.lead strong { color: var(--ink); font-weight: 600; }
.small { font-size: .86rem; color: var(--soft); max-width: 62em; }
section { margin-top: clamp(56px, 8vw, 96px); }
section > .about { color: var(--soft); max-width: 44em; margin: 10px 0 26px; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 14px; box-shadow: var(--shadow); }
.notes { list-style: none; margin-top: 26px; max-width: 46em; border-left: 3px solid var(--rule); padding-left: 16px; color: var(--soft); font-size: .93rem; }
.notes li + li { margin-top: 6px; }

.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 16px; margin-top: clamp(32px, 5vw, 52px); }
.tile { padding: 20px 22px 18px; }
.tile h3 { font-size: .92rem; font-weight: 600; color: var(--soft); }
.tile .big { font-size: 2.85rem; line-height: 1.15; letter-spacing: -.035em; font-weight: 650; margin-top: 6px; color: var(--aligned); }
.tile .big small { font-size: .5em; font-weight: 600; letter-spacing: 0; }
.tile p { font-size: .86rem; color: var(--soft); margin-top: 2px; }
.tile p b { color: var(--ink); font-weight: 600; }
.up { color: var(--good) !important; } .down { color: var(--bad) !important; }
@media (max-width: 900px) { .tiles { grid-template-columns: repeat(2, 1fr); } }
@media (max-width: 520px) { .tiles { gap: 10px; } .tile { padding: 15px 15px 14px; } .tile .big { font-size: 2.2rem; } .tile p { font-size: .8rem; } }

.key { display: flex; flex-wrap: wrap; gap: 6px 22px; list-style: none; font-size: .86rem; color: var(--soft); margin-bottom: 14px; }
.key li { display: flex; align-items: center; gap: 8px; }
.key i { width: 11px; height: 11px; border-radius: 50%; border: 2px solid var(--base); background: var(--card); }
.key i.aligned { background: var(--aligned); border-color: var(--aligned); }
.key i.tick { width: 0; height: 15px; border-radius: 0; border-width: 0 0 0 2px; border-color: var(--ink); }
.figures { width: 100%; border-collapse: collapse; font-size: .95rem; table-layout: fixed; }
.figures th, .figures td { text-align: right; padding: 13px 14px; border-top: 1px solid var(--rule); vertical-align: middle; white-space: nowrap; }
.figures thead th { border-top: 0; font-size: .82rem; font-weight: 600; color: var(--soft); padding: 14px 14px 11px; }
.figures tr > :first-child { text-align: left; padding-left: 24px; white-space: normal; font-weight: 600; }
.figures tr > :first-child span { display: block; font-weight: 400; font-size: .84rem; color: var(--soft); }
.figures td b { font-weight: 650; font-size: 1.05rem; }
.figures td small { display: block; color: var(--soft); font-size: .8rem; }
.figures td.new b { color: var(--aligned); }
.figures .picture { width: 33%; padding: 0 36px 0 30px; }
.figures tr > :first-child { width: 28%; } .figures tr > :nth-child(4) { width: 11%; }
.scale { display: flex; justify-content: space-between; margin: 0 -1.2em; }
.scale span { width: 2.4em; text-align: center; white-space: nowrap; }
@media (min-width: 761px) { .figures.runs .picture { width: 30%; } }
.ends { display: flex; justify-content: space-between; font-size: .78rem; color: var(--soft); margin-top: 2px; }
.key.who { flex-direction: column; } .key.who li { align-items: baseline; } .key.who i { flex: none; } .key.who b { color: var(--ink); font-weight: 600; }
.key.who span { min-width: 0; overflow-wrap: anywhere; }
.figures.plain { table-layout: auto; }
.figures.runs th:not(.picture) { white-space: normal; overflow-wrap: anywhere; } .figures.plain tr > :nth-child(4) { width: auto; }
.figures tr.total > * { border-top: 2px solid var(--rule); }
.figures + .small, .card + .small { margin-top: 14px; }
.track { display: block; width: 100%; height: 66px; overflow: visible; }
.grid { stroke: var(--grid); stroke-width: 1; shape-rendering: crispEdges; }
.axis { stroke: var(--rule); stroke-width: 1; shape-rendering: crispEdges; }
.track .tick { stroke: var(--ink); stroke-width: 2; }
.track .span { stroke-width: 11; opacity: .28; }
.track .base { stroke: var(--base); } .track .aligned { stroke: var(--aligned); }
.run0 { --run: var(--base); } .run1 { --run: var(--aligned); } .run2 { --run: var(--side); } .run3 { --run: var(--good); } .run4 { --run: var(--bad); }
.run5 { --run: var(--ink); }
.track [class*=" run"] { stroke: var(--run); } .track .dot[class*=" run"] { fill: var(--run); } .track .dot.run0 { fill: var(--card); }
.key i[class*=run] { background: var(--run); border-color: var(--run); } .key i.run0 { background: var(--card); }
.track .dot { stroke-width: 2; } .track .dot.base { fill: var(--card); } .track .dot.aligned { fill: var(--aligned); }
@media (max-width: 760px) {
  .figures thead { display: none; }
  .figures tr, .figures tbody { display: grid; }
  .figures tr { grid-template-columns: repeat(3, minmax(0, 1fr)); padding: 18px 18px 16px; border-top: 1px solid var(--rule); gap: 10px 8px; align-items: end; }
  .figures tbody tr:first-child { border-top: 0; }
  .figures tr.total { border-top: 2px solid var(--rule); }
  .figures tr > *, .figures tr > :first-child, .figures tr.total > * { padding: 0; border: 0; text-align: left; width: auto; }
  .figures tr > :first-child, .figures .picture { grid-column: 1 / -1; }
  .figures td small { white-space: normal; }
  .figures td[data-name]::before { white-space: normal; overflow-wrap: anywhere; }
  .figures td[data-name]::before { content: attr(data-name); display: block; font-size: .78rem; color: var(--soft); }
  .figures tr > .picture, .figures tr.total > .picture { padding: 0 7px; width: auto; } .figures .picture:empty { display: none; }
  .track { height: 46px; }
}

.stages { display: grid; grid-template-columns: repeat(3, 1fr); gap: 44px 16px; margin-top: 38px; }
.stage { grid-column: 1 / -1; min-width: 0; display: flex; flex-direction: column; } .stage.one { grid-column: span 1; } .stage.two { grid-column: span 2; }
@media (max-width: 1000px) { .stages > .stage { grid-column: 1 / -1; } }
.stage > p { color: var(--soft); font-size: .93rem; margin: 2px 0 16px; max-width: 50em; }
.charts { flex: 1; display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); gap: 16px; }
.chart { display: flex; flex-direction: column; justify-content: space-between; gap: 12px; padding: 16px 14px 10px 16px; }
.chart { background: var(--card); border: 1px solid var(--rule); border-radius: 14px; }
.chart p { font-size: .82rem; color: var(--soft); line-height: 1.4; }
.chart svg { width: 100%; height: auto; overflow: visible; } .chart svg svg { overflow: hidden; }
.chart text { font-size: 10.8px; fill: var(--soft); font-family: inherit; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; margin-top: 8px; font-size: .82rem; color: var(--soft); }
.legend li { display: flex; align-items: center; gap: 7px; } .legend b { color: var(--ink); font-weight: 600; }
.legend i { width: 18px; border-top: 2.5px solid var(--aligned); } .legend .side i { border-color: var(--side); }
.legend .truth i { border-top: 2px dashed var(--ink); }
.plot path { fill: none; stroke: var(--aligned); stroke-linejoin: round; stroke-linecap: round; }
.plot path.mean { stroke-width: 2.1; } .plot path.raw { stroke-width: 1; opacity: .32; }
.plot path.side { stroke: var(--side); } .plot path.truth { stroke: var(--ink); }
.plot path.mean.truth { stroke-dasharray: 4 3.5; stroke-width: 1.7; stroke-linecap: butt; }
.plot path.raw.truth { opacity: .12; }
.plot circle { fill: var(--aligned); } .plot circle.side { fill: var(--side); } .plot circle.truth { fill: var(--ink); } .plot circle.raw { opacity: .4; }

section > h3 { margin-top: 40px; } section > h3 + p { color: var(--soft); font-size: .93rem; max-width: 50em; margin: 2px 0 16px; }
@media (min-width: 761px) { .figures.pairs tr > :nth-child(4) { width: 33%; } .figures.details tr > :first-child { width: 50%; } }
.reliability .even { stroke: var(--soft); stroke-width: 1.4; stroke-dasharray: 4 3.5; }
.reliability .gap { stroke: var(--aligned); stroke-width: 3; opacity: .28; } .reliability .dot { fill: var(--aligned); }

.example { padding: 0; margin-top: 16px; }
.example summary { cursor: pointer; list-style: none; padding: 18px 24px; display: flex; gap: 4px 18px; flex-wrap: wrap; align-items: baseline; }
.example summary::-webkit-details-marker { display: none; }
.example summary::after { content: "show"; margin-left: auto; font-size: .82rem; color: var(--soft); text-decoration: underline; text-underline-offset: 3px; }
.example h3, .made dd { overflow-wrap: anywhere; min-width: 0; }
.example[open] summary::after { content: "hide"; }
.example summary span { font-size: .88rem; color: var(--soft); }
.example .body { padding: 0 24px 24px; }
.turn { background: var(--sunk); border-radius: 10px; padding: 12px 16px; margin-bottom: 10px; }
.turn h4, .answer h4 { font-size: .8rem; font-weight: 600; color: var(--soft); margin-bottom: 3px; }
.said { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 26rem; overflow-y: auto; }
.said.empty { color: var(--soft); font-style: italic; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; margin: 16px 0 20px; }
.answer { border: 1px solid var(--rule); border-top: 3px solid var(--base); border-radius: 4px 4px 10px 10px; }
.answer { padding: 12px 16px 14px; display: flex; flex-direction: column; }
.answer.new { border-top-color: var(--aligned); } .answer.new h4 { color: var(--aligned); }
.chips { list-style: none; display: flex; flex-wrap: wrap; gap: 6px; margin-top: auto; padding-top: 14px; font-size: .8rem; }
.chips li { border-radius: 99px; padding: 2px 10px; background: var(--sunk); color: var(--soft); } .chips b { color: var(--ink); font-weight: 600; }
.chips .ok { background: var(--good-ground); color: var(--good); } .chips .fault { background: var(--bad-ground); color: var(--bad); font-weight: 600; }
.rubric { width: 100%; border-collapse: collapse; font-size: .92rem; }
.rubric th, .rubric td { text-align: left; padding: 8px 10px 8px 0; border-top: 1px solid var(--rule); vertical-align: middle; }
.rubric thead th { border: 0; font-size: .82rem; color: var(--soft); font-weight: 600; padding-bottom: 4px; }
.rubric .tier th { font-size: .82rem; font-weight: 600; color: var(--soft); padding-top: 16px; border: 0; }
.rubric .tier span { font-weight: 400; }
.rubric .weight { text-align: right; color: var(--soft); white-space: nowrap; padding-right: 24px; width: 5em; }
.rubric td.verdict, .rubric th.verdict { width: 9.4em; white-space: nowrap; font-size: .86rem; color: var(--soft); }
.rubric thead th.verdict { font-size: .82rem; }
.rubric .verdict span { vertical-align: middle; } .rubric .verdict span.bad { color: var(--bad); font-weight: 600; }
.mark { width: 18px; height: 18px; vertical-align: middle; margin-right: 8px; }
.mark path { fill: none; stroke: var(--card); stroke-width: 2.1; stroke-linecap: round; stroke-linejoin: round; }
.mark.good circle { fill: var(--good); } .mark.bad rect { fill: var(--bad); } .mark.unjudged path { stroke: var(--soft); }
@media (max-width: 760px) {
  .pair { grid-template-columns: 1fr; } .example summary { padding: 16px 18px; } .example .body { padding: 0 16px 18px; }
  .rubric thead, .rubric tbody { display: block; }
  .rubric tr { display: grid; grid-template-columns: 1fr 3.9rem 3.9rem; align-items: center; border-top: 1px solid var(--rule); padding: 9px 0; }
  .rubric thead tr, .rubric .tier { border: 0; padding-bottom: 4px; } .rubric .tier th { grid-column: 1 / -1; padding: 8px 0 0; }
  .rubric th, .rubric td { border: 0; padding: 0; } .rubric th.weight, .rubric .weight:empty { display: none; }
  .rubric .weight { grid-area: 2 / 1; text-align: left; font-size: .8rem; width: auto; }
  .rubric td:first-child { grid-area: 1 / 1; } .rubric td.verdict { grid-row: 1 / span 2; }
  .rubric td:nth-child(3) { grid-column: 2; } .rubric td:nth-child(4) { grid-column: 3; }
  .rubric td.verdict, .rubric thead th.verdict { width: auto; text-align: center; padding: 0; }
  .rubric .verdict span { display: block; font-size: .72rem; } .rubric .mark { margin: 0 auto 1px; display: block; }
}

.answer.whole { grid-column: 1 / -1; } .made > dl:only-child { grid-column: 1 / -1; } .made dd br { margin-bottom: 4px; }
.rubric.runs td.verdict, .rubric.runs th.verdict { width: auto; min-width: 6.4em; max-width: 11em; }
.rubric.runs th.verdict { white-space: normal; overflow-wrap: anywhere; } .rubric.runs td:first-child { padding-right: 22px; }
@media (max-width: 760px) {
  .rubric.runs thead { display: none; }
  .rubric.runs tr { display: flex; flex-wrap: wrap; gap: 6px 14px; }
  .rubric.runs td:first-child { flex: 1 0 100%; }
  .rubric.runs td.verdict { width: auto; text-align: left; } .rubric.runs .weight { padding: 0; }
  .rubric.runs td.verdict::before { white-space: normal; overflow-wrap: anywhere; }
  .rubric.runs td.verdict::before { content: attr(data-name); display: block; font-size: .72rem; margin-bottom: 2px; }
  .rubric.runs .verdict span { display: inline; font-size: .8rem; } .rubric.runs .mark { display: inline-block; margin: 0 6px 0 0; }
}

.made { display: grid; grid-template-columns: 1fr 1fr; gap: 28px 48px; padding: 24px; }
.made pre { grid-column: 1 / -1; background: var(--sunk); border-radius: 10px; padding: 14px 18px; white-space: pre-wrap; overflow-wrap: anywhere; }
.made pre { font: 500 .9rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.made dl { display: grid; grid-template-columns: auto 1fr; gap: 5px 20px; font-size: .92rem; align-content: start; }
.made dt { color: var(--soft); } .made h3 { margin-bottom: 10px; font-size: .98rem; }
.made > dl:only-child { grid-template-columns: fit-content(30%) minmax(0, 1fr); } .made > dl:only-child dt { overflow-wrap: anywhere; }
@media (max-width: 760px) { .made { grid-template-columns: 1fr; padding: 18px; } .made > dl:only-child { grid-template-columns: minmax(0, 1fr); } }
.card.wide { overflow-x: auto; } .figures.lab td { vertical-align: top; } .figures.lab th:not(:first-child) { white-space: normal; }
.figures.lab th, .figures.lab td { padding: 12px 10px; } .figures.lab .track { height: 16px; min-width: 60px; margin: 2px 0; }
.figures.lab .track .span { stroke-width: 7; } @media (min-width: 761px) { .figures.claims td:first-child { white-space: normal; width: 46%; } }
.chips i { font-style: normal; border-radius: 99px; padding: 2px 10px; background: var(--sunk); color: var(--soft); display: inline-block; }
.figures td span.chips { display: block; margin: 0; padding: 0; } .chips i.ok { background: var(--good-ground); color: var(--good); }
.chips i.fault { background: var(--bad-ground); color: var(--bad); font-weight: 600; }
.checks { list-style: none; padding: 16px 24px; } .checks li { padding: 4px 0; } section > .charts { margin-top: 8px; }
footer { padding-top: 40px; padding-bottom: 64px; font-size: .84rem; color: var(--soft); }
@media print { .example summary::after { display: none; } .card, .chart, tr { break-inside: avoid; } }
"""
