"""Where jobs run and what they may use: flags over a user's file (no torch, no submitit)."""

import argparse
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BeforeValidator, Field, ValidationError

from harness.arguments import positive, whole
from harness.errors import UserError, disk_error, unknown_name
from harness.frozen import Frozen, NonNegativeInt, PositiveInt

LauncherName = Literal["local", "slurm", "debug"]
Model = TypeVar("Model", bound=Frozen)
USER_FILES = (Path("dsr-bench.toml"), Path("~/.config/dsr-bench/config.toml"))

# Slurm may send its warning up to a minute early.
LONGEST_WARNING, PART_FOR_WARNING = 90, 4


def minutes_of(time: Any) -> int:
    """Whole minutes of what sbatch takes for --time: "90", "1:30:00", "2-12" (days-hours), "2-12:00".

    Raises ValueError for anything else, and for no time at all.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(time).strip())
    if match is None:
        raise ValueError('a time is minutes, "H:MM:SS", or "D-HH:MM" for days and hours')
    days, *rest = match.groups()
    first, second, third = (int(part or 0) for part in rest)
    if days is not None:
        seconds = int(days) * 86400 + first * 3600 + second * 60 + third
    elif rest[2] is not None:
        seconds = first * 3600 + second * 60 + third
    else:
        seconds = first * 60 + second
    if seconds == 0:
        raise ValueError("a time has to be more than nothing")
    return -(-seconds // 60)


Minutes = Annotated[PositiveInt, BeforeValidator(minutes_of)]


class SlurmSettings(Frozen):
    """What a job asks of Slurm.  Empty words and zeros leave it to the cluster.

    `gpus` are those of each of `nodes`; more than one in all are one process each.  `time` is in minutes; the job is
    warned `signal_delay` seconds before it is over, and comes back.  `extra` are sbatch's parameters without dashes.
    Evaluation "apart" is a job of its own after training, on one node with `evaluate_gpus`, for `evaluate_time`.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    time: Minutes = 24 * 60
    signal_delay: PositiveInt = LONGEST_WARNING
    gpus: NonNegativeInt = 0
    nodes: PositiveInt = 1
    cpus: NonNegativeInt = 0
    memory: str = ""
    array_parallelism: PositiveInt = 256
    evaluate: Literal["together", "apart"] = "together"
    evaluate_gpus: NonNegativeInt = 0
    evaluate_time: Minutes = 24 * 60
    extra: dict[str, str | int | bool] = Field(default={})

    @property
    def processes(self) -> int:
        """How many share a training: one for each GPU, or for each node without any."""
        return max(self.gpus, 1) * self.nodes


class LocalSettings(Frozen):
    """A pool of `workers` processes here, as many as fit if there are none, and so many GPUs for each of its runs.

    Without a number of `gpus` a run has one where there are some.
    """

    workers: NonNegativeInt = 0
    gpus: NonNegativeInt = 0


class LaunchSettings(Frozen):
    """Which launcher, and what it may use."""

    launcher: LauncherName = "local"
    local: LocalSettings = LocalSettings()
    slurm: SlurmSettings = SlurmSettings()


class Asked(Frozen):
    """What a person asked for, in a user's file and by flags: the rest follows from it wherever it is launched.

    `workers` and `gpus` are those of LocalSettings; `slurm` has fields of SlurmSettings.
    """

    launcher: LauncherName = "local"
    workers: NonNegativeInt = 0
    gpus: NonNegativeInt = 0
    slurm: dict[str, Any] = Field(default={})


SLURM_HELP = {
    "partition": "Slurm: which partition (default: the cluster's)",
    "account": "Slurm: on whose account",
    "qos": "Slurm: quality of service",
    "constraint": "Slurm: what the nodes must have",
    "time": "Slurm: how long a job may run before it is requeued: minutes, H:MM:SS or D-HH:MM (default: a day)",
    "gpus": "GPUs of each run, one process each; Slurm: on each node (default: none; here one where there are some)",
    "nodes": "Slurm: nodes of each job (default 1)",
    "cpus": "Slurm: CPUs of each process, which become its threads",
    "memory": "Slurm: memory of each node, such as 32G",
    "array_parallelism": "Slurm: how many jobs of a sweep may run at once (default 256)",
    "signal_delay": "Slurm: seconds of warning before the time is over (default: 90, or a quarter of --time)",
    "evaluate": "Slurm: measure in the same job, or apart in a job after it (default: apart where several GPUs train)",
    "evaluate_gpus": "Slurm: GPUs of a job that only measures (default: one, if the training has any)",
    "evaluate_time": "Slurm: how long a job that only measures may run (default: as --time)",
}
CHOICES = {"evaluate": ("together", "apart")}
COUNTS = {"gpus": whole, "nodes": positive, "cpus": whole, "array_parallelism": positive, "evaluate_gpus": whole}
COUNTS["signal_delay"] = positive


def flag_of(key: str) -> str:
    """The flag that says a field of SlurmSettings."""
    return "--sbatch" if key == "extra" else f"--{key.replace('_', '-')}"


LAUNCH_FLAGS = ("--launcher", "--workers", "--config", *map(flag_of, SlurmSettings.model_fields))


def add_launch_flags(parser: argparse.ArgumentParser) -> None:
    """`--launcher` and all that it may use; `asked_by` reads them."""
    launching = parser.add_argument_group("where it runs")
    launching.add_argument(
        "--launcher",
        choices=get_args(LauncherName),
        help="local: processes on this machine; slurm: jobs of a cluster; debug: in this process, one after another "
        "(default: local)",
    )
    launching.add_argument("--workers", type=positive, metavar="N", help="local: how many processes at once")
    launching.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"a file with a [slurm] table (default: {' or '.join(map(str, USER_FILES))})",
    )
    for key, text in SLURM_HELP.items():
        flag = flag_of(key)
        kind = COUNTS.get(key, _minutes if key.endswith("time") else str)
        metavar = "N" if key in COUNTS else key.rpartition("_")[2].upper()
        if key in CHOICES:
            launching.add_argument(flag, dest=f"slurm_{key}", choices=CHOICES[key], help=text)
        else:
            launching.add_argument(flag, dest=f"slurm_{key}", type=kind, metavar=metavar, help=text)
    launching.add_argument(
        "--sbatch",
        dest="slurm_extra",
        action="append",
        metavar="KEY[=VALUE]",
        help="Slurm: any other parameter of sbatch: --sbatch reservation=mine --sbatch exclusive",
    )


def asked_by(options: argparse.Namespace, before: Asked | None = None) -> Asked:
    """What the flags say, over a user's file, over what was asked `before`, which only a file that is named changes.

    Raises UserError for a file that makes no sense, and for flags that the launcher does not know.
    """
    file = options.config or (_users_file() if before is None else None)
    said = (before or Asked()).model_dump()
    in_file = _read(file) if file else {}
    said |= in_file | {"slurm": said["slurm"] | in_file.get("slurm", {})}
    launcher = options.launcher or said["launcher"]
    typed = {key: value for key in SLURM_HELP if (value := getattr(options, f"slurm_{key}")) is not None}
    if launcher == "local" and "gpus" in typed:
        said["gpus"] = typed.pop("gpus")
    if options.slurm_extra:
        typed["extra"] = said["slurm"].get("extra", {}) | dict(map(_parameter, options.slurm_extra))
    _refuse_others(launcher, typed, options.workers)
    table = said["slurm"] | typed
    return Asked(launcher=launcher, workers=options.workers or said["workers"], gpus=said["gpus"], slurm=table)


def settings_of(asked: Asked) -> LaunchSettings:
    """What was asked for, with what follows from it.  Raises UserError where that makes no sense."""
    local = LocalSettings(workers=asked.workers, gpus=asked.gpus)
    return LaunchSettings(launcher=asked.launcher, local=local, slurm=_slurm(asked.slurm))


def _refuse_others(launcher: LauncherName, typed: Iterable[str], workers: int | None) -> None:
    """Raise UserError for flags that another launcher would know; what a file says waits for that launcher."""
    others = [flag_of(key) for key in typed]
    if launcher != "slurm" and others:
        are = "is" if len(others) == 1 else "are"
        raise UserError(f"{', '.join(others)} {are} for Slurm, and this runs here", "add --launcher slurm")
    if launcher != "local" and workers:
        raise UserError(
            f"--workers is for the local launcher, and this is {launcher}",
            "leave it out; on Slurm --array-parallelism says how many jobs run at once",
        )


def _minutes(text: str) -> int:
    try:
        return minutes_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def _parameter(text: str) -> tuple[str, str | bool]:
    key, equals, value = text.lstrip("-").partition("=")
    return key, value if equals else True


def _users_file() -> Path | None:
    return next((path.expanduser() for path in USER_FILES if path.expanduser().is_file()), None)


def _read(file: Path) -> dict[str, Any]:
    """The keys that a file has, of those of Asked."""
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no file {file}", "--config names a file with a [slurm] table") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no TOML: {error}", "mend it; https://toml.io shows how it is written") from error
    except OSError as error:
        raise disk_error(file, error) from error
    _require_known(given, Asked, f"key of {file}")
    if isinstance(given.get("slurm"), dict):
        _require_known(given["slurm"], SlurmSettings, f"key of [slurm] in {file}")
    keys = _validated(Asked, given, str(file))
    _validated(SlurmSettings, keys.slurm, f"[slurm] in {file}")
    return keys.model_dump(exclude_unset=True)


def _require_known(given: dict[str, Any], model: type[Frozen], what: str) -> None:
    for key in given:
        if key not in model.model_fields:
            raise unknown_name(what, key, model.model_fields)


def _slurm(table: dict[str, Any]) -> SlurmSettings:
    """What was asked for, and what follows from it where the rest is not said."""
    source = "what Slurm is asked for"
    asked = _validated(SlurmSettings, table, source)
    evaluate_time = asked.evaluate_time if "evaluate_time" in table else asked.time
    shortest = min(asked.time, evaluate_time) * 60
    derived = {
        "signal_delay": min(LONGEST_WARNING, shortest // PART_FOR_WARNING),
        "evaluate": "apart" if asked.processes > 1 else "together",
        "evaluate_gpus": min(asked.gpus, 1),
        "evaluate_time": evaluate_time,
    }
    settings = _validated(SlurmSettings, derived | table, source)
    if settings.signal_delay > shortest // 2:
        raise UserError(
            f"a warning {settings.signal_delay} s before the end leaves little of a job of {shortest} s",
            f"say --signal-delay {shortest // PART_FOR_WARNING}, or give it more --time",
        )
    return settings


def _validated(model: type[Model], given: dict[str, Any], source: str) -> Model:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _wrong(source, error) from error


def _wrong(source: str, error: ValidationError) -> UserError:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    found = f", not {first['input']!r}" if place else ""
    return UserError(
        f"{source}: {f'{place}: ' if place else ''}{message}{found}", "mend it; `sweep --help` says what each one means"
    )
