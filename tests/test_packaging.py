"""What is stated about the project in several places is stated alike."""

import re
import subprocess
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
STATED = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]

# The top level belongs to the reader: what is here is what README.md and the book name.
REQUIRED = {
    "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md",
    "pyproject.toml", "requirements.lock", "environment.yml", "Makefile",
    "_config.yml", "_toc.yml", "book", "notebooks", "metaembed_lite", "tests",
    ".ci", ".github", ".gitignore", ".pre-commit-config.yaml",
}  # fmt: skip
ALLOWED = REQUIRED | {"benchmarks", ".gitattributes"}


def pins() -> dict[str, str]:
    """Package -> version for this Python on this platform, from `requirements.lock`."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    found = {}
    for line in lines:
        if not line or line.lstrip().startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate():
            (exact,) = pin.specifier
            assert exact.operator == "==", f"{line} is not an exact pin"
            found[canonicalize_name(pin.name)] = exact.version
    return found


def files_of_the_project() -> list[str]:
    """Every file that is tracked, or would be with `git add .`, relative to the root."""
    git = ["git", "-c", "safe.directory=*", "-C", str(ROOT)]
    listing = [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split("\0")
    return [name for name in names if name and (ROOT / name).exists()]


@pytest.mark.parametrize("line", STATED)
def test_every_stated_range_has_a_pin_inside_it(line):
    stated = Requirement(line)
    pin = pins().get(canonicalize_name(stated.name))
    assert pin, f"{stated.name} is stated in pyproject.toml and not pinned: make lock"
    assert stated.specifier.contains(pin, prereleases=True), f"{stated} but pinned {pin}: make lock"


def test_conda_gets_python_from_the_same_range_and_the_rest_from_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    python = next(entry for entry in conda if entry.startswith("python"))
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])
    assert set(conda) == {python, "pip"}
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}


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


def test_the_top_level_is_the_layout_that_readers_know():
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


def test_every_public_name_has_a_home_and_can_be_had():
    import metaembed_lite

    assert set(metaembed_lite.__all__) == set(metaembed_lite._HOME)
    for name in metaembed_lite.__all__:
        assert getattr(metaembed_lite, name) is not None
