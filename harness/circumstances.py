"""What of a run is shown beside its values because it may differ from that of others (no torch)."""

from harness.comparability import Circumstances
from harness.records import Provenance
from harness.spec import FlowObjective, OdeSampler, RunConfig, SdeSampler

# Every mixing of tokens here is one call of this function; which kernel answers is the device's choice.
ATTENTION = "torch scaled_dot_product_attention"


def circumstances_of(
    config: RunConfig, provenance: Provenance, nfe: int | None, decoder_sha256: str | None
) -> Circumstances:
    """The circumstances of a run: `nfe` forward passes per image, a decoder by its file's digest where it has one."""
    trained = config.weights is None
    return Circumstances(
        seed=config.seed,
        steps=config.training_steps if trained else None,
        images_seen=config.training_steps * config.recipe.batch_size if trained else None,
        ema_decay=config.recipe.ema_decay if trained else None,
        sampler=sampler_in_words(config),
        nfe=nfe,
        precision=provenance.precision,
        tf32=provenance.precision == "tf32",
        attention=ATTENTION,
        decoder_sha256=decoder_sha256 or "",
        checkpoint="" if config.weights is None else f"{config.weights.name} {config.weights.sha256}",
        device=provenance.machine.get("device", provenance.device),
    )


def sampler_in_words(config: RunConfig) -> str:
    """The sampler and its grid, such as "ode heun, 50 points, times shifted by 6.928"."""
    sampler = config.sampler
    if isinstance(sampler, OdeSampler | SdeSampler):
        words = f"{sampler.kind} {sampler.method}, {sampler.points} points"
    else:
        words = f"{sampler.kind}, respacing {sampler.respacing}"
    shift = config.objective.time_shift if isinstance(config.objective, FlowObjective) else 1.0
    return words if shift == 1.0 else f"{words}, times shifted by {shift:.4g}"
