"""The address of the repository, which is set in one place: `repository` in `_config.yml`.

With an address, every chapter of the site has buttons that open it in Colab and on Binder. Without
one, it has none of them. Colab opens a notebook from the repository and has no other file of it. So
`python book/address.py` (`make address`) writes a first cell into every notebook, which fetches the
book and installs the package there. The cell does nothing anywhere else. Without an address, the
same command removes it.
"""

import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
CELL_ID = "colab"
CELL = """\
# Google Colab opens this notebook alone: fetch the book, install the package.
import os
import subprocess
import sys

BOOK = "/content/{name}"
if "google.colab" in sys.modules:
    if not os.path.exists(BOOK):
        clone = ["git", "clone", "--depth=1", "--branch={branch}"]
        address = "{url}"
        subprocess.run([*clone, address, BOOK], check=True)
        install = [sys.executable, "-m", "pip", "install", "--quiet"]
        package = f"{{BOOK}}[index,plots]"
        subprocess.run([*install, package, "myst-nb"], check=True)
    os.chdir(f"{{BOOK}}/notebooks")"""


class Address(NamedTuple):
    """Where the repository is: its URL on GitHub, and the branch to open."""

    url: str
    branch: str


def read_config(root: Path) -> dict:
    """Read `_config.yml`. An empty file has no keys."""
    return yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8")) or {}


def read_address(config: dict) -> Address | None:
    """Read the address in a configuration. None if it is not set.

    Raises:
        ValueError: if it is not the address of a repository on GitHub, or the branch is not a name.
    """
    repository = config.get("repository") or {}
    url, branch = repository.get("url") or "", str(repository.get("branch") or "main")
    if not url:
        return None
    url = str(url).strip().rstrip("/").removesuffix(".git")
    if not re.fullmatch(r"https://github\.com/[\w-]+/[\w.-]+", url):
        raise ValueError(
            f"repository.url in _config.yml is {url!r}, expected https://github.com/owner/name. "
            "Colab opens notebooks from GitHub only: leave it empty for another host"
        )
    if not re.fullmatch(r"\w[\w./-]*", branch):
        raise ValueError(f"repository.branch in _config.yml is {branch!r}, expected a branch")
    return Address(url, branch)


def site_config(config: dict) -> dict:
    """The configuration to build the site with. It has buttons only if there is an address.

    The theme's options in `sphinx.config` replace all that Jupyter Book makes from other keys. So
    the address and the buttons are written there.
    """
    address = read_address(config)
    if address is None:
        return {key: config[key] for key in config if key not in ("repository", "launch_buttons")}
    options = {
        "repository_url": address.url,
        "repository_branch": address.branch,
        "launch_buttons": config.get("launch_buttons") or {},
    }
    html, sphinx = config.get("html") or {}, config.get("sphinx") or {}
    options |= {key: html[key] for key in html if key.startswith("use_")}
    sphinx_config = sphinx.get("config") or {}
    options |= sphinx_config.get("html_theme_options") or {}
    sphinx = sphinx | {"config": sphinx_config | {"html_theme_options": options}}
    repository = {"url": address.url, "branch": address.branch, "path_to_book": ""}
    return config | {"repository": repository, "sphinx": sphinx}


def install_cell(address: Address) -> dict:
    """The cell that fetches the book and installs the package if the notebook runs in Colab."""
    name = address.url.rpartition("/")[2]
    lines = CELL.format(name=name, url=address.url, branch=address.branch).splitlines(keepends=True)
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": CELL_ID,
        "metadata": {"jupyter": {"source_hidden": True}, "tags": ["remove-cell"]},
        "outputs": [],
        "source": lines,
    }


def with_install_cell(notebook: dict, address: Address | None) -> dict:
    """A copy of a notebook with this address's cell after the title. Without address, no cell."""
    cells = [cell for cell in notebook["cells"] if cell.get("id") != CELL_ID]
    if address:
        cells.insert(1, install_cell(address))
    return notebook | {"cells": cells}


def outdated(root: Path, address: Address | None) -> list[Path]:
    """List the stored notebooks whose cell for Colab does not have this address."""
    return [
        path
        for path in sorted((root / "notebooks").glob("*.ipynb"))
        if (notebook := json.loads(path.read_text(encoding="utf-8")))
        != with_install_cell(notebook, address)
    ]


def check_install_cells(root: Path) -> None:
    """Check that every stored notebook has the cell for Colab with the address that is set.

    Raises:
        ValueError: if the address is wrong, or naming the notebooks that have another one.
    """
    address = read_address(read_config(root))
    names = ", ".join(path.name for path in outdated(root, address))
    if names:
        state = f"is {address.url}, branch {address.branch}" if address else "is not set"
        raise ValueError(
            f"the repository's address {state}. Run `make address`, which corrects the first cell "
            f"of {names}"
        )


def main() -> int:
    try:
        address = read_address(read_config(ROOT))
    except ValueError as error:
        print(f"== {error}", file=sys.stderr)
        return 1
    paths = outdated(ROOT, address)
    for path in paths:
        notebook = with_install_cell(json.loads(path.read_text(encoding="utf-8")), address)
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")
    print(f"== address: {address.url if address else 'not set'}, {len(paths)} notebooks changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
