"""Kill runs and writers, fill disks, damage files; then count what was lost: `python -m tests.fault_campaign`."""

import argparse
import json
import random
import resource
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.progress import say
from tests.faults import damages, disks, kills, writers
from tests.faults.campaign import Campaign
from tests.faults.figures import Figures, table

RECORDS_EACH, WRITERS_KILLED, PUBLISHERS = 25, 24, 8
DISKS, REBUILDS, DAMAGES, TAKE_OVERS = 10, 40, 6, 4


def main(words: Sequence[str] | None = None) -> int:
    """Play all scenarios; 1 where anything was lost, twice, half, unreadable, or otherwise not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault_campaign", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="decides all moments, signals and runs (default 0)")
    parser.add_argument("--runs", type=int, default=60, help="how many runs are killed (default 60)")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(words)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
        all_figures = []
        for figures in play(Path(folder), options.seed, options.runs):
            say(f"{figures.scenario}: {len(figures.faults)} faults, {figures.seconds:.0f} s")
            all_figures.append(figures)
    faults = sum(len(figures.faults) for figures in all_figures)
    if options.json:
        print(json.dumps([figures.shown() for figures in all_figures], indent=1))
    else:
        print(table(all_figures))
        print(f"{faults} faults: {'FAILED' if faults else 'nothing lost'}")
    return 1 if faults else 0


def play(place: Path, seed: int, runs: int) -> Iterator[Figures]:
    """All scenarios, each with numbers of its own, so that one can change without moving the others."""
    campaign = Campaign(place)

    def numbers(scenario: str) -> random.Random:
        return random.Random(f"{seed} {scenario}")

    yield kills.play(campaign, numbers("kills"), runs)
    yield writers.play(campaign, numbers("writers"), RECORDS_EACH, WRITERS_KILLED, PUBLISHERS)
    yield disks.fill(campaign, numbers("full"), DISKS)
    yield disks.squeeze(campaign, numbers("no room"), REBUILDS)
    yield disks.forbid(campaign, numbers("read-only"), DISKS)
    yield damages.damage(campaign, numbers("damages"), DAMAGES)
    yield damages.take_over(campaign, numbers("take-overs"), TAKE_OVERS)


if __name__ == "__main__":
    sys.exit(main())
