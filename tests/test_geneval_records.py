"""GenEval in records: its verdicts lie beside them, and every value, prompt and category is what these give."""

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from harness import attachments, catalog, database, store
from harness.attachments import attachment_of, path_beside
from harness.comparability import Basis, Conditions, ReferenceIdentity, guidance_used
from harness.contributing.candidates import Places, find_candidate
from harness.contributing.configurations import breaches_of_configuration
from harness.contributing.deciding_again import breaches_of_verdicts
from harness.contributing.plausibility import breaches_of_run
from harness.contributing.recounting import Recounting
from harness.contributing.twins import faults_of_twins, traits_of_run
from harness.contributing.values import problems_of_measurement
from harness.contributing.verdict import Breach
from harness.errors import UserError
from harness.evaluation_records import EvaluationRecord
from harness.metric_definitions import BY_PREFIX, GENEVAL, GENEVAL_SHAPES
from harness.metrics.geneval.exact_detector import IDENTITY
from harness.metrics.geneval.official_prompts import prompts_sha256
from harness.metrics.geneval.rules import OFFICIAL
from harness.metrics.geneval.summary import summarise
from harness.metrics.geneval.values import measurements
from harness.metrics.geneval.verdict_files import encode
from harness.records import Measurement, RunRecord
from harness.resolve import Request, resolve
from harness.spec import Execution, RunConfig
from harness.texts import prompts_of
from harness.workspace import Workspace
from tests.builders import quick_config
from tests.submissions import broken_prompts, prompted
from tests.submissions.folder import Folder
from tests.test_store import make_record


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder with one run's record, whose provenance evaluations take."""
    place = tmp_path_factory.mktemp("whole")
    path = store.append(place / "results", make_record(quick_config(place)), None)
    return Folder(place / "results", path, path)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run on drawn shapes, one image for each prompt."""
    place = tmp_path_factory.mktemp("drawn")
    task = "shapes-t2i"
    execution = Execution(results=str(place / "results"), runs=str(place / "runs"), device="cpu")
    config = resolve(Request(backbone="sit", registers="none", task=task, execution=execution))
    protocol = config.protocol.model_copy(update={"num_images": len(prompts_of(config.task))})
    return config.model_copy(update={"protocol": protocol})


def _judged_run(config: RunConfig, minutes: int = 0) -> tuple[RunRecord, bytes]:
    """A record of that run with what its verdicts give, and these as bytes."""
    prompts = prompts_of(config.task)
    verdicts = prompted.decided(prompts, each=config.protocol.num_images // len(prompts))
    basis = Basis(
        extractor=IDENTITY,
        reference=ReferenceIdentity(name="shapes-prompts", sha256=prompts_sha256(prompts)),
        guidance=guidance_used(config),
        settings=OFFICIAL.words(),
    )
    content = encode(verdicts)
    update = {
        "measurements": tuple(measurements(summarise(verdicts), GENEVAL_SHAPES, basis)),
        "verdicts": attachment_of(content),
    }
    return make_record(config, minutes=minutes).model_copy(update=update), content


def _breaches(path: Path) -> list[Breach]:
    return list(breaches_of_verdicts(EvaluationRecord.model_validate_json(path.read_bytes()), path))


def test_every_number_of_geneval_has_one_settled_name() -> None:
    listed = {each["name"]: each for each in catalog.list_metrics()}
    verdicts = prompted.decided(prompted.some_prompts())
    basis = prompted.basis_of(prompted.some_prompts(), "mine")
    for prefix in BY_PREFIX:
        given = measurements(summarise(verdicts), prefix, basis)
        assert [each.name for each in given] == [each.name for each in BY_PREFIX[prefix]]
        for each in given:
            assert (each.unit, each.better) == (listed[each.name]["unit"], listed[each.name]["better"])
            assert "prompts" in listed[each.name]["needs"]
    assert listed["clip_score"]["unit"] == "100 x cosine"


def test_shares_beyond_one_and_scores_below_zero_are_impossible() -> None:
    prompts = prompted.some_prompts()
    basis = prompted.basis_of(prompts, "mine")
    conditions = Conditions(num_images=26, channels=3, height=8, width=8)
    (share, *_) = measurements(summarise(prompted.decided(prompts)), GENEVAL, basis)
    score = Measurement(name="clip_score", value=31.2, unit="100 x cosine", better="higher", num_images=26, basis=basis)
    for sound, wrong in ((share, 1.2), (score, -0.1), (score, 100.5)):
        assert list(problems_of_measurement(sound, conditions)) == []
        (problem,) = problems_of_measurement(sound.model_copy(update={"value": wrong}), conditions)
        assert problem[0] == "range"


@pytest.mark.parametrize("name", broken_prompts.FURTHER)
def test_verdicts_that_are_not_those_of_the_values_are_refused(name: str, whole: Folder, tmp_path: Path) -> None:
    rule, words, spoil = broken_prompts.FURTHER[name]
    folder = whole.copied(tmp_path)
    spoil(folder)
    (path,) = (folder.results / "evaluations").glob("*.json")
    said = [breach.problem for breach in _breaches(path) if breach.rule == rule]
    assert [problem for problem in said if words in problem], _breaches(path)


def test_an_evaluation_by_five_categories_has_no_headline_and_is_accepted(whole: Folder, tmp_path: Path) -> None:
    prompts = [prompt for prompt in prompted.some_prompts() if prompt.tag != "counting"]
    path = prompted.judged(whole.copied(tmp_path), prompts, "mine")
    assert EvaluationRecord.model_validate_json(path.read_bytes()).value(GENEVAL) is None
    assert _breaches(path) == []


def test_a_run_brings_the_verdicts_on_its_tasks_prompts(drawn: RunConfig, tmp_path: Path) -> None:
    record, content = _judged_run(drawn)
    path = store.append(tmp_path, record, None, verdicts=content)
    assert path_beside(path, "verdicts").name == f"{path.stem}.verdicts.jsonl.gz"
    assert list(breaches_of_verdicts(record, path)) == []
    without = record.model_copy(update={"verdicts": None})
    assert ["comes without the verdicts" in each.problem for each in breaches_of_verdicts(without, path)] == [True]
    assert [each.problem for each in breaches_of_run(record, datetime.now(UTC)) if each.rule == "status"] == []
    (lacking,) = (
        each.problem
        for each in breaches_of_run(record.model_copy(update={"measurements": ()}), datetime.now(UTC))
        if each.rule == "status"
    )
    assert "lacks geneval_shapes" in lacking


def test_a_run_cannot_choose_its_prompts(drawn: RunConfig, tmp_path: Path) -> None:
    """Those on which it is good are no sample of its task's."""
    record, _ = _judged_run(drawn)
    prompts = [prompt for prompt in prompts_of(drawn.task) if prompt.tag != "position"][::2]
    verdicts = prompted.decided(prompts, each=1)
    content = encode(verdicts)
    basis = record.measurements[0].basis
    assert basis is not None
    chosen = basis.model_copy(update={"reference": ReferenceIdentity(name="mine", sha256=prompts_sha256(prompts))})
    update = {
        "measurements": tuple(measurements(summarise(verdicts), GENEVAL, chosen)),
        "verdicts": attachment_of(content),
    }
    path = tmp_path / "a.json"
    path_beside(path, "verdicts").write_bytes(content)
    said = "\n".join(each.problem for each in breaches_of_verdicts(record.model_copy(update=update), path))
    for words in ("are not the", "GenEval's own 553 prompts alone", "found in images of shapes-t2i"):
        assert words in said


def test_the_configuration_of_a_run_with_prompts_is_one_that_resolves(drawn: RunConfig) -> None:
    assert list(breaches_of_configuration(drawn)) == []
    assert drawn.text is not None
    for update, words in (
        ({"text": None}, "its network reads none"),
        ({"text": drawn.text.model_copy(update={"depth": 10_000})}, "text.depth is 10,000: at most"),
        ({"task": drawn.task.model_copy(update={"data_fingerprint": "mine"})}, "says other things of them"),
        ({"protocol": drawn.protocol.model_copy(update={"num_images": 77})}, "balanced over 76 prompts"),
    ):
        problems = [each.problem for each in breaches_of_configuration(drawn.model_copy(update=update))]
        assert [problem for problem in problems if words in problem], problems


def test_the_text_encoder_is_counted_again(drawn: RunConfig, tmp_path: Path) -> None:
    assert drawn.text is not None
    wider = drawn.model_copy(update={"text": drawn.text.model_copy(update={"width": 2 * drawn.text.width})})
    recounting = Recounting(tmp_path)
    said = []
    for config in (drawn, wider):
        breaches = recounting.breaches(make_record(config), config.arm_id)
        said.append([each.problem for each in breaches if "gflops is" in each.problem])
    assert said[0] != said[1]


def test_verdicts_of_another_run_are_a_copy_and_those_on_nothing_are_not(drawn: RunConfig) -> None:
    first, _ = _judged_run(drawn)
    other, _ = _judged_run(drawn.model_copy(update={"seed": 5}), minutes=1)
    traits = [traits_of_run(f"{n}.json", each, known=False) for n, each in enumerate((first, other))]
    (fault,) = faults_of_twins(traits)
    assert "its verdicts are those of another run" in fault.problem
    nothing = tuple(each.model_copy(update={"value": 0.0}) for each in first.measurements)
    hardly = [each.model_copy(update={"measurements": nothing}) for each in (first, other)]
    assert list(faults_of_twins(traits_of_run(f"{n}.json", each, known=False) for n, each in enumerate(hardly))) == []


def test_verdicts_go_with_the_record_that_is_submitted(drawn: RunConfig, tmp_path: Path) -> None:
    """From beside it where it was published, else from where the run worked."""
    record, content = _judged_run(drawn)
    places = Places(tmp_path / "results", tmp_path / "runs")
    space = Workspace(places.runs / record.run_id)
    space.folder.mkdir(parents=True)
    space.keep(record)
    with pytest.raises(UserError, match="is missing"):
        find_candidate(record.run_id, places, "without")
    space.verdicts.write_bytes(content)
    for _ in range(2):
        candidate = find_candidate(record.run_id, places, "without")
        name = path_beside(store.path_of(Path(), record), "verdicts").as_posix()
        assert candidate.files[name] == content
        if not places.results.exists():
            store.append(places.results, record, None, verdicts=content)
            space.verdicts.unlink()


def test_the_database_names_verdicts_that_are_there(drawn: RunConfig, whole: Folder, tmp_path: Path) -> None:
    folder = whole.copied(tmp_path)
    evaluation = prompted.mine(folder)
    record, content = _judged_run(drawn)
    path = store.append(folder.results, record, None, verdicts=content)

    def named(table: str) -> list[str]:
        index = database.rebuild(folder.results)
        with duckdb.connect(str(index.database), read_only=True) as connection:
            rows = connection.execute(f"SELECT verdicts FROM {table} WHERE verdicts IS NOT NULL").fetchall()
        return [str(name) for (name,) in rows]

    for table, beside in (
        ("runs", path_beside(path, "verdicts")),
        ("evaluations", path_beside(evaluation, "verdicts")),
    ):
        assert named(table) == [beside.relative_to(folder.results).as_posix()]
        beside.unlink()
        assert named(table) == []


def test_a_record_of_before_has_no_verdicts() -> None:
    committed = sorted((Path(__file__).parent.parent / "results/measured/digits/sit").glob("*.json"))[0]
    stored = store.read(committed)
    assert isinstance(stored, store.Stored)
    assert stored.record.verdicts is None
    assert stored.record.attachments.keys() == attachments.ENDINGS.keys()
