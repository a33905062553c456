import numpy as np

from bitroute.engines.constraint import Trie
from bitroute.episode import Usage
from bitroute.rollout.verification import verify

USAGE = Usage("high", prefill=5)
ROWS = np.log(np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.1, 0.45, 0.45]], dtype=np.float32))


def test_without_a_constraint_every_token_is_a_choice() -> None:
    found = verify(ROWS, [0, 1, 1], None, USAGE)
    assert np.allclose(found.gaps, [0, np.log(3), 0], atol=1e-6)
    assert (found.agreed, found.usage) == (1, USAGE)


def test_of_equals_none_is_better() -> None:
    found = verify(ROWS[2:], [2], None, USAGE)
    assert (found.gaps, found.agreed) == ((0.0,), 1)


def test_under_a_constraint_only_allowed_tokens_count_and_forced_ones_are_no_choice() -> None:
    trie = Trie.of([[0, 1, 1], [0, 1, 2], [1, 0]])
    found = verify(ROWS, [0, 1, 2], trie, USAGE)  # the second token is forced, though high would rather write another
    assert (found.gaps, found.agreed) == ((0.0, 0.0), 3)
    other = verify(ROWS[:2], [1, 0], trie, USAGE)
    assert np.allclose(other.gaps, [np.log(2)], atol=1e-6)
    assert other.agreed == 0
