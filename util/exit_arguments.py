"""Flags: where to exit, and what becomes of tokens that left."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

from early_exit import PRECISIONS, ExitPolicy
from early_exit.adaptive import FREEZE_AFTER, AdaptiveThreshold
from early_exit.confidence import known_measures
from early_exit.head_losses import HEAD_LOSSES
from early_exit.policy import VERIFICATIONS
from util.errors import UsageError
from util.flag import argument, make_lists
from util.policies import Policies
from util.training_arguments import ObjectiveArguments


@dataclass
class ExitArguments(ObjectiveArguments):
    """Training losses at the exits, and where tokens leave."""

    use_early_exit: bool = argument(False, "Tokens leave at the first layer that is confident enough.")
    train_meta_cm_head: bool = argument(
        False, "Train the exit heads that --exit_conf_type names, on a model that stays as it is."
    )
    exit_head_loss: str = argument(
        "independent", f"What exit heads are trained on: {', '.join(HEAD_LOSSES)} (CALM, section 3.5)."
    )
    share_exit_head: bool = argument(False, "Train one exit head for all layers instead of one for each.")
    exit_conf_type: str | None = argument(
        None,
        f"Confidence measure: {known_measures()}. Default softmax. Several, separated by commas, make "
        "a sweep, or are trained together.",
    )
    exit_conf_threshold: list[float] | None = field(
        default=None,
        metadata={
            "help": "λ in [0, 1]: leave where confidence > λ; default 1, never. Several values make a sweep."
        },
    )
    sweep: bool = argument(
        False, "Results go into a table that later calls add to, even those of a single setting."
    )
    exit_min_layer: int = argument(0, "Exits are tried from this decoder layer on; 0 means 1.")
    exit_max_layer: int | None = argument(None, "Exits are tried up to this decoder layer.")
    exit_position_temp: float | None = argument(
        None, "τ of the positional decay λ·(0.9 + 0.1·exp(−τ·t/T)); off if not given."
    )
    top_propagation: list[str] | None = field(
        default=None,
        metadata={
            "help": "K: layers after the first exit see its K likeliest tokens only; with --exit_conf_type "
            "softmax. Several, of which one may be 'none', make a sweep."
        },
    )
    shortlist: list[str] | None = field(
        default=None,
        metadata={
            "help": "N: exits below full depth choose among the N tokens that are most frequent in training "
            "texts. Several, of which one may be 'none', make a sweep."
        },
    )
    shortlist_at_full_depth: bool = argument(
        False,
        "Full depth chooses from the shortlist too: for calibrated decoding, where its loss is counted.",
    )
    lm_head_screen: bool = argument(
        False, "Read the LM head through its int8 copy: the exits and tokens of float32 for less."
    )
    static_exit_layer: list[str] | None = field(
        default=None,
        metadata={
            "help": "Every token leaves at this layer, 1 to L; with --use_early_exit at the latest. Several, "
            "'all', or 'last', full depth, make a sweep."
        },
    )
    verify: str | None = argument(
        None,
        "Tokens that leave early are drafts, whose deeper layers run later, together: "
        f"{', '.join(VERIFICATIONS)}. 'exact' writes full depth's text.",
    )
    max_draft: list[int] | None = field(
        default=None,
        metadata={
            "help": "With --verify: the most drafts that wait for their deeper layers; default 6. Several "
            "make a sweep."
        },
    )
    accept_ratio: float | None = argument(
        None, "With --verify lenient: least full-depth probability of a draft, of the largest; default 0.9."
    )
    rollback_threshold: float | None = argument(
        None, "With --verify rollback: least full-depth probability of a draft; default 0.1."
    )
    use_shallow_deep: bool = argument(
        False, "FREE's decoding: exits at one shallow layer, set by the flags below."
    )
    shallow2deep_conf_type: str | None = argument(
        None, "FREE's confidence measure: softmax, or meta, a linear head."
    )
    shallow2deep_conf_threshold: float | None = argument(None, "FREE's threshold λ; default 1.")
    parallel_gen_token: bool = argument(
        True, "FREE: the deeper layers of several shallow tokens run together, later."
    )
    copy_skipped_hidden_states: bool = argument(
        False, "FREE: deeper layers get the shallow states, as in CALM."
    )
    rollback_conf_threshold: float | None = argument(
        None, "FREE: replace shallow tokens whose cross-entropy at full depth is above this."
    )
    use_adapt_threshold: bool = argument(
        False, "λ of --use_shallow_deep follows the texts, see docs/drafts.md; the one given is the first."
    )
    freeze_adapt_threshold: int | None = argument(
        None, f"Prompts after which that λ stays as it is; default {FREEZE_AFTER}."
    )
    engine_precision: str | None = argument(
        None,
        f"What decoding with exits computes in, encoder included: {', '.join(PRECISIONS)}. "
        "Default: the type that the model is in.",
    )
    deploy_scenario: bool = argument(
        False, "Decode as deployed and time it: a warm-up batch first, full depth through the same loop."
    )
    use_synchronize: bool = argument(False, "Wait for the device before the clock is read.")
    retime: bool = argument(
        False,
        "At the end of a sweep time those points again whose times were disturbed (marked in the table).",
    )
    overwrite_output_dir: bool = argument(
        False, "Use a non-empty output folder; an interrupted run with the same settings still resumes."
    )

    def __post_init__(self):
        make_lists(
            self, "static_exit_layer", "top_propagation", "exit_conf_threshold", "max_draft", "shortlist"
        )
        make_lists(self, "lora_target_modules")
        for name in ("static_exit_layer", "top_propagation", "shortlist"):
            values = getattr(self, name)
            setattr(self, name, None if values is None else [str(value) for value in values])
        thresholds = self.exit_conf_threshold
        if thresholds is None:
            return
        if not all(isinstance(threshold, int | float) for threshold in thresholds):
            raise UsageError(f"exit_conf_threshold {thresholds} is not a number or a list of numbers")
        self.exit_conf_threshold = [float(threshold) for threshold in thresholds]

    @property
    def keeps_model(self) -> bool:
        """Whether training leaves the model's own weights as they are."""
        return self.train_meta_cm_head or self.train_exit_adapters

    @property
    def measures(self) -> list[str]:
        """The names given as --exit_conf_type, each once; softmax if none is."""
        names = (self.exit_conf_type or "softmax").split(",")
        return list(dict.fromkeys(name.strip() for name in names))

    @property
    def decodes_with_exits(self) -> bool:
        """Whether evaluation runs this project's decoding rather than transformers'."""
        return self.deploy_scenario or self.use_early_exit or self.static_exit_layer is not None

    @property
    def adaptive(self) -> AdaptiveThreshold | None:
        """The threshold that adapts, as it is at first."""
        if not self.use_adapt_threshold:
            return None
        return AdaptiveThreshold(self.exit_conf_threshold[0], self.freeze_adapt_threshold or FREEZE_AFTER)

    @property
    def is_sweep(self) -> bool:
        """Whether results go into a table: several settings are asked for at once, or --sweep."""
        if self.sweep:
            return True
        layers = self.static_exit_layer or []
        thresholds = self.exit_conf_threshold or []
        if self.use_early_exit and (len(self.measures) > 1 or len(self.top_propagation or []) > 1):
            return True
        several = max(len(layers), len(thresholds), len(self.max_draft or []), len(self.shortlist or []))
        return several > 1 or self.named_layers is not None

    @property
    def propagated(self) -> list[int | None]:
        """The numbers K given as --top_propagation, each once; None for 'none' and where none is given.

        Raises UsageError for what is no whole number.
        """
        return self._numbers("top_propagation")

    @property
    def shortlists(self) -> list[int | None]:
        """The same of --shortlist."""
        return self._numbers("shortlist")

    def _numbers(self, flag: str) -> list[int | None]:
        result = []
        for text in getattr(self, flag) or ["none"]:
            if text != "none" and not text.lstrip("-").isdigit():
                raise UsageError(f"--{flag} {text!r} is neither a whole number nor 'none'")
            result.append(None if text == "none" else int(text))
        return list(dict.fromkeys(result))

    @property
    def policies(self) -> Policies:
        """The exit policies to evaluate; one but for a sweep. Raises UsageError for values out of range."""
        layers = self.named_layers
        try:
            static = [1] if layers else self.static_layers
            if self.use_early_exit:
                listed = self._confidence_policies(static)
            elif self.static_exit_layer is not None:
                listed = self._static_policies(static)
            else:
                listed = [ExitPolicy(screen=self.lm_head_screen)]
        except ValueError as error:
            raise UsageError(str(error)) from error
        return Policies(listed, layers)

    def _static_policies(self, layers: Sequence[int | None]) -> list[ExitPolicy]:
        choices = product(layers, self.shortlists, self._drafting)
        return [
            ExitPolicy(static_layer=layer, screen=self.lm_head_screen, **self.listed(shortlist), **drafting)
            for layer, shortlist, drafting in choices
        ]

    def _confidence_policies(self, static: Sequence[int | None]) -> list[ExitPolicy]:
        thresholds = dict.fromkeys(self.exit_conf_threshold or [1.0])
        among = product(self.propagated, self.shortlists, self._drafting)
        choices = product(static, self.measures, thresholds, among)
        return [
            ExitPolicy(
                measure=measure,
                threshold=threshold,
                min_layer=self.exit_min_layer,
                position_temperature=self.exit_position_temp,
                top_k=top_k,
                screen=self.lm_head_screen,
                max_layer=self.exit_max_layer,
                static_layer=layer,
                **self.listed(shortlist),
                **drafting,
            )
            for layer, measure, threshold, (top_k, shortlist, drafting) in choices
        ]

    def listed(self, shortlist: int | None) -> dict:
        """The fields of policies that say what is chosen from."""
        deep = self.shortlist_at_full_depth and shortlist is not None
        return {"shortlist": shortlist, "shortlist_at_full_depth": deep}

    @property
    def _drafting(self) -> list[dict]:
        """The fields of policies that say what becomes of tokens that left; one but for a sweep."""
        if self.verify is None:
            return [{}]
        limits = {"accept_ratio": self.accept_ratio, "rollback_threshold": self.rollback_threshold}
        fields = {name: value for name, value in limits.items() if value is not None}
        numbers = [{"max_draft": number} for number in dict.fromkeys(self.max_draft or [])]
        return [{"verify": self.verify, **fields, **number} for number in numbers or [{}]]

    @property
    def named_layers(self) -> str | None:
        """'all' or 'last' where that is given as --static_exit_layer, which the model has to be known for."""
        return self.static_exit_layer[0] if self.static_exit_layer in (["all"], ["last"]) else None

    @property
    def static_layers(self) -> list[int | None]:
        """The layers given as --static_exit_layer, each once; None where none is given. Raises UsageError for
        what is no number."""
        layers = []
        for text in self.static_exit_layer or []:
            if not text.lstrip("-").isdigit():
                raise UsageError(
                    f"--static_exit_layer {text!r} is neither a layer number nor 'all' nor 'last'"
                )
            layers.append(int(text))
        return list(dict.fromkeys(layers)) or [None]
