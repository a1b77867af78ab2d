"""What goes wrong in the control loops.

EssaimError
└── Unavailable
    └── Deposed          another master wrote its epoch: everything here must stop
"""

from essaim_shared.errors import Unavailable


class Deposed(Unavailable):
    """A write of this leader was refused because its epoch is over."""
