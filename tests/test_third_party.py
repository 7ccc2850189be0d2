"""A backbone in a file of somebody else's: it runs through everything, under its own digest, and is marked."""

import json
import pickle
import shutil
from pathlib import Path

import duckdb
import pytest

from harness import registry
from harness.build import build
from harness.cli import main
from harness.contributing.new import write_backbone
from harness.denoiser_probing import probe_run
from harness.errors import UserError
from harness.executing import from_anywhere
from harness.files import sha256_of
from harness.job import Job
from harness.job import main as job
from harness.records import RunRecord
from harness.resolve import Request, resolve, resolve_network
from harness.run import run
from harness.spec import Execution, RunConfig, ThirdParty
from harness.sweep import expand, grid_of
from tests.builders import quick_changes, quick_words

SMALL = ("recipe.steps=2", "protocol.num_images=10")
FROM_JIT = "from dataclasses import replace\n\nfrom baselines.jit import BACKBONE as JIT\n\n"
TWO = FROM_JIT + "first = replace(JIT, name='first')\nsecond = replace(JIT, name='first-born')\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (path,) = write_backbone("newcomer", tmp_path / "newcomer.py")
    return path


def _config(name: object, place: Path, registers: str = "none") -> RunConfig:
    execution = Execution(results=str(place / "results"), runs=str(place / "runs"), threads=1, device="cpu")
    return resolve(Request(str(name), registers, changes=(*quick_changes("sit"), *SMALL), execution=execution))


def _written(place: Path, text: str) -> Path:
    path = place / "mine.py"
    path.write_text(text)
    return path


def test_it_runs_from_the_command_line_and_its_record_says_so(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*quick_words("newcomer.py:newcomer", "dsr", *SMALL), "--json"]) == 0
    record = RunRecord.model_validate({k: v for k, v in json.loads(capsys.readouterr().out).items() if k != "path"})
    assert record.config.third_party == ThirdParty(file="newcomer.py", sha256=sha256_of(file))
    assert (record.config.backbone, record.config.exact_name) == ("newcomer", "newcomer-tiny")
    assert record.config.execution == Execution(), "a path of this machine is in the record"
    assert list((tmp_path / "results/measured/digits/newcomer").glob(f"*-{record.run_id}.json"))
    assert main(["index"]) == 0
    with duckdb.connect(str(tmp_path / "results/leaderboard.duckdb"), read_only=True) as database:
        assert database.execute("SELECT DISTINCT third_party FROM runs").fetchall() == [("newcomer.py",)]


def test_a_finished_run_of_it_is_probed_where_its_file_is_named(file: Path, tmp_path: Path) -> None:
    outcome = run(_config(file, tmp_path))
    execution = Execution(runs=str(tmp_path / "runs"), threads=1, device="cpu")
    with pytest.raises(UserError, match="came from a third party's file"):
        probe_run(outcome.record.run_id, (), execution, 2)
    probed = probe_run(outcome.record.run_id, (f"execution.backbone_file={file}",), execution, 2)
    assert probed.images == 2


def test_it_is_described_at_its_published_size(file: Path) -> None:
    config = resolve_network(Request(f"{file}:newcomer-b-16", execution=Execution(threads=1)))
    assert config.exact_name == "newcomer-b-16"
    assert config.network["input_size"] == 256


def test_a_job_takes_it_along_to_wherever_it_is_carried_out(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the local launcher hands it over, in JSON, and as Slurm's does, pickled."""
    monkeypatch.chdir(tmp_path)
    made = Job(config=from_anywhere(_config("newcomer.py:newcomer", Path())))
    assert pickle.loads(pickle.dumps(made)) == made
    (tmp_path / "job.json").write_text(made.model_dump_json())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert job([str(tmp_path / "job.json"), "local:test"]) == 0
    assert list((tmp_path / "results/measured/digits/newcomer").glob(f"*-{made.config.run_id}.json"))


def test_a_sweep_has_it_beside_our_own(file: Path) -> None:
    request = Request(f"sit,{file}:newcomer", "denoiser", execution=Execution(threads=1))
    found = expand(grid_of(request, [0], alone=False), needs_data=True)
    theirs = [config for config in found.configs if config.third_party]
    assert {config.execution.backbone_file for config in theirs} == {str(file)}
    assert (len(found.configs), len(theirs)) == (4, 2)
    assert all(config.execution.backbone_file is None for config in found.configs if not config.third_party)


def test_the_file_is_a_part_of_what_the_run_is(file: Path, tmp_path: Path) -> None:
    config = _config(file, tmp_path)
    moved = tmp_path / "elsewhere" / file.name
    moved.parent.mkdir()
    shutil.copy(file, moved)
    assert _config(moved, tmp_path).run_id == config.run_id
    moved.write_text(moved.read_text() + "\n# another thought\n")
    assert _config(moved, tmp_path).run_id != config.run_id
    assert config.without_registers().third_party == config.third_party


def test_a_file_that_was_changed_meanwhile_is_refused(file: Path, tmp_path: Path) -> None:
    config = _config(file, tmp_path)
    file.write_text(file.read_text() + "\n# another thought\n")
    with pytest.raises(UserError, match="no longer the file that this run was begun with"):
        build(config)


@pytest.mark.parametrize(
    ("text", "name", "problem"),
    [
        (None, "", "there is no file"),
        ("BACKBONE =\n", "", "line 1 is no Python"),
        ("x = 1\ny = (\n", "", "line 2 is no Python"),
        ("\0", "", "is no Python"),
        ("import no_such_module_of_anyone\n", "", "imports what is not here"),
        ("from .parts import Block\n", "", "imports what is not here"),
        ("BACKBONE = 'sit'\n", "", "defines no Backbone"),
        (FROM_JIT, "", "defines no Backbone of its own"),
        (TWO, "", "defines several backbones: first, first-born"),
        (TWO, "third", "there is no backbone in"),
        (TWO, "first-huge", "JiT has no size 'huge'"),
        (TWO + "third = replace(JIT, name='first', title='again')\n", "", "have the same name"),
        (FROM_JIT + "BACKBONE = replace(JIT, name='sit')\n", "", "sit is a backbone of this repository"),
        (FROM_JIT + "BACKBONE = replace(JIT, name='sit-x')\n", "", "sit-x would be taken for"),
        (FROM_JIT + "BACKBONE = replace(JIT, name='rae')\n", "", "rae would be taken for"),
        (FROM_JIT + "BACKBONE = replace(JIT, name='../jit')\n", "", "cannot name a backbone"),
        ("def later():\n    import beside\n", "", "imports its neighbour beside"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(
    tmp_path: Path, text: str | None, name: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "beside.py").touch()
    path = tmp_path / "mine.py" if text is None else _written(tmp_path, text)
    assert main(["describe", "--backbone", f"{path}:{name}" if name else str(path)]) == 2
    said = capsys.readouterr().err
    assert problem in said
    assert said.startswith("error: ")
    assert "  -> " in said


def test_one_of_several_is_named_or_is_the_one_called_backbone(tmp_path: Path) -> None:
    two = _written(tmp_path, TWO)
    assert registry.named(f"{two}:first").backbone.name == "first"
    longer = registry.named(f"{two}:first-born-b-16")
    assert (longer.backbone.name, longer.size) == ("first-born", "b-16")
    main_one = _written(tmp_path, TWO + "BACKBONE = second\n")
    assert registry.named(str(main_one)).backbone.name == "first-born"


def test_what_builds_no_denoiser_is_refused(tmp_path: Path) -> None:
    path = _written(tmp_path, FROM_JIT + "BACKBONE = replace(JIT, name='mine', build=lambda network: network)\n")
    with pytest.raises(UserError, match="build of mine returns dict, which is no"):
        build(_config(path, tmp_path))


@pytest.mark.parametrize("where", ["at import", "in the network"])
def test_a_mistake_in_its_own_code_keeps_its_traceback(tmp_path: Path, where: str, file: Path) -> None:
    text = file.read_text()
    if where == "at import":
        text += "\nHALF = 1 / 0\n"
    else:
        text = text.replace("        return self.x_embedder", "        1 / 0\n        return self.x_embedder")
    path = _written(tmp_path, text)
    with pytest.raises(ZeroDivisionError) as raised:
        run(_config(path, tmp_path))
    assert raised.traceback[-1].path == path


def test_no_setting_smuggles_another_file_in(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    shutil.copy(file, other)
    changed = (f"execution.backbone_file={other}",)
    for name, kept in (("sit", None), (str(file), str(file))):
        config = resolve(Request(name, changes=changed, execution=Execution(threads=1)))
        assert config.execution.backbone_file == kept
