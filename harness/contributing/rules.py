"""What `validate` checks, in words: the list that its refusals, the board and the documentation print (no torch)."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Rule:
    """One check of a submission.  `name` stands in every refusal, `says` is what must hold, one sentence."""

    name: str
    says: str


RULES: Final = (
    Rule(
        "append-only",
        "No committed result is changed, renamed or deleted; a record goes only with a withdrawal that says why. "
        "Files of published figures and claims may get further ones.",
    ),
    Rule(
        "place",
        "Only records, their pictures and attachments, published figures and withdrawals lie below results/, "
        "each in its folder; no links, no hidden files, nothing executable.",
    ),
    Rule(
        "name",
        "A file is called after its record, <created>-<run_id>, in plain ASCII, and no two names differ "
        "in case or in how they are encoded alone.",
    ),
    Rule(
        "size",
        "A record holds at most 2 MiB, a picture 4 MiB, norm maps 2 MiB, verdicts 2 MiB and moments 32 MiB; "
        "a submission has at most 1,000 files and 256 MiB.",
    ),
    Rule(
        "json", "A file is plain JSON in UTF-8: no NaN, no Infinity, no key twice, no endless nesting, text or number."
    ),
    Rule(
        "schema",
        "It has the fields of a schema version that is known here, of their types, and no other; "
        "numbers are written as numbers.",
    ),
    Rule("run-id", "A record's run_id is the one that its configuration gives."),
    Rule("conditions", "Conditions and circumstances are those that the configuration and the provenance give."),
    Rule("date", "A record was created after the project began, and not in the future."),
    Rule("status", "A diverged run has no judged value; a finished one has those of its task."),
    Rule("measurement", "Each measurement has a known name, its unit and direction, and stands once under its key."),
    Rule(
        "range",
        "Values are possible: shares within 0 and 1, distances and times not negative, counts whole, "
        "standard errors and parts as large as their value allows.",
    ),
    Rule(
        "outliers",
        "Norm statistics agree with each other, with the network's blocks and with the noise levels; "
        "a third party's have every block up to the last.",
    ),
    Rule("curve", "The loss curve's steps ascend, and end within the training."),
    Rule("backbone", "Backbone, size and register preset are known here, or it is marked as a third party's."),
    Rule("configuration", "The configuration can be built and run: network, registers, task and sampler fit."),
    Rule(
        "provenance",
        "The record says which commit, versions and machine made it, in words that can be true; "
        "code with uncommitted changes is told as a remark.",
    ),
    Rule(
        "text",
        "Texts are short and plain: no control characters, no HTML, nothing that hides or turns around; "
        "links are https.",
    ),
    Rule("picture", "The sample grid is the PNG that the record names, of its size, with pixels and nothing else."),
    Rule(
        "attachment",
        "Moments and norm maps are the safetensors files that the record names, sound, "
        "and of the run's own images, noise levels, blocks, patches and registers.",
    ),
    Rule(
        "evaluation",
        "An evaluation judged possible images, measured something of them, and agrees with the run that it names. "
        "Its id is of more than it holds, and is not computed again.",
    ),
    Rule(
        "duplicate",
        "No run is counted twice: values to eight digits, pixels, loss curves and attachments are no other run's. "
        "The same run once more by the same code may give the same, but not in the same time: "
        "its seconds are others to the last digit.",
    ),
    Rule(
        "withdrawal",
        "A withdrawal names one committed record by its path and the digest of its bytes, and gives a reason.",
    ),
    Rule(
        "cost",
        "Parameters, GFLOPs and forward passes are all said, counted again from the configuration, and agree. "
        "A decoder's GFLOPs are only bounded, and said where a decoder is.",
    ),
    Rule(
        "distance",
        "Fréchet distances are computed again from the moments, where these were submitted, "
        "and agree to 0.001 % and at most 0.0001.",
    ),
    Rule(
        "verdicts",
        "Whatever says a GenEval value comes with the verdict on every image: decided again from the objects that "
        "were found they are the same, and give each share, standard error and interval that is said.",
    ),
    Rule(
        "prompts",
        "A GenEval value has the SHA-256 of its prompts, which have all six categories, and the official options: "
        "geneval-553 are GenEval's own, and no others; a run's are those of its task. "
        "geneval_shapes is of the drawn shapes and their exact detector alone.",
    ),
)

_BY_NAME: Final = {rule.name: rule for rule in RULES}


def rule_named(name: str) -> Rule:
    """The rule of that name, which there is."""
    return _BY_NAME[name]
