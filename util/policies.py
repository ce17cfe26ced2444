"""Exit policies that were asked for, before and after the model is known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from early_exit import ExitPolicy
from util.errors import UsageError


@dataclass(frozen=True)
class Policies:
    """One policy, or those of a sweep.

    listed: at least one. layers: "all" for each of them at every layer in turn, "last" for full depth, in the
    place of their own static layer; None as they are listed.
    """

    listed: Sequence[ExitPolicy]
    layers: str | None = None

    def of(self, model) -> list[ExitPolicy]:
        """For a model. Raises UsageError for layers and tokens that it does not have."""
        last = model.num_exits
        policies = list(self.listed)
        if self.layers is not None:
            layers = range(1 if self.layers == "all" else last, last + 1)
            policies = [replace(each, static_layer=layer) for layer in layers for each in self.listed]
        try:
            for policy in policies:
                policy.last_layer(last)
                policy.check_vocabulary(model.config.vocab_size)
        except ValueError as error:
            raise UsageError(str(error)) from error
        return policies
