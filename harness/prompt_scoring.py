"""What images give that were made for prompts, besides right or wrong: CLIPScore, and distances to references."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.comparability import Basis, GuidanceUsed
from harness.errors import UserError
from harness.files import write_text
from harness.geneval_judging import digest_of, read_kept
from harness.image_sets import open_images, survey
from harness.judging import Judge, Kept, Scores, Seen, Setting, find_judges, judge
from harness.metrics.clip import Clip
from harness.metrics.clip_score import PromptScores, measurement, score_prompt
from harness.metrics.geneval.layout import Gallery, read_images
from harness.progress import Progress
from harness.records import Measurement


@dataclass(frozen=True)
class Comparison:
    """Images of prompts as one set, and the judges that compare it with references; none where nobody named any."""

    place: Path
    judges: Sequence[Judge]
    setting: Setting

    def scores(self, gallery: Gallery, guidance: GuidanceUsed, folder: Path) -> Scores:
        """Whatever these references give.  Features are kept in `folder`, so that an interrupted comparison goes on.

        Raises UserError where the images are not, pixel by pixel, those of the gallery.
        """
        if not self.judges:
            return Scores([], [])
        with open_images(self.place) as stored:
            found = survey(stored)
            if found.images.sha256 != gallery.images.sha256:
                raise _others(self.place)
            kept = Kept(folder, self.setting.provenance().code_sha256)
            return judge(Seen(stored, found, guidance), self.judges, self.setting, kept)


def open_comparison(place: Path, references: tuple[str, ...], setting: Setting) -> Comparison:
    """Find the references of these names, and open their extractors.

    Raises UserError where a reference is not there, or the images are not such as its extractor takes.
    """
    if not references:
        return Comparison(place, (), setting)
    with open_images(place) as stored:
        return Comparison(place, find_judges(references, stored.shape, setting), setting)


def clip_score(gallery: Gallery, clip: Clip, basis: Basis, folder: Path) -> Measurement:
    """The mean CLIPScore of all images.

    A prompt's scores are kept in `folder`, so that an interrupted scoring goes on with the next one.
    """
    told = json.dumps(["CLIPScore", clip.identity.model_dump(), Setting().provenance().code_sha256])
    files = [folder / f"{digest_of(each, told)}.json" for each in gallery.prompts]
    missing = [(each, file) for each, file in zip(gallery.prompts, files, strict=True) if not file.exists()]
    with Progress("CLIPScore, prompts", len(files), len(files) - len(missing)) as progress:
        for each, file in missing:
            write_text(file, score_prompt(clip, read_images(each), each.prompt.prompt).model_dump_json())
            progress.advance(1)
    return measurement([read_kept(file, PromptScores) for file in files], basis)


def _others(place: Path) -> UserError:
    return UserError(
        f"the images in {place} that references would be compared with are not those that are judged: some changed "
        "meanwhile, or are turned by their EXIF, or are not RGB, which GenEval's judge sees as RGB",
        "write upright RGB images, and run it again when they are still; or leave --references out",
    )
