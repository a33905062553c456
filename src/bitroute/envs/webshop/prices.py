"""What products cost: the reward compares one price of each product with a goal's bound. It knows the draws, no goal.

A page shows a range for some products; their price is drawn in it, and no page tells. Our draw depends on the seed and on the
product alone. Upstream's takes the products one after the other from one generator.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bitroute.envs.webshop.products import Product


@dataclass(frozen=True, slots=True)
class Prices:
    """The price of each product in dollars. `drawn` has those of products with a range, where they were drawn in order."""

    seed: int = 0
    drawn: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def in_order(cls, products: Iterable[Product], rng: random.Random) -> Prices:
        """Upstream's draws: one for each product with a range, in the catalogue's order, from `rng`."""
        return cls(drawn={product.asin: rng.uniform(*product.prices) for product in products if len(product.prices) > 1})

    def of(self, product: Product) -> float:
        """The price in dollars."""
        if len(product.prices) == 1:
            return product.prices[0]
        drawn = self.drawn.get(product.asin)
        return random.Random(f"price {self.seed} {product.asin}").uniform(*product.prices) if drawn is None else drawn
