"""Benches: everything that they time runs, in turns, and what they say can be kept and read back."""

import json
import shlex
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch

from harness import bench, database, record_rows, store, store_bench
from harness.bench import CPU, Action, in_turns, ratio_of
from harness.bench_records import (
    BenchCase,
    BenchRecord,
    Quartiles,
    append_bench,
    read_benches,
    seconds_per_training_image,
)
from harness.cli import main
from harness.errors import UserError
from harness.records import Measurement
from harness.spec import RunConfig
from harness.synthetic_records import synthetic
from harness.training_bench import matrix_rate, training_speed
from tests.builders import QUICK, quick_config
from tests.test_store import CREATED, NOWHERE, make_record

torch.set_num_threads(1)

# Changes of a network that benches time in a moment.
TINY = [word for change in QUICK[:3] for word in ("--set", change)]


def test_every_round_begins_one_action_later() -> None:
    called: list[int] = []

    def action(index: int) -> Action:
        return lambda: called.append(index)

    timed = in_turns([action(index) for index in range(3)], 4, "test")
    warm_up, rounds = called[:-12], called[-12:]
    assert warm_up == [0, 1, 2] * (len(warm_up) // 3)
    assert rounds == [0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 1, 2]
    assert [len(seconds) for seconds in timed] == [3] * 4


def test_ratios_are_taken_pair_by_pair() -> None:
    found = ratio_of([(1.0, 2.0), (2.0, 6.0), (4.0, 4.0)])
    assert (found.median, found.least, found.greatest) == (2.0, 1.0, 3.0)
    assert ratio_of([(1.0, 2.0, 5.0)], of=2).median == 5.0


def test_training_times_every_arm_eager_and_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as a whole as for the default backend, whose minutes of compiling show nothing more."""
    traced: list[torch.nn.Module] = []

    def trace(network: torch.nn.Module) -> object:
        traced.append(network)
        return torch.compile(network, backend="eager", dynamic=False, fullgraph=True)

    monkeypatch.setattr(bench, "compiled_whole", trace)
    configs = [quick_config(tmp_path, "sit", registers) for registers in ("none", "denoiser")]
    found = training_speed(configs, (False, True), batch=2, rounds=2)
    assert [(arm.config.registers.preset, arm.compiled) for arm in found.arms] == [
        ("none", False),
        ("none", True),
        ("denoiser", False),
        ("denoiser", True),
    ]
    assert len(traced) == 2
    assert [arm.operations for arm in found.arms[:2]] == [1.0, 1.0]
    assert found.arms[2].operations == found.arms[3].operations > 1.0
    assert found.arms[0].ratio.least == found.arms[0].ratio.greatest == 1.0
    assert (found.matrix_rate, found.arms[0].mfu, found.arms[0].memory) == (None, None, None)
    assert "compiled" in found.report()
    assert "MFU" not in found.report()
    case = found.cases()[3]
    assert case.is_of(configs[1])
    assert not case.is_of(configs[0])
    assert case.compiled
    assert case.images_per_second is not None
    assert case.images_per_second.first_quartile <= case.images_per_second.third_quartile


def test_a_cpu_has_no_matrix_rate() -> None:
    assert matrix_rate(CPU) is None


SUBJECTS = {
    "training": ["--backbones", "sit", "--compile", "off", "--batch", "2", *TINY],
    "sampling": ["--backbones", "sit", "--compile", "off", "--batch", "2", "--set", "sampler.points=3", *TINY],
    "features": ["--images", "8"],
    "frechet": ["--features", "8"],
    "overhead": ["--backbones", "sit", *TINY],
    "cost": ["--backbones", "sit", "--registers", "none", *TINY],
}
SAID = {
    "training": ["img/s", "registers", "GFLOPs over"],
    "sampling": ["img/s", "forward passes", "sit-tiny, registers denoiser, eager"],
    "features": ["digits on CPU", "a second"],
    "frechet": ["clean-fid"],
    "overhead": ["GFLOP ratio", "sit-tiny"],
    "cost": ["GFLOP per forward pass", "images trained per second"],
}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_what_a_bench_prints_can_be_recorded_and_read_back(
    subject: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = [] if subject == "frechet" else ["--threads", "1"]
    words = [*SUBJECTS[subject], *threads, "--repeats", "2", "--record", "--results", str(tmp_path)]
    assert main(["bench", subject, *words]) == 0
    said = capsys.readouterr()
    assert all(word in said.out for word in SAID[subject])
    stored, problems = read_benches(tmp_path)
    assert problems == []
    (record,) = [each.record for each in stored]
    assert record.subject == subject
    assert str(stored[0].path) in said.err
    assert all(case.images_per_second or case.measurements for case in record.cases)
    again = shlex.split(record.command)
    assert again[:2] == ["bench", subject]
    assert "--repeats 2" in record.command


def test_flags_that_went_say_what_there_is_instead(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--frechet"]) == 2
    assert "SUBJECT" in capsys.readouterr().err


def test_the_store_and_the_board_are_benched_on_synthetic_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for registers in ("none", "denoiser"):
        store.append(tmp_path, make_record(quick_config(tmp_path, "sit", registers)), None)
    assert main(["bench", "store", "--records", "4", "--results", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["records"] == 4
    assert found["memory"] >= found["idle_memory"] > 0
    assert main(["bench", "board", "--records", "4", "--results", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert all(question in said for question in ("runs", "arms with intervals", "start to first table", "Compare"))


def test_synthetic_records_are_valid_and_find_their_matched_arm(tmp_path: Path) -> None:
    for registers in ("none", "denoiser"):
        store.append(tmp_path, make_record(quick_config(tmp_path, "sit", registers)), None)
    made = list(synthetic(tmp_path, 6))
    into = tmp_path / "others"
    for record in made:
        store.append(into, record, None)
    stored, problems = store.read_all(into)
    assert problems == []
    assert len({each.record.run_id for each in stored}) == 6
    ids = {each.record.run_id for each in stored}
    assert all(each.record.config.without_registers().run_id in ids for each in stored)
    assert len({each.record.value("fd_digits") for each in stored}) == 6


def test_nothing_can_be_made_from_no_record(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no record"):
        store_bench.store_speed(tmp_path, 3)


def _record(config: RunConfig, images_per_second: float, minutes: int = 0, **changes: object) -> BenchRecord:
    speed = Quartiles(
        median=images_per_second, first_quartile=0.9 * images_per_second, third_quartile=1.1 * images_per_second
    )
    case = BenchCase(
        title="test",
        backbone=config.exact_name,
        network=config.network,
        registers=config.registers,
        batch=2,
        compiled=False,
        precision="float32",
        gflops=10.0,
        images_per_second=speed,
        measurements=(Measurement(name="first_step", value=1.0, unit="s", better="lower"),),
    )
    return BenchRecord(
        subject="training",
        created=CREATED + timedelta(minutes=minutes),
        command="bench training",
        settings={},
        device="NVIDIA H200",
        cases=(case.model_copy(update=changes),),
        provenance=NOWHERE,
    )


def test_an_estimate_is_the_newest_timing_of_the_very_same_arm(tmp_path: Path) -> None:
    ours, none = (quick_config(tmp_path, "sit", registers) for registers in ("denoiser", "none"))
    assert seconds_per_training_image(tmp_path, ours, "NVIDIA H200") is None
    append_bench(tmp_path, _record(ours, 100.0))
    append_bench(tmp_path, _record(ours, 200.0, minutes=1))
    append_bench(tmp_path, _record(none, 400.0, minutes=2))
    assert seconds_per_training_image(tmp_path, ours, "NVIDIA H200") == 1 / 200
    assert seconds_per_training_image(tmp_path, ours, "CPU") is None


def test_an_estimate_prefers_what_was_compiled_as_the_run_is(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    append_bench(tmp_path, _record(config, 300.0, compiled=True))
    assert seconds_per_training_image(tmp_path, config, "NVIDIA H200") == 1 / 300, "better than nothing"
    append_bench(tmp_path, _record(config, 100.0))
    append_bench(tmp_path, _record(config, 200.0, minutes=1, compiled=True))
    assert seconds_per_training_image(tmp_path, config, "NVIDIA H200") == 1 / 100
    execution = config.execution.model_copy(update={"compiled": True})
    compiled = config.model_copy(update={"execution": execution})
    assert seconds_per_training_image(tmp_path, compiled, "NVIDIA H200") == 1 / 200


def test_an_estimate_of_another_network_goes_by_operations(tmp_path: Path) -> None:
    timed, other = quick_config(tmp_path, "sit"), quick_config(tmp_path, "sit", "none", "network.depth=4")
    append_bench(tmp_path, _record(timed, 100.0))
    append_bench(tmp_path, _record(timed, 10.0, minutes=1, network={}, gflops=1000.0))
    assert seconds_per_training_image(tmp_path, other, "NVIDIA H200") is None
    scaled = seconds_per_training_image(tmp_path, other, "NVIDIA H200", lambda _: 30.0)
    assert scaled == pytest.approx(3 / 100)


def test_a_bench_that_was_changed_or_damaged_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = quick_config(tmp_path)
    good, changed, moved = (append_bench(tmp_path, _record(config, speed)) for speed in (100.0, 200.0, 300.0))
    changed.write_text(changed.read_text().replace('"median": 200.0', '"median": 900.0'))
    moved.rename(tmp_path / "bench" / moved.name)
    damaged = good.with_name("half.json")
    damaged.write_bytes(good.read_bytes()[:100])
    stored, problems = read_benches(tmp_path)
    assert [each.path for each in stored] == [good]
    assert {problem.path.name for problem in problems} == {changed.name, moved.name, "half.json"}
    assert main(["index", "--results", str(tmp_path)]) == 2
    assert "half.json" in capsys.readouterr().err
    with duckdb.connect(tmp_path / database.DATABASE, read_only=True) as connection:
        rows = connection.execute('SELECT backbone, registers, images_per_second FROM "benches"').fetchall()
    assert rows == [("sit-tiny", "none", 100.0)]


def test_a_bench_is_never_overwritten(tmp_path: Path) -> None:
    record = _record(quick_config(tmp_path), 100.0)
    append_bench(tmp_path, record)
    with pytest.raises(UserError, match="never overwritten"):
        append_bench(tmp_path, record)


def test_a_rebuild_holds_no_more_rows_for_more_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch that DuckDB is given stays below the bound and what is read at once, and none is lost between."""
    config = quick_config(tmp_path)
    for seed in range(12):
        record = make_record(config.model_copy(update={"seed": seed}), minutes=seed)
        curve = tuple((step, 1.0 / step) for step in range(1, 8))
        store.append(tmp_path, record.model_copy(update={"loss_curve": curve}), None)
    monkeypatch.setattr(record_rows, "AT_ONCE", 1)
    monkeypatch.setattr(database, "ROWS_HELD", 10)
    monkeypatch.setattr(database, "NUMBERS_HELD", 20)
    given: dict[str, list[int]] = defaultdict(list)
    created = database._created

    def watched(connection: duckdb.DuckDBPyConnection, name: str, columns: dict[str, str]) -> object:
        insert = created(connection, name, columns)

        def watch(values: dict[str, Any]) -> None:
            given[name].append(len(next(iter(values.values()))))
            insert(values)

        return watch

    monkeypatch.setattr(database, "_created", watched)
    assert database.rebuild(tmp_path).records == 12
    assert max(given["runs"]) <= 10
    assert max(given["measurements"]) <= 10 + 4
    assert max(given["loss_curves"]) <= 10 + 7, "two numbers a row"
    with duckdb.connect(tmp_path / database.DATABASE, read_only=True) as connection:
        counts = [
            connection.execute(f"SELECT count(*) FROM {name}").fetchone()
            for name in ("runs", "measurements", "loss_curves")
        ]
    assert counts == [(12,), (48,), (84,)]


def test_numbers_that_are_absent_are_null_in_the_database(tmp_path: Path) -> None:
    store.append(tmp_path, make_record(quick_config(tmp_path)), None)
    database.rebuild(tmp_path)
    with duckdb.connect(tmp_path / database.DATABASE, read_only=True) as connection:
        errors = connection.execute("SELECT count(*), count(standard_error), count(num_images) FROM measurements")
        assert errors.fetchone() == (4, 0, 2)
        assert connection.execute('SELECT diverged_at_step, "count", dirty FROM runs').fetchone() == (None, None, None)


def test_a_record_of_this_moment_has_a_name_of_its_own(tmp_path: Path) -> None:
    record = _record(quick_config(tmp_path), 100.0).model_copy(update={"created": datetime.now(UTC)})
    path = append_bench(tmp_path, record)
    assert path.parent == tmp_path / "bench" / "training"
    assert path.stem.endswith(record.digest)
