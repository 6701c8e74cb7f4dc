"""One request over HTTP: redirects that stay safe, and errors that say what to do instead of the library's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loftr2flax.errors import EnvironmentFault, Loftr2FlaxError, MissingInput
from loftr2flax.extras import needed
from loftr2flax.fetch.urls import as_safe, joined, shown
from loftr2flax.version import VERSION

if TYPE_CHECKING:
    import requests

ELSEWHERE = "or download it elsewhere and name its path"
"""The end of the hints of all that the network can do to us."""

_REDIRECTS = 10


class Unavailable(EnvironmentFault):
    """The network, a proxy or the server is in the way; another source may do better."""


class NotThere(MissingInput):
    """The server answers, and has no such file; another source may do better."""


class Broken(Exception):
    """The connection ended too early, or the server is busy: worth another attempt."""


@contextmanager
def opened() -> Iterator[requests.Session]:
    """A session for `answer`, which looks after redirects itself: the library would read all of a redirect's body.

    Raises:
      EnvironmentFault: requests is not installed.
    """
    with needed("fetching", "fetch", "requests", "urllib3"):
        import requests

    with requests.Session() as session:
        session.headers["User-Agent"] = f"loftr2flax/{VERSION}"
        session.get_redirect_target = lambda resp: None  # type: ignore[method-assign]
        yield session


@contextmanager
def answer(session: requests.Session, url: str, headers: dict[str, str], timeout: float) -> Iterator[requests.Response]:
    """The answer at the end of the redirects, its body not yet read."""
    import requests

    at = url
    for _ in range(_REDIRECTS + 1):
        got = session.get(at, headers=headers, timeout=timeout, stream=True, allow_redirects=False)
        if not got.is_redirect:
            try:
                yield got
            finally:
                got.close()
            return
        got.close()
        leads_to = joined(at, got.headers["Location"])
        if not leads_to:
            raise Unavailable(f"{shown(url)}: leads to no address", f"use another source, {ELSEWHERE}")
        if not as_safe(leads_to, at):
            raise Unavailable(
                f"{shown(url)}: leads to {shown(leads_to)}, which is less safe", f"use another source, {ELSEWHERE}"
            )
        at = leads_to
    raise requests.TooManyRedirects


@contextmanager
def blaming(url: str, timeout: float) -> Iterator[None]:
    """Turns what the library raises into errors that say what to do."""
    import requests
    from urllib3.exceptions import LocationValueError, NewConnectionError, ReadTimeoutError

    name = shown(url)
    try:
        yield
    except Loftr2FlaxError:
        raise
    except requests.exceptions.ProxyError as error:
        hint = "check HTTPS_PROXY and HTTP_PROXY; NO_PROXY lists the hosts that need none"
        raise Unavailable(f"{name}: the proxy does not let it through: {_reason(error)}", hint) from None
    except requests.exceptions.SSLError as error:
        hint = "behind a proxy that opens connections, REQUESTS_CA_BUNDLE names the file of its certificate"
        raise Unavailable(f"{name}: the server cannot prove who it is: {_reason(error)}", hint) from None
    except requests.exceptions.ConnectTimeout:
        message = f"{name}: no connection within {timeout:g} s"
        raise Unavailable(message, f"check the connection (a proxy? HTTPS_PROXY), {ELSEWHERE}") from None
    except requests.exceptions.ReadTimeout:
        raise Broken(f"no answer within {timeout:g} s") from None
    except requests.exceptions.TooManyRedirects:
        raise Unavailable(
            f"{name}: leads to more than {_REDIRECTS} other addresses", f"use another source, {ELSEWHERE}"
        ) from None
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError):
        raise Broken("the connection broke off") from None
    except requests.exceptions.ConnectionError as error:
        causes = list(_causes(error))
        if any(isinstance(cause, ReadTimeoutError) for cause in causes):  # in the middle of the body
            raise Broken(f"no answer within {timeout:g} s") from None
        if not any(isinstance(cause, NewConnectionError) for cause in causes):
            raise Broken("the connection broke off") from None
        hint = f"check the connection (offline? a proxy? HTTPS_PROXY), {ELSEWHERE}"
        raise Unavailable(f"{name}: cannot be reached: {_reason(error)}", hint) from None
    except (requests.exceptions.RequestException, LocationValueError, UnicodeError) as error:
        raise Unavailable(f"{name}: cannot be fetched: {_reason(error)}", f"check the address, {ELSEWHERE}") from None


def _reason(error: BaseException) -> str:
    """What the innermost of a chain of exceptions says: the system's or the TLS library's own word."""
    *_, inner = _causes(error)
    said = getattr(inner, "verify_message", None) or getattr(inner, "strerror", None) or inner
    return str(said).partition("\n")[0]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, what it was raised from, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
