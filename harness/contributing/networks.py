"""The network that a configuration describes, of a backbone that is known here (no torch)."""

from pydantic import ValidationError

from harness import registry
from harness.backbone import Network
from harness.errors import UserError
from harness.spec import RunConfig


def network_of(config: RunConfig) -> Network | None:
    """Its dimensions; None for a third party's, and for what nobody here could build."""
    if config.third_party is not None:
        return None
    try:
        return type(registry.find(config.backbone).size(config.size)).model_validate(config.network)
    except (UserError, ValidationError):
        return None


def blocks_of(network: Network) -> int:
    """How many blocks it has, in all of its trunks."""
    return sum(trunk.depth for trunk in network.trunk_shapes)
