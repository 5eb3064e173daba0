"""Mend what axe-core finds in pages of Sphinx, the theme and pandas, and restrict what they run.

They give an empty header to the index of a table, a deprecated role to an entry of the
bibliography, and no landmark to the top of the side bar. And a wide table can only be scrolled by
mouse. The parameters of a long signature, and some lists in the API reference, are not valid HTML.
A budget such as (1, 1) at the start of a row stays in one line.

Each page gets a Content-Security-Policy. A browser then runs only the scripts that the page was
built with, which are named by their hash, and loads nothing from another host.
"""

import base64
import hashlib
import re
from html import unescape
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
    (
        re.compile(r'<summary>(?=<span class="toctree-toggle")'),
        '<summary aria-label="Pages of this part">',
    ),
    # A long signature has its parameters in a list of definitions without terms.
    (re.compile(r'<dl>\n(?=<dd><em class="sig-param">)'), '<span class="sig-params">\n'),
    (re.compile(r'<dd>(<em class="sig-param">.*)</dd>'), r"<span>\1</span>"),
    (re.compile(r'</dl>(\s*<span class="sig-paren">\))'), r"</span>\1"),
    # A return value whose description starts with a list has it in a paragraph.
    (re.compile(r'<p>(<ul class="simple">)'), r"\1"),
    (re.compile(r"(</ul>\n)</p>\n"), r"\1"),
]
# Styles may be inline: MathJax, pandas and the explorer write them. Scripts may not.
POLICY = (
    "default-src 'self'; script-src 'self'{hashes}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; frame-src 'none'; "
    "base-uri 'none'; form-action 'self'"
)
SCRIPT = re.compile(r"<script\b([^>]*)>(.*?)</script>", re.DOTALL)
TYPES = {"", "module", "text/javascript", "application/javascript"}  # others are data
HANDLER = re.compile(r"""<[a-z][^<>]*?\son[a-z]+=(?:"([^"]*)"|'([^']*)')""")


def mend_page(html: str) -> str:
    """Mend one page.

    Example:
        >>> mend_page('<tr><th></th><th scope="col">P@1</th></tr>')
        '<tr><td></td><th scope="col">P@1</th></tr>'
    """
    for pattern, replacement in MENDED:
        html = pattern.sub(replacement, html)
    return html


def add_policy(html: str) -> str:
    """Add a Content-Security-Policy that allows the inline scripts of a finished page only.

    Example:
        >>> page = add_policy('<head><meta charset="utf-8"><script>start()</script></head>')
        >>> page[:75]
        '<head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" cont'
        >>> "script-src 'self' 'sha256-" in page
        True
    """
    scripts = [body for attributes, body in SCRIPT.findall(html) if runs_inline(attributes)]
    handlers = [
        unescape(first or second) for first, second in HANDLER.findall(SCRIPT.sub("", html))
    ]
    hashes = [f" '{name}'" for name in sorted({hash_source(text) for text in scripts + handlers})]
    if handlers:
        hashes.insert(0, " 'unsafe-hashes'")  # which allows the attributes that are listed
    policy = POLICY.format(hashes="".join(hashes))
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    place = re.search(r'<meta charset="[^"]*"\s*/?>|<head[^>]*>', html, re.IGNORECASE)
    end = place.end() if place else 0
    return html[:end] + meta + html[end:]


def runs_inline(attributes: str) -> bool:
    """Whether a script with these attributes stands on the page and is run.

    Example:
        >>> [runs_inline(text) for text in ("", ' src="a.js"', ' type="application/json"')]
        [True, False, False]
    """
    kind = re.search(r"""\btype=["']?([^"'\s>]*)""", attributes)
    is_file = re.search(r"(^|\s)src=", attributes) is not None
    return not is_file and (kind[1].lower() if kind else "") in TYPES


def hash_source(script: str) -> str:
    """The hash of a script as a policy names it.

    Example:
        >>> hash_source("alert('Hello, world.');")
        'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='
    """
    digest = hashlib.sha256(script.replace("\r\n", "\n").encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def mend_pages(site: Path) -> None:
    """Mend every page of a built site, in place."""
    for path in site.rglob("*.html"):
        html = path.read_text(encoding="utf-8")
        path.write_text(add_policy(mend_page(html)), encoding="utf-8")
