"""Values of GenEval that their verdicts do not give, and verdicts that nobody decided so."""

import gzip
from collections.abc import Callable

from harness.attachments import path_beside
from harness.metric_definitions import OFFICIAL_PROMPTS
from harness.metrics.geneval.prompt import TAGS
from harness.metrics.geneval.verdict_files import MOST_CHARACTERS
from tests.submissions.folder import Fields, Folder, edited
from tests.submissions.prompted import Lines, judged, mine, some_prompts, with_file, with_values, with_verdicts

Case = tuple[str, str, Callable[[Folder], object]]


def _call_right(said: Lines) -> None:
    wrong = next(image for line in said for image in line["images"] if not image["correct"])
    wrong.update(correct=True, reason="")


def _doubt(said: Lines) -> None:
    """An object that the threshold leaves out."""
    next(iter(said[0]["images"][0]["found"].values()))[0][4] = 0.1


def _paint(said: Lines) -> None:
    line = next(line for line in said if line["prompt"]["tag"] == "colors")
    next(iter(line["images"][1]["found"].values()))[0][5] = "rainbow"


def _find_nothing(said: Lines) -> None:
    said[0]["images"][0]["found"] = {name: [] for name in said[0]["images"][0]["found"]}


def _explain(said: Lines) -> None:
    wrong = next(image for line in said for image in line["images"] if not image["correct"])
    wrong["reason"] = "expected more"


def _without_counting(said: Lines) -> None:
    said[:] = [line for line in said if line["prompt"]["tag"] != "counting"]


def _placed_after_itself(said: Lines) -> None:
    line = next(line for line in said if line["prompt"]["tag"] == "position")
    line["prompt"]["include"][-1]["position"][1] = 7


def _micro(values: Fields) -> None:
    values["geneval"]["value"] = values["geneval_image_accuracy"]["value"]


def _in_every_basis(name: str, value: object) -> Callable[[Fields], None]:
    def change(values: Fields) -> None:
        for each in values.values():
            each["basis"][name] = value

    return change


def _renamed(values: Fields) -> None:
    for name, each in values.items():
        each["name"] = name.replace("geneval", "geneval_shapes")


def _without_verdicts(folder: Folder) -> None:
    path = mine(folder)
    path_beside(path, "verdicts").unlink()
    edited(path, lambda fields: fields.update(verdicts=None))


def _unnamed(folder: Folder) -> None:
    path = mine(folder)
    path_beside(path.with_stem(path.stem[:-1] + "0"), "verdicts").write_bytes(
        path_beside(path, "verdicts").read_bytes()
    )


def _other_bytes(folder: Folder) -> None:
    path = path_beside(mine(folder), "verdicts")
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


def _endless(folder: Folder) -> None:
    with_file(mine(folder), gzip.compress(b"[" * (MOST_CHARACTERS + 1), compresslevel=1, mtime=0))


def _huge(folder: Folder) -> None:
    with path_beside(mine(folder), "verdicts").open("r+b") as file:
        file.truncate(3 * 2**20)


CASES: dict[str, Case] = {
    "a wrong image that is called right": (
        "verdicts",
        "is told right, and by the objects found in it wrong",
        with_verdicts(_call_right),
    ),
    "an object that nobody was sure of": ("verdicts", "image 0 of prompt 0", with_verdicts(_doubt)),
    "verdicts that are missing": ("verdicts", "is missing", lambda f: path_beside(mine(f), "verdicts").unlink()),
    "no verdicts": ("verdicts", "comes without the verdicts", _without_verdicts),
    "verdicts that are too large": ("size", "may have 2,097,152", _huge),
    "verdicts that nobody names": ("place", "no record names this file", _unnamed),
    "another value of a category": (
        "verdicts",
        "geneval_colors is 0.9, and its verdicts give",
        with_values(lambda values: values["geneval_colors"].update(value=0.9)),
    ),
    "the micro mean as the headline": ("verdicts", "geneval is ", with_values(_micro)),
    "other prompts under GenEval's name": (
        "prompts",
        "its prompts are not GenEval's own, and are called 'geneval-553'",
        lambda f: judged(f, some_prompts(), OFFICIAL_PROMPTS),
    ),
    "a prompt with a page in it": (
        "text",
        "an HTML tag is in",
        with_verdicts(lambda said: said[0]["prompt"].update(prompt="<script>alert(1)</script>")),
    ),
}

# Found by looking at the verdicts alone.
FURTHER: dict[str, Case] = {
    "a colour that nobody knows": ("verdicts", "of the colour 'rainbow'", with_verdicts(_paint)),
    "a class that was found and was not": ("verdicts", "nothing was found", with_verdicts(_find_nothing)),
    "another reason": ("verdicts", "for another reason", with_verdicts(_explain)),
    "verdicts of other bytes": ("verdicts", "SHA-256 differ", _other_bytes),
    "verdicts that are no archive": ("verdicts", "no packed verdicts", lambda f: with_file(mine(f), b"{}\n")),
    "verdicts without end": ("verdicts", "are longer than", _endless),
    "verdicts on fewer images": (
        "verdicts",
        "and it is of 26",
        with_verdicts(lambda said: [line.update(images=line["images"][:1]) for line in said]),
    ),
    "verdicts on the best image of a prompt": (
        "verdicts",
        "on 1 images of one prompt, and on 3 of another",
        with_verdicts(lambda said: said[1]["images"].append(said[0]["images"].pop())),
    ),
    "a smaller standard error": (
        "verdicts",
        "the standard error of geneval is 1e-05",
        with_values(lambda values: values["geneval"].update(standard_error=1e-5)),
    ),
    "a narrower interval": (
        "verdicts",
        "the low of geneval is ",
        with_values(lambda values: values["geneval"]["parts"].update(low=values["geneval"]["value"])),
    ),
    "a category that is not said": (
        "verdicts",
        "it does not say geneval_counting",
        lambda f: edited(
            mine(f),
            lambda fields: fields.update(
                measurements=[each for each in fields["measurements"] if each["name"] != "geneval_counting"]
            ),
        ),
    ),
    "five categories": (
        "prompts",
        f"{TAGS[2]}",
        with_verdicts(_without_counting),
    ),
    "verdicts on other prompts": (
        "prompts",
        "and its values another",
        with_verdicts(lambda said: said[0]["prompt"].update(prompt="a photo of anything"), named=False),
    ),
    "other options": ("prompts", "it was judged by 'kindly'", with_values(_in_every_basis("settings", "kindly"))),
    "drawn shapes that are none": ("prompts", "is of shapes-t2i by exact-shapes", with_values(_renamed)),
    "a place relative to what comes later": (
        "prompts",
        "there is no clause 7 before it",
        with_verdicts(_placed_after_itself),
    ),
}
