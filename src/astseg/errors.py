"""What the library raises for a mistake of its user."""

__all__ = ["UserError"]


class UserError(Exception):
    """A mistake of the user, told in one line: what was got, what was expected, what to do about it."""
