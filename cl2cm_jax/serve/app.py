"""The JSON API with its OpenAPI description, and the files of the page."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from cl2cm_jax import __version__
from cl2cm_jax.errors import UserError
from cl2cm_jax.search.entry import Entry, Filters, Found, day
from cl2cm_jax.serve.limits import COOKIE, Guard, Limits, same
from cl2cm_jax.serve.pictures import LARGE, THUMBNAIL, Pictures
from cl2cm_jax.serve.service import Service
from cl2cm_jax.serve.workers import BusyError
from cl2cm_jax.text.terminal import json_text
from cl2cm_jax.text.visible import visible

MAX_QUERY, MAX_TOP = 500, 100
UPLOAD_SECONDS = 28.0  # from the head of a request to the last work on its picture, which 30 s end
DRAWN_AT_ONCE = 8  # pictures; those that are not kept yet wait for a process
PAGE = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}

Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="from the result of a search")]


class Result(BaseModel):
    """A picture that was found."""

    id: str
    score: float
    caption: str
    caption_language: str
    path: str
    date: int


class Answer(BaseModel):
    """Pictures, best first; `language` is the detected language of the query, "" if unknown.

    A `notice` says that the query is not read as a whole, or that no picture of the index meets the filters.
    """

    query: str
    language: str
    milliseconds: float
    results: list[Result]
    notice: str | None = None


class About(BaseModel):
    """Model and index; `languages` are those of the model, `caption_languages` those of the index's captions."""

    model: str
    languages: list[str]
    caption_languages: list[str]
    pictures: int
    version: str


class Token(BaseModel):
    """The service's token."""

    token: str


class ErrorDetail(BaseModel):
    """The error, in one line."""

    detail: str


class PrintableJSON(JSONResponse):
    """JSON whose control characters are escaped: clients print it to a terminal."""

    def render(self, content: Any) -> bytes:
        """The bytes of an answer."""
        return json_text(content, separators=(",", ":"), allow_nan=False).encode()


def create_app(service: Service, pictures: Pictures, limits: Limits) -> ASGIApp:
    """The whole service as an ASGI application."""
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorDetail} for status in (400, 401, 404, 413, 422, 429, 503)
    }
    api = FastAPI(
        title="cl2cm-jax search",
        version=__version__,
        docs_url=None,  # both load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,  # the redirect would contain the request's Host header
        openapi_url="/api/openapi.json",
        default_response_class=PrintableJSON,
        responses=errors,
    )
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(UserError, _user_error)
    api.add_exception_handler(BusyError, _busy)
    _add_search(api, service, at_once=limits.uploads)
    _add_pictures(api, service, pictures)
    _add_access(api, service, limits)
    for path, (name, kind) in PAGE.items():
        content = (files("cl2cm_jax.serve") / "static" / name).read_bytes()
        api.add_api_route(path, partial(_file, content, kind), include_in_schema=False)
    return Guard(api, limits)


def search_options(
    top: Annotated[int, Query(ge=1, le=MAX_TOP)] = 24,
    language: Annotated[str, Query(max_length=32, description="only pictures with a caption in it, e.g. de")] = "",
    path: Annotated[str, Query(max_length=1000, description="only pictures whose path begins with this")] = "",
    since: Annotated[str, Query(max_length=10, description="2024, 2024-05 or 2024-05-31")] = "",
    until: Annotated[str, Query(max_length=10, description="that day included")] = "",
) -> dict[str, Any]:
    """The parameters of all searches."""
    first, last = day(since, name="since"), day(until, name="until", after=True)
    return {"top": top, "filters": Filters(language=language, path=path, since=first, until=last)}


Options = Annotated[dict[str, Any], Depends(search_options)]


def _add_search(api: FastAPI, service: Service, *, at_once: int) -> None:
    searching = ThreadPoolExecutor(at_once)  # so that an upload waits for a process only, and for no thread
    picture = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}, "required": True}

    @api.get("/api/search", summary="Search by text in any language", response_model_exclude_none=True)
    def search(q: Annotated[str, Query(min_length=1, max_length=MAX_QUERY)], options: Options) -> Answer:
        if not visible(q) or any("\ud800" <= char <= "\udfff" for char in q):
            raise HTTPException(422, "q is empty or not valid Unicode")
        start, language = time.perf_counter(), service.detect(q)
        found = service.by_text(q, **options)
        prefer, notice = (language, service.model.languages[0]), service.notice(q, options["filters"], found)
        return _answer(found, query=q, language=language, start=start, prefer=prefer, notice=notice)

    @api.post(
        "/api/search/picture",
        summary="Search by the picture in the body",
        openapi_extra={"requestBody": picture},
        response_model_exclude_none=True,
    )
    async def search_picture(request: Request, options: Options) -> Answer:
        start, until = time.perf_counter(), time.monotonic() + UPLOAD_SECONDS
        by_picture = partial(service.by_picture, await _body(request), until=until, **options)
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(searching, by_picture)
        notice = await asyncio.to_thread(service.notice, "", options["filters"], found)
        return _answer(found, start=start, prefer=(service.model.languages[0],), notice=notice)

    @api.get(
        "/api/pictures/{id}/similar", summary="Pictures similar to one of the index", response_model_exclude_none=True
    )
    def similar(id: Id, options: Options) -> Answer:
        start = time.perf_counter()
        found = service.similar(id, **options)
        if found is None:
            raise HTTPException(404, "no picture has that id")
        notice = service.notice("", options["filters"], found)
        return _answer(found, start=start, prefer=(service.model.languages[0],), notice=notice)


def _add_pictures(api: FastAPI, service: Service, pictures: Pictures) -> None:
    drawing = ThreadPoolExecutor(DRAWN_AT_ONCE)  # threads of its own, so that no text query waits for pictures

    def entry(id: str) -> Entry:
        found = service.index.entry(id)
        if found is None:
            raise HTTPException(404, "no picture has that id")
        return found

    def drawn(id: str, size: int) -> Response:
        content = pictures.webp(entry(id).path, size=size)
        if content is None:
            raise HTTPException(404, "the picture's file does not exist or cannot be read")
        return Response(content, media_type="image/webp", headers={"cache-control": "private, max-age=300"})

    webp: dict[int | str, dict[str, Any]] = {200: {"content": {"image/webp": {}}}}

    @api.get("/api/pictures/{id}", summary="The entry of a picture")
    def one(id: Id) -> Result:
        return _result(Found(entry(id), 1.0), (service.model.languages[0],))

    @api.get("/api/pictures/{id}/thumbnail", response_class=Response, responses=webp)
    async def thumbnail(id: Id) -> Response:
        return await asyncio.get_running_loop().run_in_executor(drawing, drawn, id, THUMBNAIL)

    @api.get("/api/pictures/{id}/large", response_class=Response, responses=webp)
    async def large(id: Id) -> Response:
        return await asyncio.get_running_loop().run_in_executor(drawing, drawn, id, LARGE)


def _add_access(api: FastAPI, service: Service, limits: Limits) -> None:
    @api.get("/api/about", summary="Model and index")
    def about() -> About:
        model = service.model
        return About(
            model=model.name,
            languages=list(model.languages),
            caption_languages=service.caption_languages,
            pictures=len(service.index),
            version=__version__,
        )

    @api.post("/api/login", status_code=204, summary="Exchange the token for a session cookie, for the page")
    def login(given: Annotated[Token, Body()]) -> Response:
        if not limits.token or not same(given.token, limits.token):
            raise HTTPException(401, "wrong token")
        response = Response(status_code=204)
        response.set_cookie(COOKIE, limits.session(), httponly=True, samesite="strict", max_age=30 * 86400)
        return response


def _answer(
    found: list[Found],
    *,
    start: float,
    prefer: tuple[str, ...],
    query: str = "",
    language: str = "",
    notice: str = "",
) -> Answer:
    results = [_result(one, prefer) for one in found]
    elapsed = round(1000 * (time.perf_counter() - start), 1)
    return Answer(query=query, language=language, milliseconds=elapsed, results=results, notice=notice or None)


def _result(found: Found, prefer: tuple[str, ...]) -> Result:
    entry = found.entry
    language, caption = entry.caption(*prefer)
    return Result(
        id=entry.id,
        score=round(found.score, 4),
        caption=caption,
        caption_language=language,
        path=_shown(entry.path),
        date=entry.date,
    )


def _shown(path: str) -> str:
    """A path inside the folder; of one that is absolute, as imported vectors may have it, only the name."""
    absolute = PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive or path.startswith("\\")
    return PureWindowsPath(path).name if absolute else path


async def _body(request: Request) -> bytes:
    try:
        return await request.body()
    except ClientDisconnect:  # not an error of the service, although no client is left to read the answer
        raise HTTPException(400, "the body is shorter than its content-length") from None


def _file(content: bytes, kind: str) -> Response:
    return Response(content, media_type=kind, headers={"cache-control": "no-cache"})


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Names the wrong field and the reason, without repeating the input."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}"}, 422)


async def _busy(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 503, {"retry-after": "5"})


async def _user_error(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)
