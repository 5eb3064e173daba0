"""What goes wrong in a browser while a page is open."""

from playwright.sync_api import Page


def record_errors(page: Page, address: str) -> list[str]:
    """A list that fills with what goes wrong on the page, from now on.

    Args:
        page: in the browser.
        address: of the site. A request to any other host is an error.
    """
    errors: list[str] = []

    def check_host(url: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            errors.append(f"requests {url}: the published page must not need another host")

    page.on("console", lambda m: errors.append(f"console: {m.text}") if m.type == "error" else None)
    page.on(
        "response", lambda r: errors.append(f"{r.status} for {r.url}") if r.status >= 400 else None
    )
    page.on("pageerror", lambda error: errors.append(f"script error: {error}"))
    page.on("requestfailed", lambda request: errors.append(f"could not load {request.url}"))
    page.on("request", lambda request: check_host(request.url))
    return errors
