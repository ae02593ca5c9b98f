"""What a user can get wrong."""


class UserError(ValueError):
    """One line for a person: what is wrong, where, and what to do. Commands print it and exit with code 2."""
