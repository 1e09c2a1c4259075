"""What on a page could some people not see, not read or not reach, as far as axe finds it?

axe (https://github.com/dequelabs/axe-core) grades what it finds. What is serious or critical is
found nowhere but at the elements of JupyterHub's own pages that :data:`STOCK` names.
"""

from __future__ import annotations

from typing import NamedTuple

from selenium.webdriver import Chrome

from tests.services import axe


class Stock(NamedTuple):
    """Elements of JupyterHub's own pages (a CSS selector) that break one of axe's rules."""

    rule: str
    selector: str
    reason: str


STOCK = (
    Stock(
        "color-contrast",
        ".btn-jupyter",
        "white on Jupyter's orange, 2.9 to 1: the look of every JupyterHub, which sites restyle",
    ),
)

_RUN = """
const [stock, done] = arguments;
const isStock = (found, node) => stock.some(
  ([rule, selector]) => rule === found.id && node.element.matches(selector));
// No preload: axe would ask the Hub for style sheets under wrong addresses.
axe.run(document, {resultTypes: ["violations"], elementRef: true, preload: false}).then(
  ({violations}) => done(violations
    .filter(({impact}) => ["serious", "critical"].includes(impact))
    .flatMap((found) => found.nodes
      .filter((node) => !isStock(found, node))
      .map((node) => `${found.id}: ${node.target.join(" ")}: ${node.failureSummary}`))),
  (error) => done([String(error)]),
);
"""


def problems(browser: Chrome) -> list[str]:
    """What is wrong with the page that is open, beside :data:`STOCK`; in axe's words."""
    if not browser.execute_script("return Boolean(window.axe)"):
        browser.execute_script(axe.script().read_text())
    found: list[str] = browser.execute_async_script(_RUN, [each[:2] for each in STOCK])
    return found


def overhang(browser: Chrome) -> int:
    """By how many pixels the page is wider than the window."""
    script = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return int(browser.execute_script(script))
