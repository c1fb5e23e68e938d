"""The style sheet of our pages: light and dark, phone to wide screen, paper.

Charts keep their own colours as attributes of their SVG; rules with these colours as selectors exchange them in the dark. Maps,
whose colours are values, are inverted as a whole, with their hues turned back.
"""

from typing import Final

from steercache.report.style import ACCENT, GRID, INK, QUIET, SECOND

_VARIABLES: Final = (
    (INK, "--ink"),
    (ACCENT, "--accent"),
    (SECOND, "--second"),
    (QUIET, "--mark"),
    (GRID, "--line"),
    ("#ddd", "--line"),
)
_CHARTS: Final = "\n".join(
    f'figure:not(.map) svg [{part}="{colour}"] {{ {part}: var({name}); }}'
    for colour, name in _VARIABLES
    for part in ("fill", "stroke")
)

STYLE: Final = f"""
:root {{ color-scheme: light dark; --page: #fff; --ink: #1f2933; --quiet: #5c6875; --line: #e4e8ec; --accent: #b3441e;
  --second: #1f5f8b; --third: #3f7a33; --fourth: #7a4fa0; --fifth: #8a650d; --mark: #8a96a3; --panel: #f7f8f9;
  --good: #2f6b25; --bad: #a32f2f; --focus: #1a5fd0; }}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ --page: #14191f; --ink: #e3e8ed; --quiet: #a3afbb; --line: #323b45; --accent: #f0865c; --second: #76b6e2;
    --third: #8cc97d; --fourth: #c3a0e4; --fifth: #dcb455; --mark: #8a96a3; --panel: #1d242c; --good: #8cc97d;
    --bad: #f39a9a; --focus: #8ab8ff; }}
  .map svg {{ filter: invert(1) hue-rotate(180deg); }}
  img {{ background: #fff; }}
}}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }}
body {{ margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Helvetica Neue", Arial, sans-serif; overflow-wrap: anywhere; }}
main {{ max-width: 1320px; margin: 0 auto; padding: 40px 28px 64px; }}
main:focus {{ outline: none; }}
a {{ color: var(--second); }}
:focus-visible {{ outline: 3px solid var(--focus); outline-offset: 2px; }}
.skip {{ position: absolute; left: -9999px; padding: 8px 14px; background: var(--page); }}
.skip:focus {{ left: 8px; top: 8px; z-index: 2; }}
.unseen {{ position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }}
h1 {{ font-size: 26px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em; }}
h2 {{ font-size: 17px; margin: 44px 0 6px; padding-top: 14px; border-top: 1px solid var(--line); }}
h3, h4, h5, h6 {{ font-size: 15px; margin: 20px 0 4px; }}
.note {{ color: var(--quiet); margin: 0 0 14px; max-width: 80ch; }}
.warn {{ color: var(--accent); font-weight: 600; }}
.verdicts {{ list-style: none; margin: 18px 0; padding: 0; max-width: 110ch; }}
.verdicts li {{ padding: 7px 14px; border-left: 3px solid var(--accent); margin: 6px 0; background: var(--panel); }}
dl {{ display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 3px 18px; margin: 16px 0 0; }}
dt {{ color: var(--quiet); }}
dd {{ margin: 0; }}
.table, .chart {{ overflow-x: auto; max-width: 100%; position: relative; }}
.table {{ margin-top: 14px; }}
table {{ border-collapse: collapse; font-size: 13px; line-height: 1.4; font-variant-numeric: tabular-nums; }}
thead th {{ text-align: left; font-weight: 500; color: var(--quiet); vertical-align: bottom; }}
th, td {{ padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: break-word; }}
td {{ min-width: 6ch; }}
.number {{ white-space: nowrap; }}
@media screen and (min-width: 1200px) {{ .line {{ white-space: nowrap; }} }}
th[scope="row"] {{ font-weight: 600; min-width: 14ch; max-width: 44ch; overflow-wrap: anywhere; }}
figure {{ margin: 10px 0; min-width: 0; max-width: 100%; }}
figure svg {{ display: block; }}
figure.map svg text[fill="{QUIET}"] {{ fill: #5c6875; }}
figure details th[scope="row"] {{ min-width: 6ch; }}
.narrow {{ display: none; }}
.figures {{ display: flex; flex-wrap: wrap; gap: 18px 40px; align-items: flex-start; }}
details {{ margin-top: 14px; max-width: 100%; }}
.missing {{ max-width: 100ch; padding-left: 20px; }}
.missing li {{ margin: 5px 0; }}
.filter {{ border: 1px solid var(--line); padding: 6px 14px 10px; margin: 0 0 10px; max-width: max-content; }}
.filter legend {{ color: var(--quiet); padding: 0 6px; }}
.filter label {{ display: inline-block; padding: 4px 18px 4px 0; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); gap: 14px; }}
.card {{ border: 1px solid var(--line); border-left: 4px solid var(--mark); padding: 10px 14px; min-width: 0;
  background: var(--panel); }}
.card p {{ margin: 6px 0; }}
.card .change {{ margin: 0; font-size: 12px; color: var(--quiet); }}
.card.helped {{ border-left-color: var(--good); }}
.card.hurt {{ border-left-color: var(--bad); }}
.card .asked {{ font-weight: 600; white-space: pre-line; }}
.card ol {{ margin: 4px 0; padding-left: 26px; }}
.card dl {{ margin: 6px 0 0; font-size: 14px; }}
.card .judged {{ color: var(--quiet); white-space: nowrap; margin-left: 6px; }}
.photo {{ display: block; max-width: 100%; height: auto; margin-top: 6px; }}
section:has(input[value="helped"]:checked) .card:not(.helped),
section:has(input[value="hurt"]:checked) .card:not(.hurt),
section:has(input[value="unchanged"]:checked) .card:not(.unchanged),
section:has(input[value="failed"]:checked) .card:not(.failed) {{ display: none; }}
figure details {{ margin-top: 2px; font-size: 13px; }}
summary {{ cursor: pointer; color: var(--quiet); }}
pre {{ font-size: 12px; line-height: 1.4; background: var(--panel); padding: 12px; white-space: pre-wrap;
  overflow-wrap: anywhere; }}
{_CHARTS}
figure:not(.map) svg text[fill="{QUIET}"] {{ fill: var(--quiet); }}
@media screen and (max-width: 860px) {{
  main {{ padding: 24px 14px 48px; }}
  .wide {{ display: none; }}
  .narrow {{ display: block; }}
  td {{ min-width: 11ch; }}
  .number {{ min-width: 7ch; }}
  .table th:first-child {{ position: sticky; left: 0; background: var(--page); }}
  th[scope="row"] {{ min-width: 120px; max-width: 120px; }}
}}
@media print {{
  :root {{ color-scheme: light; }}
  @page {{ margin: 14mm 12mm; }}
  main {{ padding: 0; max-width: none; }}
  .skip {{ display: none; }}
  .table, .chart {{ overflow: visible; }}
  table {{ font-size: 10px; width: 100%; }}
  th, td {{ padding-right: 8px; }}
  td {{ min-width: 0; }}
  figure svg {{ max-width: 100%; height: auto; }}
  figure, tr, .verdicts li {{ break-inside: avoid; }}
  h1, h2, h3, h4, h5, h6, summary {{ break-after: avoid; }}
  .card {{ break-inside: avoid; display: block !important; }}
  .filter {{ display: none; }}
  .cards {{ grid-template-columns: repeat(2, minmax(0, 1fr)); }}
  section + section {{ break-before: page; }}
  details::details-content {{ content-visibility: visible; display: block; block-size: auto; }}
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
}}
"""
