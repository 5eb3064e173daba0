"""What goes wrong in a browser while a page is open."""

from playwright.sync_api import Page


def watch(page: Page, address: str) -> list[str]:
    """A list that fills with what goes wrong while the page loads."""
    heard: list[str] = []

    def on_request(url: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            heard.append(f"asks elsewhere for {url}: the published page must stand on its own")

    page.on("console", lambda m: heard.append(f"console: {m.text}") if m.type == "error" else None)
    page.on(
        "response", lambda r: heard.append(f"{r.status} for {r.url}") if r.status >= 400 else None
    )
    page.on("pageerror", lambda error: heard.append(f"script error: {error}"))
    page.on("requestfailed", lambda request: heard.append(f"could not load {request.url}"))
    page.on("request", lambda request: on_request(request.url))
    return heard
