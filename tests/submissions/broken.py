"""What is refused: each submission with the rule that it breaks, and words that its refusal must contain."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.submissions import broken_files, broken_numbers, broken_prompts, broken_words
from tests.submissions.folder import Folder


@dataclass(frozen=True)
class Broken:
    """One submission: `spoil` makes it of a sound folder."""

    name: str
    rule: str
    words: str
    spoil: Callable[[Folder], object]


ALL = [
    Broken(name, rule, words, spoil)
    for cases in (broken_files.CASES, broken_words.CASES, broken_numbers.CASES, broken_prompts.CASES)
    for name, (rule, words, spoil) in cases.items()
]
