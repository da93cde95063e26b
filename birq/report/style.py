"""The page's style sheet. A Python text, so that the stage's code digest sees a change in it."""

from __future__ import annotations

CSS = """
:root { color-scheme: light; --ink: #1c2430; --muted: #5b6572; --line: #e1e5eb; --soft: #f5f7fa; --accent: #1d5fd1;
  --good: #12703f; --bad: #b3261e; --warn: #8a5a00; --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 3.6rem; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", Arial, sans-serif; }
main, .inner { max-width: 1180px; margin: 0 auto; padding: 0 24px; }
header { background: var(--soft); border-bottom: 1px solid var(--line); padding: 34px 0 28px; }
.kicker { margin: 0 0 6px; color: var(--muted); font-size: 13px; letter-spacing: .02em; }
h1 { margin: 0 0 12px; font-size: 27px; line-height: 1.25; letter-spacing: -.01em; text-wrap: balance; max-width: 30em; }
.lead { margin: 0; max-width: 62em; font-size: 16px; color: #333d4b; }
h2 { margin: 46px 0 12px; font-size: 20px; letter-spacing: -.005em; }
h3 { margin: 26px 0 8px; font-size: 15.5px; }
p { max-width: 62em; }
a { color: var(--accent); }
nav { position: sticky; top: 0; z-index: 2; background: rgba(255,255,255,.96); border-bottom: 1px solid var(--line); }
nav .inner { display: flex; flex-wrap: wrap; gap: 4px 20px; padding-top: 10px; padding-bottom: 10px; font-size: 13.5px; }
nav a { color: var(--muted); text-decoration: none; } nav a:hover { color: var(--accent); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 14px; margin: 24px 0 0; }
.tile { background: #fff; border: 1px solid var(--line); border-left: 4px solid var(--c, var(--muted));
  border-radius: 8px; padding: 12px 16px; }
.tile b { display: block; font-size: 13.5px; font-weight: 600; }
.tile .big { font-size: 29px; line-height: 1.25; font-weight: 650; letter-spacing: -.02em; }
.tile .unit { font-size: 15px; font-weight: 500; color: var(--muted); } .tile small { color: var(--muted); font-size: 12.5px; }
.care { margin: 22px 0 0; padding: 12px 18px; border: 1px solid #ecd9ae; background: #fffaf0; border-radius: 8px; font-size: 14px; }
.care b { color: var(--warn); } .care ul { margin: 4px 0 0; padding-left: 20px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; min-width: 50%; }
th, td { padding: 6px 10px; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; vertical-align: baseline; font-variant-numeric: tabular-nums; }
th { color: var(--muted); font-weight: 500; font-size: 12.5px; border-bottom: 1px solid #b9c1cc; }
th.l, td.l { text-align: left; } td.wrap { white-space: normal; min-width: 16em; }
tbody tr:hover { background: var(--soft); }
tr.group td { border-top: 1px solid #b9c1cc; }
th:first-child, td:first-child { padding-left: 4px; }
.iv { color: var(--muted); font-size: 12.5px; margin-left: 5px; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 8px; background: var(--c, var(--muted)); }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.even { color: var(--muted); font-weight: 600; }
code, .mono { font-family: var(--mono); font-size: .9em; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(440px, 1fr)); gap: 18px; margin: 16px 0; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: 8px; background: #fff; }
figure svg { display: block; width: 100%; height: auto; }
.dag { padding: 18px; } .dag svg { max-width: 1100px; margin: 0 auto; }
details { border-bottom: 1px solid var(--line); padding: 8px 0; } summary { cursor: pointer; font-weight: 600; font-size: 14px; }
.note { color: var(--muted); font-size: 13.5px; }
.utt { padding: 10px 0 8px; border-top: 1px solid var(--line); } .utt:first-of-type { border-top: 0; }
.utt .who { color: var(--muted); font-size: 12.5px; margin-bottom: 3px; }
.words { display: flex; flex-wrap: wrap; gap: 2px 0; font-size: 13.5px; line-height: 1.4; }
.w { display: inline-flex; flex-direction: column; padding: 1px 5px; border-radius: 4px; margin-right: 2px; min-height: 40px; }
.w i { font-style: normal; min-height: 19px; white-space: pre; } .w .r { color: var(--ink); } .w .h { color: #7b8592; }
.wS { background: #fdf0d5; } .wS .h { color: #8a5a00; font-weight: 600; }
.wD { background: #fde5e3; } .wD .r { color: var(--bad); text-decoration: line-through; } .wD .h { color: var(--bad); }
.wI { background: #e2ecfd; } .wI .h { color: #174ea6; font-weight: 600; } .wI .r { color: #174ea6; }
.key span { display: inline-block; padding: 0 7px; border-radius: 4px; margin-right: 8px; }
dl { display: grid; grid-template-columns: minmax(9em, max-content) 1fr; gap: 7px 20px; font-size: 14px; margin: 12px 0; }
dt { font-weight: 600; } dd { margin: 0; max-width: 58em; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px;
  overflow-x: auto; font: 12.5px/1.5 var(--mono); }
footer { margin: 60px 0 0; padding: 18px 0 40px; border-top: 1px solid var(--line); color: var(--muted); font-size: 13px; }
@media (max-width: 700px) {
  main, .inner { padding: 0 14px; } .figures { grid-template-columns: 1fr; }
  dl { grid-template-columns: 1fr; gap: 2px; } dd { margin-bottom: 8px; }
}
@media print { nav { display: none; } figure, .tile, .utt, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""
