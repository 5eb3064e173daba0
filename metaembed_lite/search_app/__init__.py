"""Search an index from the command line and from a page on this machine.

``searcher.py`` encodes queries, searches and explains a match. ``app.py`` answers requests with it,
``guard.py`` decides which requests are answered, ``request.py`` reads them, and ``page.py`` with
``js/`` is the page.
"""

from metaembed_lite.extras import extra

with extra("index"):
    import python_multipart  # noqa: F401  starlette reads uploads with it
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
