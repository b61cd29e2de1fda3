"""The base class of all errors that this package defines."""


class GeneralManagerError(Exception):
    """Catch this to catch every error that `general_manager` itself defines.

    Subclasses pass their arguments to `Exception` unchanged and build the message in `__str__`,
    so they can be pickled, and their arguments are available as attributes.
    """
