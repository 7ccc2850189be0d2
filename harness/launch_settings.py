"""Where jobs run and what they may use: flags over a user's file (no torch, no submitit)."""

import argparse
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BeforeValidator, Field, ValidationError

from harness.arguments import positive, whole
from harness.errors import UserError, disk_error, unknown_name
from harness.frozen import Frozen, NonNegativeInt, PositiveInt
from harness.processes import cores

LauncherName = Literal["local", "slurm", "debug"]
Model = TypeVar("Model", bound=Frozen)
USER_FILES = (Path("dsr-bench.toml"), Path("~/.config/dsr-bench/config.toml"))

# Slurm may send its warning up to a minute early.
LONGEST_WARNING, PART_FOR_WARNING = 90, 4
CORES_PER_WORKER = 4


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
    """A pool of `workers` processes here, with `threads` each; they share out `gpus`, by the names that CUDA knows."""

    workers: PositiveInt = 1
    threads: PositiveInt = 1
    gpus: tuple[str, ...] = ()


class LaunchSettings(Frozen):
    """Which launcher, and what it may use."""

    launcher: LauncherName = "local"
    local: LocalSettings = LocalSettings()
    slurm: SlurmSettings = SlurmSettings()


class _Keys(Frozen):
    """What a user's file may hold; no workers are as many as fit."""

    launcher: LauncherName = "local"
    workers: NonNegativeInt = 0
    slurm: dict[str, Any] = Field(default={})


SLURM_HELP = {
    "partition": "Slurm: which partition (default: the cluster's)",
    "account": "Slurm: on whose account",
    "qos": "Slurm: quality of service",
    "constraint": "Slurm: what the nodes must have",
    "time": "Slurm: how long a job may run before it is requeued: minutes, H:MM:SS or D-HH:MM (default: a day)",
    "gpus": "Slurm: GPUs on each node, one process each (default: none)",
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


def add_launch_flags(parser: argparse.ArgumentParser) -> None:
    """`--launcher` and all that it may use; `settings_of` reads them."""
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
        flag = "--" + key.replace("_", "-")
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
        default=[],
        metavar="KEY[=VALUE]",
        help="Slurm: any other parameter of sbatch: --sbatch reservation=mine --sbatch exclusive",
    )


def settings_of(options: argparse.Namespace) -> LaunchSettings:
    """What the flags say, over what the user's file says.  Raises UserError where either makes no sense."""
    file = _user_file(options.config)
    keys = _read(file) if file else _Keys()
    table = {key: value for key in SLURM_HELP if (value := getattr(options, f"slurm_{key}")) is not None}
    extra = keys.slurm.get("extra", {})
    if isinstance(extra, dict):
        table["extra"] = extra | dict(map(_parameter, options.slurm_extra))
    launcher = options.launcher or keys.launcher
    source = str(file) if file and not table else "the launcher's flags"
    return LaunchSettings(
        launcher=launcher,
        local=_local(options.workers or keys.workers) if launcher == "local" else LocalSettings(),
        slurm=_slurm(keys.slurm | table, source),
    )


def _minutes(text: str) -> int:
    try:
        return minutes_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def _parameter(text: str) -> tuple[str, str | bool]:
    key, equals, value = text.lstrip("-").partition("=")
    return key, value if equals else True


def _user_file(given: Path | None) -> Path | None:
    if given is not None:
        return given
    return next((path.expanduser() for path in USER_FILES if path.expanduser().is_file()), None)


def _read(file: Path) -> _Keys:
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no file {file}", "--config names a file with a [slurm] table") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no TOML: {error}", "mend it; https://toml.io shows how it is written") from error
    except OSError as error:
        raise disk_error(file, error) from error
    _require_known(given, _Keys, f"key of {file}")
    if isinstance(given.get("slurm"), dict):
        _require_known(given["slurm"], SlurmSettings, f"key of [slurm] in {file}")
    keys = _validated(_Keys, given, str(file))
    _validated(SlurmSettings, keys.slurm, f"[slurm] in {file}")
    return keys


def _require_known(given: dict[str, Any], model: type[Frozen], what: str) -> None:
    for key in given:
        if key not in model.model_fields:
            raise unknown_name(what, key, model.model_fields)


def _slurm(table: dict[str, Any], source: str) -> SlurmSettings:
    """What was asked for, and what follows from it where the rest is not said."""
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


def _local(workers: int) -> LocalSettings:
    """As many workers as GPUs, or one for every four cores; the cores are divided among them."""
    gpus = _visible_gpus()
    workers = workers or len(gpus) or max(cores() // CORES_PER_WORKER, 1)
    return LocalSettings(workers=workers, threads=max(cores() // workers, 1), gpus=gpus)


def _visible_gpus() -> tuple[str, ...]:
    """The GPUs that CUDA would see, asked without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip() not in ("", "-1"))
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return tuple(answer.stdout.split()) if answer.returncode == 0 else ()
