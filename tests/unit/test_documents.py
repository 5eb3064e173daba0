"""What README.md, CONTRIBUTING.md, CHANGELOG.md, llms.txt and the model cards say is true."""

import importlib.metadata
import re
import shlex
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import make_book
import pytest
import torch
import typer
import yaml
from packaging.requirements import Requirement

import metaembed_lite
from metaembed_lite import checkpoints, load, load_task, maxsim, recipes, save
from metaembed_lite.cli import app
from metaembed_lite.model_card import TEMPLATE

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "metaembed_lite"
README = (ROOT / "README.md").read_text(encoding="utf-8")
LLMS = (ROOT / "book" / "llms.txt").read_text(encoding="utf-8")


def code_blocks(language: str) -> list[str]:
    """List the README's code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def tree_paths() -> list[str]:
    """List the paths that the README's tree names. Indented ones lie in the folder above."""
    (tree,) = code_blocks("text")
    paths, folder = [], ""
    for line in tree.splitlines():
        names, _, description = line.strip().partition("  ")  # two spaces end the names
        if not line.startswith(" "):
            folder = "" if description else names
        paths += [folder + name if line.startswith(" ") else name for name in names.split()]
    return paths


def links(text: str) -> list[str]:
    """List the targets of a text's Markdown links, without their anchors."""
    return [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]


# README.md


def test_the_readme_has_at_most_120_lines():
    assert len(README.splitlines()) <= 120


def test_the_readmes_tree_names_only_what_exists():
    paths = tree_paths()
    assert len(paths) == len(set(paths))
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing
    wrong = [path for path in paths if path.endswith("/") != (ROOT / path).is_dir()]
    assert not wrong, "a folder is written with a slash at its end, a file without"


def test_the_readmes_tree_names_every_module_of_the_package():
    modules = {
        path.name + "/" * path.is_dir()
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    in_tree = {path.partition("/")[2] for path in tree_paths() if path.startswith("metaembed_lite")}
    assert in_tree == (modules - {"__init__.py"}) | {""}


def test_the_readmes_tree_names_every_folder_of_the_project():
    folders = {"metaembed_lite/", "book/", "notebooks/", "benchmarks/", "tests/"}
    assert folders <= set(tree_paths())


def test_the_readme_lists_every_chapter():
    chapters = [link for link in links(README) if link.startswith("notebooks/")]
    assert chapters == [f"notebooks/{name}.ipynb" for name in make_book.notebooks()]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_between_files_lead_to_files(name):
    local = [link for link in links((ROOT / name).read_text(encoding="utf-8")) if "//" not in link]
    assert [link for link in local if not (ROOT / link).is_file()] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_files_that_are_named_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    folders = "metaembed_lite|book|notebooks|benchmarks|tests"
    named = set(re.findall(rf"(?<![\w/])((?:{folders})/[\w./]*\w)", text))
    named.discard("notebooks/NN_slug.ipynb")  # stands for any chapter
    assert [path for path in sorted(named) if not list(ROOT.glob(f"{path}*"))] == []


def test_the_commands_and_extras_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.M))
    assert set(re.findall(r"\bmake (\w+)  ", README)) == {"lab", "book"}
    assert targets >= {"lab", "book", "test", "lock"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(re.findall(r'"\.\[(\w+)\]"', README)) <= project["optional-dependencies"].keys()


def test_the_command_line_takes_the_readmes_training_command():
    commands = [
        shlex.split(line, comments=True) for line in "".join(code_blocks("bash")).split("\n")
    ]
    (command,) = (words for words in commands if words[:2] == ["metaembed-lite", "train"])
    name, option, _, *overrides = command[2:]
    assert option == "--output"
    recipe = recipes.read(name, overrides)
    assert recipe.data["name"] == "image_folder"
    assert "tiny" in recipes.list_names()


@pytest.mark.parametrize("page", ["README.md", "book/your_own_data.md"])
def test_the_command_line_takes_every_command_of_a_page(page):
    """Options, recipes and settings are checked as the commands check them. Nothing is run."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"^```bash\n(.*?)^```$", text, re.M | re.S)).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in blocks.splitlines()]
    commands = [words[1:] for words in lines if words[:1] == ["metaembed-lite"]]
    assert {name for name, *_ in commands} >= {"check-data", "train", "evaluate", "index", "serve"}
    group = typer.main.get_command(app)
    for name, *arguments in commands:
        values = group.commands[name].make_context(name, arguments).params
        if name == "train":
            recipes.read(values["recipe"], values["overrides"])
        if name in ("check-data", "evaluate"):
            assignments = [a for a in values["settings"] or [] if not a.startswith("path=")]
            recipes.read_suite_settings("image_folder", assignments, path="my-images")


def test_the_readmes_five_lines_run():
    (program,) = (block for block in code_blocks("python") if 'load("tiny")' in block)
    assert len([line for line in program.splitlines() if line]) == 5
    names = {}
    exec(compile(program, "README.md", "exec"), names)
    assert names["scores"].shape == (50, 100)
    expected = maxsim(names["queries"], names["sheets"], budget=(4, 8))
    assert torch.equal(names["scores"], expected)


def test_the_readmes_program_without_load_runs(tmp_path, monkeypatch):
    (program,) = (block for block in code_blocks("python") if "trust_remote_code" in block)
    model, task = load("tiny", device="cpu"), load_task("stickers", n_queries=3, n_train=0)
    monkeypatch.chdir(tmp_path)
    save(model, "my-model")
    names = {"task": task}  # defined in the first program
    exec(compile(program, "README.md", "exec"), names)
    queries, candidates = model.encode_query(task.queries), model.encode_document(task.candidates)
    expected = maxsim(queries, candidates, budget=(4, 8))
    torch.testing.assert_close(names["scores"].cpu(), expected.cpu())


# llms.txt


def test_llms_txt_has_the_form_of_its_specification():
    """A title, a quoted summary, then sections of links: ``- [title](address): description``."""
    title, _, summary, *rest = LLMS.splitlines()
    assert title == "# metaembed-lite"
    assert summary.startswith("> ")
    sections = "\n".join(rest).split("\n## ")[1:]
    assert len(sections) >= 2
    for section in sections:
        entries = [line for line in section.splitlines()[1:] if line]
        assert entries
        assert all(re.fullmatch(r"- \[.+\]\(\S+\): .+", entry) for entry in entries)


def test_llms_txt_lists_every_page_of_the_book_once():
    assert sorted(links(LLMS)) == sorted(f"{page}.html" for page in make_book.pages())


def test_the_site_gets_llms_txt_at_its_root():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert config["sphinx"]["config"]["html_extra_path"] == ["book/llms.txt"]


# The API reference


def documented() -> list[str]:
    """The modules on the pages of the API reference, without the package's name."""
    pages = [page for page in make_book.pages() if page.startswith("book/api/")]
    text = "".join((ROOT / f"{page}.md").read_text(encoding="utf-8") for page in pages)
    return re.findall(r"^\.\. automodule:: metaembed_lite\.(\S+)$", text, re.M)


def test_every_public_name_is_described_once_in_the_api_reference():
    modules = documented()
    assert len(modules) == len(set(modules))
    for name in metaembed_lite.__all__:
        value = getattr(metaembed_lite, name)
        home = getattr(value, "__module__", "metaembed_lite.budget")  # of a constant
        assert home.removeprefix("metaembed_lite.") in modules, name


def test_the_overview_of_the_api_reference_lists_the_public_names_on_the_pages_of_their_modules():
    overview = (ROOT / "book/api/overview.md").read_text(encoding="utf-8")
    listed = {}
    for page, names in re.findall(r"^\| \[.*?\]\((\w+\.md)\) \|(.*)\|$", overview, re.M):
        listed |= dict.fromkeys(re.findall(r"`(\w+)`", names), page)
    assert set(listed) == set(metaembed_lite.__all__)
    for name, page in listed.items():
        home = getattr(getattr(metaembed_lite, name), "__module__", "metaembed_lite.budget")
        assert f":: {home}\n" in (ROOT / "book/api" / page).read_text(encoding="utf-8"), name


def test_the_page_on_the_command_line_has_the_help_of_every_command(tmp_path):
    (tmp_path / "book").mkdir()
    make_book.describe_commands(tmp_path)
    text = (tmp_path / "book/api/commands.md").read_text(encoding="utf-8")
    names = [c.name or c.callback.__name__ for c in app.registered_commands]
    assert re.findall(r"^## `metaembed-lite ([\w-]+)`$", text, re.M) == names
    assert not text.startswith("# "), "the page has its own title"
    page = (ROOT / "book/api/command_line.md").read_text(encoding="utf-8")
    assert "{include} commands.md" in page


# Dependencies and origins


DEPENDENCIES = (ROOT / "book" / "dependencies.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LISTED_ABOVE = {"test": {"mteb", "qdrant-client"}, "book": {PROJECT["name"]}}  # in their own extras


def section(title: str) -> list[list[str]]:
    """The rows of the table below a heading of the page on dependencies, cell by cell."""
    (text,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", DEPENDENCIES, re.M | re.S)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1:]]


def names_of(lines: list[str]) -> set[str]:
    return {Requirement(line).name for line in lines}


def test_the_tables_of_dependencies_list_exactly_those_of_the_project():
    assert {row[0] for row in section("Core")} == names_of(PROJECT["dependencies"])
    extras = PROJECT["optional-dependencies"]
    headings = re.findall(r"^## Extra `(\w+)`$", DEPENDENCIES, re.M)
    assert sorted(headings) == sorted(extras)
    for name in headings:
        rows = section(f"Extra `{name}`")
        expected = names_of(extras[name]) - LISTED_ABOVE.get(name, set())
        assert sorted(row[0] for row in rows) == sorted(expected)
    assert all(
        len(row) == 5 and all(row) for name in headings for row in section(f"Extra `{name}`")
    )


def stated_license(name: str) -> str:
    """All that a package says about its license: metadata, description and license files."""
    package = importlib.metadata.distribution(name)
    fields = ("License-Expression", "License", "Classifier")
    texts = [text for field in fields for text in package.metadata.get_all(field, [])]
    texts.append(package.metadata.get_payload() or "")
    files = [file for file in package.files or [] if file.name.lower().startswith("license")]
    readable = [Path(file.locate()) for file in files if file.suffix in ("", ".txt", ".md", ".rst")]
    return " ".join([*texts, *(file.read_text("utf-8", "replace") for file in readable)])


def test_a_dependency_has_the_license_that_it_states():
    titles = ["Core", *(f"Extra `{name}`" for name in PROJECT["optional-dependencies"])]
    families = ("Apache", "BSD", "MIT", "MPL", "CC-BY-SA", "CC BY", "Python Software Foundation")
    for name, _, _, license, _ in (row for title in titles for row in section(title)):
        stated = stated_license(name).replace("CC-BY 4", "CC BY 4").replace("Mozilla", "MPL")
        named = [family for family in families if family in license.partition(", axe-core")[0]]
        assert named, f"{name}: {license}"
        assert [f for f in named if not re.search(rf"\b{f}\b", stated)] == [], name


def test_every_file_of_the_project_has_an_origin_and_a_license():
    patterns = [p for row in section("Origin of the files") for p in re.findall(r"`(\S+)`", row[0])]
    git = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-z"]
    names = subprocess.run(git, check=True, capture_output=True, text=True).stdout.split("\0")
    files = [name for name in names if name]
    without = [name for name in files if not any(fnmatch(name, p) for p in patterns)]
    assert without == []
    unused = [p for p in patterns if not any(fnmatch(name, p) for name in files)]
    assert unused == []


# Model cards


@pytest.mark.parametrize("name", [n for n in checkpoints.MODELS if n != "tiny-single"])
def test_a_bundled_card_has_the_text_of_the_template(name):
    card = (checkpoints.HERE / name / "README.md").read_text(encoding="utf-8")
    template = TEMPLATE.read_text(encoding="utf-8")
    dim = load(name, device="cpu").encode_query("a text").shape[1]
    prose = re.sub(r"\{%.*?%\}", "", template.replace("{{ output_dimensionality }}", str(dim)))
    sentences = [line for line in prose.splitlines() if line and "{{" not in line]
    baseline = "This model encodes an item as vectors"
    unlike = [line for line in sentences if line.strip() not in card and baseline not in line]
    assert not unlike
    assert "| budget (r_q, r_c) | P@1 | NDCG@5 | index bytes per candidate |" in card


def test_the_card_of_the_single_vector_model_does_not_promise_budgets():
    card = (checkpoints.HERE / "tiny-single" / "README.md").read_text(encoding="utf-8")
    assert "This model encodes an item as vectors with 128 dimensions per vector." in card
    assert "meta tokens" not in card


def test_the_landing_page_states_the_size_of_its_model():
    intro = (ROOT / "book" / "intro.md").read_text(encoding="utf-8")
    parameters = list(load("tiny", device="cpu").parameters())
    n_all = sum(p.numel() for p in parameters)
    n_trained = sum(p.numel() for p in parameters if p.requires_grad)
    for n in (n_all, n_all - n_trained, n_trained):
        assert f"{n / 1e6:.1f} million" in intro
