"""The base class of all errors that this package defines."""


class GeneralManagerError(Exception):
    """Catch this to catch every error that `general_manager` itself defines.

    Subclasses pass their arguments to `Exception` unchanged and build the message in `__str__`,
    so they can be pickled, and their arguments are available as attributes.
    """


def unsupported(owner: object, verb: str) -> NotImplementedError:
    """What *owner*, an engine or a registry, raises for a *verb* that it does not have."""
    return NotImplementedError(f"{type(owner).__qualname__} does not support {verb}().")
