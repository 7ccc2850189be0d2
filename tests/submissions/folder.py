"""A small results folder to submit to, and the ways in which a record in it is written anew."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.attachments import attachment_of, path_beside
from harness.circumstances import circumstances_of
from harness.comparability import conditions_of
from harness.records import Provenance
from harness.spec import RunConfig
from harness.store import record_name

COMMITTED = Path(__file__).parents[2] / "results"
OLD = "20261121T025709664354Z-291ac8cee5c4"
NEW = "20261121T123150092966Z-c259fc1ed92e"
ENDINGS = (".json", ".png", ".moments.safetensors", ".norms.safetensors")

Fields = dict[str, Any]
Change = Callable[[Fields], object]


@dataclass(frozen=True)
class Folder:
    """Results with two runs that were made a moment ago, `none` and `registers`, and two that are committed.

    `none` came with norm maps and moments, `old` is of the first schema.
    """

    results: Path
    none: Path
    registers: Path

    @property
    def old(self) -> Path:
        """A committed record of schema 1."""
        return self.results / f"measured/digits/sit/{OLD}.json"

    @property
    def new(self) -> Path:
        """A committed record of schema 2."""
        return self.results / f"measured/digits/sit/{NEW}.json"

    def copied(self, place: Path) -> "Folder":
        """All of it once more, to be spoiled."""
        results = place / "results"
        shutil.copytree(self.results, results, symlinks=True)
        return Folder(results, self._in(results, self.none), self._in(results, self.registers))

    def _in(self, results: Path, path: Path) -> Path:
        return results / path.relative_to(self.results)


def add_committed(results: Path) -> None:
    """Two of the project's own records with their pictures, a bench and a source."""
    for stem in (OLD, NEW):
        for ending in (".json", ".png"):
            _copy(results, f"measured/digits/sit/{stem}{ending}")
    for path in sorted((COMMITTED / "bench/store").glob("*.json"))[:1]:
        _copy(results, str(path.relative_to(COMMITTED)))
    _copy(results, "published/clean-fid.json")


def _copy(results: Path, name: str) -> None:
    (results / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(COMMITTED / name, results / name)


def edited(path: Path, change: Change) -> Path:
    """Change a record's fields and nothing else: what hangs together no longer does."""
    fields = json.loads(path.read_bytes())
    change(fields)
    path.write_text(json.dumps(fields, indent=1) + "\n")
    return path


def submitted(path: Path, change: Change, *, moved: bool = True) -> Path:
    """Change a record as somebody would who knows what hangs together: id, conditions, names and digests follow.

    With `moved` the old files are gone, else there are two records.
    """
    fields = json.loads(path.read_bytes())
    change(fields)
    config = RunConfig.model_validate(fields["config"])
    created = datetime.fromisoformat(fields["created"])
    stem = record_name(created, config)
    fields["run_id"] = config.run_id
    fields["conditions"] = conditions_of(config).model_dump(mode="json")
    told = fields["circumstances"]
    provenance = Provenance.model_validate(fields["provenance"])
    fields["circumstances"] = circumstances_of(
        config, provenance, told["nfe"], told["decoder_sha256"] or None
    ).model_dump(mode="json")
    if fields["samples"] and fields["samples"]["file"] == f"{path.stem}.png":
        fields["samples"]["file"] = f"{stem}.png"
    place = path.parents[2] / config.task.name / config.backbone / f"{stem}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    for ending in ENDINGS:
        beside = path.with_name(f"{path.stem}{ending}")
        if beside.exists() and moved:
            beside.rename(place.with_name(f"{stem}{ending}"))
        elif beside.exists() and beside.with_name(f"{stem}{ending}") != beside:
            shutil.copy(beside, place.with_name(f"{stem}{ending}"))
    place.write_text(json.dumps(fields, indent=1) + "\n")
    return place


def with_picture(path: Path, picture: bytes) -> Path:
    """Give a record another picture, which it names rightly."""
    path.with_suffix(".png").write_bytes(picture)
    digest = hashlib.sha256(picture).hexdigest()
    return edited(path, lambda fields: fields["samples"].update(sha256=digest))


def with_norm_maps(path: Path, content: bytes) -> Path:
    """Give a record other norm maps, which it names rightly."""
    path_beside(path, "norms").write_bytes(content)
    named = attachment_of(content).model_dump()
    return edited(path, lambda fields: fields.update(norm_maps=named))


def measurement(fields: Fields, name: str) -> Fields:
    """The first measurement of that name."""
    found: Fields = next(each for each in fields["measurements"] if each["name"] == name)
    return found


def otherwise_made(fields: Fields, by: float = 1.0) -> None:
    """As though the run had been made once more: other seconds, distances and losses."""
    for each in fields["measurements"]:
        if each["name"] in ("fd_digits", "kd_digits") or "second" in each["name"]:
            each["value"] += by
        if "mean" in each["parts"]:
            each["parts"]["mean"] += by
    fields["loss_curve"] = [[step, loss + by] for step, loss in fields["loss_curve"]]
