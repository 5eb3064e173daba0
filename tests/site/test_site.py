"""The built site, page by page, in a real browser."""

import re
from pathlib import Path

import make_book
import pytest
from axe_playwright_python.sync_playwright import Axe
from justhtml import JustHTML
from page_errors import record_errors
from playwright.sync_api import Page

PAGE_LIMIT = 2_000_000  # bytes, with images
SCREENSHOTS = make_book.BUILD / "screenshots"

pytestmark = pytest.mark.timeout(0)  # the first test waits until the notebooks have run


def check_titles(page: Page) -> list[str]:
    headings = page.locator("article h1").count()
    problems = [] if page.title().strip() else ["no title"]
    return problems + ([] if headings == 1 else [f"{headings} first-level headings"])


def check_images(page: Page) -> list[str]:
    problems = []
    for image in page.locator("img").all():
        alt = (image.get_attribute("alt") or "").strip()
        if not alt or "_images/" in alt:  # Sphinx falls back to the file's path
            problems.append(f"image without alt text: {(image.get_attribute('src') or '')[:80]}")
    return problems


def check_text(page: Page) -> list[str]:
    text = page.locator("article").inner_text()
    for entry in page.locator("dl.py").all_inner_texts():  # an example in a docstring may show one
        text = text.replace(entry, "")
    signs = {
        "Traceback (most recent call last)": "shows a traceback",
        "(children=(": "shows a widget as plain text: give it a text/html form",
    }
    return [problem for sign, problem in signs.items() if sign in text]


def check_formulas(page: Page) -> list[str]:
    formulas = page.locator("article .math").count()
    if formulas:
        page.wait_for_function(
            "n => document.querySelectorAll('mjx-container').length >= n", arg=formulas
        )
    return [f"formula: {text}" for text in page.locator("mjx-merror").all_inner_texts()]


def check_links(page: Page, address: str, site: Path) -> list[str]:
    links = page.locator("a[href]").evaluate_all("links => links.map(link => link.href)")
    inside = {link.split("#")[0].split("?")[0] for link in links if link.startswith(address)}
    paths = {link.removeprefix(address).lstrip("/") for link in inside}
    return [f"broken link: {path}" for path in sorted(paths) if not (site / path).exists()]


def check_anchors(page: Page) -> list[str]:
    """Links to a place on the same page lead to an element."""
    return page.evaluate("""() => [...document.querySelectorAll("a[href^='#']")]
        .map(link => decodeURIComponent(link.getAttribute("href").slice(1)))
        .filter(id => id && !document.getElementById(id)).map(id => `no element #${id}`)""")


def find_clipped(page: Page) -> list[str]:
    """Code, printed text and images that are wider than their box, and a page that is too wide.

    Wide tables and formulas scroll in boxes of their own. The explorer has its own tests.
    """
    return page.evaluate("""() => {
        const kinds = ["pre", "p", "img", "li"].map((kind) => `article ${kind}`).join();
        const boxes = [...document.querySelectorAll(kinds)]
          .filter((box) => !box.closest(".explorer, table") && box.clientWidth
                           && box.scrollWidth > box.clientWidth + 1);
        const page = document.documentElement;
        return [
          ...boxes.map((box) => `clipped: ${box.tagName} ${box.textContent.trim().slice(0, 60)}`),
          ...(page.scrollWidth > innerWidth ? [`the page is ${page.scrollWidth} px wide`] : []),
        ];
      }""")


def find_barriers(page: Page) -> list[str]:
    """Accessibility violations that axe-core finds on the page."""
    violations = Axe().run(page, options={"preload": False}).response["violations"]
    return [f"{v['id']}: {v['help']}: {v['nodes'][0]['target']}" for v in violations]


def test_the_first_page_leads_to_the_book(page, address):
    page.goto(f"{address}/index.html")
    page.wait_for_url(f"**/{make_book.pages()[0]}.html")


@pytest.mark.parametrize("name", make_book.pages())
def test_page(name, page, address, site):
    """Opens without errors or other hosts, with titles, alt texts, formulas and links in order."""
    errors = record_errors(page, address)
    page.goto(f"{address}/{name}.html", wait_until="networkidle")
    problems = [
        *check_titles(page),
        *check_images(page),
        *check_text(page),
        *check_formulas(page),
        *check_links(page, address, site),
        *check_anchors(page),
        *find_clipped(page),
    ]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name.replace('/', '-')}.png", full_page=True)
    assert errors + problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", make_book.pages())
def test_everybody_can_read_a_page(name, scheme, page, address):
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{address}/{name}.html", wait_until="networkidle")
    assert find_barriers(page) == []


@pytest.mark.parametrize("name", make_book.pages())
def test_a_page_fits_a_phone(name, page, address):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{address}/{name}.html", wait_until="networkidle")
    assert find_clipped(page) == []


@pytest.mark.parametrize("name", make_book.pages())
def test_a_page_is_strict_html_below_two_megabytes(name, site):
    html = (site / f"{name}.html").read_text(encoding="utf-8")
    JustHTML(html, strict=True)  # raises at the first error of the HTML standard
    images = re.findall(r'<img[^>]* src="([^"]+)"', html)
    local = [site / name / ".." / src for src in images if not src.startswith("data:")]
    size = len(html.encode()) + sum(path.resolve().stat().st_size for path in local)
    assert size < PAGE_LIMIT


def test_a_quiz_opens_with_the_keyboard(page, address):
    page.goto(f"{address}/notebooks/03_meta_tokens.html", wait_until="networkidle")
    choice = page.locator("details.choice").first
    explanation = choice.locator("p").last
    assert not explanation.is_visible()
    choice.locator("summary").focus()
    page.keyboard.press("Enter")
    assert explanation.is_visible()


INJECT = """async () => {
    const seen = [];
    document.addEventListener("securitypolicyviolation", (e) => seen.push(e.effectiveDirective));
    const script = document.createElement("script");
    script.textContent = "window.injected = 1";
    document.body.append(script);
    const image = "<img src='data:,' onerror='window.injected = 2'>";
    document.body.insertAdjacentHTML("beforeend", image);
    await fetch("http://evil.test/").catch(() => {});
    setTimeout(() => { try { eval("window.injected = 3"); } catch {} }); // later, as a page does
    await new Promise((done) => setTimeout(done, 200));
    return [window.injected ?? null, [...new Set(seen)].sort()];
}"""


@pytest.mark.parametrize("name", ["book/intro", "notebooks/07_budget_sliders"])
def test_a_page_runs_no_script_but_its_own_and_reads_no_other_host(name, page, address):
    page.goto(f"{address}/{name}.html", wait_until="networkidle")
    injected, violations = page.evaluate(INJECT)
    assert injected is None
    assert violations == ["connect-src", "script-src", "script-src-attr", "script-src-elem"]


def test_every_page_of_the_site_has_one_policy_without_inline_scripts(site):
    for path in site.rglob("*.html"):
        policies = re.findall(
            r'Content-Security-Policy" content="([^"]*)"', path.read_text("utf-8")
        )
        assert len(policies) == 1, path
        scripts = re.search(r"script-src ([^;]*)", policies[0])[1]
        assert "unsafe-inline" not in scripts
        assert "http" not in policies[0]
