"""The pages for instructors: the plans add up, the links lead somewhere, students get neither."""

import json
import re
from itertools import pairwise
from math import comb, log

import make_book
import pytest
import torch
import torch.nn.functional as F
from make_student import heading_levels, instructor_pages

BOOK = make_book.ROOT / "book"
TEACHING = (BOOK / "teaching.md").read_text(encoding="utf-8")
ANSWERS = (BOOK / "exam_answers.md").read_text(encoding="utf-8")
PART = ["book/teaching"]


def section(title):
    """The text below a heading, up to the next heading of its level or above."""
    lines, kept, level = TEACHING.splitlines(), [], 0
    for line, here in zip(lines, heading_levels(TEACHING), strict=True):
        if here and line.lstrip("# ").startswith(title):
            level = here
        elif level and 0 < here <= level:
            break
        elif level:
            kept.append(line)
    assert kept, f"no section {title}"
    return "\n".join(kept)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_session_has_objectives_and_blocks_that_fill_90_minutes(number):
    text = section(f"Session {number}:")
    assert 3 <= len(re.findall(r"^- ", text, re.M)) <= 5
    blocks = [tuple(map(int, block)) for block in re.findall(r"^\| (\d+) to (\d+) \|", text, re.M)]
    assert blocks[0][0] == 0
    assert blocks[-1][1] == 90
    assert all(end == start for (_, end), (start, _) in pairwise(blocks))
    assert all(5 <= end - start <= 25 for start, end in blocks)


def test_the_blocks_of_the_day_follow_each_other():
    times = re.findall(r"^\| (\d\d:\d\d) to (\d\d:\d\d) \|", section("In one day"), re.M)
    assert times[0][0] == "09:00"
    assert all(end == start for (_, end), (start, _) in pairwise(times))
    assert times == sorted(times)


def test_the_exam_has_ten_questions_and_ten_answers():
    questions = re.findall(r"^(\d+)\. ", section("Exam"), re.M)
    answers = re.findall(r"^\*\*(\d+)\.\*\*", ANSWERS, re.M)
    assert questions == answers == [str(i) for i in range(1, 11)]


def test_the_numbers_of_the_answers_are_right():
    noise = [(8 / dim) ** 0.5 for dim in (128, 512)]
    assert noise == [1 / 4, 1 / 8]
    query, candidate = torch.eye(2), torch.tensor([[0.6, 0.8], [0.8, -0.6]])
    table = query @ candidate.T
    assert table.amax(dim=1).sum().item() == pytest.approx(1.6)
    assert table[0, 0].item() == pytest.approx(0.6)
    assert (comb(6, 2), comb(12, 2)) == (15, 66)
    assert log(64) == pytest.approx(4.16, abs=0.005)
    rank, size = 8, 2048
    assert (2 * rank * size, size * size) == (32_768, 4_194_304)
    assert size * size == 128 * 2 * rank * size
    gigabytes = [16 * 128 * size * 1e7 / 1e9 for size in (4, 1, 1 / 8)]
    assert gigabytes == pytest.approx([82, 20.5, 2.6], abs=0.1)
    megabytes = 50 * 2048 / 1e6
    assert megabytes == pytest.approx(0.1, abs=0.01)


def test_the_program_of_the_answers_is_the_nested_loss():
    from metaembed_lite import mmr_loss

    (program,) = re.findall(r"```python\n(.*?)```", ANSWERS, re.S)
    generator = torch.Generator().manual_seed(0)
    q = F.normalize(torch.randn(3, 2, 8, generator=generator), dim=-1)
    c = F.normalize(torch.randn(3, 4, 8, generator=generator), dim=-1)
    names = {"torch": torch, "F": F, "tau": 0.1}
    names["similarities"] = torch.einsum("qid,njd->qnij", q, c)
    exec(program, names)
    expected, _ = mmr_loss(q, c[:, None], [(1, 1), (2, 4)], temperature=0.1)
    torch.testing.assert_close(names["loss"], expected)


def plain(title):
    """A heading without markup."""
    return re.sub(r"[`*_$\\]|\{[^}]*\}", "", title).strip()


def headings(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            for line, level in zip(text.splitlines(), heading_levels(text), strict=True):
                if level:
                    yield re.sub(r"^\w+\. ", "", plain(line.lstrip("# ")))


def section_links():
    """List (chapter, section, path) for each link to a section: `[2: Exercises](...)`."""
    pattern = r"\[(\w+): ([^]]+)\]\((\.\./notebooks/[\w./]+)\)"
    return re.findall(pattern, TEACHING)


def test_links_to_sections_name_their_chapter():
    links = section_links()
    assert len(links) > 40
    wrong = [link for link in links if int(link[0]) != int(link[2].split("/")[2][:2])]
    assert wrong == []


def test_the_sections_that_the_plans_name_exist():
    missing = {
        f"{chapter}: {title}"
        for chapter, title, target in section_links()
        if plain(title) not in headings(BOOK / target)
    }
    assert sorted(missing) == []


def test_the_answers_to_the_exam_are_not_on_the_site():
    assert "book/exam_answers" not in make_book.pages()
    assert "(exam_answers.md)" not in TEACHING  # a link would be dead on the site
    assert "`book/exam_answers.md`" in TEACHING


def predictions():
    """List (chapter, path, exercise, answer) of the table of predictions."""
    pattern = r"^\| \[(\d+): Exercises\]\((\S+)\), (\d) \| \"(.+?)\" \|"
    return re.findall(pattern, section("Predictions"), re.M)


@pytest.mark.parametrize(("chapter", "path", "exercise", "answer"), predictions())
def test_the_answer_to_a_prediction_is_what_the_solution_measures(chapter, path, exercise, answer):
    assert f"/{int(chapter):02}_" in path
    cells = json.loads((BOOK / path).read_text(encoding="utf-8"))["cells"]
    solutions = [
        "".join(cell["source"]) for cell in cells if "solution" in cell["metadata"].get("tags", [])
    ]
    assert f'check_{exercise}("{answer}")' in solutions[int(exercise) - 1]


def test_every_chapter_from_1_on_has_a_prediction_with_its_answer():
    assert {int(chapter) for chapter, *_ in predictions()} == set(range(1, 11))


def test_a_site_for_students_needs_the_three_changes_that_the_page_names():
    """Nothing else links to the page, except the first page of the book."""
    assert instructor_pages(make_book.ROOT) == PART
    for page in set(make_book.pages()) - set(PART):
        path = make_book.ROOT / page
        path = path.with_suffix(".md") if page.startswith("book/") else path.with_suffix(".ipynb")
        text = path.read_text(encoding="utf-8")
        assert "exam_answers" not in text, page
        assert "teaching.md" not in text or page == "book/intro", page
    assert "exam_answers.md" in TEACHING
    assert "\n## For instructors\n" in (BOOK / "llms.txt").read_text(encoding="utf-8")


def test_pages_that_are_not_listed_are_not_built():
    text = (make_book.ROOT / "_config.yml").read_text(encoding="utf-8")
    assert "only_build_toc_files: true" in text


def test_the_commands_that_the_page_names_exist():
    makefile = (make_book.ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"`make (\w+)`", TEACHING))
    assert {"book", "student", "slides", "pdf"} <= named
    assert named <= set(re.findall(r"^(\w+):", makefile, re.M))
