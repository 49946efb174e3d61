"""The report in a browser: figures, hovering, copying, the keyboard, a phone, the dark, and no error on the console."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_runs import copy_runs, edit

from narfx.report import report

playwright = pytest.importorskip("playwright.sync_api", reason="no driver of browsers: pip install 'narfx[browser]'")

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_BROWSER = next(filter(None, map(shutil.which, _NAMES)), None)
pytestmark = pytest.mark.skipif(_BROWSER is None, reason="no Chromium is installed: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=_BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs, and a report in each."""
    runs = copy_runs(tmp_path_factory, tmp_path_factory.mktemp("pages"))
    evil = "<script>window.pwned=1</script><img src=x onerror='window.pwned=1'>"
    about = json.loads((runs / "joint" / "about.json").read_text())
    about["networks"][0]["model"] = about["data"]["name"] = evil
    edit(runs / "joint" / "about.json", **about)
    for name in ("search", "joint", "train", "compare", "front", "solved"):
        report(runs / name)
    return runs


def opened(browser: Any, path: Path, **options: Any) -> tuple[Any, list[str]]:
    """The page, and what its console says, which stays empty in a page without a fault."""
    context = browser.new_context(**options)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page, said = context.new_page(), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.extend([request.url] * (not request.url.startswith(("file:", "data:")))))
    page.goto(path.as_uri())
    return page, said


def copied(page: Any) -> Any:
    return json.loads(page.evaluate("navigator.clipboard.readText()"))


@pytest.mark.parametrize("name", ["search", "joint", "train", "compare", "front", "solved"])
def test_every_page_opens_without_an_error_on_every_screen(browser: Any, pages: Path, name: str) -> None:
    for options in ({}, {"color_scheme": "dark"}, {"viewport": {"width": 360, "height": 740}, "is_mobile": True}):
        page, said = opened(browser, pages / name / "report.html", **options)
        drawn = page.eval_on_selector_all(
            "figure svg[role]", "all => all.map(one => one.getBoundingClientRect().height)"
        )
        assert len(drawn) >= 2 and min(drawn) > 50
        width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1], "the page is wider than the screen"
        assert said == [] and page.evaluate("window.pwned") is None
        page.context.close()


def test_hovering_shows_the_vector_and_a_click_copies_it(browser: Any, pages: Path) -> None:
    page, said = opened(browser, pages / "search" / "report.html")
    kept = json.loads((pages / "search" / "result.json").read_text())
    tip, told = page.locator("#tip"), page.locator("#told")
    point = page.locator(f".point[data-copy='{json.dumps(kept['vector'])}']").first
    assert not tip.is_visible()
    point.hover()
    assert json.dumps(kept["vector"]) in tip.inner_text() and f"macs {kept['macs']:,}" in tip.inner_text()
    point.click()
    told.filter(has_text="Copied").wait_for()
    assert copied(page) == kept["vector"] and said == []
    page.mouse.move(0, 0)
    assert not tip.is_visible()


def test_the_keyboard_does_what_the_mouse_does(browser: Any, pages: Path) -> None:
    page, said = opened(browser, pages / "compare" / "report.html")
    rows = json.loads((pages / "compare" / "comparison.json").read_text())["rows"]
    points = page.locator("figure.points .point")
    assert page.locator("figure.points .point[tabindex='0']").count() == 1  # one stop; arrows go on from there
    page.locator("figure.points .point[tabindex='0']").focus()
    seen = set()
    for _ in range(points.count()):
        text = page.locator("#tip").inner_text()
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == text.replace("\n", ", ")
        page.keyboard.press("Enter")
        page.locator("#told").filter(has_text="Copied").wait_for()
        seen.add(tuple(copied(page)))
        page.keyboard.press("ArrowRight")
    assert seen == {tuple(row["vector"]) for row in rows}
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible() and said == []
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.classList.contains('point')") is False


def test_the_buttons_copy_the_commands(browser: Any, pages: Path) -> None:
    page, _ = opened(browser, pages / "train" / "report.html")
    for button in page.locator(".command button.copy").all():
        button.click()
        text = page.evaluate("navigator.clipboard.readText()")
        assert text.startswith("narfx train ") and text == button.locator("xpath=../pre").inner_text()


def test_print_has_light_colours_and_all_networks(browser: Any, pages: Path) -> None:
    page, _ = opened(browser, pages / "compare" / "report.html", color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("button.copy").first.is_visible() and not page.locator("nav").is_visible()
    assert len(page.pdf()) > 10_000


def test_text_has_enough_contrast_in_both_schemes(browser: Any, pages: Path) -> None:
    """WCAG AA: 4.5 to 1, of what stands on the page and on its cards."""
    script = """names => { const probe = document.createElement('p'); document.body.append(probe);
      return names.map(name => { probe.style.color = `var(--${name})`; return getComputedStyle(probe).color; }); }"""
    for scheme in ("light", "dark"):
        page, _ = opened(browser, pages / "train" / "report.html", color_scheme=scheme)
        texts = ["ink", "muted", "accent", "better", "worse", "undecided", "none"]
        shades = dict(zip([*texts, "page", "card"], page.evaluate(script, [*texts, "page", "card"]), strict=True))
        for text in texts:
            for ground in ("page", "card"):
                assert contrast(shades[text], shades[ground]) >= 4.5, (scheme, text, ground)


def contrast(a: str, b: str) -> float:
    """The contrast of two colours ``rgb(r, g, b)`` by WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour[4:-1].split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
