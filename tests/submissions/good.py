"""What is accepted: each submission adds itself to a sound folder."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from harness import store
from harness.evaluation_records import EvaluationRecord, ImageSet
from harness.evaluation_store import append_evaluation
from harness.records import RunRecord
from harness.withdrawals import withdraw
from tests.submissions import prompted
from tests.submissions.folder import Fields, Folder, measurement, otherwise_made, submitted


def evaluated(folder: Folder) -> Path:
    """An evaluation of a run's samples, by what the run itself said of them."""
    record = _read(folder.none)
    images = ImageSet(
        name="samples",
        kind="npz",
        sha256="2" * 64,
        num_images=record.conditions.num_images,
        channels=1,
        height=8,
        width=8,
        least_pixel=0,
        greatest_pixel=255,
        duplicates=0,
    )
    judged = EvaluationRecord(
        evaluation_id="0123456789ab",
        created=datetime(2026, 11, 21, 12, tzinfo=UTC),
        images=images,
        run_id=record.run_id,
        conditions=record.conditions,
        circumstances=record.circumstances,
        measurements=tuple(m for m in record.measurements if m.name in ("fd_digits", "kd_digits")),
        provenance=record.provenance,
    )
    return append_evaluation(folder.results, judged)


def _read(path: Path) -> RunRecord:
    stored = store.read(path)
    assert isinstance(stored, store.Stored), stored
    return stored.record


def _diverged(folder: Folder) -> None:
    counted = {"parameters", "trainable_parameters", "gflops", "nfe", "gflops_per_image"}
    kept = {*counted, "train_seconds", "peak_memory"}

    def change(fields: Fields) -> None:
        measured = [each for each in fields["measurements"] if each["name"] in kept]
        fields.update(status="diverged", diverged_at_step=4, measurements=measured, outliers=[], samples=None)
        fields.update(moments=None, norm_maps=None, loss_curve=[])
        fields["config"]["seed"] = 5
        measurement(fields, "train_seconds")["value"] += 1.0

    path = submitted(folder.none, change, moved=False)
    for ending in (".png", ".moments.safetensors", ".norms.safetensors"):
        path.with_name(path.stem + ending).unlink(missing_ok=True)


def _third_party(folder: Folder) -> None:
    def change(fields: Fields) -> None:
        fields["config"].update(backbone="mine", size="tiny", third_party={"file": "mine.py", "sha256": "3" * 64})
        fields["samples"] = None
        measurement(fields, "parameters")["value"] += 1.0
        fields.update(moments=None, norm_maps=None)
        otherwise_made(fields)

    path = submitted(folder.registers, change, moved=False)
    for ending in (".png", ".moments.safetensors", ".norms.safetensors"):
        path.with_name(path.stem + ending).unlink(missing_ok=True)


def _again(folder: Folder) -> None:
    """The same run on another machine, where rounding gave other last digits."""

    def change(fields: Fields) -> None:
        fields["created"] = "2026-11-21T15:00:00Z"
        otherwise_made(fields, by=1e-3)

    submitted(folder.new, change, moved=False)


def _withdrawn(folder: Folder) -> None:
    withdraw(folder.results, folder.old, "its seed was chosen by its score")


def _withdrawn_and_gone(folder: Folder) -> None:
    _withdrawn(folder)
    folder.old.unlink()
    folder.old.with_suffix(".png").unlink()


def _without_picture(folder: Folder) -> None:
    path = submitted(folder.new, lambda fields: fields.update(samples=None))
    path.with_suffix(".png").unlink()


ALL: dict[str, Callable[[Folder], object]] = {
    "runs of today with norm maps and moments, and committed ones of both schemas": lambda _: None,
    "a run that diverged": _diverged,
    "a third party's backbone": _third_party,
    "an evaluation": evaluated,
    "an evaluation by GenEval's prompts": prompted.official,
    "an evaluation by somebody's own prompts": prompted.mine,
    "a run once more": _again,
    "a withdrawal": _withdrawn,
    "a withdrawal of a file that is gone": _withdrawn_and_gone,
    "no picture": _without_picture,
    "moments that stay at home": lambda f: f.none.with_name(f"{f.none.stem}.moments.safetensors").unlink(),
}
