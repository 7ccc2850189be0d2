"""What reads the prompts of a run: an encoder that is trained with it, or what a frozen one said of each of them."""

# N prompts asked for, P all prompts, T tokens of a prompt, E their width

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from harness.captions import list_captioned
from harness.denoiser import Said
from harness.errors import UserError
from harness.prompted import PromptReader, WordEncoder
from harness.spec import RunConfig
from harness.text_cache import StoredTexts, stored_texts
from harness.text_config import WORDS, TextConfig
from harness.text_encoder_files import identify_text_encoder
from harness.text_encoders import open_text_encoder
from harness.texts import texts_of


class StoredReader(PromptReader):
    """Prompts as a frozen encoder read them: no weights of its own, and a disk that is first asked when a prompt is.

    The lookup is on the host, where the table is: a GPU is waited for once in each forward pass.
    """

    def __init__(self, config: TextConfig, open_texts: Callable[[], StoredTexts]) -> None:
        super().__init__()
        self._width, self._tokens = config.width, config.tokens
        self._open = open_texts
        self._opened: StoredTexts | None = None

    def prepare(self) -> None:
        """Encode what is not on the disk yet.  Raises UserError where the encoder cannot be opened."""
        self._opened = self._opened or self._open()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, y_N: Tensor) -> Said:
        if y_N.is_meta:
            N, T, E = len(y_N), self._tokens, self._width
            return Said(y_N.new_zeros(N, T, E).float(), y_N.new_ones(N, T).bool(), y_N.new_zeros(N, E).float())
        self.prepare()
        assert self._opened is not None, "prepared"
        numbers = y_N.cpu().numpy()
        found = (self._opened.tokens(numbers), self._opened.present(numbers), self._opened.pooled(numbers))
        tokens_NTE, present_NT, pooled_NE = (torch.from_numpy(each).to(y_N.device) for each in found)
        return Said(tokens_NTE, present_NT, functional.layer_norm(pooled_NE, (self._width,)))


def reader_of(config: RunConfig) -> PromptReader:
    """What reads the prompts of a run, on the device of the moment.

    Raises UserError where prompts are longer than the run's text says.
    """
    assert config.text is not None, "a run without prompts"
    if config.text.encoder == WORDS:
        return WordEncoder(config.text, _table(config, config.text))
    return StoredReader(config.text, lambda: _stored(config))


def captions_of(config: RunConfig) -> tuple[str, ...]:
    """The captions of the run's images, each once.  Raises UserError where its folder cannot be listed."""
    if config.task.prompts == "shapes":
        from harness.shapes.grammar import captions

        return captions()
    assert config.execution.data is not None, f"task {config.task.name} was resolved without a folder"
    return list_captioned(Path(config.execution.data)).captions


def _stored(config: RunConfig) -> StoredTexts:
    text = config.text
    assert text is not None, "a run without prompts"
    place = config.execution.text_encoder or text.encoder
    identity = identify_text_encoder(place, text.tokens)
    if identity.digest != text.encoder_sha256:
        raise UserError(
            f"{place} is not the text encoder that the run was resolved with", "give --text-encoder the same one"
        )
    texts, device = texts_of(config.task, captions_of(config)), torch.device("cpu")
    folder = Path(config.execution.runs) / "texts"
    return stored_texts(texts, identity, lambda: open_text_encoder(place, text.tokens, device), folder)


def _table(config: RunConfig, text: TextConfig) -> Tensor:
    """The words of every prompt by its number, (P, T): a start, which the empty prompt has too, words, and padding."""
    from harness.shapes.grammar import words_of

    start, texts = text.vocabulary - 1, texts_of(config.task, captions_of(config))
    rows = [(start, *words_of(each)) for each in texts]
    longest = max(map(len, rows))
    if longest > text.tokens:
        raise UserError(
            f"text.tokens is {text.tokens}, and the longest prompt has {longest}", f"set text.tokens={longest}"
        )
    return torch.tensor([[*row, *[0] * (text.tokens - len(row))] for row in rows])
