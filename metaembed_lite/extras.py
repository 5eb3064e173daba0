"""Names the extra to install if an optional package is missing.

``pip install metaembed-lite`` brings what loading, training, encoding, scoring and evaluating need.
Other packages come with an extra, such as LanceDB with ``metaembed-lite[index]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import packages of an extra in this context, so that a missing one is named with its extra.

    Args:
        name: the extra, as in ``pip install 'metaembed-lite[name]'``.

    Raises:
        ModuleNotFoundError: naming the package and the extra, if a package is missing.

    Example:
        >>> with extra("index"):
        ...     import a_database
        Traceback (most recent call last):
        ...
        ModuleNotFoundError: a_database is not installed: pip install 'metaembed-lite[index]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise ModuleNotFoundError(
            f"{package} is not installed: pip install 'metaembed-lite[{name}]'", name=error.name
        ) from error
