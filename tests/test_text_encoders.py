"""Frozen text encoders of transformers, and the cache of what they say."""

import io
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from harness import text_cache, text_encoder_files
from harness.errors import UserError
from harness.text_cache import StoredTexts, stored_texts
from harness.text_encoder_files import identify_text_encoder
from harness.text_encoders import Embedded, TextEncoder, open_text_encoder
from tests.text_builders import KINDS, make_text_encoder

CPU = torch.device("cpu")
WEIGHTS = "model.safetensors"
TEXTS = ["", "a photo of the red square", "two dogs and a cat", "a", "three red dogs left of a cat above the circle"]
ALL = np.arange(len(TEXTS))

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An encoder of every kind, on disk."""
    return {kind: make_text_encoder(tmp_path_factory.mktemp("text") / f"tiny-{kind}", kind) for kind in KINDS}


@pytest.fixture(scope="module")
def encoders(places: dict[str, Path]) -> dict[str, TextEncoder]:
    """The same, opened, with nine tokens but for SigLIP, which has ten."""
    return {kind: open_text_encoder(str(place), _tokens(kind), CPU) for kind, place in places.items()}


def _tokens(kind: str) -> int | None:
    return None if kind == "siglip" else 9


def _copy(place: Path, folder: Path) -> Path:
    return Path(shutil.copytree(place, folder))


def _rename_key(place: Path, old: str, new: str) -> None:
    state = load_file(place / WEIGHTS)
    state[new] = state.pop(old)
    save_file(state, place / WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "network", "tokens"),
    [
        ("clip", "CLIPTextModel", 12),
        ("siglip", "SiglipTextModel", 10),
        ("t5", "T5EncoderModel", 120),
        ("qwen2", "Qwen2Model", 128),
        ("llama", "LlamaModel", 128),
    ],
)
def test_an_encoder_is_told_by_its_files(places: dict[str, Path], kind: str, network: str, tokens: int) -> None:
    identity = identify_text_encoder(str(places[kind]))
    assert (identity.name, identity.network, identity.tokens, identity.width) == (f"tiny-{kind}", network, tokens, 16)


def test_what_a_config_leaves_out_is_what_transformers_takes(places: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("clip", "siglip"):
        place = _copy(places[kind], tmp_path / kind)
        (place / "config.json").write_text(json.dumps({"model_type": kind, "text_config": {}}))
        theirs = transformers.AutoConfig.from_pretrained(place).text_config
        identity = identify_text_encoder(str(place))
        assert (identity.width, identity.tokens) == (theirs.hidden_size, theirs.max_position_embeddings)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_pooled_are_the_model_s_own(
    places: dict[str, Path], encoders: dict[str, TextEncoder], kind: str
) -> None:
    embedded = encoders[kind].encode(TEXTS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(places[kind])
    network = getattr(transformers, encoders[kind].identity.network).from_pretrained(places[kind])
    assert embedded.tokens_NTE.shape == (len(TEXTS), encoders[kind].tokens, encoders[kind].width)
    for row, text in enumerate(TEXTS):
        numbers = tokenizer(text, truncation=True, max_length=encoders[kind].tokens)["input_ids"]
        numbers = numbers or [tokenizer.eos_token_id]
        padded = numbers + [tokenizer.pad_token_id] * (10 - len(numbers)) if kind == "siglip" else numbers
        with torch.no_grad():
            alone = network(torch.tensor([padded]))
        told = alone.last_hidden_state[0, : len(numbers)]
        pooled = alone.pooler_output[0] if kind in ("clip", "siglip") else told.mean(0)
        assert embedded.present_NT[row].sum() == len(numbers)
        torch.testing.assert_close(embedded.tokens_NTE[row, : len(numbers)], told, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(embedded.pooled_NE[row], pooled, rtol=1e-5, atol=1e-5)
        assert not embedded.tokens_NTE[row, len(numbers) :].any(), "what is not present is zeros"


@pytest.mark.parametrize("kind", KINDS)
def test_an_embedding_does_not_depend_on_its_companions(encoders: dict[str, TextEncoder], kind: str) -> None:
    together = encoders[kind].encode([*TEXTS, *TEXTS[::-1], "the"])
    alone = [encoders[kind].encode([text]) for text in TEXTS]
    for row, single in enumerate(alone):
        for place in (row, 2 * len(TEXTS) - 1 - row):
            assert torch.equal(together.tokens_NTE[place], single.tokens_NTE[0])
            assert torch.equal(together.pooled_NE[place], single.pooled_NE[0])
    assert len({tuple(single.pooled_NE[0].tolist()) for single in alone}) == len(TEXTS), "every text says another thing"


@pytest.mark.parametrize("kind", KINDS)
def test_the_empty_prompt_has_a_token(encoders: dict[str, TextEncoder], kind: str) -> None:
    embedded = encoders[kind].encode([""])
    assert embedded.present_NT[0, 0]
    assert embedded.pooled_NE.isfinite().all()
    assert embedded.pooled_NE.any()


def test_a_long_text_is_cut_before_its_end_token(encoders: dict[str, TextEncoder]) -> None:
    longer = encoders["clip"].encode([" ".join(["red"] * count) for count in (7, 8, 60)])
    assert torch.equal(longer.tokens_NTE[0], longer.tokens_NTE[1])
    assert torch.equal(longer.pooled_NE[0], longer.pooled_NE[2])


def test_siglip_reads_lower_case_and_its_padding(encoders: dict[str, TextEncoder]) -> None:
    upper, lower, clip = "A photo OF the Red square", "a photo of the red square", encoders["clip"]
    same = encoders["siglip"].encode([upper, lower])
    assert torch.equal(same.tokens_NTE[0], same.tokens_NTE[1])
    assert not torch.equal(*clip.encode([upper, lower]).tokens_NTE), "others are given what was written"


def test_opening_uses_up_no_random_numbers(places: dict[str, Path]) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    open_text_encoder(str(places["qwen2"]), 9, CPU)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("kind", "tokens", "words"),
    [("clip", 13, "2 to 12"), ("clip", 1, "2 to 12"), ("siglip", 9, "exactly 10"), ("llama", 300, "2 to 256")],
)
def test_a_number_of_tokens_that_it_cannot_be_given_is_refused(
    places: dict[str, Path], kind: str, tokens: int, words: str
) -> None:
    with pytest.raises(UserError, match=words) as error:
        identify_text_encoder(str(places[kind]), tokens)
    assert "text.tokens=" in error.value.remedy


def test_other_kinds_of_networks_are_refused_by_name(places: dict[str, Path], tmp_path: Path) -> None:
    place = _copy(places["clip"], tmp_path / "bert")
    (place / "config.json").write_text('{"model_type": "bert", "hidden_size": 16}')
    with pytest.raises(UserError, match="describes bert") as error:
        identify_text_encoder(str(place))
    assert all(kind in error.value.remedy for kind in KINDS)


@pytest.mark.parametrize("key", ["hidden_size", "max_position_embeddings"])
@pytest.mark.parametrize("value", [None, "many", 0])
def test_a_config_without_a_count_is_refused(places: dict[str, Path], tmp_path: Path, key: str, value: object) -> None:
    place = _copy(places["llama"], tmp_path / "llama")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(UserError, match=f"of llama has {value} as its {key}"):
        identify_text_encoder(str(place))


def test_a_pooled_vector_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pooled vector of giant is 24 wide, its tokens 16"):
        identify_text_encoder(str(make_text_encoder(tmp_path / "giant", "siglip", projection_size=24)))


@pytest.mark.parametrize(
    ("lost", "word"), [("config.json", "config"), (WEIGHTS, "safetensors"), ("tokenizer.json", "")]
)
def test_a_missing_file_is_named_with_the_way_by_hand(
    places: dict[str, Path], tmp_path: Path, lost: str, word: str
) -> None:
    place = _copy(places["t5"], tmp_path / "t5")
    (place / lost).unlink()
    with pytest.raises(UserError, match=word or "no tokenizer") as error:
        identify_text_encoder(str(place))
    assert "--text-encoder PATH" in error.value.remedy


def test_without_a_network_the_way_by_hand_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _go_offline(tmp_path, monkeypatch)
    with pytest.raises(UserError, match="there is no folder google/t5-v1_1-xxl, and the hub gave no") as error:
        identify_text_encoder("google/t5-v1_1-xxl")
    for word in ("config.json", WEIGHTS, "pytorch_model.bin", "spiece.model", "--text-encoder PATH"):
        assert word in error.value.remedy
    with pytest.raises(UserError, match="it is no hub id"):
        identify_text_encoder("./nowhere/to/be/found")


def _go_offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


def test_what_the_hub_s_cache_holds_whole_needs_no_network(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _go_offline(tmp_path, monkeypatch)
    snapshots = tmp_path / "models--owner--tiny" / "snapshots"
    _copy(places["t5"], snapshots / "whole")
    half = _copy(places["t5"], snapshots / "half")
    (half / WEIGHTS).unlink()
    identity, local = identify_text_encoder("owner/tiny"), identify_text_encoder(str(places["t5"]))
    assert identity.name == "owner/tiny"
    assert identity.digest == local.digest, "a name is no part of what an encoder is"


def test_the_hub_is_asked_for_the_files_that_are_read(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _go_offline(tmp_path / "cache", monkeypatch)
    asked = []
    names = [*(file.name for file in places["clip"].iterdir()), "pytorch_model.bin", "flax_model.msgpack", "README.md"]

    class Hub:
        def repo_info(self, repository: str, timeout: int) -> Any:
            files = [type("File", (), {"rfilename": name})() for name in names]
            return type("Answer", (), {"siblings": files, "sha": "abc"})()

    def download(repository: str, name: str, revision: str) -> str:
        asked.append(name)
        return str(places["clip"] / name)

    package = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(package, "HfApi", Hub)
    monkeypatch.setattr(package, "hf_hub_download", download)
    assert identify_text_encoder("owner/clip").network == "CLIPTextModel"
    assert set(asked) == {"config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS} & set(names)


@pytest.mark.parametrize("changed", [WEIGHTS, "tokenizer.json", "config.json"])
def test_the_digest_changes_with_every_file_that_decides(places: dict[str, Path], tmp_path: Path, changed: str) -> None:
    place = _copy(places["clip"], tmp_path / "tiny-clip")
    before = identify_text_encoder(str(place))
    content = (place / changed).read_bytes()
    (place / changed).write_bytes(content[:-1] + b"\x01" if changed == WEIGHTS else content.replace(b"{", b"{ ", 1))
    after = identify_text_encoder(str(place))
    assert before.digest != after.digest
    assert (before.weights_sha256 != after.weights_sha256) == (changed == WEIGHTS)
    assert before.digest == identify_text_encoder(str(places["clip"])).digest


def test_shards_and_old_files_of_plain_tensors_are_read(
    places: dict[str, Path], encoders: dict[str, TextEncoder], tmp_path: Path
) -> None:
    expected = encoders["t5"].encode(TEXTS).tokens_NTE
    state = load_file(places["t5"] / WEIGHTS)
    old, sharded = (_copy(places["t5"], tmp_path / name) for name in ("old", "sharded"))
    for place in (old, sharded):
        (place / WEIGHTS).unlink()
    torch.save(state, old / "pytorch_model.bin")
    shards = {key: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, key in enumerate(state)}
    for shard in set(shards.values()):
        save_file({key: value for key, value in state.items() if shards[key] == shard}, sharded / shard)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    for place in (old, sharded):
        assert torch.equal(open_text_encoder(str(place), 9, CPU).encode(TEXTS).tokens_NTE, expected)
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="not beside it: model-00002-of-00002"):
        open_text_encoder(str(sharded), 9, CPU)


class _RunsCode:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def test_a_file_that_is_code_is_not_run(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = _copy(places["t5"], tmp_path / "t5")
    (place / WEIGHTS).unlink()
    torch.save({"shared.weight": _RunsCode()}, place / "pytorch_model.bin")
    with pytest.raises(UserError, match="could run code"):
        open_text_encoder(str(place), 9, CPU)
    assert not (tmp_path / "ran").exists()


def test_weights_are_loaded_whole_or_not_at_all(places: dict[str, Path], tmp_path: Path) -> None:
    place = _copy(places["clip"], tmp_path / "clip")
    _rename_key(place, "text_model.final_layer_norm.bias", "text_model.nobody.bias")
    with pytest.raises(UserError, match=r"1 missing: .*final_layer_norm\.bias; 1 unexpected: .*nobody\.bias"):
        open_text_encoder(str(place), 9, CPU)
    shallow = _copy(places["qwen2"], tmp_path / "qwen2")
    config = json.loads((shallow / "config.json").read_text())
    config = {**config, "num_hidden_layers": 1, "layer_types": ["full_attention"]}
    (shallow / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"unexpected: .*layers\.1\."):
        open_text_encoder(str(shallow), 9, CPU)
    (place / WEIGHTS).write_bytes((places["clip"] / WEIGHTS).read_bytes()[:3000])
    with pytest.raises(UserError, match="damaged"):
        open_text_encoder(str(place), 9, CPU)


def test_a_damaged_tokenizer_and_one_of_another_network_are_refused(places: dict[str, Path], tmp_path: Path) -> None:
    place = _copy(places["clip"], tmp_path / "clip")
    for content, word in (("{", r"tokenizer\.json is damaged"), ('{"model": 3}', "cannot be read")):
        (place / "tokenizer.json").write_text(content)
        with pytest.raises(UserError, match=word):
            open_text_encoder(str(place), 9, CPU)
    small = make_text_encoder(tmp_path / "small", "qwen2", vocab_size=10)
    encoder = open_text_encoder(str(small), 9, CPU)
    with pytest.raises(UserError, match="the network knows 10"):
        encoder.encode(["dogs above"])


def test_t5_and_siglip_need_no_more_than_their_sentencepiece_model(places: dict[str, Path], tmp_path: Path) -> None:
    sentencepiece, trained = pytest.importorskip("sentencepiece"), io.BytesIO()
    numbers = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "vocab_size": 40, "hard_vocab_limit": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS[1:] * 9), model_writer=trained, minloglevel=2, **numbers
    )
    for kind in ("t5", "siglip"):
        place = _copy(places[kind], tmp_path / kind)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (place / file).unlink()
        (place / "spiece.model").write_bytes(trained.getvalue())
        encoder = open_text_encoder(str(place), None, CPU)
        assert encoder.encode(["", "red", "a red cat"]).present_NT.sum(1).tolist()[0] == 1, "the end alone"
        lengths = encoder.encode(["red", "a red cat"]).present_NT.sum(1)
        assert 1 < lengths[0] < lengths[1]


def test_values_that_are_no_numbers_are_refused(places: dict[str, Path], tmp_path: Path) -> None:
    place = _copy(places["t5"], tmp_path / "t5")
    state = load_file(place / WEIGHTS)
    state["encoder.final_layer_norm.weight"] *= torch.nan
    save_file(state, place / WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match="no numbers"):
        open_text_encoder(str(place), 9, CPU).encode(["a"])


class _Counting(TextEncoder):
    """An encoder that notes which texts it was given, and stops when it has been asked `most` times."""

    def __init__(self, encoder: TextEncoder, most: int = 1000) -> None:
        super().__init__(encoder.identity, encoder._tokenizer, encoder._network)
        self.given: list[str] = []
        self.most = most

    def encode(self, texts: Sequence[str]) -> Embedded:
        if len(self.given) >= self.most:
            raise KeyboardInterrupt
        self.given += texts
        return super().encode(texts)


def _never() -> TextEncoder:
    raise AssertionError("the encoder was opened")


def _stored(encoder: TextEncoder, folder: Path, texts: Sequence[str] = TEXTS) -> StoredTexts:
    return stored_texts(texts, encoder.identity, lambda: encoder, folder)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_cache, "SHARD", 2)


def test_how_many_texts_are_cut_is_said(
    encoders: dict[str, TextEncoder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _stored(encoders["t5"], tmp_path, ["a", "the red dogs", *["three red dogs left of a cat above the circle"] * 2])
    assert "2 of 4 texts fill all 9 tokens: what is beyond was cut off" in capsys.readouterr().err
    _stored(encoders["t5"], tmp_path, ["a", "the red dogs"])
    assert "cut off" not in capsys.readouterr().err


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("kind", KINDS)
def test_stored_texts_are_what_the_encoder_says(encoders: dict[str, TextEncoder], tmp_path: Path, kind: str) -> None:
    stored, told = _stored(encoders[kind], tmp_path), encoders[kind].encode(TEXTS)
    order = np.array([4, 0, 1, 1, 3])
    assert len(stored) == len(TEXTS)
    np.testing.assert_array_equal(stored.tokens(order), told.tokens_NTE[order].numpy())
    np.testing.assert_array_equal(stored.present(order), told.present_NT[order].numpy())
    np.testing.assert_array_equal(stored.pooled(order), told.pooled_NE[order].numpy())
    assert isinstance(stored.shards[0].tokens, np.memmap)
    assert [len(shard.tokens) for shard in stored.shards] == [
        int(told.present_NT[start : start + 2].sum()) for start in (0, 2, 4)
    ], "padding takes no disk"


def test_a_finished_cache_needs_no_encoder_and_no_write_permission(
    encoders: dict[str, TextEncoder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _stored(encoders["t5"], tmp_path)
    assert "encoding 5 of 5 texts with tiny-t5, once" in capsys.readouterr().err
    next(tmp_path.glob("*/lock")).unlink()
    again = stored_texts(TEXTS, encoders["t5"].identity, _never, tmp_path)
    np.testing.assert_array_equal(again.tokens(ALL), first.tokens(ALL))
    assert not list(tmp_path.glob("*/lock"))
    assert not capsys.readouterr().err


@pytest.mark.usefixtures("small_shards")
def test_an_encoding_goes_on_where_it_stopped(encoders: dict[str, TextEncoder], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _stored(_Counting(encoders["clip"], most=4), tmp_path)
    next(tmp_path.glob("*/000000002-lengths.npy")).unlink()
    counting = _Counting(encoders["clip"])
    stored = _stored(counting, tmp_path)
    assert counting.given == TEXTS[2:]
    np.testing.assert_array_equal(stored.tokens(ALL), encoders["clip"].encode(TEXTS).tokens_NTE.numpy())


def _encode_slowly(folder: str, place: str, log: str, count: int) -> None:
    """One of `count` processes: when all are ready, encode, noting each text, of one shard each, in a log."""
    text_cache.SHARD = 1
    encoder = open_text_encoder(place, 9, CPU)
    encode = encoder.encode

    def slow(texts: Sequence[str]) -> Embedded:
        with Path(log).open("a", encoding="utf-8") as out:
            out.write(f"{os.getpid()}\n")
        time.sleep(0.2)
        return encode(texts)

    encoder.encode = slow  # type: ignore[method-assign]
    Path(f"{log}-{os.getpid()}").touch()
    while len(list(Path(log).parent.glob("log-*"))) < count:
        time.sleep(0.01)
    _stored(encoder, Path(folder))


def _start(count: int, folder: Path, place: Path, log: Path) -> Sequence[BaseProcess]:
    # torch runs on one thread here, and a fork costs no second import of it.
    context = multiprocessing.get_context("fork")
    arguments = (str(folder), str(place), str(log), count)
    processes = [context.Process(target=_encode_slowly, args=arguments, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    return processes


def test_two_processes_share_the_work(places: dict[str, Path], tmp_path: Path) -> None:
    processes = _start(2, tmp_path / "cache", places["t5"], tmp_path / "log")
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    authors = (tmp_path / "log").read_text().split()
    assert len(authors) == len(TEXTS), "no shard was encoded twice"
    assert set(authors) == {str(process.pid) for process in processes}, "both had their share"


def test_a_killed_process_leaves_whole_shards_and_no_lock(
    places: dict[str, Path], encoders: dict[str, TextEncoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_cache, "SHARD", 1)
    (process,) = _start(1, tmp_path / "cache", places["t5"], tmp_path / "log")
    while len(list((tmp_path / "cache").glob("*/*-lengths.npy"))) < 2:
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    made = len(list((tmp_path / "cache").glob("*/*-lengths.npy")))
    counting = _Counting(encoders["t5"])
    stored = _stored(counting, tmp_path / "cache")
    assert counting.given == TEXTS[made:]
    np.testing.assert_array_equal(stored.tokens(ALL), encoders["t5"].encode(TEXTS).tokens_NTE.numpy())


def test_other_embeddings_have_another_folder(places: dict[str, Path], tmp_path: Path) -> None:
    other = make_text_encoder(tmp_path / "tiny-t5", "t5", seed=1)
    cache = tmp_path / "cache"
    for place, tokens, texts in (
        (places["t5"], 9, TEXTS),
        (other, 9, TEXTS),
        (places["t5"], 8, TEXTS),
        (places["t5"], 9, TEXTS[:4]),
        (places["t5"], 9, TEXTS),
    ):
        _stored(open_text_encoder(str(place), tokens, CPU), cache, texts)
    about = [json.loads(file.read_text()) for file in cache.glob("*/about.json")]
    assert len(list(cache.iterdir())) == len(about) == 4
    assert len({note["encoder"]["weights_sha256"] for note in about}) == 2


def test_an_encoder_that_changed_since_is_refused(
    places: dict[str, Path], encoders: dict[str, TextEncoder], tmp_path: Path
) -> None:
    resolved = identify_text_encoder(str(places["t5"]), 8)
    with pytest.raises(UserError, match="changed while"):
        stored_texts(TEXTS, resolved, lambda: encoders["t5"], tmp_path)


@pytest.mark.parametrize("what", ["tokens", "pooled", "lengths"])
def test_a_damaged_shard_is_named_before_any_work(encoders: dict[str, TextEncoder], tmp_path: Path, what: str) -> None:
    _stored(encoders["t5"], tmp_path)
    (damaged,) = tmp_path.glob(f"*/*-{what}.npy")
    for harm in (lambda: damaged.write_bytes(damaged.read_bytes()[:-4]), damaged.unlink):
        harm()
        if what != "lengths" or damaged.exists():
            with pytest.raises(UserError, match=damaged.name) as error:
                stored_texts(TEXTS, encoders["t5"].identity, _never, tmp_path)
            assert "-lengths.npy" in error.value.remedy
    next(tmp_path.glob("*/*-lengths.npy"), damaged).unlink(missing_ok=True)
    assert len(_stored(encoders["t5"], tmp_path)) == 5, "what the message advises does help"


def test_many_texts_make_larger_shards_not_more(
    encoders: dict[str, TextEncoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_cache, "SHARD", 1)
    monkeypatch.setattr(text_cache, "MOST_SHARDS", 3)
    assert [len(shard.pooled) for shard in _stored(encoders["t5"], tmp_path).shards] == [2, 2, 1]


def test_every_kind_that_is_understood_is_a_class_of_transformers() -> None:
    for kind in text_encoder_files.KINDS.values():
        assert isinstance(getattr(transformers, kind.network), type)
