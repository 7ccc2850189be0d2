"""How the prompts of a run reach its denoiser, and which text encoder reads them (no torch)."""

from harness.changes import Changes
from harness.errors import UserError
from harness.spec import Execution
from harness.tasks import TaskDefinition
from harness.text_config import TextConfig
from harness.text_encoder_files import identify_text_encoder

USUAL_ENCODER = "openai/clip-vit-large-patch14"


def resolve_text(definition: TaskDefinition, execution: Execution, changes: Changes) -> TextConfig | None:
    """The text of a task with the user's changes; None for a task of classes.

    Raises UserError for a text encoder that cannot be found, and for words about prompts where there are none.
    """
    if not definition.has_prompts:
        _refuse(execution, changes)
        return None
    place = execution.text_encoder
    if definition.words is not None and place is None:
        return changes.apply("text", definition.words())
    place = place or USUAL_ENCODER
    usual = _frozen(place, None)
    wanted = changes.apply("text", usual)
    found = _frozen(place, wanted.tokens).model_copy(update={"entry": wanted.entry})
    if wanted.model_copy(update={"encoder_sha256": found.encoder_sha256}) != found:
        raise UserError(
            f"a frozen text encoder is what it is: {place} gives tokens {usual.width} wide",
            "set text.entry or text.tokens alone",
        )
    return found


def _frozen(place: str, tokens: int | None) -> TextConfig:
    identity = identify_text_encoder(place, tokens)
    return TextConfig(
        encoder=identity.name, encoder_sha256=identity.digest, width=identity.width, tokens=identity.tokens
    )


def _refuse(execution: Execution, changes: Changes) -> None:
    if execution.text_encoder is not None:
        raise UserError(
            "--text-encoder has no effect on a task of classes", "leave it out, or use --task shapes-t2i or t2i"
        )
    if changes.are_about("text"):
        raise UserError("this task has no prompts: text.* cannot be set", "use --task shapes-t2i or t2i")
