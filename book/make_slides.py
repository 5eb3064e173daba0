"""Build the deck: `python book/make_slides.py --profile cpu` (`make slides`).

`book/slides.yml` holds the titles and lines, and names the figures. They are taken from the
executed notebooks, which are executed first if they have changed. The deck is one HTML file,
`_build/slides/index.html`, which needs nothing else: no network, and no other file.
"""

import argparse
import html
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import jinja2
import make_book
import yaml

from metaembed_lite.locking import write_whole

DECK = make_book.BUILD / "slides" / "index.html"
SOURCE = make_book.ROOT / "book" / "slides.yml"
TEMPLATE = make_book.ROOT / "book" / "slides.html"
SLIDE_KEYS = {"title", "lines", "figure", "figures"}
FIGURE_KEYS = {"notebook", "alt", "n", "cell"}


class Figure(NamedTuple):
    """A figure of an executed notebook: its description, and the image as a data address."""

    alt: str
    data: str


def read_slides(path: Path) -> dict:
    """Read the source of a deck: its title, and a list of slides.

    Raises:
        ValueError: naming the slide and what is wrong with it.
    """
    deck = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(deck, dict) or not deck.get("title") or not deck.get("slides"):
        raise ValueError(f"{path.name}: expected the keys title and slides")
    for number, slide in enumerate(deck["slides"], start=1):
        where = f"{path.name}, slide {number}"
        if not isinstance(slide, dict) or not isinstance(slide.get("title"), str):
            raise ValueError(f"{where}: a slide needs a title")
        if unknown := slide.keys() - SLIDE_KEYS:
            raise ValueError(f"{where}: {sorted(unknown)} is not one of {sorted(SLIDE_KEYS)}")
        lines = slide.get("lines", [])
        if not (isinstance(lines, list) and all(isinstance(line, str) for line in lines)):
            raise ValueError(f"{where}: lines is {lines!r}, expected a list of texts")
        for figure in figures_of(slide):
            check_figure(figure, where)
    return deck


def figures_of(slide: dict) -> list[dict]:
    return slide.get("figures", [slide["figure"]] if "figure" in slide else [])


def check_figure(figure: dict, where: str) -> None:
    if not isinstance(figure, dict) or "notebook" not in figure:
        raise ValueError(f"{where}: figure is {figure!r}, expected a notebook, and alt or cell")
    if unknown := figure.keys() - FIGURE_KEYS:
        raise ValueError(f"{where}: {sorted(unknown)} is not one of {sorted(FIGURE_KEYS)}")
    if ("alt" in figure) == ("cell" in figure):
        raise ValueError(f"{where}: a figure is named by alt (and n), or by the id of its cell")
    if not (isinstance(figure.get("n", 1), int) and figure.get("n", 1) > 0):
        raise ValueError(f"{where}: n is {figure['n']!r}, expected 1 for the first figure")


def alt(cell: dict) -> str:
    return cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")


def contains(text: str, words: str) -> bool:
    return words.casefold() in " ".join(text.casefold().split())


def find_cell(notebook: dict, figure: dict, where: str) -> dict:
    """The cell that draws a figure: the n-th whose alt text contains the words, or the one named.

    Raises:
        ValueError: if there is none. It lists the cells that draw, with their alt texts.
    """
    drawing = [cell for cell in notebook["cells"] if alt(cell)]
    n = figure.get("n", 1)
    if "cell" in figure:
        wanted = f"the id {figure['cell']}"
        matches = [cell for cell in drawing if cell.get("id") == figure["cell"]]
    else:
        wanted = f"{figure['alt']!r} in its alt text" + (f" (number {n})" if n > 1 else "")
        matches = [cell for cell in drawing if contains(alt(cell), figure["alt"])]
    if len(matches) < n:
        listed = "\n".join(f"  {cell.get('id')}: {alt(cell)}" for cell in drawing)
        raise ValueError(
            f"{where}: no figure of {figure['notebook']} has {wanted}. Its figures are\n"
            + (listed or "  none")
        )
    return matches[n - 1]


def find_figure(folder: Path, figure: dict, where: str) -> Figure:
    """Take a figure from an executed notebook.

    Args:
        folder: of the executed notebooks.
        figure: as in the source of the deck.
        where: what asks for it, for errors.

    Raises:
        ValueError: if the notebook, the figure or its image does not exist.
    """
    path = folder / f"{figure['notebook']}.ipynb"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in folder.glob("*.ipynb")))
        raise ValueError(
            f"{where}: no executed notebook {figure['notebook']}, there are {names or 'none'}"
        )
    cell = find_cell(json.loads(path.read_text(encoding="utf-8")), figure, where)
    for output in cell["outputs"]:
        if png := output.get("data", {}).get("image/png"):
            return Figure(alt(cell), f"data:image/png;base64,{''.join(''.join(png).split())}")
    raise ValueError(f"{where}: the cell {cell.get('id')} of {figure['notebook']} drew no image")


def inline(text: str) -> str:
    """Escape a text, with `code`, **strong** and _emphasized_ words as HTML."""
    parts = re.split(r"(`[^`]+`)", text)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"<code>{html.escape(part[1:-1])}</code>"
        else:
            part = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(part))
            parts[i] = re.sub(r"(?<!\w)_(.+?)_(?!\w)", r"<em>\1</em>", part)
    return "".join(parts)


def build_deck(source: Path, executed: Path) -> str:
    """Build the HTML of a deck.

    Args:
        source: the YAML file of the deck.
        executed: the folder of the executed notebooks.

    Raises:
        ValueError: if the source is wrong, or a figure is missing.
    """
    deck = read_slides(source)
    slides = []
    for number, slide in enumerate(deck["slides"], start=1):
        where = f"{source.name}, slide {number} ({slide['title']})"
        figures = [find_figure(executed, figure, where) for figure in figures_of(slide)]
        lines = [inline(line) for line in slide.get("lines", [])]
        slides.append({"title": inline(slide["title"]), "lines": lines, "figures": figures})
    template = jinja2.Template(TEMPLATE.read_text(encoding="utf-8"), trim_blocks=True)
    return template.render(title=html.escape(deck["title"]), slides=slides)


def make_slides(profile: str, target: Path = DECK) -> Path:
    """Execute the notebooks whose figures the deck shows, and write the deck. Returns its path.

    Raises:
        RuntimeError: if a notebook fails.
        ValueError: if the source is wrong, or a figure is missing.
        BlockingIOError: if another process builds this profile.
    """
    deck = read_slides(SOURCE)
    used = {figure["notebook"] for slide in deck["slides"] for figure in figures_of(slide)}
    with make_book.reserve(profile):
        for name in make_book.notebooks():
            if name in used:
                make_book.execute(name, profile)
        text = build_deck(SOURCE, make_book.EXECUTED / profile / "notebooks")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, text)
    return target


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--profile", choices=make_book.PROFILES, default="cpu")
    try:
        path = make_slides(parser.parse_args().profile)
    except (RuntimeError, ValueError, BlockingIOError) as error:
        print(f"== no slides: {error}", file=sys.stderr)
        return 1
    print(f"== the slides are ready: open {path.as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
