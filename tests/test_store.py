"""Records: appended, never changed; the database: rebuilt whole from them."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from pydantic import ValidationError

from harness import database, record_rows, store
from harness.circumstances import circumstances_of
from harness.comparability import Basis, Conditions, conditions_of
from harness.digits_judge import EXTRACTOR, REFERENCE
from harness.evaluation_records import EvaluationRecord, ImageSet
from harness.records import Measurement, Provenance, RunRecord
from harness.spec import RaeLatents, RunConfig
from harness.stages import stages
from harness.synthetic_records import write_synthetic
from leaderboard import queries
from tests.builders import quick_config

CREATED = datetime(2026, 11, 21, 3, 4, 5, 678901, UTC)
BASIS = Basis(extractor=EXTRACTOR, reference=REFERENCE)
NOWHERE = Provenance(
    commit=None,
    dirty=None,
    code_sha256="0" * 64,
    versions={"python": "3.11.7", "torch": "2.15.0", "numpy": "2.4.6"},
    machine={},
    device="cpu",
    precision="float32",
    threads=1,
    sampling_batch=1,
)


def make_record(config: RunConfig, value: float = 10.0, minutes: int = 0) -> RunRecord:
    """A record that was not run, for what does not look at its numbers."""
    measurements = (
        Measurement(name="fd_digits", value=value, unit="d", better="lower", num_images=30, basis=BASIS),
        Measurement(name="digits_accuracy", value=0.5, unit="share", better="higher", num_images=30),
        Measurement(name="outlier_max_over_median", value=1.5, unit="ratio", better="neither"),
        Measurement(name="gflops", value=0.01, unit="GFLOP", better="lower"),
    )
    return RunRecord(
        run_id=config.run_id,
        created=CREATED + timedelta(minutes=minutes),
        status="finished",
        config=config.published(),
        conditions=conditions_of(config),
        circumstances=circumstances_of(config, NOWHERE, 2, None),
        measurements=measurements,
        provenance=NOWHERE,
    )


def make_evaluation(config: RunConfig, conditions: Conditions) -> EvaluationRecord:
    """An evaluation of a run's samples that was not made, under conditions that it may not have had."""
    images = ImageSet(
        name="samples",
        kind="npz",
        sha256="2" * 64,
        num_images=30,
        channels=1,
        height=8,
        width=8,
        least_pixel=0,
        greatest_pixel=255,
        duplicates=0,
    )
    return EvaluationRecord(
        evaluation_id=config.run_id[::-1],
        created=CREATED + timedelta(hours=1),
        images=images,
        run_id=config.run_id,
        conditions=conditions,
        circumstances=circumstances_of(config, NOWHERE, 2, None),
        measurements=(Measurement(name="fd_digits", value=9.0, unit="d", better="lower", num_images=30, basis=BASIS),),
        provenance=NOWHERE,
    )


def _fill(place: Path) -> Path:
    results = place / "results"
    for seed in (0, 1):
        for registers, value in (("none", 10.0), ("denoiser", 8.0 + seed)):
            store.append(results, make_record(quick_config(place, "sit", registers, seed=seed), value), None)
    store.append(results, make_record(quick_config(place, "dit", "denoiser"), 3.0), None)
    return results


def _board(connection: duckdb.DuckDBPyConnection) -> queries.Board:
    """FD-digits on the largest board."""
    largest = queries.boards(connection).iloc[0]
    metrics = queries.metrics(connection, largest["task"], largest["protocol"])
    return queries.Board(largest["task"], largest["protocol"], metrics.set_index("name")["key"]["fd_digits"])


def _runs(results: Path) -> list[tuple[object, ...]]:
    connection = database.snapshot(results / database.DATABASE)
    frame = queries.runs(connection, _board(connection))
    return [(r.backbone, r.registers, r.seed, r.value, r.difference) for r in frame.itertuples()]


def test_differences_exist_only_to_the_matched_arm(tmp_path: Path) -> None:
    results = _fill(tmp_path)
    database.rebuild(results)
    rows = {(r[0], r[1], r[2]): r[4] for r in _runs(results)}
    assert rows["sit-tiny", "denoiser", 0] == -2.0
    assert rows["sit-tiny", "denoiser", 1] == -1.0
    for alone in (("sit-tiny", "none", 0), ("dit-tiny", "denoiser", 0)):
        assert rows[alone] != rows[alone], "no difference where there is no matched arm"


def test_other_data_is_another_board(tmp_path: Path) -> None:
    results = tmp_path / "results"
    config = quick_config(tmp_path)
    for fingerprint in ("one", "two"):
        task = config.task.model_copy(update={"data_fingerprint": fingerprint})
        store.append(results, make_record(config.model_copy(update={"task": task})), None)
    database.rebuild(results)
    assert len(queries.boards(database.snapshot(results / database.DATABASE))) == 2


def test_the_newest_record_of_a_run_counts_not_the_best(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    results = tmp_path / "results"
    for minutes, value in ((0, 5.0), (1, 9.0)):
        store.append(results, make_record(config, value, minutes), None)
    database.rebuild(results)
    assert [r[3] for r in _runs(results)] == [9.0]
    found = store.find(results, config)
    assert found is not None
    assert found.record.value("fd_digits") == 9.0


def test_a_record_is_never_overwritten(tmp_path: Path) -> None:
    record = make_record(quick_config(tmp_path))
    path = store.append(tmp_path, record, None)
    before = path.read_bytes()
    with pytest.raises(Exception, match="never overwritten"):
        store.append(tmp_path, record, None)
    assert path.read_bytes() == before


def test_a_copy_of_a_record_elsewhere_is_not_counted_twice(tmp_path: Path) -> None:
    results = _fill(tmp_path)
    (results / "measured" / "backup").mkdir()
    original = next((results / "measured").rglob("*.json"))
    (results / "measured" / "backup" / original.name).write_bytes(original.read_bytes())
    index = database.rebuild(results)
    assert (index.records, [p.path.parent.name for p in index.problems]) == (5, ["backup"])


@pytest.mark.parametrize("text", ['"steps": 99999999999', '"seed": 99999999999999999999'])
def test_numbers_that_no_database_holds_are_malformed(tmp_path: Path, text: str) -> None:
    results = _fill(tmp_path)
    name = text.split(":", maxsplit=1)[0]
    path = next(p for p in (results / "measured").rglob("*.json"))
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line if name not in line else f"{text}," for line in lines))
    assert len(database.rebuild(results).problems) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace('"status"', '"status": "diverged", "status"', 1), "stands twice"),
        (lambda text: "\ufeff" + text, "byte order mark"),
        (lambda text: text.replace("10.0", "NaN", 1), "NaN is no number"),
        (lambda text: text.replace("10.0", "[" * 10_000, 1), "levels deep"),
        (lambda text: text + " " * 2**21, "bytes, and may have"),
        (lambda text: text.replace("2026-11-21", "2026-11-20", 1), "does not begin with when it was created"),
    ],
)
def test_what_parsers_overlook_is_no_record(change: Callable[[str], str], reason: str, tmp_path: Path) -> None:
    path = store.append(tmp_path, make_record(quick_config(tmp_path)), None)
    path.write_text(change(path.read_text()))
    problem = store.read_in_place(tmp_path, path)
    assert isinstance(problem, store.Problem)
    assert reason in problem.reason
    assert database.rebuild(tmp_path).records == 0


def test_a_record_is_a_file_of_its_own(tmp_path: Path) -> None:
    """A link could lead anywhere, and a reader of a pipe waits for ever."""
    path = store.append(tmp_path, make_record(quick_config(tmp_path)), None)
    path.rename(tmp_path / "elsewhere.json")
    spoils: list[Callable[[], None]] = [
        lambda: path.symlink_to(tmp_path / "elsewhere.json"),
        lambda: os.mkfifo(path),
    ]
    for spoil in spoils:
        spoil()
        problem = store.read(path)
        assert isinstance(problem, store.Problem)
        assert "no plain file" in problem.reason
        path.unlink()


def test_absent_is_not_zero_and_nan_is_no_number() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            Measurement(name="x", value=value, unit="", better="lower")


def test_the_id_of_a_run_is_what_decides_its_outcome(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    elsewhere = config.model_copy(update={"execution": config.execution.model_copy(update={"threads": 7})})
    assert config.run_id == elsewhere.run_id == config.published().run_id
    assert config.run_id != quick_config(tmp_path, seed=1).run_id
    assert config.arm_id == quick_config(tmp_path, seed=1).arm_id
    assert quick_config(tmp_path, "sit", "dsr").without_registers().run_id == config.run_id


def test_ids_of_committed_records_never_move(tmp_path: Path) -> None:
    """A new field with a default must not rename the runs that were made before it."""
    from harness.resolve import Request, resolve

    assert resolve(Request("sit", registers="dsr")).run_id == "2ca20314b113"


def _digest(config: RunConfig, seed: int | str) -> str:
    fields = config.model_dump(mode="json", exclude_defaults=True, exclude={"execution"}) | {"seed": seed}
    if seed == 0:
        del fields["seed"]
    if seed == "any":
        fields.get("latents", {}).pop("statistics", None)
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@pytest.mark.parametrize("backbone", ["sit", "jit", "rae-dit"])
@pytest.mark.parametrize("registers", ["none", "dsr", "register-guidance", "wide-mlp", "longer"])
def test_an_id_is_the_digest_of_what_is_not_at_its_default(backbone: str, registers: str, tmp_path: Path) -> None:
    """JiT has native tokens, which the matched arm keeps; the statistics of latents are no part of an arm."""
    config = quick_config(tmp_path, backbone, registers)
    latents = RaeLatents(kind="rae", encoder="é", statistics="those of registers")
    for latent in (config.latents, latents):
        for seed in (0, 1, 2**62):
            run = config.model_copy(update={"latents": latent, "seed": seed})
            assert (run.run_id, run.arm_id) == (_digest(run, seed), _digest(run, "any"))
            none, identity = run.without_registers(), run.identity.without_registers
            assert (identity.run_id(seed), identity.arm_id) == (none.run_id, none.arm_id)


def test_what_is_worked_out_once_for_an_arm_is_right_for_every_run(tmp_path: Path) -> None:
    results = _fill(tmp_path)
    index = database.rebuild(results)
    with duckdb.connect(index.database, read_only=True) as connection:
        rows = connection.execute("SELECT run_id, arm_id, none_run_id, none_arm_id, seed, stages, config FROM runs")
        found = rows.fetchall()
    assert len(found) == 5
    for *ids, seed, words, text in found:
        config = RunConfig.model_validate_json(text)
        none = config.without_registers()
        assert ids == [config.run_id, config.arm_id, none.run_id, none.arm_id]
        assert (seed, words) == (config.seed, stages(config))


def _tables(results: Path) -> dict[str, list[tuple[object, ...]]]:
    """Everything that the database holds, in its order."""
    with duckdb.connect(str(results / database.DATABASE), read_only=True) as connection:
        names = [name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        return {name: connection.execute(f"SELECT COLUMNS(*)::VARCHAR FROM {name}").fetchall() for name in names}


def test_several_processes_read_what_one_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    write_synthetic(Path("results"), results, 45)
    spoiled, *_ = sorted((results / "measured").rglob("*.json"))
    spoiled.write_text("{")
    database.rebuild(results)
    alone = _tables(results)
    monkeypatch.setattr(record_rows, "MANY", 1)
    monkeypatch.setattr(record_rows, "AT_ONCE", 4)
    monkeypatch.setattr(record_rows, "cores", lambda: 3)
    assert database.rebuild(results).records == 44
    assert _tables(results) == alone
    assert [len(alone[name]) for name in ("runs", "problems")] == [44, 1]


def test_a_rebuild_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    results = _fill(tmp_path)
    left = results / f".{database.DATABASE}.0123.part.wal"
    left.write_text("half")
    database.rebuild(results)
    assert not left.exists()


def test_readers_see_the_old_database_or_the_new_one(tmp_path: Path) -> None:
    results = _fill(tmp_path)
    database.rebuild(results)
    errors: list[Exception] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                assert len(_runs(results)) == 5
            except Exception as error:  # noqa: BLE001
                errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    code = "import sys, pathlib, harness.database as d; [d.rebuild(pathlib.Path(sys.argv[1])) for _ in range(4)]"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(results)]) for _ in range(2)]
    codes = [writer.wait() for writer in writers]
    stop.set()
    reader.join()
    assert codes == [0, 0]
    assert errors == []
    assert list(results.glob("*.part")) == []


def test_an_empty_folder_is_an_empty_database(tmp_path: Path) -> None:
    index = database.rebuild(tmp_path / "new")
    assert index.records == 0
    with duckdb.connect(str(index.database), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)


def test_arms_are_means_over_seeds_with_paired_differences(tmp_path: Path) -> None:
    results = _fill(tmp_path)
    database.rebuild(results)
    connection = database.snapshot(results / database.DATABASE)
    arms = queries.arms(connection, _board(connection))
    arm = arms[(arms["backbone"] == "sit-tiny") & (arms["registers"] == "denoiser")].iloc[0]
    assert (arm["runs"], arm["mean"], arm["pairs"], arm["difference"]) == (2, 8.5, 2, -1.5)


def test_a_database_is_current_until_something_it_is_made_from_changes(tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert not database.is_current(results)
    path = store.append(results, make_record(quick_config(tmp_path)), None)
    database.rebuild(results)
    assert database.is_current(results)
    store.append(results, make_record(quick_config(tmp_path, seed=1)), None)
    assert not database.is_current(results)
    database.rebuild(results)
    path.unlink()
    assert not database.is_current(results)
