"""The processes that carry out one run together: who is who, and what they tell each other (no torch when alone)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from harness.errors import UserError
from harness.progress import silent
from harness.spec import Execution, RunConfig

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Process `rank` of `size` that work together.  This class is one that works alone, and asks nobody."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes what there is one of."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of `count` things are this process's: a stretch, as long as any other's or one shorter."""
        return share_of(count, self.rank, self.size)

    def agree(self, value: T) -> T:
        """The first process's value, anything that can be pickled, for everyone."""
        return value

    def any(self, flag: bool) -> bool:  # noqa: FBT001
        """Whether it is so with any process; each has come this far then."""
        return flag

    def sum(self, tensor: "Tensor") -> "Tensor":
        """The sum of all processes' tensors, wherever they are, the same bits for everyone."""
        return tensor

    def wait(self) -> None:
        """Return when every process has come this far."""
        self.any(flag=False)

    def by_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, while the others wait."""
        return cast(T, self.agree(make() if self.is_first else None))

    @contextmanager
    def blaming(self) -> Iterator[None]:
        """Tell the others what goes wrong here; and raise what went wrong there, in place of not reaching them."""
        yield

    @contextmanager
    def parting(self, say: Callable[[str], None]) -> Iterator[None]:  # noqa: ARG002
        """Let this process `say` what went wrong in another one before it is ended for that, while this is open.

        That is where it does not notice by itself, as in a sum on a GPU: nothing after this block is carried out then.
        """
        yield

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """Let the first process do alone what the others then find done."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()


ALONE = World()


def share_of(count: int, index: int, parts: int) -> range:
    """Stretch `index` of `count` things in `parts` stretches, as equal as they can be."""
    return range(count * index // parts, count * (index + 1) // parts)


def require_shares(config: RunConfig) -> None:
    """Raise UserError where the batch has no image for each piece of each process."""
    execution, size = config.execution, config.recipe.batch_size
    pieces = execution.processes * execution.accumulate
    if config.weights is None and size < pieces:
        raise UserError(
            f"a batch of {size} images cannot be cut into {pieces} pieces: {execution.processes} (processes) x"
            f" {execution.accumulate} (--accumulate)",
            "use fewer processes or --accumulate less: the batch is the recipe's, whoever shares it",
        )


@contextmanager
def joined(execution: Execution) -> Iterator[World]:
    """The world of this process, from when all have met until it leaves: ALONE where there is no other.

    They meet where torchrun, or whatever else started them, says in MASTER_ADDR and MASTER_PORT, and leave together.
    Only the first one shows progress.  Raises UserError where nobody says where to meet, not all come, or there is no
    GPU for each; and for what went wrong in another process, in place of not reaching it.
    """
    if execution.processes == 1:
        yield ALONE
        return
    from harness.process_group import entered

    with silent() if execution.rank else nullcontext(), entered(execution) as world:
        yield world
