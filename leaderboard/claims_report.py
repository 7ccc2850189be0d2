"""Show what became of the published claims, at a terminal or to a machine."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harness.claims import OutOfReach
from harness.published import Figure, Published
from harness.text_table import columns
from leaderboard.claims import Judgement, Pair, Refusal, Row
from leaderboard.measured import Run, Value

HEADER = ("claim", "task", "arms", "ours", "seeds", "95 % interval", "claimed", "verdict", "as published", "records")
ROW_DATA = (
    "task",
    "backbone",
    "arm",
    "against",
    "metric",
    "title",
    "key",
    "mean",
    "bounds",
    "verdict",
    "below_scale",
    "another_reference",
)
HOW_TO_READ = """\
verdict: of this row's runs alone.  confirmed or contradicted: the 95 % interval over training seeds (Student's t over
matched differences) lies wholly where the claim has it, or wholly elsewhere.  One seed is always inconclusive; its
interval is by what others vary: the spread of arms with several seeds, and not less than the published 1.3 %.
as published: the verdict at the published task, backbone, registers and length, which is another matter: digits are no
ImageNet.  They are 8 x 8, their networks are tiny, SiT and DiT learn their pixels and no VAE's latents, and what they
confirm or contradict may be otherwise at scale.  It is at most inconclusive where a distance is not known to be to the
published reference: which one DSR's FIDs are against, validation images by its name, is not confirmed."""


def report(published: Published, judgements: Sequence[Judgement]) -> str:
    """One row for each claim and each pair of arms that tests it, the claims in words, and the records behind rows."""
    numbers = itertools.count(1)
    table: list[tuple[str, ...]] = [HEADER]
    traces = []
    for judgement in judgements:
        for row, number in zip(judgement.rows, numbers, strict=False):
            table.append(_cells(row, judgement, number))
            traces.append(f"[{number}] {_traces(row)}")
        if not judgement.rows:
            table.append(_empty(judgement))
    figures = published.figures
    lines = [
        columns(table),
        "",
        HOW_TO_READ,
        "",
        "The claims, in our words, with what they rest on (quoted, never ranked with what was measured):",
        *(line for judgement in judgements for line in _claim_lines(judgement, figures)),
    ]
    if traces:
        lines += ["", "Records:", *traces]
    lines += [f"left out: {path.name}: {reason}" for path, reason in published.problems]
    return "\n".join(lines)


def machine_readable(published: Published, judgements: Sequence[Judgement]) -> dict[str, Any]:
    """All of it as plain data: figures in full under each claim, and the records of every pair."""
    figures = published.figures
    return {
        "claims": [
            {
                **judgement.claim.model_dump(mode="json"),
                "expects": judgement.claim.test.words,
                "figures": [figures[name].model_dump(mode="json") for name in judgement.claim.figures],
                "verdict_at_published_scale": judgement.verdict,
                "rows": [_row_data(row) for row in judgement.rows],
                "refused": [
                    {
                        "run": _run_data(refusal.run),
                        "baseline": refusal.base_run and _run_data(refusal.base_run),
                        "metric": refusal.metric,
                        "reasons": list(refusal.reasons),
                    }
                    for refusal in judgement.refused
                ],
                "unmatched": [_run_data(run) for run in judgement.unmatched],
                "set_aside": [_run_data(run) for run in judgement.set_aside],
                "diverged": [_run_data(run) for run in judgement.diverged],
            }
            for judgement in judgements
        ],
        "problems": [{"path": str(path), "reason": reason} for path, reason in published.problems],
    }


def _cells(row: Row, judgement: Judgement, number: int) -> tuple[str, ...]:
    arms = f"{row.arm} - {row.against}" if row.against else row.arm
    return (
        row.claim_id,
        row.task,
        f"{row.backbone}: {arms}, {row.title}",
        f"{row.mean:+.4g}" if row.against else f"{row.mean:.4g}",
        str(len(row.pairs)),
        row.interval_in_words,
        row.bounds_in_words,
        f"{row.verdict}, {_scale(row, judgement)}",
        judgement.verdict,
        f"[{number}]",
    )


def _scale(row: Row, judgement: Judgement) -> str:
    if not row.below_scale:
        return "as published" if not row.another_reference else "as published but for the reference"
    return "not as published" if row.task == judgement.claim.setting.task else f"{row.task} only"


def _empty(judgement: Judgement) -> tuple[str, ...]:
    """The row of a claim of which nothing was measured that counts."""
    counts = {"refused": len(judgement.refused), "diverged": len(judgement.diverged)}
    left_out = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "-"
    return (judgement.claim.id, "-", left_out, "-", "0", "-", "-", "not yet measured", judgement.verdict, "-")


def _claim_lines(judgement: Judgement, figures: dict[str, Figure]) -> list[str]:
    claim = judgement.claim
    lines = [f"  {claim.id}: {claim.text}  [{claim.source}{', ' + claim.place if claim.place else ''}]"]
    if claim.figures:
        lines.append(f"      published: {'; '.join(_quoted(figures[name]) for name in claim.figures)}")
    lines.append(f"      at the published scale: {judgement.verdict}")
    if isinstance(claim.test, OutOfReach):
        lines.append(f"      {claim.test.words}")
    if claim.disputed_by:
        lines.append(f"      disputed by: {', '.join(claim.disputed_by)}")
    if claim.note:
        lines.append(f"      note: {claim.note}")
    lines += _left_out(judgement)
    return lines


def _quoted(figure: Figure) -> str:
    value = f"{figure.metric} {figure.value:g}"
    return f"{value} ({figure.id}{'' if figure.confirmed else ', unconfirmed'})"


def _left_out(judgement: Judgement) -> list[str]:
    """What was measured and does not count, counted, with the reasons."""
    lines = []
    for reasons, count in sorted(Counter(refusal.reasons for refusal in judgement.refused).items()):
        lines.append(f"      refused: {count} that may not be compared: {'; '.join(reasons)}")
        lines += [f"        {_sides(refusal)}" for refusal in judgement.refused if refusal.reasons == reasons]
    if judgement.unmatched:
        lines.append(f"      without a matched baseline: {', '.join(run.path for run in judgement.unmatched)}")
    if judgement.set_aside:
        lines.append("      set aside, over stand-in latents that are no representation:")
        lines += [f"        {run.path}" for run in judgement.set_aside]
    if judgement.diverged:
        lines.append("      diverged:")
        lines += [f"        {run.path} ({run.arm.name})" for run in judgement.diverged]
    return lines


def _sides(refusal: Refusal) -> str:
    return " and ".join(run.path for run in (refusal.run, refusal.base_run) if run)


def _traces(row: Row) -> str:
    scale = f" (below the published scale: {'; '.join(row.below_scale)})" if row.below_scale else ""
    reference = f" ({row.another_reference})" if row.another_reference else ""
    records = [f"seed {pair.run.seed}: {_trace(pair)}" for pair in row.pairs]
    return "\n     ".join([f"{row.claim_id}, key {row.key}{scale}{reference}", *records])


def _trace(pair: Pair) -> str:
    ours = f"{pair.value.path} ({pair.value.value:.6g})"
    return ours if pair.base is None else f"{ours} - {pair.base.path} ({pair.base.value:.6g})"


def _row_data(row: Row) -> dict[str, Any]:
    interval = row.interval and {**asdict(row.interval), "low": row.interval.low, "high": row.interval.high}
    return {
        **{name: getattr(row, name) for name in ROW_DATA},
        "interval": interval,
        "changed_nothing": row.changed_nothing,
        "at_published_scale": not row.below_scale,
        "pairs": [
            {
                "seed": pair.run.seed,
                "run": _value_data(pair.value),
                "baseline": pair.base and _value_data(pair.base),
                "difference": pair.difference,
            }
            for pair in row.pairs
        ],
    }


def _value_data(value: Value) -> dict[str, Any]:
    return {"run_id": value.run_id, "record_id": value.record_id, "path": value.path, "value": value.value}


def _run_data(run: Run) -> dict[str, Any]:
    return {"run_id": run.run_id, "record_id": run.record_id, "path": run.path, "arm": run.arm.name, "seed": run.seed}
