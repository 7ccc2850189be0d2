"""Files that are in the wrong place, of the wrong kind, or not the ones that a record names."""

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load, load_file, save

from harness.attachments import path_beside
from harness.withdrawals import withdraw
from tests.submissions import pictures
from tests.submissions.folder import Fields, Folder, edited, otherwise_made, submitted, with_norm_maps, with_picture

SOURCE = {"name": "mine", "title": "mine", "url": "https://example.org", "figures": []}

Case = tuple[str, str, Callable[[Folder], object]]


def _beside(folder: Folder, name: str) -> Path:
    return folder.none.with_name(name)


def _renamed_without_time(folder: Folder) -> None:
    run_id = folder.none.stem[-12:]
    folder.none.rename(_beside(folder, f"result-{run_id}.json"))


def _dated_otherwise(folder: Folder) -> None:
    stem = f"20261121T000000000000Z-{folder.none.stem[-12:]}"
    for file in sorted(folder.none.parent.glob(f"{folder.none.stem}*")):
        file.rename(_beside(folder, file.name.replace(folder.none.stem, stem)))


def _elsewhere(folder: Folder, place: str) -> None:
    into = folder.results / place
    into.mkdir(parents=True, exist_ok=True)
    for file in sorted(folder.none.parent.glob(f"{folder.none.stem}*")):
        shutil.move(file, into / file.name)


def _symlink(folder: Folder) -> None:
    outside = folder.results.parent / "outside.json"
    folder.none.rename(outside)
    folder.none.symlink_to(outside)


def _linked_folder(folder: Folder) -> None:
    (folder.results / "measured/digits/mine").symlink_to(folder.none.parent, target_is_directory=True)


def _pipe(folder: Folder) -> None:
    folder.none.unlink()
    os.mkfifo(folder.none)


def _zip(folder: Folder) -> None:
    with zipfile.ZipFile(_beside(folder, "more.zip"), "w") as archive:
        archive.writestr("a.py", "import os")


def _copied_picture(folder: Folder) -> None:
    with_picture(folder.registers, folder.none.with_suffix(".png").read_bytes())


def _picture(change: Callable[[bytes], bytes]) -> Callable[[Folder], object]:
    return lambda folder: with_picture(folder.none, change(folder.none.with_suffix(".png").read_bytes()))


def _norm_maps(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Folder], object]:
    def spoil(folder: Folder) -> None:
        arrays = load_file(path_beside(folder.none, "norms"))
        change(arrays)
        with_norm_maps(folder.none, save(arrays, {"norm maps": "{}"}))

    return spoil


def _told_norm_maps(change: Callable[[str], str], *, repeats: int = 1, **more: str) -> Callable[[Folder], object]:
    """Norm maps whose metadata say something else, or whose blocks are there several times."""

    def spoil(folder: Folder) -> None:
        content = path_beside(folder.none, "norms").read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        arrays = load(content)
        repeated = {name: np.repeat(arrays[name], repeats, axis=2) for name in ("patches", "registers")}
        told = {"norm maps": change(header["__metadata__"]["norm maps"]), **more}
        with_norm_maps(folder.none, save({**arrays, **repeated}, told))

    return spoil


def _with_others_norm_maps(folder: Folder) -> None:
    """Another seed's run, all of whose values are its own."""

    def change(fields: Fields) -> None:
        fields["config"]["seed"] = 77
        fields.update(samples=None, moments=None)
        otherwise_made(fields)

    path = submitted(folder.none, change, moved=False)
    for ending in (".png", ".moments.safetensors"):
        path.with_name(path.stem + ending).unlink()


def _long_header(folder: Folder) -> None:
    with_norm_maps(folder.none, (2**40).to_bytes(8, "little") + b"{}" * 100)


def _bitten(folder: Folder, kind: str) -> None:
    path = folder.none.with_name(f"{folder.none.stem}.{kind}.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def _huge(folder: Folder, ending: str, size: int) -> None:
    with folder.none.with_name(folder.none.stem + ending).open("r+b") as file:
        file.truncate(size)


def _write(folder: Folder, place: str, content: bytes) -> None:
    path = folder.results / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _never_ending(folder: Folder, place: str) -> None:
    (folder.results / place).parent.mkdir(parents=True, exist_ok=True)
    (folder.results / place).symlink_to("/dev/zero")


def _withdrawn_though_broken(folder: Folder) -> None:
    """What nobody has seen yet is judged, whatever withdraws it."""
    folder.none.write_text('{"evil": "<script>"}')
    withdraw(folder.results, folder.none, "the disk was full when it was written")


def _name_in_bytes(folder: Folder) -> None:
    Path(os.fsdecode(os.fsencode(folder.none.parent) + b"/\xff\xfe.json")).write_text("{}")


def _withdrawal(folder: Folder, **changes: object) -> None:
    told = {
        "path": f"measured/digits/sit/{folder.new.name}",
        "sha256": "0" * 64,
        "reason": "the seed was chosen by its score",
        "created": "2026-11-21T14:00:00Z",
    }
    _write(folder, f"withdrawn/{folder.new.name}", json.dumps(told | changes).encode())


CASES: dict[str, Case] = {
    "a name that does not say when": ("name", "no record is called or lies so", _renamed_without_time),
    "a name with another time": ("name", "does not begin with when it was created", _dated_otherwise),
    "another task's folder": ("place", "belongs into measured/digits/sit/", lambda f: _elsewhere(f, "measured/x/sit")),
    "another backbone's folder": ("place", "belongs into", lambda f: _elsewhere(f, "measured/digits/dit")),
    "no folder at all": ("name", "no record is called or lies so", lambda f: _elsewhere(f, "measured")),
    "a folder too deep": ("name", "no record is called or lies so", lambda f: _elsewhere(f, "measured/digits/sit/a")),
    "beside the records": ("place", "is no record, picture", lambda f: _elsewhere(f, "mine")),
    "a folder in capitals": ("place", "belongs into", lambda f: _elsewhere(f, "measured/Digits/sit")),
    "a folder in capitals beside another": (
        "name",
        "in case or encoding",
        lambda f: _elsewhere(f, "measured/digits/SIT"),
    ),
    "a folder with a Cyrillic letter": ("name", "easily mistaken", lambda f: _elsewhere(f, "measured/digits/s\u0456t")),
    "a record that is a link": ("place", "it is a link", _symlink),
    "a folder that is a link": ("place", "it is a link", _linked_folder),
    "a record that is a pipe": ("place", "no plain file", _pipe),
    "a name that is read backwards": (
        "name",
        "easily mistaken, or not seen",
        lambda f: _write(f, "measured/digits/sit/\u202egnp.json", b"{}"),
    ),
    "Python beside a record": ("place", "a .py file", lambda f: _write(f, "measured/digits/sit/fix.py", b"import os")),
    "a page": ("place", "a .html file", lambda f: _write(f, "measured/index.html", b"<script>alert(1)</script>")),
    "an archive": ("place", "a .zip file", _zip),
    "a pickle": ("place", "a .pkl file", lambda f: _write(f, "measured/digits/sit/m.pkl", pickle.dumps([1]))),
    "a program": ("place", "such a file", lambda f: _write(f, "published/run", b"#!/bin/sh\n")),
    "a hidden file": ("place", "it is hidden", lambda f: _write(f, "measured/digits/.hidden.json", b"{}")),
    "git's own settings": ("place", "it is hidden", lambda f: _write(f, ".gitattributes", b"* filter=x\n")),
    "a record that may be executed": ("place", "may be executed", lambda f: f.none.chmod(0o755)),
    "a picture that nobody names": (
        "place",
        "no record names this file",
        lambda f: _write(f, "measured/digits/sit/20261121T000000000000Z-000000000000.png", pictures.png(8, 8)),
    ),
    "moments that nobody names": (
        "place",
        "no record names this file",
        lambda f: edited(f.none, lambda fields: fields.update(moments=None)),
    ),
    "a picture that is missing": ("picture", "cannot be read", lambda f: f.none.with_suffix(".png").unlink()),
    "a picture of other bytes": (
        "picture",
        "SHA-256 differ",
        lambda f: f.none.with_suffix(".png").write_bytes(pictures.png(98, 98)),
    ),
    "a picture outside the results": (
        "schema",
        "samples.file",
        lambda f: edited(f.none, lambda fields: fields["samples"].update(file="../../../../secret.png")),
    ),
    "another record's picture": (
        "picture",
        "not after it",
        lambda f: edited(f.none, lambda fields: fields["samples"].update(file=f"{f.registers.stem}.png")),
    ),
    "a JPEG": ("picture", "is no PNG", _picture(pictures.as_jpeg)),
    "a picture with an archive behind it": ("picture", "after its end", _picture(lambda png: png + b"PK\x03\x04" * 9)),
    "a picture with a text in it": ("picture", "pixels alone", _picture(pictures.with_comment)),
    "a picture that unpacks to gigabytes": (
        "picture",
        "is 100000 x 100000",
        _picture(lambda _: pictures.png(100_000, 100_000, bytes(99))),
    ),
    "a picture of another grid": ("picture", "its grid is", _picture(lambda _: pictures.png(640, 480))),
    "a picture with more than its rows": (
        "picture",
        "more or less",
        _picture(lambda _: pictures.png(28, 98, bytes(9999))),
    ),
    "a picture cut short": ("picture", "cut short", _picture(lambda png: png[:-20])),
    "a picture of five mebibytes": ("size", "may have 4,194,304", lambda f: _huge(f, ".png", 5 * 2**20)),
    "a picture with a second header": (
        "picture",
        "IHDR' chunk where none belongs",
        _picture(lambda png: pictures.with_chunk(png, b"IHDR", pictures.header(20_000, 20_000))),
    ),
    "a picture with a header after its pixels": (
        "picture",
        "IHDR' chunk where none belongs",
        _picture(lambda png: pictures.with_chunk(png, b"IHDR", b"PK\x03\x04", after=b"IDAT")),
    ),
    "a picture whose end holds a program": (
        "picture",
        "bytes in its last chunk",
        _picture(lambda png: pictures.with_chunk(png, b"IEND", b"#!/bin/sh\n")),
    ),
    "a picture of a billion images": (
        "picture",
        "would unpack to",
        lambda f: (
            with_picture(f.none, pictures.png(99_998, 99_998, bytes(99))),
            edited(f.none, lambda fields: fields["samples"].update(rows=10_000, columns=10_000)),
        ),
    ),
    "another run's picture": ("duplicate", "picture is that of another run", _copied_picture),
    "norm maps that are missing": ("attachment", "is missing", lambda f: path_beside(f.none, "norms").unlink()),
    "norm maps of other bytes": ("attachment", "SHA-256 differ", lambda f: _bitten(f, "norms")),
    "norm maps that are too large": ("size", "may have 2,097,152", lambda f: _huge(f, ".norms.safetensors", 3 * 2**20)),
    "norm maps with a stowaway": (
        "attachment",
        "of their types",
        _norm_maps(lambda arrays: arrays.update(weights=np.zeros(9, np.float32))),
    ),
    "norm maps below zero": (
        "attachment",
        "no finite numbers from 0",
        _norm_maps(lambda arrays: arrays.update(patches=-arrays["patches"] - 1)),
    ),
    "norm maps that do not fit each other": (
        "attachment",
        "does not fit the rest",
        _norm_maps(lambda arrays: arrays.update(times=arrays["times"][:1])),
    ),
    "norm maps with an endless header": ("attachment", "header is too long", _long_header),
    "moments of other bytes": ("distance", "SHA-256 differ", lambda f: _bitten(f, "moments")),
    "moments that are too large": (
        "size",
        "may have 33,554,432",
        lambda f: _huge(f, ".moments.safetensors", 33 * 2**20),
    ),
    "a record of three mebibytes": ("size", "may have 2,097,152", lambda f: _huge(f, ".json", 3 * 2**20)),
    "a withdrawal of other bytes": ("withdrawal", "other bytes", _withdrawal),
    "a withdrawal without a reason": ("withdrawal", "at least 10 characters", lambda f: _withdrawal(f, reason="bad")),
    "a withdrawal of what lies elsewhere": ("withdrawal", "path", lambda f: _withdrawal(f, path="../../etc/passwd")),
    "a withdrawal through another folder": (
        "withdrawal",
        "path",
        lambda f: _withdrawal(f, path=f"measured/../../{f.new.name}"),
    ),
    "a withdrawal for no reason but dots": ("withdrawal", "10 letters", lambda f: _withdrawal(f, reason="." * 20)),
    "a withdrawal that speaks to the terminal": (
        "withdrawal",
        "\\x1b[31m",
        lambda f: _withdrawal(f, **{"\x1b[31m\n::error::": 1}),
    ),
    "a source that speaks to the terminal": (
        "schema",
        "\\x1b[31m",
        lambda f: _write(f, "published/mine.json", json.dumps({**SOURCE, "\x1b[31m\n::error::": 1}).encode()),
    ),
    "a withdrawal before anybody saw the record": ("schema", "Field required", _withdrawn_though_broken),
    "an evaluation without end": ("place", "it is a link", lambda f: _never_ending(f, f"evaluations/{f.new.name}")),
    "a bench without end": ("place", "it is a link", lambda f: _never_ending(f, f"bench/store/{f.new.name}")),
    "a source without end": ("place", "it is a link", lambda f: _never_ending(f, "published/mine.json")),
    "claims without end": ("place", "it is a link", lambda f: _never_ending(f, "published/claims.json")),
    "a withdrawal without end": ("place", "it is a link", lambda f: _never_ending(f, f"withdrawn/{f.new.name}")),
    "a name that is no text": ("name", "\\udcff\\udcfe.json: its name has characters", _name_in_bytes),
    "a record submitted twice": (
        "duplicate",
        "only its name and date are others",
        lambda f: submitted(f.new, lambda fields: fields.update(created="2026-11-21T14:00:00Z"), moved=False),
    ),
    "another seed's values": (
        "duplicate",
        "to 8 digits those of another run",
        lambda f: submitted(f.none, lambda fields: fields["config"].update(seed=77), moved=False),
    ),
    "another seed's norm maps": ("duplicate", "norm maps are those of another run", _with_others_norm_maps),
    "norm maps that say a list": ("attachment", "what cannot be read", _told_norm_maps(lambda told: "[]")),
    "norm maps that say no JSON": ("attachment", "what cannot be read", _told_norm_maps(lambda told: "hello")),
    "norm maps that say a number of blocks": (
        "attachment",
        "what cannot be read",
        _told_norm_maps(lambda told: json.dumps({**json.loads(told), "blocks": 5})),
    ),
    "norm maps that say other blocks": (
        "attachment",
        "say that they are of 1 of",
        _told_norm_maps(lambda told: json.dumps({**json.loads(told), "blocks": [0]})),
    ),
    "norm maps that say more": ("attachment", "of themselves", _told_norm_maps(str, evil="A" * 1500)),
    "norm maps of a deeper network": (
        "attachment",
        "the network has",
        _told_norm_maps(lambda told: json.dumps({**json.loads(told), "depth": 99})),
    ),
    "norm maps without pixels": (
        "attachment",
        "have images of (0, 0, 1)",
        _norm_maps(lambda arrays: arrays.update(images=np.zeros((len(arrays["images"]), 0, 0, 1), np.uint8))),
    ),
    "norm maps with many blocks": ("attachment", "say that they are of", _told_norm_maps(str, repeats=50)),
    "norm maps without a grid": (
        "attachment",
        "have 7 patch tokens",
        _norm_maps(lambda arrays: arrays.update(patches=arrays["patches"][..., :7].copy())),
    ),
    "norm maps of registers that there are not": (
        "attachment",
        "have 500 registers, and the run 0",
        _norm_maps(lambda arrays: arrays.update(registers=np.ones((*arrays["patches"].shape[:3], 500), np.float16))),
    ),
}
