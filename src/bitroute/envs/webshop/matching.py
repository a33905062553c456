"""How the reward compares texts: fuzzily, as sets of words, and by the colour that they name. It knows strings alone.

The figures are those of the package `thefuzz` 0.19 without its compiled part, which WebShop's published scores were made with:
it compares with the standard library's `difflib`, and so does this. Bounds that `difflib` offers spare most comparisons.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Final

ALIKE: Final = 85  # texts whose figure is above it count as equal

_COLOURS: Final = """
    alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo caramel
    champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream crystal dark denim
    eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather indigo ivory ivy khaki lavender
    lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor mushroom mustard natural navy nude
    olive orange peach pewter pink plum purple rainbow red rose royal rust sand sapphire seashell silver skull slate steel stone
    stonewash sunflower tan taupe teal tiger turquoise violet walnut wheat white wine yellow
"""
# In the order in which they are looked for: the first one that a text contains, even within a word, stands for the text.
COLOURS: Final = tuple(_COLOURS.split())

_LATIN: Final = dict.fromkeys(range(0x80, 0x100))  # dropped: what `thefuzz` holds for all that is not ASCII
_NO_WORD: Final = re.compile(r"\W")


@lru_cache(maxsize=1 << 12)
def colour(text: str) -> str:
    """The first colour of the list that the text contains, the text itself where it contains none."""
    return next((name for name in COLOURS if name in text), text)


def plain(text: str) -> str:
    """The text in lower case with blanks for all but letters, digits and underscores, without the letters of Latin-1."""
    return _NO_WORD.sub(" ", text.translate(_LATIN)).lower().strip()


@lru_cache(maxsize=1 << 14)
def alike(text: str, other: str) -> bool:
    """Whether the token set ratio of two texts is above ALIKE.

    The ratio is the best of three: the words that both have (sorted, with blanks between them) against those followed by the
    rest of either text, and these two against each other. Texts without a word are like nothing.
    """
    first, second = set(plain(text).split()), set(plain(other).split())
    if not first or not second:
        return False
    both = first & second
    if both and both in (first, second):
        return True  # one side of the comparison equals the words in common
    common = " ".join(sorted(both))
    left = f"{common} {' '.join(sorted(first - both))}".strip()
    right = f"{common} {' '.join(sorted(second - both))}".strip()
    return any(_close(a, b) for a, b in ((common, left), (common, right), (left, right)) if a)


def _close(text: str, other: str) -> bool:
    """Whether `difflib` finds two texts alike, as a whole percentage. Its quick figures are never lower than the exact one."""
    matcher = SequenceMatcher(None, text, other)
    return all(round(100 * figure()) > ALIKE for figure in (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio))
