"""How a store at http:// or https:// is protected from its server.

fsspec reads web addresses with aiohttp and takes a whole answer into memory, however long it is and
whichever bytes it holds. Here an answer ends where the request ends.
"""

from __future__ import annotations

import re

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

CHUNK_BYTES = 1 << 20


class BoundedResponse(aiohttp.ClientResponse):
    """An answer with no more bytes than the request asks for, and with no others.

    fsspec gives each request a range of bytes, because `RemoteStorage` always names the end.
    """

    async def read(self) -> bytes:
        """Return the body.

        Raises:
            aiohttp.ClientPayloadError: If the server sends more than was asked for, or another
                part of the file.
        """
        if self.status >= 400:
            # fsspec looks at the status afterwards. The page about the error may be longer than the
            # range, and nobody reads it.
            self.close()
            return b""
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.request_info.headers.get("Range", ""))
        if asked is None:
            return await super().read()
        begin, last = int(asked[1]), int(asked[2])
        # Other bytes of the right number would be images of other classes.
        if self.status == 206 and not self.headers.get("Content-Range", "").startswith(
            f"bytes {begin}-"
        ):
            self._refuse("it sends another part of the file than it was asked for")
        if self.status == 200 and begin > 0:
            self._refuse("it does not serve ranges of bytes")
        body = bytearray()
        async for chunk in self.content.iter_chunked(CHUNK_BYTES):
            body += chunk
            if len(body) > last + 1 - begin:
                self._refuse(f"it sends more than the {last + 1 - begin} bytes it was asked for")
        return bytes(body)

    def _refuse(self, reason: str) -> None:
        # Closed and not released: a release would wait for the rest of the body.
        self.close()
        raise aiohttp.ClientPayloadError(reason)


def options(url: str, request_s: float) -> dict[str, object]:
    """Return the arguments of `fsspec.url_to_fs` for the web addresses in a URL.

    Args:
        request_s: How long a request may take, in seconds.
    """
    client = {
        "response_class": BoundedResponse,
        "timeout": aiohttp.ClientTimeout(total=request_s),
    }
    # A URL can have several parts, as in zip://a.zip::https://host; each takes arguments by name.
    parts = [scheme for scheme in ("http", "https") if f"{scheme}://" in url]
    return {scheme: {"client_kwargs": client} for scheme in parts}


def failure(error: BaseException) -> BaseException:
    """Return what went wrong, also where fsspec reports a missing file instead.

    It does so for the sizes of files, whatever the error was.
    """
    cause = error.__cause__
    says_missing = isinstance(cause, aiohttp.ClientResponseError) and cause.status in (404, 410)
    if (
        isinstance(error, FileNotFoundError)
        and isinstance(cause, aiohttp.ClientError | TimeoutError)
        and not says_missing
    ):
        return cause
    return error


def reason(error: BaseException) -> str:
    """Return why a storage could not be read, in words.

    That is the first line of the error's message, unless it says nothing to a reader.
    """
    not_http = isinstance(error.__cause__, HttpProcessingError)
    match error:
        case aiohttp.TooManyRedirects():
            return "it redirects in a circle"
        # aiohttp follows redirects to http and https only, so a server cannot name a local file.
        case aiohttp.NonHttpUrlRedirectClientError():
            return f"it redirects to {error}, which is not followed"
        case aiohttp.ClientPayloadError() if not_http:
            return "it stops before the end of its answer"
        case aiohttp.ClientResponseError() if not_http:
            return "its answer is not HTTP"
        case aiohttp.ClientResponseError():
            return f"it answers {error.status} {error.message}".strip()
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
