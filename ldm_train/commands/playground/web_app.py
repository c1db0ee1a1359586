"""The page, its files and its uploads as one web application behind the guard; served until it is stopped."""

import asyncio
import socket
import sys
from types import SimpleNamespace

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, PlainTextResponse, Response
from gradio import queueing

from ldm_train.commands.playground.access_guard import LARGEST_BODY, AccessGuard
from ldm_train.commands.playground.client_watch import AnswerWatch, forget_event, limit_memory
from ldm_train.commands.playground.listening import Address
from ldm_train.commands.playground.page_layout import HEAD, build_page, build_theme, read_asset
from ldm_train.commands.playground.playground import Playground
from ldm_train.util.messages import warn

WAIT = 1  # seconds for what is being answered at the end
FAREWELL = 0.3  # seconds in which whoever waits for a drawing learns that it was ended


def build_app(playground: Playground, address: Address) -> AccessGuard:
    """Return the web application of a playground."""
    queueing.traceback = SimpleNamespace(print_exc=report_error)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_files(app, playground)
    page = build_page(playground)
    limit_memory(page)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=address.host,
        server_port=address.port,
        footer_links=["api"],
        run_history=False,
        allowed_paths=[],
        show_error=True,
        max_file_size=LARGEST_BODY,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=build_theme(),
        css=read_asset("playground.css"),
        head=HEAD,
    )

    def forget(event: str) -> None:
        forget_event(page, event)
        playground.sessions.close(event)

    return AccessGuard(AnswerWatch(app, playground.awaited, forget), address)


def add_files(app: FastAPI, playground: Playground) -> None:
    """Add the page's script, the pictures, and the uploads."""
    script = read_asset("playground.js")

    @app.get("/playground.js")
    def read_script() -> Response:
        return Response(script, media_type="text/javascript")

    @app.get("/pictures/{session}/{name}")
    def read_picture(session: str, name: str, request: Request) -> Response:
        try:
            path = playground.sessions.find_picture(f"{session}/{name}")
        except ValueError as error:
            return PlainTextResponse(str(error), 404)
        return FileResponse(path, media_type="image/png", filename=name if "download" in request.query_params else None)

    @app.post("/uploads")
    async def send_file(request: Request) -> Response:
        content = await request.body()
        try:
            return PlainTextResponse(await run_in_threadpool(playground.uploads.keep, content))
        except ValueError as error:
            return PlainTextResponse(str(error), 422)

    @app.get("/uploads/{name}")
    def read_upload(name: str) -> Response:
        try:
            return Response(playground.uploads.render(name), media_type="image/png")
        except ValueError as error:
            return PlainTextResponse(str(error), 404)


def report_error() -> None:
    """Report the error that is handled in one line; gradio's queue would print a traceback of what a client got wrong."""
    error = sys.exc_info()[1]
    warn(f"a request failed: {type(error).__name__}: {error}")


class Server(uvicorn.Server):
    """A server that ends drawings and streams when it stops, so that no page and no program keeps it alive."""

    def __init__(self, config: uvicorn.Config, guard: AccessGuard, playground: Playground) -> None:
        super().__init__(config)
        self.guard, self.playground = guard, playground

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        self.playground.close()
        await asyncio.sleep(FAREWELL)
        self.guard.close()
        await super().shutdown(sockets)


def build_server(app: AccessGuard, playground: Playground) -> Server:
    """Return a server; its `run(sockets=[listener])` answers requests until the process is interrupted."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        timeout_graceful_shutdown=WAIT,
        server_header=False,
        ws="none",
        lifespan="on",
    )
    return Server(config, app, playground)
