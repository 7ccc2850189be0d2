"""`eval geneval` scores whole folders, goes on where it was killed, and takes no lost image for a wrong one."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.attachments import path_beside
from harness.cli import main
from harness.comparability import UNGUIDED
from harness.errors import UserError
from harness.evaluation_records import EvaluationRecord
from harness.geneval_judging import NOT_OFFICIAL, GenevalJudge, JudgeNames, Scored, open_judge, score_gallery
from harness.locks import alone_in
from harness.metrics.geneval.layout import PromptImages, look_through, read_images
from harness.metrics.geneval.official_prompts import LINES_SHA256, lines, official_prompts, prompts_sha256
from harness.metrics.geneval.prompt import TAGS, Prompt
from harness.metrics.geneval.verdict_files import decided_again, read_verdicts
from harness.progress import Progress, watched_by
from tests.clip_builders import save_clip
from tests.geneval_builders import SEEN, clause, save_detector, some_prompts, write_gallery
from tests.tiny_extractor import KilledError

CPU = torch.device("cpu")
EACH = 2


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> JudgeNames:
    place = tmp_path_factory.mktemp("networks")
    return JudgeNames(str(save_detector(place / "tiny-mask2former")), str(save_clip(place / "tiny-clip")), "checkpoint")


@pytest.fixture(scope="module")
def judge(networks: JudgeNames) -> GenevalJudge:
    return open_judge(networks, CPU)


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    return write_gallery(tmp_path / "images", some_prompts(), EACH)


def _eval(place: Path, networks: JudgeNames, *words: str) -> int:
    own = (
        "--detector",
        networks.detector,
        "--clip",
        networks.clip,
        "--detector-size",
        "checkpoint",
        "--device",
        "cpu",
        "--threads",
        "1",
    )
    folders = ("--results", str(place / "results"), "--runs", str(place / "runs"))
    return main(["eval", "geneval", "--images", str(place / "images"), *own, *folders, *words])


def score_images(place: Path, judge: GenevalJudge, folder: Path) -> Scored:
    """The verdicts on a whole folder, kept in another."""
    gallery = look_through(place)
    with alone_in(folder):
        return score_gallery(gallery, judge, folder, UNGUIDED)


def _records(place: Path) -> list[Path]:
    return sorted((place / "results" / "evaluations").glob("*.json"))


def test_a_folder_is_scored_recorded_and_found_again(
    gallery: Path, networks: JudgeNames, capsys: pytest.CaptureFixture[str]
) -> None:
    place = gallery.parent
    assert _eval(place, networks, "--title", "blocks", "--declare", "guidance=none") == 0
    shown = capsys.readouterr().out
    (path,) = _records(place)
    record = EvaluationRecord.model_validate_json(path.read_bytes())
    assert record.title == "blocks"
    assert record.conditions.labels == "balanced"
    assert record.images.num_images == record.conditions.num_images == EACH * len(TAGS)
    assert (record.images.width, record.images.height) == (48, 40)
    values = {measurement.name: measurement for measurement in record.measurements}
    assert set(values) == {
        "geneval",
        *(f"geneval_{tag}" for tag in TAGS),
        "geneval_image_accuracy",
        "geneval_prompt_accuracy",
    }
    assert values["geneval"].value == pytest.approx(np.mean([values[f"geneval_{tag}"].value for tag in TAGS]))
    basis = values["geneval"].basis
    assert basis is not None
    assert basis.guidance == UNGUIDED
    assert basis.extractor is not None
    assert basis.extractor.name == "mask2former+clip"
    assert "judged by the detector tiny-mask2former and the CLIP tiny-clip" in record.notes
    assert NOT_OFFICIAL in record.notes
    assert basis.reference is not None
    assert basis.reference.name == "prompts-6"
    assert basis.reference.sha256 == prompts_sha256(some_prompts())
    assert any("not GenEval's 553" in note for note in record.notes)
    assert any("2 images of each prompt, where GenEval has 4" in note for note in record.notes)
    assert "GenEval" in shown
    assert "image accuracy" in shown
    assert str(path) in shown
    assert _eval(place, networks, "--title", "blocks", "--declare", "guidance=none", "--json") == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(path)
    assert _eval(place, networks, "--title", "blocks", "--declare", "guidance=none", "--again") == 0
    assert len(_records(place)) == 2


def test_verdicts_say_on_what_grounds_and_can_be_decided_again(
    gallery: Path, judge: GenevalJudge, tmp_path: Path
) -> None:
    scored = score_images(gallery, judge, tmp_path / "kept")
    assert [each.prompt for each in scored.verdicts] == some_prompts()
    assert all(len(each.images) == EACH for each in scored.verdicts)
    assert decided_again(scored.verdicts) == scored.verdicts
    found = [image.found for each in scored.verdicts for image in each.images]
    assert {name for each in found for name in each} <= set(SEEN)
    assert any(found)
    colored = [image for each in scored.verdicts if each.prompt.tag.startswith("color") for image in each.images]
    named = [objects[5] for image in colored for group in image.found.values() for objects in group]
    assert any(named)
    assert all(image.correct != bool(image.reason) for each in scored.verdicts for image in each.images)
    assert any(image.reason for each in scored.verdicts for image in each.images)


def test_the_record_names_the_verdicts_beside_it(gallery: Path, networks: JudgeNames) -> None:
    assert _eval(gallery.parent, networks) == 0
    (path,) = _records(gallery.parent)
    record = EvaluationRecord.model_validate_json(path.read_bytes())
    assert record.verdicts is not None
    verdicts = read_verdicts(path_beside(path, "verdicts"), record.verdicts)
    correct = sum(image.correct for each in verdicts for image in each.images)
    assert record.value("geneval_image_accuracy") == correct / (EACH * len(TAGS))


def test_a_killed_evaluation_goes_on_with_the_next_prompt(
    gallery: Path, judge: GenevalJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed_after_three(progress: Progress) -> None:
        if progress.label == "judging prompts" and progress.done == 3:
            raise KilledError

    with watched_by(killed_after_three), pytest.raises(KilledError):
        score_images(gallery, judge, tmp_path / "kept")
    seen: list[Path] = []

    def watched(each: PromptImages) -> list[Image.Image]:
        seen.extend(each.paths)
        return read_images(each)

    monkeypatch.setattr("harness.geneval_judging.read_images", watched)
    went_on = score_images(gallery, judge, tmp_path / "kept")
    assert {path.parent.parent.name for path in seen} == {"00003", "00004", "00005"}
    assert went_on == score_images(gallery, judge, tmp_path / "at-once")


def _cut(place: Path) -> None:
    file = place / "00001" / "samples" / "0001.png"
    file.write_bytes(file.read_bytes()[:-60])


def _remove(name: str) -> Callable[[Path], object]:
    return lambda place: (place / name).unlink()


def _write(name: str, content: str) -> Callable[[Path], object]:
    return lambda place: (place / name).write_text(content)


def _add_folder(place: Path) -> None:
    (place / "00006").mkdir()


def _resize(place: Path) -> None:
    Image.new("RGB", (30, 40)).save(place / "00002" / "samples" / "0000.png")


def _sixteen_bits(place: Path) -> None:
    Image.fromarray(np.zeros((40, 48), np.uint16)).save(place / "00002" / "samples" / "0000.png")


FAULTS: Sequence[tuple[Callable[[Path], object], str]] = (
    (_cut, r"1 unreadable images \(00001/samples/0001\.png\)"),
    (_write("00000/samples/0000.png", "text"), r"1 unreadable images \(00000/samples/0000\.png\)"),
    (_sixteen_bits, r"1 unreadable images \(00002/samples/0000\.png\)"),
    (_remove("00004/samples/0000.png"), r"1 missing images \(00004/samples/0000\.png\)"),
    (_remove("00004/samples/0001.png"), r"1 prompts with fewer than 2 images \(00004/samples: 1\)"),
    (_remove("00003/metadata.jsonl"), r"1 prompts without metadata\.jsonl \(00003\)"),
    (_write("00003/metadata.jsonl", "{"), "1 files metadata.jsonl that hold no prompt"),
    (lambda place: shutil.rmtree(place / "00002" / "samples"), r"1 prompts without images \(00002/samples\)"),
    (lambda place: shutil.rmtree(place / "00002"), r"1 missing folders of prompts \(00002\)"),
    (_add_folder, r"1 prompts without metadata\.jsonl \(00006\).*1 prompts without images \(00006/samples\)"),
    (lambda place: (place / "7").mkdir(), r"1 folders whose name is not a number of five digits \(7\)"),
    (lambda place: shutil.copy(place / "00000/samples/0000.png", place / "00000/samples/00.png"), "of one number"),
    (_resize, r"not of 48 x 40 as the others \(00002/samples/0000\.png: 30 x 40\)"),
)


@pytest.mark.parametrize(("spoil", "said"), FAULTS)
def test_what_is_missing_or_broken_is_named(gallery: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(gallery)
    with pytest.raises(UserError, match=said):
        look_through(gallery)


def test_all_faults_are_named_at_once_and_nothing_is_scored(
    gallery: Path, networks: JudgeNames, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in (0, 1, 2):
        FAULTS[index][0](gallery)
    FAULTS[5][0](gallery)
    assert _eval(gallery.parent, networks) == 2
    said = capsys.readouterr().err
    assert "3 unreadable images" in said
    assert "1 prompts without metadata.jsonl" in said
    assert "Nothing was scored" in said
    assert not _records(gallery.parent)


@pytest.mark.parametrize("change", ["another image", "gone"])
def test_an_image_that_changes_before_it_is_scored_stops_the_evaluation(
    gallery: Path, judge: GenevalJudge, tmp_path: Path, change: str
) -> None:
    seen = look_through(gallery)
    file = gallery / "00001" / "samples" / "0001.png"
    file.unlink()
    if change == "another image":
        shutil.copy(gallery / "00002" / "samples" / "0000.png", file)
    kept = tmp_path / "kept"
    kept.mkdir()
    with pytest.raises(UserError, match=r"00001/samples/0001\.png changed while it was evaluated"):
        score_gallery(seen, judge, kept, UNGUIDED)
    assert len(list(kept.iterdir())) == 1


def test_other_files_and_folders_are_passed_over(gallery: Path) -> None:
    (gallery / "grids").mkdir()
    (gallery / "00000" / "samples" / "notes.txt").write_text("good")
    (gallery / "results.jsonl").write_text("{}")
    seen = look_through(gallery)
    assert seen.images.num_images == EACH * len(TAGS)
    assert "1 other folders were passed over: grids" in seen.notes


def test_images_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    place = write_gallery(tmp_path / "images", some_prompts()[:1], 1)
    (file,) = place.rglob("samples/*.png")
    before = look_through(place)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(file).convert("RGB")
    image.transpose(Image.Transpose.ROTATE_90).save(file, exif=exif)
    after = look_through(place)
    assert (after.images.width, after.images.height) == (48, 40)
    assert after.images.sha256 == before.images.sha256


def test_the_official_prompts_are_known_by_their_name(judge: GenevalJudge) -> None:
    reference = judge.basis(official_prompts(), UNGUIDED).reference
    assert reference is not None
    assert (reference.name, reference.sha256) == ("geneval-553", LINES_SHA256)


def test_prompts_for_what_no_detector_knows_are_refused(judge: GenevalJudge, tmp_path: Path) -> None:
    dragon = Prompt(tag="single_object", include=(clause("dragon"),), prompt="a photo of a dragon")
    with pytest.raises(UserError, match="ask for what no detector of COCO knows: dragon"):
        score_images(write_gallery(tmp_path / "a", [dragon]), judge, tmp_path / "kept")
    teal = Prompt(tag="colors", include=(clause("cup", color="teal"),), prompt="a photo of a teal cup")
    with pytest.raises(UserError, match="other colours than GenEval's: teal"):
        score_images(write_gallery(tmp_path / "b", [teal]), judge, tmp_path / "kept")


def test_a_verdict_belongs_to_its_prompt_and_images(gallery: Path, judge: GenevalJudge, tmp_path: Path) -> None:
    """However alike: what was kept for one folder is never taken for another's."""
    score_images(gallery, judge, tmp_path / "kept")
    number = len(list((tmp_path / "kept").glob("*.json")))
    first = some_prompts()[0].model_copy(update={"tag": "counting"})
    (gallery / "00000" / "metadata.jsonl").write_text(lines([first]))
    shutil.copy(gallery / "00001" / "samples" / "0000.png", gallery / "00002" / "samples" / "0000.png")
    score_images(gallery, judge, tmp_path / "kept")
    assert len(list((tmp_path / "kept").glob("*.json"))) == number + 2


def test_without_network_both_weights_are_named_with_the_way_to_bring_them(
    gallery: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = gallery.parent
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place / "hub"))
    assert main(["eval", "geneval", "--images", str(gallery), "--device", "cpu", "--results", str(place / "r")]) == 2
    said = capsys.readouterr().err
    for word in (
        "facebook/mask2former-swin-small-coco-instance",
        "openai/clip-vit-large-patch14",
        "preprocessor_config.json",
        "tokenizer.json",
        "model.safetensors",
        "--detector DIR --clip DIR",
    ):
        assert word in said


def test_eval_has_both_ways_and_mixes_them_up_for_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    shown = capsys.readouterr().out
    assert "--references" in shown
    assert "[geneval] ..." in shown
    assert main(["eval"]) == 2
    assert "--images --run is required" in capsys.readouterr().err
    assert main(["eval", "geneval"]) == 2
    assert "add --images DIR" in capsys.readouterr().err
    assert main(["eval", "--expect-images", "4", "geneval", "--images", "x"]) == 2
    assert "--expect-images is of no use to `eval geneval`" in capsys.readouterr().err
    assert main(["eval", "--images", "nowhere", "--detector", "x"]) == 2


def test_judges_of_equal_weights_meet_whatever_their_folders_are_called(
    judge: GenevalJudge, networks: JudgeNames, tmp_path: Path
) -> None:
    detector = shutil.copytree(networks.detector, tmp_path / "detector-of-theirs")
    clip = shutil.copytree(networks.clip, tmp_path / "clip-of-theirs")
    theirs = open_judge(JudgeNames(str(detector), str(clip), networks.size), CPU)
    assert theirs.basis(some_prompts(), UNGUIDED) == judge.basis(some_prompts(), UNGUIDED)
    assert theirs.notes != judge.notes


def test_what_is_declared_before_the_word_holds_with_what_stands_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("harness.declaring.parse", said.extend)
    monkeypatch.setattr("harness.extractors.weights_by_extractor", said.extend)
    monkeypatch.setattr("harness.geneval_evaluating.evaluate_geneval", lambda *_, **__: pytest.exit("judged"))
    before, behind = (["--declare", f"{at}=1", "--extractor-weights", f"{at}.pt"] for at in ("before", "behind"))
    with pytest.raises(pytest.exit.Exception):
        main(["eval", *before, "geneval", "--images", str(tmp_path), "--device", "cpu", *behind])
    assert said == ["before=1", "behind=1", "before.pt", "behind.pt"]


def test_nothing_is_opened_for_images_or_prompts_that_cannot_be_judged(
    gallery: Path, networks: JudgeNames, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.geneval_evaluating.open_judge", lambda *_: pytest.fail("opened"))
    dragon = Prompt(tag="single_object", include=(clause("dragon"),), prompt="a photo of a dragon")
    (gallery / "00000" / "metadata.jsonl").write_text(lines([dragon]))
    assert _eval(gallery.parent, networks) == 2
    assert "no detector of COCO knows: dragon" in capsys.readouterr().err
    shutil.rmtree(gallery)
    assert _eval(gallery.parent, networks) == 2
    assert "images does not exist" in capsys.readouterr().err
