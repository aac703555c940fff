"""Every error this package raises on purpose. The message says what was wrong, what was given and what to do.

Native code maps its error kinds onto these classes in one place (csrc/bindings/errors.cpp).
"""

from __future__ import annotations


class AitemsError(Exception):
    """Base of all errors of this package."""


class InvalidInputError(AitemsError, ValueError):
    """An argument has the wrong type, dtype, shape or range."""


class ConfigError(AitemsError, ValueError):
    """A setting or an environment variable cannot be used here."""


class DataError(AitemsError, ValueError):
    """An input file is damaged or holds a value that cannot be used; names file, row and column."""


class TaxonomyError(DataError):
    """A category tree with a cycle, an orphan, a duplicate or no leaf; names the row."""


class TokenizerFormatError(AitemsError, ValueError):
    """A tokenizer.json that is damaged or names a component this engine does not have."""


class IndexFormatError(AitemsError, ValueError):
    """An index file that is damaged, cut short or of another version or dimension; names the file and the section."""


class NotSupportedError(AitemsError, NotImplementedError):
    """A library whose interface is offered here has this, the adapter does not; the message says what to do."""


class BundleError(AitemsError):
    """A bundle that is damaged, mixed, missing a part or newer than this engine; names the part."""


class ModelMismatchError(AitemsError):
    """Parts that do not belong together; names both."""


class StreamError(AitemsError):
    """The stream cannot go on: broker, topic or configuration."""


class ServingError(AitemsError):
    """A server cannot be started or reached, refused a request, or did not answer in time."""


class TrainingError(AitemsError):
    """Training cannot start or go on: too few labels, or a loss that is no number any more."""


class MissingExtraError(AitemsError, ImportError):
    """An optional part is not installed; the message holds the command that installs it."""


def require_extra(extra: str, module: str) -> None:
    """Raise `MissingExtraError` with the install command when `module` cannot be imported.

    Parameters
    ----------
    extra : str
        Name of the extra of this package that brings the module, e.g. ``"train"``.
    module : str
        Top-level import name, e.g. ``"torch"``.
    """
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise MissingExtraError(
            f"this needs the Python package '{module}', which is not installed; "
            f"run: pip install 'aitems-engine[{extra}]'"
        )
