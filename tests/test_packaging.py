"""Files that state the same fact agree: pins, layout, commands and public names."""

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
EVERY = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
STATED = [line for line in EVERY if Requirement(line).name != PROJECT["name"]]
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"][
    "requires"
]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
HASH = re.compile(r"sha256:[0-9a-f]{64}")

# The top level has only what README.md and the book name, so readers find their way.
REQUIRED = {
    "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "SECURITY.md",
    "pyproject.toml", "requirements.lock", "environment.yml", "postBuild", "Makefile",
    "_config.yml", "_toc.yml", "book", "notebooks", "metaembed_lite", "tests",
    ".ci", ".github", ".gitignore", ".pre-commit-config.yaml",
}  # fmt: skip
ALLOWED = REQUIRED | {"benchmarks", ".gitattributes"}


def pins() -> dict[str, str]:
    """Package -> version for this Python on this platform, from `requirements.lock`."""
    versions = {}
    for line in locked():
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate():
            (exact,) = pin.specifier
            assert exact.operator == "==", f"{line} is not an exact pin"
            versions[canonicalize_name(pin.name)] = exact.version
    return versions


def locked() -> dict[str, list[str]]:
    """Requirement -> the hashes of its files, from `requirements.lock`."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", "")
    entries = [line.split(" --hash=") for line in text.splitlines() if line.lstrip(" ")[:1] != "#"]
    return {words[0].strip(): [word.strip() for word in words[1:]] for words in entries if words[0]}


def files_of_the_project() -> list[str]:
    """List every file that git tracks or would add with `git add .`, relative to the root."""
    git = ["git", "-c", "safe.directory=*", "-C", str(ROOT)]
    listing = [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split("\0")
    return [name for name in names if name and (ROOT / name).exists()]


@pytest.mark.parametrize("line", STATED)
def test_every_version_range_contains_the_pin(line):
    stated = Requirement(line)
    pin = pins().get(canonicalize_name(stated.name))
    assert pin, f"{stated.name} is stated in pyproject.toml and not pinned: make lock"
    assert stated.specifier.contains(pin, prereleases=True), f"{stated} but pinned {pin}: make lock"


def test_every_package_that_the_module_imports_is_a_stated_dependency():
    distributions = importlib.metadata.packages_distributions()
    imported = set()
    for path in (ROOT / "metaembed_lite").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
    imported -= {*sys.stdlib_module_names, "metaembed_lite"}
    needed = {canonicalize_name(distributions[name][0]) for name in imported}
    offered = ["benchmarks", "index", "plots", "qdrant"]
    stated = [*PROJECT["dependencies"], *(line for extra in offered for line in EXTRAS[extra])]
    assert needed <= {canonicalize_name(Requirement(line).name) for line in stated}


def test_every_pin_has_the_hashes_of_its_files():
    without = [pin for pin, hashes in locked().items() if not hashes]
    assert not without, "make lock"
    wrong = {h for hashes in locked().values() for h in hashes if not HASH.fullmatch(h)}
    assert not wrong
    installs = [line for line in MAKEFILE.splitlines() if "-r requirements.lock" in line]
    assert installs
    assert MAKEFILE.count("--require-hashes") == len(installs)


def test_the_environment_installs_nothing_without_a_pin():
    """The build of the package itself takes setuptools from the lock, not from the index."""
    names = {canonicalize_name(Requirement(line).name) for line in locked()}
    assert {canonicalize_name(Requirement(line).name) for line in BUILD} <= names
    for text in (MAKEFILE, (ROOT / "postBuild").read_text(encoding="utf-8")):
        assert "--no-build-isolation --no-deps -e ." in text


def test_every_action_of_a_workflow_is_pinned_to_a_commit():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / ".github/workflows").iterdir()]
    actions = re.findall(r"uses: (.*)", "\n".join(texts))
    assert len(actions) >= 7
    loose = [
        action for action in actions if not re.fullmatch(r"\S+@[0-9a-f]{40}  # v[\d.]+", action)
    ]
    assert not loose, "name the commit, and its version in a comment"


def test_conda_gets_python_from_the_same_range_and_the_rest_from_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    python = next(entry for entry in conda if entry.startswith("python"))
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])
    assert set(conda) == {python, "pip"}
    assert pip == {"pip": ["-r requirements.lock"]}
    assert (ROOT / "postBuild").stat().st_mode & 0o111, "Binder runs it"


def test_no_lock_or_configuration_names_a_package_index():
    suffixes = (".lock", ".toml", ".yml", ".yaml", ".cfg", ".ini")
    checked = [
        name
        for name in files_of_the_project()
        if name.endswith(suffixes) or name in {"Makefile", ".ci/run"}
    ]
    assert {"requirements.lock", "environment.yml", "pyproject.toml"} <= set(checked)
    index = re.compile(r"index-url|find-links|trusted-host|pypi\.org|pythonhosted|anaconda\.org")
    named = {
        f"{name}: {line}"
        for name in checked
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if index.search(line) or (name == "requirements.lock" and "://" in line)
    }
    assert not named


def test_the_top_level_has_only_the_documented_files():
    top = {name.split("/")[0] for name in files_of_the_project()}
    assert top >= REQUIRED, f"missing: {REQUIRED - top}"
    assert top <= ALLOWED, f"not part of the layout: {top - ALLOWED}"


def test_continuous_integration_runs_the_test_command():
    run = ROOT / ".ci" / "run"
    assert run.stat().st_mode & 0o111, ".ci/run is not executable"
    assert "make test" in run.read_text(encoding="utf-8")
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert ".ci/run" in workflow
    lowest = SpecifierSet(PROJECT["requires-python"])
    versions = yaml.safe_load(workflow)["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert all(version in lowest for version in versions)


def test_an_empty_site_is_not_published():
    text = (ROOT / ".github/workflows/publish.yml").read_text(encoding="utf-8")
    guard, upload = text.find("test -s _build/html/index.html"), text.find("upload-pages-artifact")
    assert 0 < guard < upload


def test_every_public_name_exists():
    import metaembed_lite

    assert len(set(metaembed_lite.__all__)) == len(metaembed_lite.__all__)
    for name in metaembed_lite.__all__:
        assert getattr(metaembed_lite, name) is not None
    assert {*metaembed_lite.__all__, "__version__"} <= set(dir(metaembed_lite))


def test_type_checkers_see_exactly_the_public_names():
    import metaembed_lite

    tree = ast.parse((ROOT / "metaembed_lite" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    imported = {
        alias.asname or alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported.keys() == set(metaembed_lite.__all__)
    for name, module in imported.items():
        assert getattr(metaembed_lite, name) is getattr(importlib.import_module(module), name)


def test_the_version_is_written_once():
    import metaembed_lite

    version = re.escape(metaembed_lite.__version__)
    assert PROJECT["dynamic"] == ["version"]
    for name in ("pyproject.toml", "CITATION.cff", "README.md", "_config.yml"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(rf"(?<![\d.]){version}(?![\d.])", text), f"{name} repeats the version"


def test_the_changelog_has_one_section_per_version():
    import metaembed_lite

    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    versions = [line.split()[1] for line in lines if line.startswith("## ")]
    assert len(versions) == len(set(versions))
    assert versions[0] == metaembed_lite.__version__


def test_the_citation_is_complete_and_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "type"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == PROJECT["name"]
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == [{"name": "The metaembed-lite authors"}]
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    bibliography = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    entry = bibliography.split("@inproceedings{metaembed2026,")[1].split("\n}")[0]
    title = re.search(r"title\s*= \{(.*)\},", entry)[1].replace("{", "").replace("}", "")
    arxiv = re.search(r"eprint\s*= \{(.*)\}", entry)[1]
    assert paper["title"] == title
    assert [identifier["value"] for identifier in paper["identifiers"]] == [f"arXiv:{arxiv}"]
    assert paper["url"] == f"https://arxiv.org/abs/{arxiv}"
