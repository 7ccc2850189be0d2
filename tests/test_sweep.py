"""A grid, and what becomes of it: its runs, its mistakes, its name, its file."""

import argparse
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness import folder, sweep_cli, tasks
from harness.arguments import add_changes
from harness.bench_records import BenchCase, BenchRecord, Quartiles, append_bench
from harness.errors import UserError
from harness.executing import executed, from_anywhere
from harness.launch_settings import Asked
from harness.records import Provenance
from harness.request_cli import add_carrying_out, add_conditions
from harness.resolve import Request, resolve
from harness.spec import Execution, RunConfig
from harness.sweep import Runs, expand, factor, grid_of
from harness.sweep_estimate import Estimate, Estimates, said_in_all
from harness.sweep_file import Flags
from harness.sweep_store import Sweep, keep, load, name_of, require_free
from harness.sweep_table import differences
from tests.builders import harness, image_folder, quick_words


def expanded(backbone: str, registers: str, *changes: str, seeds: tuple[int, ...] = (0,), alone: bool = False) -> Runs:
    request = Request(backbone, registers, changes=changes)
    return expand(grid_of(request, seeds, alone=alone), needs_data=True)


def told(runs: Runs) -> list[str]:
    """Backbone, registers with their count, seed."""
    return [
        f"{c.backbone} {c.registers.preset}{c.registers.denoiser.count if c.registers.denoiser else ''} {c.seed}"
        for c in runs.configs
    ]


def mistake(*words: str) -> str:
    backbone, registers, *changes = words
    with pytest.raises(UserError) as caught:
        expanded(backbone, registers, *changes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "values"),
    [
        ("a=1,2", ("a=1", "a=2")),
        ("a=[1,2],[3]", ("a=[1,2]", "a=[3]")),
        ('a="100,50",ddim50', ('a="100,50"', "a=ddim50")),
        ('a={"b":[1,2]},null', ('a={"b":[1,2]}', "a=null")),
        ("a= 1 , 2", ("a=1", "a=2")),
        ("a=", ("a=",)),
        ("a", ("a",)),
    ],
)
def test_values_are_split_between_brackets_and_strings(change: str, values: tuple[str, ...]) -> None:
    assert factor(change) == ("a", values)


def test_a_grid_is_every_combination_with_its_matched_runs() -> None:
    runs = expanded("sit,jit", "dsr", "registers.denoiser.count=4,9", seeds=(0, 1))
    arms = [f"{backbone} {arm}" for backbone in ("sit", "jit") for arm in ("none", "dsr4", "dsr9")]
    assert told(runs) == [f"{arm} {seed}" for arm in arms for seed in (0, 1)]
    assert runs.notes == ()


def test_matched_runs_can_be_refused() -> None:
    assert told(expanded("sit", "dsr", alone=True)) == ["sit dsr4 0"]


def test_each_run_is_what_run_would_make_of_it() -> None:
    changes = ("recipe.steps=50", "registers.denoiser.count=9")
    request = Request("sit", "dsr", seed=2, changes=changes)
    found = expanded("sit", "dsr", *changes, seeds=(0, 2))
    assert resolve(request) in found.configs
    assert resolve(request).without_registers().run_id in {config.run_id for config in found.configs}


def test_equal_runs_are_one() -> None:
    assert len(expanded("sit,sit-tiny", "none,dsr,dsr", "recipe.steps=50,50.0").configs) == 2


def test_none_is_made_once_for_all_registers() -> None:
    runs = expanded("sit", "none,dsr", "registers.denoiser.count=4,9,16", "recipe.learning_rate=0.001,0.002")
    assert [told(runs).count(f"sit {arm} 0") for arm in ("none", "dsr4", "dsr9", "dsr16")] == [2, 2, 2, 2]


def test_a_preset_without_the_field_takes_part_once_and_that_is_said() -> None:
    runs = expanded("sit", "dsr,kv-bias", "registers.denoiser.count=4,9")
    assert told(runs) == ["sit none 0", "sit dsr4 0", "sit dsr9 0", "sit kv-bias 0"]
    assert runs.notes == ("sit kv-bias has no registers.denoiser.count: it takes part once, as it is",)


@pytest.mark.parametrize(
    ("words", "reasons"),
    [
        (("sit", "none", "registers.denoiser.count=4"), ["registers.denoiser is absent from this run"]),
        (("sit", "dsr", "registers.denoiser.cuont=4"), ["did you mean count"]),
        (("sit", "dsr", "registers.preset=dsr"), ["use --registers"]),
        (("sitt,jit", "dsr"), ["no backbone named 'sitt'", "did you mean sit"]),
        (("sit", "dsr", "registers.denoiser.count=4,,9"), ["an empty value"]),
        (("sit", "dsr,denoisr", "recipe.stepps=5"), ["2 mistakes", "did you mean denoiser", "did you mean steps"]),
        (("sit", "none", "recipe.steps=-1,-2,-3,-4,-5,-6,-7"), ["7 mistakes", "and 2 more"]),
        ((",", "none"), ["--backbone names nothing"]),
    ],
)
def test_all_mistakes_show_before_anything_starts(words: tuple[str, ...], reasons: list[str]) -> None:
    said = mistake(*words)
    assert [reason for reason in reasons if reason not in said] == []


def test_a_later_change_of_a_field_holds() -> None:
    runs = expanded("sit", "none", "recipe.steps=5,6", "recipe.steps=7")
    assert [config.recipe.steps for config in runs.configs] == [7]


def test_images_are_listed_once_for_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = image_folder(tmp_path / "data", per_class=2)
    listed = []

    def listing(root: Path) -> folder.Listing:
        listed.append(root)
        return folder.list_images(root)

    monkeypatch.setattr(tasks, "list_images", listing)
    request = Request("sit,dit", "none,dsr", task="folder", execution=Execution(data=str(data)))
    runs = expand(grid_of(request, (0, 1), alone=False), needs_data=True)
    assert len(runs.configs) == 8
    assert listed == [data]


def test_neurons_are_left_to_the_presets_that_need_some() -> None:
    request = Request("rae-dit", "denoiser,encoder", neurons="digits-vit")
    runs = expand(grid_of(request, (0,), alone=False), needs_data=True)
    assert [config.registers.preset for config in runs.configs] == ["none", "denoiser", "encoder"]
    with pytest.raises(UserError, match="--neurons has no effect on denoiser"):
        expand(grid_of(replace(request, registers="denoiser"), (0,), alone=True), needs_data=True)


def test_the_table_says_in_what_runs_differ() -> None:
    runs = expanded("sit", "dsr,kv-bias", "registers.denoiser.count=4,9", "recipe.learning_rate=0.001,0.002")
    shown = list(differences({config.run_id: config for config in runs.configs}).values())
    assert shown[:4] == [
        "none learning_rate=0.001",
        "dsr count=4 learning_rate=0.001",
        "dsr count=9 learning_rate=0.001",
        "kv-bias learning_rate=0.001",
    ]


def sweep_of(configs: tuple[RunConfig, ...], name: str) -> Sweep:
    return Sweep(name=name, begun=datetime.now(UTC), command=(), launch=Asked(), runs=configs)


def test_the_same_grid_is_the_same_sweep() -> None:
    there, back = expanded("sit,jit", "none,dsr"), expanded("jit,sit", "dsr,none")
    assert name_of(there.configs) == name_of(back.configs) != name_of(there.configs[1:])


def test_a_sweep_reads_back_and_the_last_one_is_meant(tmp_path: Path) -> None:
    first, second = expanded("sit", "none"), expanded("jit", "none")
    for name, runs in (("first", first), ("second", second)):
        keep(tmp_path, sweep_of(runs.configs, name))
    assert load(tmp_path).runs == second.configs
    assert load(tmp_path, "first").runs == first.configs
    keep(tmp_path, sweep_of(first.configs, "first"))
    assert load(tmp_path).name == "first"


def test_a_name_stands_for_one_grid(tmp_path: Path) -> None:
    runs = expanded("sit", "dsr").configs
    keep(tmp_path, sweep_of(runs, "mine"))
    require_free(tmp_path, "mine", runs[::-1])
    with pytest.raises(UserError, match=r"another grid, of 2 runs; this one has 1"):
        require_free(tmp_path, "mine", runs[:1])
    for name in ("../mine", "", ".mine", "a/b", "a b"):
        with pytest.raises(UserError, match="cannot name a sweep"):
            require_free(tmp_path, name, runs)


@pytest.mark.parametrize("content", ["", "{}", '{"name": "mine"'])
def test_a_damaged_sweep_says_so(tmp_path: Path, content: str) -> None:
    keep(tmp_path, sweep_of(expanded("sit", "none").configs, "mine"))
    (tmp_path / "sweeps" / "mine" / "sweep.json").write_text(content)
    with pytest.raises(UserError, match="damaged"):
        load(tmp_path)
    with pytest.raises(UserError, match="no sweep was begun"):
        load(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no sweep named 'mien'"):
        load(tmp_path, "mien")


def test_a_sweep_that_cannot_be_read_is_in_the_way_of_no_grid_that_it_is_called_after(tmp_path: Path) -> None:
    runs = expanded("sit", "none").configs
    for name in ("mine", name_of(runs)):
        keep(tmp_path, sweep_of(runs, name))
        (tmp_path / "sweeps" / name / "sweep.json").write_text('{"of": "another version"}')
    require_free(tmp_path, name_of(runs), runs)
    with pytest.raises(UserError, match=r"delete it, and give the command again") as caught:
        require_free(tmp_path, "mine", runs)
    assert str(tmp_path / "sweeps" / "mine" / "sweep.json") in caught.value.problem


def test_a_run_is_found_from_any_folder_and_stays_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("decoder.pt", "inception.pt"):
        Path(name).touch()
    (tmp_path / "owner").mkdir()
    [config] = expanded("sit", "none").configs
    given = executed(
        config,
        data="images",
        weights="owner/model",
        decoder="decoder.pt",
        extractor_weights=("inception-clean=inception.pt",),
        encoder="digits-vit",
    )
    kept = from_anywhere(given)
    assert kept.run_id == config.run_id
    assert kept.execution.model_dump(exclude_defaults=True, exclude={"threads"}) == {
        "data": f"{tmp_path}/images",
        "weights": "owner/model",
        "decoder": f"{tmp_path}/decoder.pt",
        "extractor_weights": (f"inception-clean={tmp_path}/inception.pt",),
        "encoder": "digits-vit",
        "references_dir": tmp_path / "references",
        "results": f"{tmp_path}/results",
        "runs": f"{tmp_path}/runs",
    }


def completed(file: Path, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone")
    parser.add_argument("--registers", default="none")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--alone", action="store_true")
    add_changes(parser, "a=b")
    add_conditions(parser)
    add_carrying_out(parser)
    flags = Flags(parser)
    return flags.completed(parser.parse_args(words), file)


def test_a_file_says_what_flags_say_and_flags_win(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(
        'backbone = ["sit", "jit"]\nregisters = "dsr"\nseeds = [0, 1]\nalone = true\nthreads = 3\n'
        'extractor_weights = ["a", "b"]\n'
        '[set]\nregisters.denoiser.count = [4, 9]\n"sampler.respacing" = "100,50"\n'
        "protocol.noise_levels = [[0.1, 0.2]]\n"
    )
    found = completed(file, "--registers", "none", "--set", "recipe.steps=5")
    assert (found.backbone, found.registers, found.seeds) == ("sit,jit", "none", "0,1")
    assert (found.alone, found.threads, found.task, found.runs) == (True, 3, "digits", "runs")
    assert found.extractor_weights == ["a", "b"]
    assert [factor(change)[1] for change in found.changes] == [
        ("registers.denoiser.count=4", "registers.denoiser.count=9"),
        ('sampler.respacing="100,50"',),
        ("protocol.noise_levels=[0.1, 0.2]",),
        ("recipe.steps=5",),
    ]


def test_every_flag_may_stand_in_a_file(tmp_path: Path) -> None:
    plain = vars(completed_by_sweep(tmp_path, ""))
    flags = sweep_parser(tmp_path).flags
    for flag, name in flags._flags.items():
        if flag == "set":
            continue
        known = next(action for action in flags._parser._actions if action.dest == name)
        value = "true" if known.nargs == 0 else f'"{known.choices[-1] if known.choices else 3}"'
        found = vars(completed_by_sweep(tmp_path, f"{flag} = {value}"))
        changed = {each for each in found if found[each] != plain[each]} - {"flags", "all_flags"}
        assert changed == {name}, flag


def sweep_parser(place: Path) -> argparse.Namespace:
    """What `sweep` makes of a command line, a grid file among it."""
    verbs = argparse.ArgumentParser()
    sweep_cli.add(verbs.add_subparsers())
    return verbs.parse_args(["sweep", "--file", str(place / "grid.toml")])


def completed_by_sweep(place: Path, text: str) -> argparse.Namespace:
    (place / "grid.toml").write_text(text)
    typed = sweep_parser(place)
    found = typed.flags.completed(typed, typed.file)
    assert isinstance(found, argparse.Namespace)
    return found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('bakcbone = "sit"', "did you mean backbone"),
        ("[slurm]\npartition = 'a'", "no key named 'slurm'"),
        ("backbone = [", "is no TOML"),
        ("set = 3", "set is no table"),
    ],
)
def test_a_file_with_a_mistake_is_named(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        completed(file)
    assert reason in str(caught.value)
    assert str(file) in str(caught.value)


def test_dry_run_shows_what_there_is_and_touches_nothing(tmp_path: Path) -> None:
    grid = ["--backbone", "sit", "--registers", "dsr", "--seeds", "0-1", *quick_words()[5:]]
    said = harness("sweep", *grid, "--dry-run", cwd=tmp_path)
    assert said.code == 0, said.err
    assert said.out.count("will start") == 4
    assert "4 missing" in said.out
    assert "estimated: not known: `python -m harness bench training" in said.out
    assert list(tmp_path.iterdir()) == []
    assert harness(*quick_words("sit", "dsr"), cwd=tmp_path).code == 0
    said = harness("sweep", *grid, "--dry-run", cwd=tmp_path)
    assert (said.out.count("will start"), said.out.count("exists already")) == (3, 1)
    assert "CPU-hours, by records of other seeds on" in said.out
    assert "of 2 more it is not known" in said.out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--registers", "dsr"], "a sweep needs backbones"),
        (["--backbone", "sit", "--seeds", "2-1"], "not understood"),
        (["--file", "none.toml"], "there is no file none.toml"),
        (["status"], "no sweep was begun"),
        (["--backbone", "sit", "status"], "--backbone cannot be said of it"),
        (["--time", "5", "--partition", "day", "cancel"], "--partition, --time cannot be said of it"),
        (["--dry-run", "status"], "--dry-run cannot be said of it"),
        (["--file", "grid.toml", "resume"], "--file cannot be said of it"),
        (["--backbone", "sit", "--partition", "day"], "--partition is for Slurm, and this runs here"),
    ],
)
def test_mistakes_at_the_command_line(tmp_path: Path, words: list[str], reason: str) -> None:
    said = harness("sweep", *words, cwd=tmp_path)
    assert (said.code, reason in said.err, said.out) == (2, True, ""), said.err


@pytest.mark.parametrize("words", [("--dry-run", "resume"), ("resume", "--dry-run")])
def test_a_resumption_is_shown_before_it_starts(tmp_path: Path, words: tuple[str, ...]) -> None:
    runs = expanded("sit", "dsr").configs
    keep(tmp_path / "runs", sweep_of(runs, "mine"))
    said = harness("sweep", *words, cwd=tmp_path)
    assert said.code == 0, said.err
    assert said.out.count("will start") == 2
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["sweeps"]


@pytest.mark.parametrize(
    "words", [("--launcher", "slurm", "--time", "5", "resume"), ("resume", "--launcher", "slurm", "--time", "5")]
)
def test_a_resumption_takes_flags_of_the_launcher_wherever_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    keep(tmp_path / "runs", sweep_of(expanded("sit", "dsr").configs, "mine"))
    said = harness("sweep", *words, cwd=tmp_path)
    assert (said.code, "there is no Slurm here" in said.err) == (2, True), said.err
    kept = load(tmp_path / "runs", "mine").launch
    assert (kept.launcher, kept.slurm) == ("slurm", {"time": 5})


def timed(config: RunConfig, device: str) -> BenchRecord:
    """A bench of a run's training at 100 images a second."""
    speed = Quartiles(median=100.0, first_quartile=90.0, third_quartile=110.0)
    case = BenchCase(title="", network=config.network, registers=config.registers, images_per_second=speed)
    provenance = Provenance(
        commit=None,
        dirty=None,
        code_sha256="",
        versions={},
        machine={},
        device=device,
        precision="float32",
        threads=1,
        sampling_batch=None,
    )
    return BenchRecord(
        subject="training",
        created=datetime.now(UTC),
        command="",
        settings={},
        device=device,
        cases=(case,),
        provenance=provenance,
    )


def test_a_bench_says_how_long_runs_take_on_the_device_that_they_go_to(tmp_path: Path) -> None:
    none, dsr = expanded("sit", "dsr", "recipe.steps=3600", "recipe.batch_size=100").configs
    append_bench(tmp_path, timed(none, "CPU"))
    append_bench(tmp_path, timed(dsr, "H200"))
    here, there = Estimates(tmp_path, on_gpu=False), Estimates(tmp_path, on_gpu=True)
    assert here.of(none) == Estimate(1.0, False, "bench training on CPU, sampling left out")
    assert there.of(dsr) == Estimate(1.0, True, "bench training on H200, sampling left out")
    assert (here.of(dsr), there.of(none)) == (None, None)


def test_hours_are_those_of_the_device_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    append_bench(tmp_path / "results", timed(expanded("sit", "none").configs[0], "CPU"))
    said = [
        harness("sweep", "--backbone", "sit", "--dry-run", *words, cwd=tmp_path) for words in ((), ("--device", "cpu"))
    ]
    assert ["CPU-hours, by bench training on CPU" in each.out for each in said] == [False, True]


def test_hours_of_several_devices_are_hours_of_each(tmp_path: Path) -> None:
    [config] = expanded("sit", "none").configs
    measurements = [{"name": name, "value": 900.0} for name in ("train_seconds", "sampling_seconds")]
    record = {"status": "finished", "config": config.published().model_dump(mode="json"), "measurements": measurements}
    made_by = {"device": "cuda", "machine": {"device": "H200"}}
    place = tmp_path / "measured" / "digits" / "sit"
    place.mkdir(parents=True)
    for processes, hours in ((None, 0.5), (4, 2.0)):
        shared = {"processes": processes} if processes else {}
        text = json.dumps(record | {"provenance": made_by | shared})
        (place / "20261101T000000000000Z-0.json").write_text(text)
        assert Estimates(tmp_path, on_gpu=True).of(config) == Estimate(hours, True, "records of other seeds on H200")


def test_hours_are_summed_apart_and_what_is_not_known_is_said() -> None:
    gpu, cpu = Estimate(2.0, True, "a"), Estimate(0.5, False, "b")
    assert said_in_all([gpu, gpu, cpu]) == "about 4 GPU-hours and about 0.5 CPU-hours, by a; b"
    assert said_in_all([gpu, None]).startswith("about 2 GPU-hours, by a; of 1 more it is not known")
    assert said_in_all([None]).startswith("not known: ")
