"""Warnings of the package, to be filtered by their class."""


class FidelityWarning(UserWarning):
    """A fitted student or compression that imitates badly, as a whole or for some label.

    The message says what was measured and what to try. To silence it where a network is trained too short on purpose:
    ``warnings.simplefilter("ignore", FidelityWarning)``.
    """
