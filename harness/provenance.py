"""Which code, which libraries and which machine made a result (no torch)."""

import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from harness import __version__
from harness.records import Provenance
from harness.spec import Execution

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("harness", "baselines", "dsr")
USUAL = Execution()
LIBRARIES = ("torch", "numpy", "torchdiffeq", "scikit-learn", "pydantic", "timm", "transformers", "diffusers")


def collect(
    *,
    device: str,
    device_name: str,
    precision: str,
    threads: int,
    sampling_batch: int | None,
    execution: Execution = USUAL,
) -> Provenance:
    """The provenance of a result that is being made now; `execution` says who shares the work, and how."""
    commit, dirty = _checkout()
    return Provenance(
        commit=commit,
        dirty=dirty,
        code_sha256=_code_digest(),
        versions={"dsr-bench": __version__, "python": platform.python_version()}
        | {name: metadata.version(name) for name in LIBRARIES},
        machine={
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": str(os.cpu_count()),
            "device": device_name,
        },
        device=device,
        precision=precision,
        threads=threads,
        sampling_batch=sampling_batch,
        processes=execution.processes,
        accumulate=execution.accumulate,
        sharding=execution.sharding,
        compiled=execution.compiled,
    )


def _checkout() -> tuple[str | None, bool | None]:
    """The commit of the checkout that the code runs from, and whether its code differs; (None, None) outside one."""
    if not (ROOT / ".git").exists():
        return None, None
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", *(f"{package}/" for package in PACKAGES))
    return commit, None if changed is None else bool(changed)


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _code_digest() -> str:
    """One hash over every source file that can change a number."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            digest.update(f"{file.relative_to(ROOT)}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
