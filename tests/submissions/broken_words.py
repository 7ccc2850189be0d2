"""Bytes, fields and texts that are not what a record is made of."""

import json
from collections.abc import Callable

from tests.submissions.broken_files import Case
from tests.submissions.folder import Fields, Folder, edited, submitted


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Folder], object]:
    return lambda folder: folder.none.write_bytes(change(folder.none.read_bytes()))


def _replaced(old: bytes, new: bytes) -> Callable[[Folder], object]:
    def change(content: bytes) -> bytes:
        assert old in content, old
        return content.replace(old, new, 1)

    return _bytes(change)


def _fields(change: Callable[[Fields], object]) -> Callable[[Folder], object]:
    return lambda folder: edited(folder.none, change)


def _config(change: Callable[[Fields], object]) -> Callable[[Folder], object]:
    return lambda folder: submitted(folder.none, lambda fields: change(fields["config"]))


def _noted(text: str) -> Callable[[Folder], object]:
    return _fields(lambda fields: fields.update(notes=[text]))


def _third_party(file: str, backbone: str) -> Callable[[Folder], object]:
    told = {"file": file, "sha256": "1" * 64}
    return _config(lambda config: config.update(backbone=backbone, third_party=told))


def _smuggled(config: Fields) -> None:
    config["registers"]["denoiser"] = {"count": 4, "start_block": 1}


def _evaluation(folder: Folder, begins: str) -> None:
    from tests.submissions.good import evaluated

    path = evaluated(folder)
    path.rename(path.with_name(f"{begins}-{path.stem[-12:]}.json"))


def _judged(change: Callable[[Fields], object]) -> Callable[[Folder], object]:
    from tests.submissions.good import evaluated

    return lambda folder: edited(evaluated(folder), change)


def _judged_again(folder: Folder) -> None:
    from tests.submissions.good import evaluated

    path = evaluated(folder)
    again = path.with_name("20261121T130000000000Z-aaaaaaaaaaaa.json")
    again.write_bytes(path.read_bytes())
    said = {"created": "2026-11-21T13:00:00Z", "evaluation_id": "a" * 12, "title": "another"}
    edited(again, lambda fields: fields.update(said))


_DIMENSIONS = {"input_size": 8, "in_channels": 1, "num_classes": 10, "patch_size": 2, "width": 8, "depth": 2}
_DIMENSIONS |= {"num_heads": 2}


def _strangers(**changes: object) -> Callable[[Folder], object]:
    told = {"backbone": "mine", "third_party": {"file": "mine.py", "sha256": "1" * 64}}
    return _config(lambda config: config.update(told | changes))


def _bench_without_cases(folder: Folder) -> None:
    edited(next((folder.results / "bench").rglob("*.json")), lambda fields: fields.update(cases=[]))


def _bench(folder: Folder) -> None:
    path = next((folder.results / "bench").rglob("*.json"))
    edited(path, lambda fields: fields.update(command="python -m harness bench store --records 1"))


def _published(folder: Folder, **changes: object) -> None:
    path = folder.results / "published/clean-fid.json"
    told = json.loads(path.read_text())
    told["figures"][0] |= changes
    path.write_text(json.dumps(told))


CASES: dict[str, Case] = {
    "an empty file": ("json", "is not JSON", _bytes(lambda _: b"")),
    "half a file": ("json", "is not JSON", _bytes(lambda content: content[:-50])),
    "a list": ("json", "no JSON object", _bytes(lambda content: b"[" + content + b"]")),
    "two objects": ("json", "is not JSON", _bytes(lambda content: content + content)),
    "a comment": ("json", "is not JSON", _bytes(lambda content: content + b"// checked\n")),
    "a byte order mark": ("json", "byte order mark", _bytes(lambda content: b"\xef\xbb\xbf" + content)),
    "UTF-16": ("json", "byte order mark", _bytes(lambda content: content.decode().encode("utf-16"))),
    "no UTF-8": ("json", "not UTF-8", _replaced(b'"notes": [', b'"notes": ["\xff",')),
    "NaN": ("json", "NaN is no number", _replaced(b'"standard_error": null', b'"standard_error": NaN')),
    "Infinity": ("json", "Infinity is no number", _replaced(b'"standard_error": null', b'"standard_error": Infinity')),
    "a number beyond all numbers": (
        "json",
        "too large",
        _replaced(b'"standard_error": null', b'"standard_error": 1e999'),
    ),
    "a number of 5,000 digits": ("json", "5,000 digits", _replaced(b'"seed": 0', b'"seed": ' + b"1" * 5000)),
    "a key that stands twice": ("json", "stands twice", _replaced(b'"status":', b'"status": "diverged",\n "status":')),
    "endless brackets": ("json", "levels deep", _replaced(b'"notes": [', b'"notes": [' + b"[" * 100_000)),
    "a text without an end": (
        "json",
        "characters: at most",
        _replaced(b'"notes": []', b'"notes": ["' + b"x" * 200_000 + b'"]'),
    ),
    "a field that there is not": ("schema", "favourite", _fields(lambda fields: fields.update(favourite="mine"))),
    "a field whose name is a page": ("schema", "Extra inputs", _fields(lambda fields: fields.update({"<b>\x07": 1}))),
    "a later schema": ("schema", "schema_version", _fields(lambda fields: fields.update(schema_version=3))),
    "a field that is missing": ("schema", "provenance", _fields(lambda fields: fields.pop("provenance"))),
    "a number as text": (
        "schema",
        "measurements.0.value",
        _fields(lambda f: f["measurements"][0].update(value="nine")),
    ),
    "a status of its own": ("schema", "status", _fields(lambda fields: fields.update(status="best"))),
    "another run's id": ("run-id", "its configuration gives", _fields(lambda fields: fields.update(run_id="0" * 12))),
    "a configuration changed afterwards": (
        "run-id",
        "its configuration gives",
        _fields(lambda fields: fields["config"]["recipe"].update(steps=9)),
    ),
    "conditions of its own": (
        "conditions",
        "its conditions are not those",
        _fields(lambda fields: fields["conditions"].update(num_images=50_000)),
    ),
    "circumstances of its own": (
        "conditions",
        "its circumstances say seed",
        _fields(lambda fields: fields["circumstances"].update(seed=5)),
    ),
    "a script in a note": ("text", "an HTML tag", _noted("<script>alert(1)</script>")),
    "a picture of another server in a note": ("text", "an HTML tag", _noted("<img src=x onerror=alert(1)>")),
    "a link that runs code": ("text", "runs code", _noted("[here](JavaScript:alert(1))")),
    "a character of no width": ("text", "U+200B", _noted("finished\u200b")),
    "a text that turns around": ("text", "U+202E", _noted("\u202eevil")),
    "a bell": ("text", "U+0007", _noted("done\x07")),
    "an escape sequence": ("text", "U+001B", _noted("\x1b[31mred")),
    "piled marks": ("text", "piled upon each other", _noted("Z" + "\u0300" * 40)),
    "a long note": ("text", "10,000 characters", _noted("x" * 10_000)),
    "a version that is none": (
        "provenance",
        "no version",
        _fields(lambda f: f["provenance"]["versions"].update(torch="newest")),
    ),
    "no versions": ("provenance", "which version of", _fields(lambda f: f["provenance"].update(versions={}))),
    "a commit that is a branch": (
        "provenance",
        "40 hexadecimal",
        _fields(lambda f: f["provenance"].update(commit="main")),
    ),
    "code without a digest": (
        "provenance",
        "code_sha256",
        _fields(lambda f: f["provenance"].update(code_sha256="new")),
    ),
    "a backbone that nobody knows": ("backbone", "no backbone named", _config(lambda c: c.update(backbone="sota"))),
    "a size that nobody knows": ("backbone", "no size", _config(lambda c: c.update(size="xxl"))),
    "a preset that nobody knows": (
        "backbone",
        "no register preset",
        _config(lambda c: c["registers"].update(preset="best")),
    ),
    "a third party's under our name": ("backbone", "cannot be called so", _third_party("mine.py", "sit")),
    "a third party's file elsewhere": ("backbone", "not the name", _third_party("../mine.py", "mine")),
    "registers that are called none": ("configuration", "called none", _config(_smuggled)),
    "heads that do not divide": (
        "configuration",
        "does not divide",
        _config(lambda c: c["network"].update(num_heads=3)),
    ),
    "a network that nobody can build": (
        "configuration",
        "at most 512",
        _config(lambda c: c["network"].update(depth=2_000_000)),
    ),
    "a network with a field of its own": (
        "configuration",
        "does not read",
        _config(lambda c: c["network"].update(magic=1)),
    ),
    "patches that do not tile": ("configuration", "do not tile", _config(lambda c: c["network"].update(patch_size=3))),
    "registers that never enter": (
        "configuration",
        "cannot enter before block",
        lambda f: submitted(
            f.registers, lambda fields: fields["config"]["registers"]["denoiser"].update(start_block=40)
        ),
    ),
    "a task that nobody knows": ("configuration", "no task named", _config(lambda c: c["task"].update(name="mnist"))),
    "digits that are others": (
        "configuration",
        "says other things",
        _config(lambda c: c["task"].update(data_fingerprint="x")),
    ),
    "a sampler without an end": (
        "configuration",
        "points: at most",
        _config(lambda c: c["sampler"].update(points=2_000_000_000)),
    ),
    "a sampler of another objective": (
        "configuration",
        "not sampled by",
        _config(lambda c: c.update(sampler={"kind": "ddpm", "respacing": "3"})),
    ),
    "an evaluation of pixels that nobody has": (
        "evaluation",
        "64 hexadecimal digits",
        _judged(lambda f: f["images"].update(sha256="zz")),
    ),
    "an evaluation whose darkest pixel is the lightest": (
        "evaluation",
        "above the greatest",
        _judged(lambda f: f["images"].update(least_pixel=200, greatest_pixel=100)),
    ),
    "an evaluation of nothing but copies": (
        "evaluation",
        "images equal an earlier one",
        _judged(lambda f: f["images"].update(duplicates=10**6)),
    ),
    "an evaluation that measured nothing": (
        "evaluation",
        "measured nothing",
        _judged(lambda f: f.update(measurements=[])),
    ),
    "an evaluation of operations": (
        "evaluation",
        "says nothing of images",
        _judged(
            lambda f: f["measurements"].append(
                {"name": "nfe", "value": 1.0, "unit": "forward passes per image", "better": "lower"}
            )
        ),
    ),
    "an evaluation under another title": ("duplicate", "it says what", _judged_again),
    "a third party's size that is a story": ("backbone", "no name of a size", _strangers(size="x" * 1000)),
    "a third party's preset that nobody knows": (
        "backbone",
        "no register preset",
        _strangers(registers={"preset": "superregs"}),
    ),
    "a third party's network without dimensions": ("configuration", "does not say", _strangers(network={})),
    "a third party's network that is a heap": (
        "configuration",
        "neither a number nor a word",
        _strangers(network={**_DIMENSIONS, "x": {"y": [1] * 100}}),
    ),
    "a third party's network without an end": (
        "configuration",
        "at most 512",
        _strangers(network={**_DIMENSIONS, "depth": 10**9}),
    ),
    "a timing of no case": ("schema", "cases", _bench_without_cases),
    "a figure from a place that is not https": (
        "text",
        "not https",
        lambda f: _published(f, note="http://example.org"),
    ),
    "a figure from a file": ("text", "into a machine", lambda f: _published(f, note="file:///etc/passwd")),
    "an evaluation with another name": (
        "name",
        "and by what it says",
        lambda f: _evaluation(f, "20261121T000000000000Z"),
    ),
    "a bench changed afterwards": ("schema", "the digest of what it says", _bench),
    "a figure of no metric": ("schema", "is none of", lambda f: _published(f, metric="beauty")),
    "a figure beyond its unit": ("schema", "lies between", lambda f: _published(f, value=1e9)),
    "a figure with a tag": ("text", "an HTML tag", lambda f: _published(f, note="<b>best</b>")),
}
