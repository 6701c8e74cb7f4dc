"""URLs: what is one, which are fetched, and how one is shown."""

from __future__ import annotations

from loftr2flax.errors import UsageError


def is_url(text: str) -> bool:
    """Whether ``text`` is meant as a URL; of which scheme is another matter."""
    return "://" in text


def shown(url: str) -> str:
    """A URL as others may see it: the query of a signed link is a secret."""
    return url.partition("#")[0].partition("?")[0]


def check_url(url: str, *, hash_known: bool) -> None:
    """Whether a URL is one that is fetched.

    Plain http lets anyone on the way change the file; it is taken only where the hash is known beforehand, or where
    the server is this machine.

    Raises:
      UsageError: another scheme, a password in it, no host, or plain http.
    """
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{shown(url)}: not a URL: {error}", "such as https://example.org/loftr.ckpt") from None
    if parts.scheme not in ("http", "https"):
        message = f"{shown(url)}: {parts.scheme} is not fetched, only https and http"
        raise UsageError(message, "a file on this machine needs no fetching: name its path")
    if not host:
        raise UsageError(f"{shown(url)}: names no server", "such as https://example.org/loftr.ckpt")
    if parts.username is not None:
        raise UsageError(f"{parts.scheme}://…@{host}: a password in a URL ends up in logs", "put it into ~/.netrc")
    if parts.scheme == "http" and not hash_known and not _is_this_machine(host):
        message = f"{shown(url)}: anyone on the way can change what comes over plain http"
        raise UsageError(message, "use https, or give the hash that the file must have: --sha256 HEX")


def joined(url: str, location: str) -> str:
    """Where a redirect from ``url`` leads; "" where that is no URL."""
    from urllib.parse import urljoin, urlsplit

    try:
        target = urljoin(url, location)
        urlsplit(target)
    except ValueError:
        return ""
    return target


def as_safe(target: str, url: str) -> bool:
    """Whether a redirect may lead from ``url`` to ``target``: not from https to http, nor by http off this machine."""
    from urllib.parse import urlsplit

    there, here = urlsplit(target), urlsplit(url)
    if there.scheme != "http" or here.scheme != "http":
        return there.scheme == "https"
    return _is_this_machine(there.hostname or "") or not _is_this_machine(here.hostname or "")


def _is_this_machine(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
