"""Weights of feature extractors: fetched whole, checked each time, and asked for in words where they are missing."""

import hashlib
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.extractor_weights import FLAG, cache_folder, find_file, find_released
from harness.extractors import WeightsFile, find
from harness.files import sha256_of


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


def published(tmp_path: Path, content: bytes = b"weights" * 400_000) -> WeightsFile:
    (tmp_path / "there").write_bytes(content)
    digest = hashlib.sha256(b"weights" * 400_000).hexdigest()
    return WeightsFile(file="net.pt", url=(tmp_path / "there").as_uri(), sha256=digest)


def test_weights_are_fetched_once_and_kept(tmp_path: Path, cache: Path) -> None:
    wanted = published(tmp_path)
    first = find_file(wanted, None)
    (tmp_path / "there").unlink()
    assert find_file(wanted, None) == first
    assert first.path == cache / "net.pt"
    assert first.sha256 == wanted.sha256


def test_a_damaged_download_leaves_nothing_behind(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="SHA-256"):
        find_file(published(tmp_path, b"half"), None)
    assert list(cache.iterdir()) == []


def test_a_file_that_was_damaged_later_is_refused(tmp_path: Path, cache: Path) -> None:
    wanted = published(tmp_path)
    find_file(wanted, None).path.write_bytes(b"other")
    with pytest.raises(UserError, match="damaged or another file"):
        find_file(wanted, None)


def test_without_a_network_the_error_says_where_from_and_where_to(tmp_path: Path, cache: Path) -> None:
    wanted = WeightsFile(file="net.pt", url="http://127.0.0.1:9/net.pt", sha256="0" * 64)
    with pytest.raises(UserError) as refused:
        find_file(wanted, None)
    for part in (wanted.url, str(cache / "net.pt"), FLAG):
        assert part in refused.value.remedy
    assert list(cache.iterdir()) == []


def test_weights_may_be_named_by_file_or_folder(tmp_path: Path) -> None:
    wanted = published(tmp_path)
    (tmp_path / "net.pt").write_bytes(b"weights that a user has")
    by_file = find_file(wanted, str(tmp_path / "net.pt"))
    assert by_file.sha256 == sha256_of(tmp_path / "net.pt")
    assert find_file(wanted, str(tmp_path)) == by_file
    with pytest.raises(UserError, match="there is no weights file"):
        find_file(wanted, str(tmp_path / "nowhere.pt"))


def test_weights_that_no_hub_gives_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(text: str) -> Path:
        raise UserError(f"{text} is not here", "log in")

    monkeypatch.setattr("harness.extractor_weights.locate", refuse)
    with pytest.raises(UserError, match="the weights of clip-l are not here") as refused:
        find_released(find("clip-l"), None)
    for part in (*find("clip-l").sources, FLAG):
        assert part in str(refused.value)
