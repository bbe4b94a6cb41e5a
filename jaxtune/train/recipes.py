"""Recipes: what `fine_tune` does where nothing else is said, as plain data."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtune.arguments import Integer, check_choice
from jaxtune.train.freezing import Norms
from jaxtune.train.phases import Phase


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

    def options(self, num_groups: Integer, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the options of `fine_tune_phases` for a network.

        Args:
            num_groups: Number of layer groups.
            given: Options that were asked for. None stands for the recipe's, of those
                that it has.
        """
        found = {
            "base_lr": self.base_lr,
            "freeze_epochs": self.freeze_epochs,
            "unfreeze_to": int(self.keeps_early_groups and num_groups > 2),
            "lr_mult": self.lr_mult,
            "pct_start": self.pct_start,
            "div": self.div,
            "div_final": self.div_final,
        }
        said = {
            name: value
            for name, value in given.items()
            if value is not None or name not in found
        }
        return found | said

    def named(self, phases: Sequence[Phase]) -> tuple[Phase, ...]:
        """Returns the phases with the recipe in their names, but for the default.

        Args:
            phases: As `fine_tune_phases` returns them.
        """
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
        return tuple(rules)


#: All recipes by name.
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("default", "fastai's schedule"),
        Recipe("fast", "fastai's schedule, cheaper", keeps_early_groups=True),
        Recipe("fastai", "fastai's schedule and norms", norms="train"),
    )
}


def check_recipe(recipe: Any) -> Recipe:
    """Returns the recipe of a name.

    Raises:
        TypeError: If it is not a string.
        ValueError: If there is no recipe of that name.
    """
    return RECIPES[check_choice(recipe, "recipe", tuple(RECIPES))]
