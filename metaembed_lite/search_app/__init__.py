"""Search an index from the command line and from a page on this machine.

``searcher.py`` encodes queries, searches and explains a match. ``app.py`` answers requests with it,
``guard.py`` decides which requests are answered, ``request.py`` reads them, and ``page.py`` with
``js/`` is the page.
"""
