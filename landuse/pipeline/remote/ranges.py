"""IO: byte ranges of one remote file, by HTTP or from S3. One request each; ``files.Remote`` repeats them.

Every answer is checked: the range that was asked for, whole, of the same version of the file.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from landuse.errors import ReadError
from landuse.pipeline.remote.retry import BUSY_STATUS, TransientError, retry_after_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import requests
    from urllib3 import BaseHTTPResponse

    from landuse.pipeline.providers import S3Access
    from landuse.pipeline.remote.hosts import Hosts
    from landuse.pipeline.remote.retry import RetryPolicy
    from landuse.pipeline.remote.signing import Signer

CHUNK_BYTES = 1 << 16
"""Most that is taken of a body at once."""

_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """What one request brought."""

    start: int
    """First byte."""
    pieces: Iterator[bytes]
    """The bytes, in order; iterating raises ``TransientError`` where they break off."""
    length: int | None
    """How many there are to be; None where the server does not say."""
    total: int
    """Size of the whole file."""
    version: str | None
    """ETag, where the server gives one."""
    close: Callable[[], None]
    """Lets go of the connection; to be called in any case."""
    abort: Callable[[], None]
    """Ends the pieces, from another thread, even while the server is silent."""


class UnreachableError(TransientError):
    """The server was not reached, or fell silent: its host may be down."""


class RangeSource(Protocol):
    """One remote file that gives out byte ranges."""

    def request(self, start: int, stop: int) -> Part:
        """Ask for bytes ``start`` to ``stop`` (exclusive); the answer may be longer.

        Raises:
            TransientError: trying again may help.
            ReadError: it will not; the message is the bare reason.
        """
        ...


class HttpSource:
    """A file behind HTTP(S)."""

    def __init__(self, href: str, session: requests.Session, signer: Signer, policy: RetryPolicy) -> None:
        self._href = href
        self._session = session
        self._signer = signer
        self._policy = policy
        self._refused: dict[int, float] = {}
        """When a token was last refused, on the monotonic clock, by the end of the range asked for.

        That end stays the same while attempts at a range go on.
        """

    def request(self, start: int, stop: int) -> Part:
        """Ask for a range; the href is signed for this request."""
        import requests
        from urllib3.exceptions import HTTPError

        signed = self._signer.sign(self._href)
        # Encoded bodies would not be the file's bytes.
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        try:
            answer = self._session.get(signed, headers=headers, timeout=self._policy.timeouts_s, stream=True)
        except requests.Timeout:
            raise UnreachableError("no answer in time") from None
        except requests.ConnectionError:
            raise UnreachableError("the connection failed") from None
        # Some of urllib3's errors come through, and ValueError for a malformed host in a redirection. None
        # is a cause: they quote addresses.
        except (requests.RequestException, HTTPError, ValueError) as error:
            raise ReadError(f"the request is not possible ({type(error).__name__})") from None
        if answer.status_code not in (200, 206):
            answer.close()
            raise self._refusal(answer, signed, stop)
        self._refused.pop(stop, None)
        length = _length(answer)
        try:
            _check_encoding(answer)
            first, total = _content_range(answer) if answer.status_code == 206 else (0, length)
            if total is None:
                raise ReadError("the server does not say how large the file is")
        except (TransientError, ReadError):
            answer.close()
            raise
        return Part(
            start=first,
            pieces=_pieces(answer.raw, length),
            length=length,
            total=total,
            version=answer.headers.get("ETag"),
            close=answer.close,
            abort=lambda: _abort(answer.raw),
        )

    def _refusal(self, answer: requests.Response, signed: str, stop: int) -> Exception:
        status = answer.status_code
        if status in (401, 403):
            before, self._refused[stop] = self._refused.get(stop), time.monotonic()
            if self._signer.renew(signed, before):
                return TransientError(f"the server answered {status}: the token has expired or was revoked")
        if status in BUSY_STATUS:
            return TransientError(
                f"the server answered {status}", retry_after_s(answer.headers.get("Retry-After"))
            )
        meaning = {401: "access denied", 403: "access denied", 404: "no such file", 410: "no such file"}
        return ReadError(f"the server answered {status} ({meaning.get(status) or _phrase(status)})")


def _phrase(status: int) -> str:
    """What a status means; not in the server's words, which may be any."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "which means nothing"


def _check_encoding(answer: requests.Response) -> None:
    coding = answer.headers.get("Content-Encoding", "identity")
    if coding.lower() != "identity":
        raise ReadError(f"the server answers with {coding[:20]!r} encoding instead of the file's bytes")


def _length(answer: requests.Response) -> int | None:
    stated = answer.headers.get("Content-Length", "")
    return int(stated) if _NUMBER.fullmatch(stated) else None


def _content_range(answer: requests.Response) -> tuple[int, int | None]:
    """First byte and total size of a partial answer (RFC 9110, 14.4)."""
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if match is None:
        raise TransientError("the answer does not say which range it holds")
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _pieces(raw: BaseHTTPResponse, length: int | None) -> Iterator[bytes]:
    """A body as it arrives, up to its length: of a trickle each piece, so that the clock can be looked at."""
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    # What came of an answer that breaks off is kept: its length is checked by whoever takes it in.
    raw.enforce_content_length = False  # type: ignore[attr-defined]  # urllib3's base class lacks it
    came = 0
    try:
        while piece := raw.read1(
            CHUNK_BYTES if length is None else max(min(length - came, CHUNK_BYTES), 0), decode_content=False
        ):
            yield piece
            came += len(piece)
    except ReadTimeoutError:
        raise UnreachableError("the server fell silent") from None
    except (HTTPError, OSError, ValueError):  # the last from a body that another thread aborted
        raise TransientError("the answer broke off") from None


def _abort(raw: BaseHTTPResponse) -> None:
    # Where it is over already there is nothing to end.
    with suppress(OSError, RuntimeError, ValueError):
        raw.shutdown()


def http_session(connections: int, hosts: Hosts) -> requests.Session:
    """A session that keeps so many connections to a host open; it repeats nothing by itself."""
    import requests

    from landuse.pipeline.remote.hosts import HostAdapter

    def without_body(answer: requests.Response, **_: object) -> None:
        # requests would take it in whole before it follows, however long that lasts.
        if answer.is_redirect:
            answer.close()

    session = requests.Session()
    session.hooks["response"].append(without_body)
    for scheme in ("http://", "https://"):
        session.mount(scheme, HostAdapter(hosts, pool_connections=connections, pool_maxsize=connections))
    return session


class S3Source:
    """An object of S3 or of a service like it."""

    def __init__(self, href: str, client: Any, access: S3Access) -> None:  # noqa: ANN401  # boto3 makes it from data
        self._bucket, _, self._key = href.partition("://")[2].partition("/")
        self._client = client
        self._access = access

    def request(self, start: int, stop: int) -> Part:
        """Ask for a range, at the requester's expense where the provider wants that."""
        from botocore import exceptions

        asked = {"Bucket": self._bucket, "Key": self._key, "Range": f"bytes={start}-{stop - 1}"}
        if self._access.requester_pays:
            asked["RequestPayer"] = "requester"
        try:
            answer = self._client.get_object(**asked)
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError):
            raise ReadError(f"no S3 credentials were found: {_credentials_mend(self._access)}") from None
        except exceptions.ClientError as error:
            raise self._refusal(error.response) from None
        except (exceptions.HTTPClientError, exceptions.ConnectionError) as error:
            raise UnreachableError(f"S3 was not reached ({type(error).__name__})") from None
        except (exceptions.BotoCoreError, ValueError) as error:  # the latter for a header that is no number
            raise ReadError(f"S3 cannot be asked ({type(error).__name__})") from None
        # botocore's own body waits until each piece is whole, however slowly it comes.
        body, length = answer["Body"]._raw_stream, answer.get("ContentLength")
        # Without a range it is the whole object.
        stated = answer.get("ContentRange", f"bytes 0-{length}/{length}")
        span = _CONTENT_RANGE.fullmatch(stated)
        if span is None or span[2] == "*":
            body.close()
            raise TransientError("the answer does not say which range it holds")
        return Part(
            start=int(span[1]),
            pieces=_pieces(body, length),
            length=length,
            total=int(span[2]),
            version=answer.get("ETag"),
            close=body.close,
            abort=lambda: _abort(body),
        )

    def _refusal(self, response: Mapping[str, Any]) -> Exception:
        about = response.get("ResponseMetadata", {})
        status, code = about.get("HTTPStatusCode"), str(response.get("Error", {}).get("Code", ""))[:40]
        if status in BUSY_STATUS or code in ("SlowDown", "RequestTimeout"):
            asked_s = retry_after_s(about.get("HTTPHeaders", {}).get("retry-after"))
            return TransientError(f"S3 answered {status} {code}", asked_s)
        unknown = status in (401, 403) or code == "ExpiredToken"
        mend = f"; {_credentials_mend(self._access)}" if unknown else ""
        return ReadError(f"S3 answered {status} {code}{mend}")


def s3_client(access: S3Access, policy: RetryPolicy, connections: int) -> Any:  # noqa: ANN401  # boto3 makes it
    """A client of S3 that keeps so many connections open; it repeats nothing by itself.

    Raises:
        ReadError: the credentials that the provider needs are not set.
    """
    # Imported here: it takes half a second, and few sources are on S3.
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    keys = {}
    if access.credentials != "aws":
        key_id, secret = (os.environ.get(name) for name in access.variables)
        if not key_id or not secret:
            raise ReadError(f"no S3 credentials were found: {_credentials_mend(access)}")
        keys = {"aws_access_key_id": key_id, "aws_secret_access_key": secret}
    connect_s, read_s = policy.timeouts_s
    config = Config(
        connect_timeout=connect_s,
        read_timeout=read_s,
        retries={"total_max_attempts": 1},
        max_pool_connections=connections,
        # Services other than AWS seldom have a host for each bucket.
        s3={"addressing_style": "auto" if access.endpoint_url is None else "path"},
    )
    try:
        session = boto3.session.Session(**keys)
        return session.client(
            "s3", endpoint_url=access.endpoint_url, region_name=access.region, config=config
        )
    except BotoCoreError as error:
        raise ReadError(f"S3 cannot be asked ({error})") from None


def _credentials_mend(access: S3Access) -> str:
    if access.credentials != "aws":
        return f"set {' and '.join(access.variables)}"
    pays = " of an account that pays for the transfer" if access.requester_pays else ""
    return f"set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY{pays}"
