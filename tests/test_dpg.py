"""DPG-Bench's arithmetic is that of its script, with any model behind the answers."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from harness.comparability import ExtractorIdentity
from harness.errors import UserError
from harness.metrics.dpg import Answered, Item, Question, ask, picture_score, pictures_of, read_items, summarise

HEADER = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language"
)
ROWS = (
    'one,"A red cup, on a table.",,1,0,entity,whole,entity - whole (cup),Is there a cup?',
    'one,"A red cup, on a table.",,2,1,attribute,color,"attribute - color (cup, red)",Is the cup red?',
    'one,"A red cup, on a table.",,3,0,entity,whole,entity - whole (table),Is there a table?',
    'one,"A red cup, on a table.",,4,"1, 3",relation,spatial,"relation - spatial (cup, table, on)",Is it on it?',
    "two,Paint.,,1,0,global,,global (paint),Is this painted?",
)
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
MANY = dict(zip(COLOURS.values(), (4, 3, 2, 0), strict=True))


class ByColour:
    """Says yes to the first so many questions: as many as the picture's colour stands for."""

    identity = ExtractorIdentity(name="by-colour", version="1", weights_sha256="0" * 64)

    def answers(self, image: Image.Image, questions: Sequence[str]) -> list[bool]:
        colour = image.getpixel((0, 0))
        return [number < MANY[colour] for number in range(len(questions))]  # type: ignore[index]


def _file(place: Path, *rows: str, header: str = HEADER) -> Path:
    path = place / "dpg_bench.csv"
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


@pytest.fixture
def items(tmp_path: Path) -> tuple[Item, ...]:
    return read_items(_file(tmp_path, *ROWS))


def test_the_file_is_read_from_its_first_question_on(items: tuple[Item, ...]) -> None:
    assert [(item.name, len(item.questions)) for item in items] == [("one", 4), ("two", 1)]
    assert items[0].prompt == "A red cup, on a table."
    assert items[0].questions[0].text == "Is there a cup?"
    assert items[0].questions[3] == Question(
        number=4, parents=(1, 3), category="relation - spatial", text="Is it on it?"
    )
    assert [question.broad for question in items[0].questions] == ["entity", "attribute", "entity", "relation"]
    assert items[1].questions[0].category == items[1].questions[0].broad == "global"


@pytest.mark.parametrize(
    ("answers", "score"),
    [
        ((True, True, True, True), 1.0),
        ((False, True, True, True), 0.25),
        ((True, True, False, True), 0.5),
        ((True, False, True, True), 0.75),
        ((False, False, False, True), 0.0),
    ],
)
def test_a_question_whose_parent_was_answered_no_counts_as_no(
    items: tuple[Item, ...], answers: tuple[bool, ...], score: float
) -> None:
    assert picture_score(items[0], answers) == score


def test_one_no_takes_away_all_that_follows_from_it_where_parents_come_first() -> None:
    def item(*parents: tuple[int, ...]) -> Item:
        asked = [Question(number=n, parents=of, category="entity", text="?") for n, of in enumerate(parents, 1)]
        return Item(name="chain", prompt="", questions=tuple(asked))

    assert picture_score(item((), (1,), (2,)), (False, True, True)) == 0
    # The script looks at each question once, in the file's order: a grandchild that stands first keeps its yes.
    assert picture_score(item((2,), (3,), ()), (True, True, False)) == pytest.approx(1 / 3)


def test_the_overall_score_is_a_mean_over_items_of_means_over_pictures(items: tuple[Item, ...]) -> None:
    yes, no = (True,) * 4, (False,) * 4
    found = summarise([Answered(items[0], (yes, no)), Answered(items[1], ((True,), (True,)))])
    assert found.overall == 75.0
    assert found.standard_error == pytest.approx(25.0)
    assert summarise([Answered(items[1], ((True,),))]).standard_error is None


def test_categories_are_shares_of_yes_in_the_last_picture_whatever_their_parents(items: tuple[Item, ...]) -> None:
    answered = [
        Answered(items[0], ((True, True, True, True), (False, True, True, False))),
        Answered(items[1], ((True,), (False,))),
    ]
    official = summarise(answered)
    assert official.broad == {"attribute": 100.0, "entity": 50.0, "global": 0.0, "relation": 0.0}
    assert list(official.detailed) == ["attribute - color", "entity - whole", "global", "relation - spatial"]
    both = summarise(answered, "all")
    assert both.broad == {"attribute": 100.0, "entity": 75.0, "global": 50.0, "relation": 50.0}
    assert both.overall == official.overall


def test_a_grid_is_four_pictures_row_by_row(items: tuple[Item, ...]) -> None:
    grid = Image.new("RGB", (8, 6))
    for colour, corner in zip(COLOURS.values(), ((0, 0), (4, 0), (0, 3), (4, 3)), strict=True):
        grid.paste(colour, (*corner, corner[0] + 4, corner[1] + 3))
    pictures = pictures_of(grid, 4)
    assert [picture.getpixel((3, 2)) for picture in pictures] == list(COLOURS.values())
    answered = ask(items[0], pictures, ByColour())
    # Four, three and two questions count, and none.
    assert answered.score == pytest.approx((1 + 3 / 4 + 2 / 4 + 0) / 4)
    assert pictures_of(grid, 1)[0].size == grid.size
    with pytest.raises(UserError, match="9 x 6 is no grid of 4"):
        pictures_of(Image.new("RGB", (9, 6)), 4)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("one,A cup.,,4,9,e,w,entity - whole (cup),Is there?", "refers to 9"),
        ("one,A cup.,,1,0,e,w,entity - whole (cup),Is there?", "has a number twice"),
        ("one,A cup.,,x,0,e,w,entity - whole (cup),Is there?", "a question of one is none of DPG-Bench's"),
        ("one,A cup.,,4,0,e,w,entity - whole (cup),", "a question of one is none of DPG-Bench's"),
        ("one,A cup.,,4", "a question of one is none of DPG-Bench's"),
    ],
)
def test_a_line_that_cannot_be_one_of_the_benchmark_is_named(tmp_path: Path, row: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_items(_file(tmp_path, ROWS[0], row))


def test_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lacks the columns item_id, text"):
        read_items(_file(tmp_path, "1,2", header="a,b"))
    with pytest.raises(UserError, match="there is no file"):
        read_items(tmp_path / "absent.csv")
    with pytest.raises(UserError, match="holds no questions"):
        read_items(_file(tmp_path))
