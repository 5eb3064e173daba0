"""A chapter teaches: it has exercises with checks, solutions, a quiz, and hides its plumbing."""

import ast
import re
import statistics

import pytest
from test_notebooks import code_cells, load, source

CHAPTERS = [
    "01_one_vector",
    "02_late_interaction",
    "03_meta_tokens",
    "04_contrastive_training",
    "05_matryoshka_training",
    "06_lora_on_a_gpu",
    "07_budget_sliders",
    "08_quality_per_byte",
    "09_store_and_search",
    "10_your_own_data",
    "A_suites",
    "B_findings",
    "D_pretraining",
]
FEWEST_EXERCISES = {"D_pretraining": 1}  # other chapters have at least 3
TIMES = r"\*About (\d+) minutes to read, .+ to run on a laptop CPU\.\*"
WORDS_PER_MINUTE = 150  # technical prose in a second language
every_chapter = pytest.mark.parametrize("name", CHAPTERS)


def tags(cell):
    return set(cell["metadata"].get("tags", []))


def tagged(notebook, tag):
    return [cell for cell in notebook["cells"] if tag in tags(cell)]


def markdown(notebook):
    return "\n\n".join(source(c) for c in notebook["cells"] if c["cell_type"] == "markdown")


def visible(notebook):
    return [cell for cell in code_cells(notebook) if "remove-cell" not in tags(cell)]


def checks_called(code):
    """The names of the checks that a cell calls, as in ``check_1(answer_1)``."""
    calls = [node.func for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    return [f.id for f in calls if isinstance(f, ast.Name) and re.fullmatch(r"check_\d+", f.id)]


def quiz(notebook):
    """The quiz: for each question its choices, as (is right, choice, explanation)."""
    section = markdown(notebook).partition("## Check yourself\n")[2]
    section = re.split(r"^## ", section, flags=re.M)[0]
    questions = re.split(r"^\*\*\d+\. .+\*\*$", section, flags=re.M)[1:]
    pattern = r'<details class="choice( right)?"><summary>(.+?)</summary>\n\n(.+?)\n</details>'
    choices = [re.findall(pattern, question, flags=re.S) for question in questions]
    assert section.count("<details") == sum(map(len, choices)), "a choice is written differently"
    return [[(bool(c[0]), c[1], c[2].strip()) for c in question] for question in choices]


# Exercises


@every_chapter
def test_every_exercise_has_its_check_and_an_executed_solution(name):
    notebook = load(name)
    exercises = [checks_called(source(cell)) for cell in tagged(notebook, "exercise")]
    solutions = [checks_called(source(cell)) for cell in tagged(notebook, "solution")]
    expected = [[f"check_{i}"] for i in range(1, len(exercises) + 1)]
    assert FEWEST_EXERCISES.get(name, 3) <= len(exercises) <= 5
    assert exercises == expected
    assert solutions == expected


@every_chapter
def test_every_check_is_verified_with_wrong_answers(name):
    """Executing the chapter runs ``verify_checks``, which raises unless each check is strict."""
    notebook = load(name)
    calls = [
        node
        for cell in code_cells(notebook)
        for node in ast.walk(ast.parse(source(cell)))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "verify_checks"
    ]
    verified = [argument.id for call in calls for argument in call.args]
    assert verified == [f"check_{i + 1}" for i in range(len(tagged(notebook, "exercise")))]


@every_chapter
def test_solutions_fold_and_exercises_show_no_output_on_the_page(name):
    notebook = load(name)
    assert all("hide-cell" in tags(cell) for cell in tagged(notebook, "solution"))
    assert all("remove-output" in tags(cell) for cell in tagged(notebook, "exercise"))


@every_chapter
def test_a_folded_solution_names_its_exercise(name):
    for i, cell in enumerate(tagged(load(name), "solution"), start=1):
        assert cell["metadata"]["mystnb"]["code_prompt_show"] == f"Solution of exercise {i}"
        assert (
            cell["metadata"]["mystnb"]["code_prompt_hide"] == f"Hide the solution of exercise {i}"
        )


@every_chapter
def test_a_chapter_asks_for_a_prediction(name):
    exercises = markdown(load(name)).partition("## Exercises")[2].partition("### Solutions")[0]
    assert re.search(r"\bpredict", exercises, flags=re.I)


# Quizzes


@every_chapter
def test_a_quiz_has_three_to_five_questions(name):
    assert 3 <= len(quiz(load(name))) <= 5


@every_chapter
def test_a_question_has_one_right_choice_and_explains_every_choice(name):
    for choices in quiz(load(name)):
        assert 3 <= len(choices) <= 4
        assert sum(is_right for is_right, _, _ in choices) == 1
        for is_right, _, explanation in choices:
            assert explanation.startswith("Right:") == is_right
        explanations = [explanation for _, _, explanation in choices]
        assert len(set(explanations)) == len(explanations)


@every_chapter
def test_the_right_choice_is_not_always_at_the_same_place(name):
    places = [[c[0] for c in choices].index(True) for choices in quiz(load(name))]
    assert len(set(places)) > 1


# What a reader sees


@every_chapter
def test_plumbing_is_hidden(name):
    for cell in visible(load(name)):
        assert "glue(" not in source(cell), f"{name}: tag remove-cell on\n{source(cell)}"
        asserts = [n for n in ast.walk(ast.parse(source(cell))) if isinstance(n, ast.Assert)]
        assert not asserts, f"{name}: move the assertion to a hidden cell from\n{source(cell)}"


@every_chapter
def test_cells_on_the_page_are_short(name):
    lengths = [len(source(cell).splitlines()) for cell in visible(load(name))]
    assert statistics.median(lengths) <= 8


def titles_in_black(code):
    """Calls that title a figure outside of ``use_style()`` and name no color: black on black."""
    found, todo = [], [(ast.parse(code), False)]
    while todo:
        node, styled = todo.pop()
        if isinstance(node, ast.With):
            styled |= any("use_style" in ast.unparse(item) for item in node.items)
        if isinstance(node, ast.Call) and not styled:
            call = getattr(node.func, "attr", "")
            keywords = {keyword.arg for keyword in node.keywords}
            titled = call in ("set_title", "suptitle") or (call == "set" and "title" in keywords)
            if titled and "color" not in keywords:
                found.append(ast.unparse(node))
        todo += [(child, styled) for child in ast.iter_child_nodes(node)]
    return found


@pytest.mark.parametrize(
    ("code", "is_black"),
    [
        ("ax.set(title='a')", True),
        ("ax.set_title('a')", True),
        ("ax.set_title('a', color=INK)", False),
        ("with use_style():\n    ax.set(title='a')", False),
        ("ax.set(xlabel='a')", False),
    ],
)
def test_a_title_that_a_dark_page_hides_is_found(code, is_black):
    assert bool(titles_in_black(code)) == is_black


@every_chapter
def test_titles_of_figures_can_be_read_on_a_dark_page(name):
    for cell in visible(load(name)):
        assert not titles_in_black(source(cell))


@every_chapter
def test_a_chapter_starts_with_content(name):
    shown = [cell for cell in load(name)["cells"] if "remove-cell" not in tags(cell)]
    assert (
        shown[0]["cell_type"] == shown[1]["cell_type"] == "markdown"
        or len(source(shown[0]).split()) > 150
    )


@every_chapter
def test_the_reading_time_fits_the_number_of_words(name):
    notebook = load(name)
    stated = re.search(TIMES, source(notebook["cells"][0]))
    assert stated, f"{name}: the first cell says nothing like {TIMES}"
    words = len(markdown(notebook).split()) + sum(len(source(c).split()) for c in visible(notebook))
    assert 0.6 < int(stated.group(1)) / (words / WORDS_PER_MINUTE) < 1.6


@every_chapter
def test_a_chapter_ends_with_further_reading(name):
    reading = markdown(load(name)).partition("## Further reading\n")[2]
    assert len(re.findall(r"\{cite:t\}`", reading)) >= 2


@every_chapter
def test_a_chapter_links_the_glossary(name):
    assert len(set(re.findall(r"\{term\}`", markdown(load(name))))) >= 1
    assert len(re.findall(r"\{term\}`", markdown(load(name)))) >= 3
