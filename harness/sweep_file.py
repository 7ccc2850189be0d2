"""A grid in a TOML file: its keys are the flags of `sweep`, and what is typed wins over them (no torch)."""

import argparse
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import UserError, disk_error, unknown_name

TABLE = "set"


class Flags:
    """The flags of a parser, which may also stand in a file.  To be made when the parser has them all."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parser = parser
        self._defaults = vars(parser.parse_args([]))
        self._flags = {
            action.option_strings[-1].removeprefix("--"): action.dest
            for action in parser._actions  # noqa: SLF001 (argparse has no other list of them)
            if action.dest in self._defaults and action.option_strings
        }
        # A list is added to, whoever speaks; of anything else None says that nobody has spoken.
        parser.set_defaults(**{name: None for name, value in self._defaults.items() if value != []})

    def completed(self, typed: argparse.Namespace, file: Path | None) -> argparse.Namespace:
        """What was typed, completed by the file, completed by the defaults.

        Raises UserError for a file that cannot be read, and a key or value in it that is no flag's.
        """
        written = vars(self._parser.parse_args([]) if file is None else self._read(file))
        said = vars(typed)
        chosen = dict(said)
        for name, default in self._defaults.items():
            if default == []:
                chosen[name] = [*written[name], *said[name]]
            else:
                chosen[name] = next((each for each in (said[name], written[name]) if each is not None), default)
        return argparse.Namespace(**chosen)

    def said(self, typed: argparse.Namespace) -> list[str]:
        """Those that were typed."""
        return [f"--{flag}" for flag, name in self._flags.items() if vars(typed)[name] not in (None, [])]

    def _read(self, file: Path) -> argparse.Namespace:
        words = list(self._words(file))
        try:
            return self._parser.parse_args(words)
        except UserError as error:
            raise UserError(f"{file}: {error.problem}", error.remedy) from error

    def _words(self, file: Path) -> Iterator[str]:
        """The command line that says what the file does."""
        for key, value in _table_in(file).items():
            flag = key.replace("_", "-")
            if flag not in self._flags:
                error = unknown_name("key", flag, self._flags)
                raise UserError(f"{file}: {error.problem}", error.remedy)
            if flag == TABLE:
                yield from (f"--set={field}={values}" for field, values in _changes(file, value))
            elif value is True:
                yield f"--{flag}"
            elif self._defaults[self._flags[flag]] == []:
                yield from (f"--{flag}={each}" for each in (value if isinstance(value, list) else [value]))
            elif value is not False:
                yield f"--{flag}={_text(value)}"


def _table_in(file: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {file}", "give --file a TOML file with a grid") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no TOML: {error}", 'write lines like backbone = ["sit", "jit"]') from error
    except OSError as error:
        raise disk_error(file, error) from error


def _changes(file: Path, table: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """Each field of a table, with its values as `--set` has them."""
    if not isinstance(table, Mapping):
        raise UserError(f"{file}: {TABLE} is no table", f'write [{TABLE}], and below it "recipe.steps" = [500, 1000]')
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _changes(file, value, f"{above}{key}.")
        else:
            yield f"{above}{key}", ",".join(map(json.dumps, value if isinstance(value, list) else [value]))


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
