"""What a classifier that is paid by the query was asked."""

from __future__ import annotations

from typing import final

from zopde.checks import check_not_negative
from zopde.errors import ClassifierError


class BudgetSpentError(ClassifierError):
    """The next question would cost more than may be spent."""


@final
class Ledger:
    """Counts images that a classifier is asked about, and says when enough is enough.

    Args:
        price: Of one image, in any currency.
        budget: Most images that may be asked about; 0: any number.
        asked: How many were, before.

    Attributes:
        asked: Images so far.

    Raises:
        InputError: If a number is negative.
    """

    def __init__(self, price: float = 0.0, budget: int = 0, asked: int = 0) -> None:
        for name, value in (("price", price), ("budget", budget), ("asked", asked)):
            check_not_negative(name, value)
        self.price, self.budget, self.asked = price, budget, asked

    @property
    def cost(self) -> float:
        """In the currency of the price."""
        return self.price * self.asked

    def spend(self, images: int) -> None:
        """Enter a question, before it is asked.

        Raises:
            BudgetSpentError: If it is more than the budget leaves; nothing is entered then.
        """
        if self.budget and self.asked + images > self.budget:
            raise BudgetSpentError(
                f"the budget of {self.budget:,} queries leaves {self.budget - self.asked:,}, "
                f"{images:,} are needed"
            )
        self.asked += images
