"""Mend what axe-core finds in pages of Sphinx, the theme and pandas.

They give an empty header to the index of a table, a deprecated role to an entry of the
bibliography, and no landmark to the top of the side bar. And a wide table can only be scrolled by
mouse. A budget such as (1, 1) at the start of a row stays in one line.
"""

import re
from pathlib import Path

MENDED = [
    (re.compile(r"<div>(\n<style scoped>)"), r'<div tabindex="0">\1'),  # around a DataFrame
    (re.compile(r"<th([^>]*)>(?:\s|<p>\s*</p>)*</th>"), r"<td\1></td>"),
    (re.compile(r"(<t[dh][^>]*>(?:<p>)?\(\d+,) (\d+\))"), "\\1\N{NO-BREAK SPACE}\\2"),
    (re.compile(r'role="doc-biblioentry"'), 'role="listitem"'),
    (
        re.compile(r'<div class="(sidebar-primary-items__start[^"]*)">'),
        r'<div class="\1" role="region" aria-label="Side bar">',
    ),
]


def mend_page(html: str) -> str:
    """Mend one page.

    Example:
        >>> mend_page('<tr><th></th><th scope="col">P@1</th></tr>')
        '<tr><td></td><th scope="col">P@1</th></tr>'
    """
    for pattern, replacement in MENDED:
        html = pattern.sub(replacement, html)
    return html


def mend_pages(site: Path) -> None:
    """Mend every page of a built site, in place."""
    for path in site.rglob("*.html"):
        html = path.read_text(encoding="utf-8")
        mended = mend_page(html)
        if mended != html:
            path.write_text(mended, encoding="utf-8")
