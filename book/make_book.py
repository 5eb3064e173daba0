"""Execute the notebooks and build the site: `python book/make_book.py --profile cpu`.

`.executed/<profile>/` holds a copy of the book: configuration, prose, notebooks. nbmake executes
the notebooks there, and Jupyter Book builds the site from there without executing anything. So each
notebook runs once for both the tests and the site, and the checkout stores notebooks without
outputs.

A notebook is executed again only if one of its inputs has changed. These are the notebook, the
files of the package, the pins, the profile, the Python, and the measured results if it reads them.
The site is built again if any of its sources has changed. Stamps and executed notebooks that a
crash or a full disk has damaged are made again too.

Only one process at a time builds a profile. A second one gets an error.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import typer
import yaml
from address import check_install_cells, read_config, site_config
from mend_pages import MENDED, POLICY, mend_pages
from typer.cli import get_docs_for_click

from metaembed_lite.cli import app
from metaembed_lite.locking import lock, write_whole
from metaembed_lite.model_folder import sha256

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
EXECUTED = ROOT / ".executed"  # not below _build, where nbmake collects nothing
PROFILES = ("smoke", "cpu", "gpu")
CELL_TIMEOUT = 3000  # seconds


def pages() -> list[str]:
    """List the pages of `_toc.yml` in reading order, without suffix. The first is the root."""

    def walk(node: dict | list) -> list[str]:
        if isinstance(node, list):
            return [page for item in node for page in walk(item)]
        here = [node[key] for key in ("root", "file") if key in node]
        return here + [
            page for value in node.values() if isinstance(value, list) for page in walk(value)
        ]

    return walk(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))


def notebooks() -> list[str]:
    """List the chapters by name: `notebooks/01_one_vector` is `01_one_vector`."""
    return [page.removeprefix("notebooks/") for page in pages() if page.startswith("notebooks/")]


def reserve(profile: str) -> AbstractContextManager[None]:
    """Lock a profile's scratch copy. The thread that holds the lock may take it again.

    Raises:
        ValueError: if there is no such profile.
        BlockingIOError: on entering, if another process builds or tests the same profile.
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}: choose one of {', '.join(PROFILES)}")
    return lock(EXECUTED / profile, f"building or testing the book, profile {profile}")


def stage(profile: str) -> Path:
    """Update configuration and prose of the scratch copy, and return its folder."""
    tree = EXECUTED / profile
    for folder in ("notebooks", "stamps"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / "_toc.yml", tree / "_toc.yml")
    config = site_config(read_config(ROOT))
    write_whole(tree / "_config.yml", yaml.safe_dump(config, sort_keys=False))
    shutil.rmtree(tree / "book", ignore_errors=True)
    shutil.copytree(
        ROOT / "book", tree / "book", ignore=shutil.ignore_patterns("__pycache__", "*.py")
    )
    return tree


def files(folder: Path) -> list[Path]:
    """List the files under `folder`, sorted, without caches and dot files."""

    def is_hidden(path: Path) -> bool:
        parts = path.relative_to(folder).parts
        return any(part == "__pycache__" or part.startswith(".") for part in parts)

    return [path for path in sorted(folder.rglob("*")) if path.is_file() and not is_hidden(path)]


def digest(paths: list[Path], *words: str) -> str:
    """Compute one SHA-256 over `words` and over the names and contents of `paths`."""
    lines = [*words, *(f"{sha256(path)} {path.relative_to(ROOT).as_posix()}" for path in paths)]
    return hashlib.sha256("\0".join(lines).encode()).hexdigest()


def read_stamp(stamp: Path, words: int) -> list[str]:
    """Read what the last good run recorded, first the digest of its inputs. Empty words if none."""
    try:
        record = stamp.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return [""] * words
    except UnicodeDecodeError:
        record = []
    if len(record) == words and len(record[0]) == 64:
        return record
    print(f"   {stamp.name}: the record of its last run is damaged and is ignored", flush=True)
    return [""] * words


def execute(name: str, profile: str) -> None:
    """Execute one notebook into the scratch copy, unless its last good run is still valid.

    Raises:
        RuntimeError: with nbmake's report, if a cell fails or takes longer than `CELL_TIMEOUT`.
        BlockingIOError: if another process builds this profile.
    """
    with reserve(profile):
        _execute(name, profile)


def _execute(name: str, profile: str) -> None:
    tree = stage(profile)
    source = ROOT / "notebooks" / f"{name}.ipynb"
    target = tree / "notebooks" / source.name
    # The stamp records the last good run: digest of inputs, seconds, SHA-256 of output.
    stamp = tree / "stamps" / name
    inputs = [source, ROOT / "requirements.lock", *files(ROOT / "metaembed_lite")]
    if "book/results/" in source.read_text(encoding="utf-8"):
        inputs += files(ROOT / "book/results")
    inputs_digest = digest(inputs, profile, sys.version)
    last_digest, seconds, output = read_stamp(stamp, 3)
    if last_digest == inputs_digest and target.exists() and sha256(target) == output:
        print(f"   {name}: unchanged (it took {seconds} s)", flush=True)
        return

    print(f"   {name}: executing" + (f" (last time {seconds} s)" if seconds else ""), flush=True)
    stamp.unlink(missing_ok=True)
    shutil.copyfile(source, target)
    environment = os.environ | {"METAEMBED_PROFILE": profile}
    if profile != "gpu":
        environment |= {"HF_HUB_OFFLINE": "1"}  # these profiles need only the repository
    nbmake = ["--nbmake", "--overwrite", f"--nbmake-timeout={CELL_TIMEOUT}"]
    quiet = ["-q", "-p", "no:cacheprovider", "-o", "addopts=", "--timeout=0"]
    start = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *nbmake, *quiet, str(target)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if run.returncode:
        raise RuntimeError(f"{name} failed in profile {profile}:\n{run.stdout}")
    drop_widget_state(target)
    seconds = f"{time.perf_counter() - start:.0f}"
    write_whole(stamp, f"{inputs_digest} {seconds} {sha256(target)}")
    print(f"   {name}: done in {seconds} s", flush=True)


def drop_widget_state(notebook: Path) -> None:
    """Remove the saved state of the kernel's widgets, which nothing on the site can read.

    An explorer has its state in its HTML element. Otherwise the page would contain it twice.
    """
    content = json.loads(notebook.read_text(encoding="utf-8"))
    if content["metadata"].pop("widgets", None):
        write_whole(notebook, json.dumps(content, indent=1))


def copy_explorer(tree: Path) -> None:
    """Write the explorer of an executed notebook to `book/explorer.html`, for the landing page.

    Its cell has the tag `explorer`. Without one there is no file, and Sphinx names it as missing.
    """
    for name in notebooks():
        notebook = (tree / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
        for cell in json.loads(notebook)["cells"]:
            if "explorer" in cell["metadata"].get("tags", []):
                for output in cell["outputs"]:
                    if html := output.get("data", {}).get("text/html"):
                        write_whole(tree / "book" / "explorer.html", "".join(html))


def describe_commands(tree: Path) -> None:
    """Write the help of every command to `book/api/commands.md`, for the API reference."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="metaembed-lite")
    text = get_docs_for_click(obj=command, ctx=context, name="metaembed-lite")
    _, _, text = text.partition("\n")  # the page has its own title
    (tree / "book" / "api").mkdir(exist_ok=True)
    write_whole(tree / "book" / "api" / "commands.md", text)


def build_site(profile: str) -> Path:
    """Build the site from the executed notebooks and return its folder. Warnings are errors.

    Raises:
        RuntimeError: on a warning.
        BlockingIOError: if another process builds this profile.
    """
    with reserve(profile):
        return _build_site(profile)


def _build_site(profile: str) -> Path:
    tree = stage(profile)
    html, stamp = tree / "_build" / "html", tree / "stamps" / "site"
    describe_commands(tree)
    sources = [tree / "_config.yml", tree / "_toc.yml", *files(tree / "book")]
    sources += [tree / "notebooks" / f"{name}.ipynb" for name in notebooks()]
    sources += files(ROOT / "metaembed_lite")  # its docstrings
    sources_digest = digest(
        [*sources, ROOT / "requirements.lock"], sys.version, repr(MENDED), POLICY
    )
    if read_stamp(stamp, 1) == [sources_digest] and (html / "index.html").exists():
        print("   site: unchanged", flush=True)
        return html
    print("   site: building", flush=True)
    stamp.unlink(missing_ok=True)
    copy_explorer(tree)
    # A second build over a failed one would give no warnings and pass, so start from scratch.
    shutil.rmtree(tree / "_build", ignore_errors=True)
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    strict = ["--warningiserror", "--nitpick", "--keep-going"]
    run = subprocess.run(
        [jupyter_book, "build", tree, "--quiet", *strict],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if run.returncode or not (html / "index.html").exists():
        print(run.stdout, flush=True)
        raise RuntimeError("the site was not built: each warning above counts as an error")
    mend_pages(html)
    write_whole(stamp, sources_digest)
    return html


def build_book(profile: str) -> int:
    """Execute all notebooks, build the site and publish it in `_build/html`. Returns 0 or 1."""
    try:
        check_install_cells(ROOT)
    except ValueError as error:
        print(f"== no site: {error}", file=sys.stderr)
        return 1
    print(f"== {len(notebooks())} notebooks, profile {profile}", flush=True)
    failures = []
    for name in notebooks():
        try:
            execute(name, profile)
        except RuntimeError as error:
            print(error, file=sys.stderr, flush=True)
            failures.append(name)
    if failures:
        print(f"== no site: {', '.join(failures)} failed", file=sys.stderr)
        return 1
    try:
        html = build_site(profile)
    except RuntimeError as error:
        print(f"== {error}", file=sys.stderr)
        return 1
    with lock(BUILD / "html", "publishing the site", wait=60):  # every profile publishes here
        shutil.rmtree(BUILD / "html", ignore_errors=True)
        shutil.copytree(html, BUILD / "html")
    print(f"== the book is ready: open {(BUILD / 'html' / 'index.html').as_uri()}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--profile", choices=PROFILES, default="cpu")
    profile = parser.parse_args().profile
    try:
        with reserve(profile):
            return build_book(profile)
    except BlockingIOError as error:
        print(f"== {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
