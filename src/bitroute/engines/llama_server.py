"""A real llama-server inside this process, on a free port of this machine. It knows files and addresses, nothing of routing.

Made for small models and demonstrations: one thread a server, a few slots. What one must know of such a server: its destructor,
with the interpreter locked, waits for every client that is still connected with a request in flight, and for ever when the
server's loop has not begun yet.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bitroute.errors import DataError

SLOTS: Final = 8  # requests that are computed at once; more of them wait
CONTEXT: Final = 2048  # tokens a slot
CACHE: Final = 256  # MiB of prompts kept beside the slots, so that more episodes than slots find theirs again


@contextmanager
def llama_server(gguf: Path, name: str, cache: int = CACHE) -> Iterator[str]:
    """Serve the model in `gguf` as `name`: the server's URL, without /v1. On leaving, requests in flight are cut off.

    `cache` is in MiB, of prompts beside the slots.

    Raises DataError when the file is missing or llama.cpp cannot load it, ModuleNotFoundError without the extra `serve-demo`.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read once, when llama.cpp is loaded: idle threads must not spin
    import xllamacpp  # noqa: PLC0415

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.model_alias = {name}
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * CONTEXT
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_ram_mib = cache
    params.fit_params = params.warmup = params.ui = False
    params.verbosity = -1  # what goes wrong with a request is in its answer
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise DataError(f"{gguf}: llama.cpp cannot load it ({error})") from error
    url = str(server.listening_address)
    address = urlsplit(url)
    try:
        with closing(HTTPConnection(str(address.hostname), address.port)) as connection:
            connection.request("GET", "/slots")  # answered by the loop, where /health is not
            connection.getresponse().read()
        yield url
    finally:
        _hang_up(address.port)
        del server


def _hang_up(port: int | None) -> None:
    """End the listening on `port`, then every connection that this process accepted on it, so that nobody is waited for.

    In this order: a connection that is accepted while one looks for those that are open would be missed.
    """
    for listening in (True, False):
        for connection in _open_sockets(port):
            if bool(connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) is listening:
                with suppress(OSError):  # the other side was faster
                    connection.shutdown(socket.SHUT_RDWR)


def _open_sockets(port: int | None) -> Iterator[socket.socket]:
    """Those of this process that are on this side's `port`, each usable until the next one is asked for."""
    for number in os.listdir("/dev/fd"):  # noqa: PTH208  (the names are open files of this process, and change under a Path)
        try:
            descriptor = os.dup(int(number))
        except OSError:  # closed meanwhile
            continue
        try:
            connection = socket.socket(fileno=descriptor)
        except OSError:  # no socket
            os.close(descriptor)
            continue
        with connection:
            if connection.family == socket.AF_INET and connection.getsockname()[1] == port:
                yield connection
