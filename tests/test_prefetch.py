"""Numbers that are made ahead of the loop: the same ones, in their order, and errors where they belong."""

import threading
from pathlib import Path

import pytest
import torch

from harness.prefetch import Link, ahead
from tests.builders import quick_config
from tests.world import has_dropout, trained

torch.set_num_threads(1)


def _made_ahead() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("depth", [0, 1, 2, 9])
def test_what_is_made_ahead_comes_in_its_order(depth: int) -> None:
    with ahead(lambda step: step**2, range(3, 8), Link(depth)) as made:
        assert list(made) == [9, 16, 25, 36, 49]


def test_nothing_runs_beside_a_loop_on_a_cpu() -> None:
    made_at: list[int] = []
    with ahead(made_at.append, range(3), Link()) as made:
        next(made)
        assert made_at == [0]
        assert not _made_ahead()


def test_an_error_comes_at_the_step_that_it_was_made_for() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise ValueError("no such image")
        return step

    seen: list[int] = []
    with pytest.raises(ValueError, match="no such image"), ahead(make, range(9), Link(2)) as made:
        seen.extend(made)
    assert seen == [0, 1]
    assert not _made_ahead()


def test_several_steps_are_made_at_once_and_each_thread_is_made_ready() -> None:
    """Three that wait for one another, and none further ahead."""
    together, ready, begun = threading.Barrier(3, timeout=60), set(), []

    class Watched(Link):
        def enter(self) -> None:
            ready.add(threading.get_ident())

    def make(step: int) -> int:
        begun.append(step)
        assert threading.get_ident() in ready
        together.wait()
        return step

    with ahead(make, range(9), Watched(3)) as made:
        assert next(made) == 0
        assert max(begun) <= 3
        assert list(made) == list(range(1, 9))


def test_the_thread_ends_with_a_loop_that_is_left_early() -> None:
    with ahead(lambda step: step, range(10**6), Link(2)) as made:
        assert next(made) == 0
        assert _made_ahead()
    assert not _made_ahead()


def test_a_training_is_the_same_bytes_with_its_numbers_made_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ("network.depth=4", "network.dropout=0.5", "recipe.steps=15")
    configs = [quick_config(tmp_path / name, "jit", "dsr", *changes) for name in "ab"]
    plain, weights = trained(configs[0])
    assert has_dropout(weights)
    monkeypatch.setattr("harness.train.link_to", lambda *_: Link(3))
    threaded, same_weights = trained(configs[1])
    assert torch.equal(plain.losses, threaded.losses)
    for name, weight in weights.state_dict().items():
        assert torch.equal(weight, same_weights.state_dict()[name]), name
