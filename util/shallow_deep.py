"""The flags of FREE (Bae et al. 2023) as this project's own: exits at one shallow layer, and what becomes of
the tokens that left there."""

import math

from util.errors import UsageError

UNLIMITED_DRAFTS = 10_000  # FREE's stack of shallow tokens has no limit
_CONFIDENCE = {"softmax": "softmax", "meta": "vanilla_classifier"}
_OWN = (
    "use_early_exit", "exit_conf_type", "exit_conf_threshold", "static_exit_layer", "verify", "max_draft",
    "exit_max_layer",
)  # fmt: skip


def translate_shallow_deep(exits) -> None:
    """Sets the project's own flags of `ExitArguments` from FREE's. Raises UsageError for contradictions."""
    names = ("shallow_exit_layer", "shallow2deep_conf_type", "shallow2deep_conf_threshold")
    given = [name for name in (*names, "rollback_conf_threshold") if getattr(exits, name) is not None]
    given += [name for name in ("copy_skipped_hidden_states", "use_adapt_threshold") if getattr(exits, name)]
    given += [] if exits.parallel_gen_token else ["parallel_gen_token"]
    if exits.freeze_adapt_threshold is not None:
        if not exits.use_adapt_threshold:
            raise UsageError("--freeze_adapt_threshold has no effect without --use_adapt_threshold True")
        if exits.freeze_adapt_threshold < 1:
            raise UsageError(
                f"--freeze_adapt_threshold {exits.freeze_adapt_threshold} is too small; allowed: 1 and above"
            )
    if not exits.use_shallow_deep:
        if (exits.intermediate_loss_fn or "").startswith("shallowdeep"):  # which trains that layer
            given = [name for name in given if name != "shallow_exit_layer"]
        if given:
            raise UsageError(f"--{given[0]} has no effect without --use_shallow_deep True")
        return
    both = [name for name in _OWN if getattr(exits, name) not in (None, False)]
    if both or exits.exit_min_layer:
        raise UsageError(f"--use_shallow_deep and --{[*both, 'exit_min_layer'][0]} contradict each other")
    if exits.shallow_exit_layer is None:
        raise UsageError("--use_shallow_deep True needs --shallow_exit_layer")
    kind = exits.shallow2deep_conf_type or "softmax"
    if kind not in _CONFIDENCE:
        raise UsageError(f"unknown --shallow2deep_conf_type {kind!r}; known: {', '.join(_CONFIDENCE)}")
    threshold = exits.shallow2deep_conf_threshold
    exits.use_early_exit, exits.exit_conf_type = True, _CONFIDENCE[kind]
    exits.exit_conf_threshold = [1.0 if threshold is None else threshold]
    exits.exit_min_layer = exits.exit_max_layer = exits.shallow_exit_layer
    exits.verify = _verification(exits)
    if exits.use_adapt_threshold and exits.verify is None:
        raise UsageError(
            "--use_adapt_threshold and --copy_skipped_hidden_states contradict each other: full depth does "
            "not see copied tokens"
        )
    if exits.verify is not None:
        exits.max_draft = [UNLIMITED_DRAFTS]


def _verification(exits) -> str | None:
    """FREE's modes by the names of `ExitPolicy.verify`; sets the threshold of rollback."""
    entropy = exits.rollback_conf_threshold
    if exits.copy_skipped_hidden_states:
        if entropy is not None:
            raise UsageError(
                "--rollback_conf_threshold and --copy_skipped_hidden_states contradict each other: copied "
                "states are not checked"
            )
        return None
    if not exits.parallel_gen_token:
        raise UsageError(
            "--parallel_gen_token False needs --copy_skipped_hidden_states True: deeper layers need keys and "
            "values from somewhere"
        )
    if entropy is None:
        return "parallel"
    if not 0 <= entropy < math.inf:
        raise UsageError(f"--rollback_conf_threshold {entropy} is no cross-entropy; allowed: 0 and above")
    exits.rollback_threshold = math.exp(-entropy)
    return "rollback"
