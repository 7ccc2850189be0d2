"""Where the things that a page names are to be found."""

from typing import Final
from urllib.parse import quote

# The address of the repository on the web, without a slash at its end; "" as long as it is at no public place: then
# commits and records are shown by their names alone.
REPOSITORY: Final = ""
ARXIV: Final = "https://arxiv.org/abs/"

# The page of a run, seen from any other page of the board: its id follows.
RUN: Final = "run?run="


def run(run_id: str) -> str:
    """The page of a run."""
    return f"{RUN}{quote(run_id)}"


def record(path: str) -> str:
    """A record's file, by its path below the results; "" without a repository."""
    return REPOSITORY and f"{REPOSITORY}/blob/main/results/{quote(path)}"


def commit(digest: str) -> str:
    """A commit; "" without a repository."""
    return REPOSITORY and f"{REPOSITORY}/commit/{quote(digest)}"


def paper(arxiv: str, url: str) -> str:
    """A publication, by its arXiv number or else its own address; "" for an address that is none of the web."""
    if arxiv:
        return f"{ARXIV}{quote(arxiv)}"
    return url if url.startswith(("https://", "http://")) else ""
