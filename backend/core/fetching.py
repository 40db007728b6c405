"""The hub's own library, made to connect as we do: see `reach`. It would follow a redirect to any machine, and keep a file
wherever the hub's answer says."""

from __future__ import annotations

from functools import cache
from threading import Lock
from typing import Any

import httpcore2
import httpx2

from backend.core.reach import Inward, Reach, proxy_of, reach_of


def confine(home: str) -> None:
    """From now on the library connects only to what the hub at `home` may lead to. Its faster protocol is left out: that
    is another program's code, which looks up names and connects by itself. Raises `OSError` for a hub with no address."""
    from huggingface_hub import constants, set_client_factory

    constants.HF_HUB_DISABLE_XET = True
    with _changing:
        reach = reach_of(home)
        if reach is not _confined.get("to"):  # to set it again would cut off a download that goes on
            set_client_factory(lambda: httpx2.Client(transport=_Transport(reach), follow_redirects=True, timeout=None))
            _confined["to"] = reach


_changing = Lock()
_confined: dict[str, Reach] = {}


class _Transport(httpx2.BaseTransport):
    """By the proxy that the environment names, else directly."""

    def __init__(self, reach: Reach) -> None:
        self._direct = _Direct(reach)
        self._through = cache(lambda proxy: httpx2.HTTPTransport(proxy=proxy))

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        proxy = proxy_of(request.url.scheme, request.url.host)
        response = (self._through(proxy) if proxy else self._direct).handle_request(request)
        if request.method == "HEAD":
            _check_names(response)
        return response

    def close(self) -> None:
        self._direct.close()


def _check_names(response: httpx2.Response) -> None:
    """The library takes these for the names of files in its cache (2.4), whatever they are. Raises `ValueError`."""
    for header in ("ETag", "X-Linked-ETag"):
        name = response.headers.get(header, "").removeprefix("W/")
        if "/" in name or ".." in name:
            raise ValueError(f"the hub names a file {name!r}")


class _Direct(httpx2.HTTPTransport):
    def __init__(self, reach: Reach) -> None:
        super().__init__()
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpx2.create_ssl_context(), keepalive_expiry=5, network_backend=_Network(reach)
        )


class _Network(httpcore2.SyncBackend):
    """Connects to addresses that were judged, never to a name."""

    def __init__(self, reach: Reach) -> None:
        self.reach = reach

    def connect_tcp(self, host: str, port: int, *options: Any, **named: Any) -> httpcore2.NetworkStream:
        try:
            *others, last = self.reach.addresses(host, port)
        except Inward:
            raise
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error
        for address in others:
            try:
                return super().connect_tcp(address, port, *options, **named)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return super().connect_tcp(last, port, *options, **named)
