"""Tell a person at a terminal what a pretrained pipeline gave."""

from harness.evaluating import Evaluated
from harness.outlier_records import verdict_of, worst_of
from harness.outlier_words import times
from harness.text_table import columns


def report(made: Evaluated) -> str:
    """What was sampled and how, a row for each number, what was found in the transformer, and where it is kept."""
    record, pipeline = made.record, made.record.pipeline
    assert pipeline is not None, "the record of images from elsewhere"
    guidance = "" if pipeline.guidance_scale is None else f", guidance {pipeline.guidance_scale:g}"
    rows = [
        [m.name, f"{m.value:.4g}" + (f" ± {m.standard_error:.2g}" if m.standard_error is not None else ""), m.unit]
        for m in record.measurements
    ]
    lines = [] if made.is_new else ["stored result, nothing was run (--again makes a new one)"]
    lines += [
        f"{pipeline.name}: {pipeline.pipeline_class}, {pipeline.parameters:,} parameters in its transformer",
        f"{record.images.num_images:,} images of {pipeline.width} x {pipeline.height}, "
        f"{pipeline.images_per_prompt} of each prompt, {pipeline.scheduler}, {pipeline.steps} steps{guidance}",
        *(["", columns(rows)] if rows else []),
        "",
    ]
    worst = worst_of(record.outliers)
    if worst is not None:
        lines.append(
            f"outliers {verdict_of(record.outliers)}: the largest norm is {times(worst.max_over_median)} medians, "
            f"after block {worst.block} at t = {worst.time:g}"
        )
    return "\n".join([*lines, *(f"note     {note}" for note in record.notes), f"record   {made.path}"])
