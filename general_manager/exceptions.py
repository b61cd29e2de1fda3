"""The root of every error this package raises on its own account."""


class GeneralManagerError(Exception):
    """Catch this to catch whatever `general_manager` itself finds wrong.

    Subclasses pass their arguments to `Exception` unchanged and make their sentence in
    `__str__`: so they survive pickling, and their arguments stay readable as attributes.
    """
