"""The Starlette app of ``metaembed-lite serve``: a page, and JSON."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metaembed_lite.budget import as_budget
from metaembed_lite.index.snapshot import FilterError
from metaembed_lite.index.stages import plan
from metaembed_lite.search_app.guard import Guard, json_response
from metaembed_lite.search_app.page import bundle_js, render_page
from metaembed_lite.search_app.request import (
    FIELDS,
    RequestError,
    SearchRequest,
    checking_the_request,
    read_json,
    read_request,
)
from metaembed_lite.search_app.searcher import Searcher, UnknownError, to_records

if TYPE_CHECKING:
    from starlette.types import ASGIApp

ADDRESS = "127.0.0.1"


def create_app(searcher: Searcher) -> ASGIApp:
    """The app that searches one index.

    - ``GET /``: the page.
    - ``POST /search``: JSON or a form with the fields of ``read_request``.
    - ``GET /thumbnail/{id}``: a WebP file.
    - ``GET /match/{id}?query=TOKEN&budget=4x8``: which vector each query vector matched.
    - ``GET /attention/{id}``: where the candidate's vectors attend in its image.

    An error is ``{"error": "..."}``, with status 400 for a mistake in the request, 404 for an
    unknown id, 503 for files that cannot be read, and 500 for a bug.

    Args:
        searcher: an index and its model.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from starlette.testclient import TestClient
        >>> from metaembed_lite import MetaIndex, load
        >>> model = load("tiny", device="cpu")
        >>> with TemporaryDirectory() as folder:
        ...     index = MetaIndex.create(f"{folder}/index", 128, [(1, 1), (8, 16)], model=model)
        ...     index.add_from(model, ["violin", "red apple"], progress=False)
        ...     client = TestClient(create_app(Searcher(index, model)), "http://127.0.0.1")
        ...     client.post("/search", json={"text": "violin", "k": 1}).json()["results"][0]["id"]
        '0'
    """
    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/search.js", _script),
            Route("/search", _search, methods=["POST"]),
            Route("/thumbnail/{id:path}", _thumbnail),
            Route("/match/{id:path}", _match),
            Route("/attention/{id:path}", _attention),
        ],
        middleware=[Middleware(Guard)],
        exception_handlers={
            HTTPException: _explain_http,
            UnknownError: _explain(404),
            RequestError: _explain(400),
            FilterError: _explain(400),
            OSError: _explain(503),
            Exception: _explain(500, "this is a bug: the terminal shows where"),
        },
    )
    app.state.searcher = searcher
    return app


async def _page(request: Request) -> Response:
    """The page."""
    html = await run_in_threadpool(render_page, _searcher(request))
    return Response(html, media_type="text/html")


async def _script(request: Request) -> Response:
    """The page's script, one module."""
    return Response(bundle_js(), media_type="text/javascript")


async def _search(request: Request) -> Response:
    """The best candidates, what the search cost, and a token of the query for more requests."""
    fields = await _read_fields(request)
    with checking_the_request():
        wanted = read_request(fields)
    return json_response(await run_in_threadpool(_find, _searcher(request), wanted))


async def _thumbnail(request: Request) -> Response:
    """A candidate's thumbnail."""
    name = request.path_params["id"]
    file = await run_in_threadpool(_searcher(request).thumbnail, name)
    return Response(file, media_type="image/webp")


async def _match(request: Request) -> Response:
    """Similarities of all vectors of a query and a candidate, and the picks at a budget."""
    token, budget = request.query_params.get("query"), request.query_params.get("budget")
    if not token:
        raise RequestError("query is missing: give the token that /search answers with")
    content = await run_in_threadpool(
        _compare, _searcher(request), request.path_params["id"], token, budget
    )
    return json_response(content)


async def _attention(request: Request) -> Response:
    """Attention maps of a candidate's image, or null."""
    name = request.path_params["id"]
    return json_response(await run_in_threadpool(_searcher(request).attention, name))


def _searcher(request: Request) -> Searcher:
    searcher: Searcher = request.app.state.searcher
    return searcher


def _find(searcher: Searcher, wanted: SearchRequest) -> dict[str, Any]:
    columns = searcher.index.columns
    with checking_the_request():
        plan(columns, wanted.k, wanted.budget, wanted.prefetch)  # before the work of encoding
    query = searcher.recall(wanted.token) if wanted.token else searcher.encode(wanted.item)
    results = searcher.search(
        query, wanted.k, wanted.budget, prefetch=wanted.prefetch, where=wanted.where
    )
    stats = results.attrs["stats"]
    budget = wanted.budget or columns.full_budget
    return {
        "query": query.token,
        "budget": [budget.r_q, budget.r_c],
        "results": to_records(results),
        "stats": {
            "bytes_read": stats["bytes_read"],
            "search_ms": round(1000 * stats["seconds"], 3),
            "encode_ms": round(1000 * query.seconds, 3),
            "candidates": stats["stages"][0]["candidates"],
            "stages": stats["stages"],
        },
    }


def _compare(searcher: Searcher, name: str, token: str, budget: str | None) -> dict[str, Any]:
    full = searcher.index.columns.full_budget
    with checking_the_request():
        chosen = (as_budget(budget) if budget else full).check(full.r_q, full.r_c)
    similarities = searcher.similarities(searcher.recall(token), name)
    best = similarities[: chosen.r_q, : chosen.r_c].max(dim=1)
    return {
        "id": name,
        "budget": [chosen.r_q, chosen.r_c],
        "score": round(best.values.sum().item(), 6),
        "picks": [
            {"query_vector": i, "candidate_vector": int(j), "similarity": round(float(value), 6)}
            for i, (value, j) in enumerate(zip(best.values, best.indices, strict=True))
        ],
        "similarities": [[round(value, 6) for value in row] for row in similarities.tolist()],
    }


async def _read_fields(request: Request) -> dict[str, Any]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        body = await request.body()
        with checking_the_request():
            return read_json(body)
    if kind != "multipart/form-data":
        raise HTTPException(
            415, f"content type {kind!r}: use application/json, or a form for images"
        )
    fields: dict[str, Any] = {}
    async with request.form(max_files=1, max_fields=len(FIELDS)) as form:
        for name, value in form.multi_items():
            if name in fields:
                raise RequestError(f"{name} is given twice")
            fields[name] = await value.read() if isinstance(value, UploadFile) else value
    return fields


def _explain(status: int, text: str | None = None) -> Callable[[Request, Exception], Response]:
    """A handler that answers with the error's message, or with ``text``."""
    return lambda request, error: json_response(
        {"error": text or str(error) or type(error).__name__}, status
    )


def _explain_http(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    detail = getattr(error, "detail", "")
    if detail == HTTPStatus(status).phrase:
        detail = f"{request.method} {request.url.path}: {detail.lower()}"
    return json_response({"error": detail}, status)


def serve(app: ASGIApp, port: int, ready: Callable[[str], None]) -> None:
    """Answer requests of this machine until the process is interrupted.

    Args:
        app: from ``create_app``.
        port: 0 for any free one.
        ready: called with the page's address when the port is open.

    Raises:
        OSError: if the port is taken.

    Example:
        >>> with socket.create_server((ADDRESS, 0)) as taken:
        ...     serve(Starlette(), taken.getsockname()[1], print)
        Traceback (most recent call last):
        ...
        OSError: port ... is taken (...): choose another one with --port, or 0 for any free one
    """
    try:
        listener = socket.create_server((ADDRESS, port))
    except OSError as error:
        raise OSError(
            f"port {port} is taken ({error.strerror}): choose another one with --port, or 0 for "
            "any free one"
        ) from error
    with listener:
        ready(f"http://{ADDRESS}:{listener.getsockname()[1]}")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        with suppress(KeyboardInterrupt):  # this is how it ends
            server.run(sockets=[listener])
