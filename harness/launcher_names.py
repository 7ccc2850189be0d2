"""What launchers call their jobs: a name begins with who has the job (no torch, no submitit)."""

LOCAL, SLURM, DEBUG = "local:", "slurm:", "debug:"


def is_scheduled(job: str) -> bool:
    """Whether a scheduler has it: such a job needs nobody who stays, and may be started again."""
    return job.startswith(SLURM)


def number_of(job: str) -> str:
    """What the scheduler itself calls the job."""
    assert is_scheduled(job), f"no scheduler has {job}"
    return job.removeprefix(SLURM)
