"""Our metrics against those of ADM, clean-fid, torch-fidelity and DSR: a check for each group of goldens."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import softmax

from harness.metrics.frechet import frechet_distance
from harness.metrics.inception_score import inception_score, inception_score_of_parts
from harness.metrics.kernel_distance import kernel_distance
from harness.metrics.moments import moments
from harness.metrics.precision_recall import ADM, SINGLE, Arithmetic, Manifold, _Block, precision_recall
from harness.reconstruction import errors_of
from tests.encoder_goldens import EncoderGolden


def _feature_metrics(golden: EncoderGolden) -> None:
    """Every value that a case expects, by its name and the arguments in it."""
    reference, samples = golden.arrays["in.ref"], golden.arrays["in.sample"]
    found = moments(reference)
    golden.check("mu_ref", found.mean)
    golden.check("sigma_ref", found.covariance)
    _manifold_arrays(golden)
    distance, manifolds = frechet_distance(moments(samples), found), _manifolds(golden)
    probabilities = softmax(golden.arrays["in.is_acts"].astype(np.float64) @ golden.arrays["in.is_weight"], axis=1)
    for name, wanted in golden.expected.items():
        given = dict(re.findall(r"(\w+)=(\w+)", name))
        match re.split(r"[\[(]", name)[0]:
            case "adm.fid" | "cleanfid.frechet" | "tf.fid" | "dsr.fid_from_moments":
                golden.compare(name, distance, wanted)
            case "adm.inception_score":
                golden.compare(name, inception_score(probabilities, int(given["split"])).value, wanted)
            case "tf.isc":
                seed = int(given["rng_seed"]) if given["shuffle"] == "True" else None
                score = inception_score_of_parts(probabilities, int(given["splits"]), seed)
                golden.compare(name, np.array([score.value, score.spread]), wanted)
            case "cleanfid.kid":
                drawn = (int(given[each]) for each in ("np_seed", "num_subsets", "max_subset_size"))
                golden.compare(name, kernel_distance(samples, reference, *drawn).value, wanted)
            case "tf.kid":
                drawn = (int(given[each]) for each in ("rng_seed", "subsets", "subset_size"))
                kid = kernel_distance(samples, reference, *drawn)
                golden.compare(name, np.array([kid.value, kid.spread]), wanted)
            case "adm.distance_path":
                assert set(wanted) == _paths(golden)
            case _:
                _close(golden, name, manifolds[name], wanted)


def _manifolds(golden: EncoderGolden) -> dict[str, Any]:
    """Precision, recall and what else comes of manifolds, under their official names."""
    blocks = golden.args["small_batches"]
    arithmetics = {
        "fp32": SINGLE,
        "official": ADM,
        "fp32,small batches": Arithmetic(half=False, block=blocks["row_batch_size"]),
    }
    got: dict[str, Any] = {}
    for name, arithmetic in arithmetics.items():
        samples, reference = (Manifold(golden.arrays[f"in.{which}"], 3, arithmetic) for which in ("sample", "ref"))
        found = precision_recall(samples, reference)
        got |= {f"adm.precision[{name}]": found.precision, f"adm.recall[{name}]": found.recall}
        if arithmetic is SINGLE:
            got["tf.prc(1=sample,2=ref)"] = [found.precision, found.recall, found.f_score]
            got["adm.evaluate_fraction"] = reference.realism(samples.points).share_inside
    return got


def _manifold_arrays(golden: EncoderGolden) -> None:
    points = golden.arrays["in.ref"]
    reference = Manifold(points, 3, SINGLE)
    seen = reference.realism(golden.arrays["in.sample"])
    golden.check("radii_ref_k3", reference.radii[:, None])
    golden.check("radii_ref_k1_3_5", np.stack([Manifold(points, k, SINGLE).radii for k in (1, 3, 5)], axis=1))
    golden.check("realism", seen.score)
    golden.check("in_manifold", seen.inside)
    golden.check("nearest", seen.nearest)


def _paths(golden: EncoderGolden) -> set[str]:
    """In which precision distances are taken: half, or single where half overflows."""
    reference, samples = golden.arrays["in.ref"], golden.arrays["in.sample"]
    pairs = ((reference, reference), (samples, samples), (reference, samples))
    blocks = [_Block(rows, columns, slice(0, len(rows)), slice(0, len(columns)), "cpu") for rows, columns in pairs]
    return {"fp16" if block.is_finite_in_half() else "fp32" for block in blocks}


def _close(golden: EncoderGolden, name: str, got: Any, wanted: Any) -> None:
    """Within the tolerance of shares of images, which flip where a point lies on an edge."""
    allowed = golden.facts["tol_precision_recall"]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=allowed, err_msg=f"{golden.id} {name}")


def _reconstruction(golden: EncoderGolden) -> None:
    images, returned = (golden.input(name).movedim(-1, 1) / 255 for name in ("ref", "rec"))
    found = errors_of(images, returned)
    assert found.ssim is not None
    golden.check("per_image", np.stack([found.psnr, found.ssim], axis=1))
    golden.compare("psnr_mean", found.psnr.mean(), golden.expected["psnr_mean"])
    golden.compare("ssim_mean", found.ssim.mean(), golden.expected["ssim_mean"])


METRIC_CHECKS: Mapping[str, Callable[[EncoderGolden], None]] = {
    "feature_metrics": _feature_metrics,
    "recon_metrics": _reconstruction,
}
