"""How often strangers may ask, and how often who is known may renew. Pure."""

from typing import Final

JOINS_PER_S: Final = 5.0
JOINS_BURST: Final = 50
"""A rack of machines that joins together is taken at once."""
WRONG_TOKEN_COST: Final = 5
"""Guesses empty the bucket sooner than joins."""
WRONG_TOKEN_DELAY_S: Final = 1.0
"""Before somebody is told that his token is wrong."""
WAITING_MAX: Final = 20
"""So many may wait for that at the same time; more are refused at once."""
RENEWALS_PER_S: Final = 0.2
"""Of one identity: a replaced authority takes three in all, and each is a write to the state."""
RENEWALS_BURST: Final = 20.0
