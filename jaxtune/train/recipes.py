"""Recipes: what `fine_tune` does where nothing else is said, as plain data."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from jaxtune.arguments import Integer, check_choice, check_integer
from jaxtune.train.freezing import Norms
from jaxtune.train.phases import Phase, check_epochs, fine_tune_phases


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The defaults of one way to fine-tune; see `fine_tune_phases` for the options.

    Attributes:
        name: As in `fine_tune(recipe=...)`.
        about: What it is for, in a line.
        keeps_early_groups: Whether the first of three or more groups stays frozen.
        norms: What norm layers do, see `Norms`; None for what the learner's do.
        base_lr: Peak learning rate of the head in phase 1.
        freeze_epochs: Epochs of phase 1.
        lr_mult: Ratio of the last group's learning rate to the first's in phase 2.
        pct_start: Fraction of phase 2 before the peak.
        div: Phase 2 starts at the peak learning rates / div.
        div_final: Both phases end at the peak learning rates / div_final.
        head_first_below: With fewer batches an epoch the head trains first: in phase 1
            for `head_updates` updates at least, on stored features of `draws` draws of
            the augmentation. In phase 2, `rate_after` is left of the rates and
            `epochs_after` of the epochs. 0 if it never does.
        head_updates: See `head_first_below`.
        draws: See `head_first_below`.
        rate_after: See `head_first_below`.
        few_batches: With fewer still, `rate_after_few` is left of the rates.
        rate_after_few: See `few_batches`.
        epochs_after: See `head_first_below`; rounded up.
        head_always_first: Whether the head trains first with any number of batches, and
            where `freeze_epochs` or `cache_features` is given, too.

    References:
        Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform
        Out-of-Distribution", https://arxiv.org/abs/2202.10054 (the head first, to
        convergence). benchmarks/README.md has what each choice was measured to bring.
    """

    name: str
    about: str
    keeps_early_groups: bool = False
    norms: Norms | None = None
    base_lr: float = 2e-3
    freeze_epochs: int = 1
    lr_mult: float = 100.0
    pct_start: float = 0.3
    div: float = 5.0
    div_final: float = 1e5
    head_first_below: int = 50
    head_updates: int = 100
    draws: int = 2
    rate_after: float = 0.5
    few_batches: int = 20
    rate_after_few: float = 0.25
    epochs_after: float = 1.0
    head_always_first: bool = False

    def phases(
        self,
        num_groups: Integer,
        steps_per_epoch: Integer,
        epochs: Integer,
        *,
        stores_features: bool = True,
        **given: Any,
    ) -> tuple[Phase, ...]:
        """Returns the phases of a network.

        Args:
            num_groups: Number of layer groups.
            steps_per_epoch: Batches in an epoch.
            epochs: Epochs after unfreezing.
            stores_features: Whether the frozen body's features can be stored, see
                `Phase.cache_features`. Where they can't, the head trains first only if
                it always does, and one epoch has as many batches as it makes updates.
            **given: Options of `fine_tune_phases` that were asked for. None stands for
                the recipe's.

        Raises:
            TypeError: As `fine_tune_phases`.
            ValueError: Likewise.
        """
        steps_per_epoch = check_integer(steps_per_epoch, "steps_per_epoch", least=1)
        given = {name: value for name, value in given.items() if value is not None}
        options: dict[str, Any] = {
            "base_lr": self.base_lr,
            "freeze_epochs": self.freeze_epochs,
            "unfreeze_to": int(self.keeps_early_groups and num_groups > 2),
            "lr_mult": self.lr_mult,
            "pct_start": self.pct_start,
            "div": self.div,
            "div_final": self.div_final,
        }
        if self.head_always_first:
            enough = steps_per_epoch >= self.head_updates
            head_first = num_groups > 1 and (stores_features or enough)
        else:
            few = steps_per_epoch < self.head_first_below
            asked = {"freeze_epochs", "cache_features"} & set(given)
            head_first = stores_features and few and not asked
        if head_first:
            least = self.draws if stores_features else 1
            frozen = max(least, -(-self.head_updates // steps_per_epoch))
            options["freeze_epochs"] = frozen
            options["cache_features"] = self.draws if stores_features else 0
            epochs = check_epochs(epochs, "epochs")
            epochs = math.ceil(epochs * self.epochs_after)
        phases = fine_tune_phases(
            num_groups, steps_per_epoch, epochs, **options | given
        )
        if head_first:
            *before, last = phases
            left = self.rate_after
            if steps_per_epoch < self.few_batches:
                left = self.rate_after_few
            rates = tuple(rate * left for rate in last.rates)
            phases = (*before, dataclasses.replace(last, rates=rates))
        return self._named(phases)

    def _named(self, phases: Sequence[Phase]) -> tuple[Phase, ...]:
        """The phases with the recipe in their names, but for the default."""
        if self.name == "default":
            return tuple(phases)
        return tuple(
            dataclasses.replace(
                phase, name=phase.name and f"{phase.name} of recipe {self.name}"
            )
            for phase in phases
        )

    def rules(self) -> tuple[str, ...]:
        """Returns what it does otherwise than others, in words."""
        rules = []
        if self.keeps_early_groups:
            rules.append("the first of three or more layer groups stays frozen")
        if self.norms == "train":
            rules.append("all norm layers use batch statistics and train")
        if self.head_first_below or self.head_always_first:
            when = f"with fewer than {self.head_first_below} batches an epoch "
            if self.head_always_first:
                when = ""
            after = f"{self.rate_after:g} of its rates"
            if self.rate_after_few != self.rate_after:
                after += f" ({self.rate_after_few:g} below {self.few_batches} batches)"
            if self.epochs_after != 1:
                after += f" and {self.epochs_after:.2g} of its epochs"
            rules.append(
                f"{when}the head first makes {self.head_updates} updates on stored "
                f"features of {self.draws} draws, and phase 2 has {after}"
            )
        return tuple(rules)


#: All recipes by name.
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("default", "fastai's schedule"),
        Recipe(
            "fast",
            "the head first, then a third of the epochs",
            keeps_early_groups=True,
            rate_after=0.25,
            epochs_after=1 / 3,
            head_always_first=True,
        ),
        Recipe(
            "fastai", "fastai's schedule and norms", norms="train", head_first_below=0
        ),
    )
}


def check_recipe(recipe: Any) -> Recipe:
    """Returns the recipe of a name.

    Raises:
        TypeError: If it is not a string.
        ValueError: If there is no recipe of that name.
    """
    return RECIPES[check_choice(recipe, "recipe", tuple(RECIPES))]
