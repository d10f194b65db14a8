"""IO: byte ranges of one remote file, by HTTP or from S3. One request each; ``remote`` repeats them.

Every answer is checked: the range that was asked for, whole, of the same version of the file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from landuse.errors import ReadError
from landuse.pipeline.retry import BUSY_STATUS, TransientError, retry_after_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import requests

    from landuse.pipeline.providers import S3Access
    from landuse.pipeline.retry import RetryPolicy
    from landuse.pipeline.signing import Signer

CHUNK_BYTES = 1 << 20
"""Piece in which a body is taken in."""

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


class UnreachableError(TransientError):
    """The server was not reached or broke off: its host may be down."""


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
        except (requests.RequestException, HTTPError) as error:  # some of urllib3's own come through
            raise ReadError(f"the request is not possible ({type(error).__name__})") from None
        if answer.status_code not in (200, 206):
            answer.close()
            self._refuse(answer, signed)
        try:
            _check_encoding(answer)
            first, total = _content_range(answer) if answer.status_code == 206 else (0, _length(answer))
            if total is None:
                raise ReadError("the server does not say how large the file is")
        except (TransientError, ReadError):
            answer.close()
            raise
        return Part(
            start=first,
            pieces=_pieces(answer),
            length=_length(answer),
            total=total,
            version=answer.headers.get("ETag"),
            close=answer.close,
        )

    def _refuse(self, answer: requests.Response, signed: str) -> None:
        status = answer.status_code
        if status in (401, 403) and self._signer.renew(signed):
            raise TransientError(f"the server answered {status}: the token has expired or was revoked")
        if status in BUSY_STATUS:
            asked_s = retry_after_s(answer.headers.get("Retry-After"))
            raise TransientError(f"the server answered {status}", asked_s)
        meaning = {401: "access denied", 403: "access denied", 404: "no such file", 410: "no such file"}
        raise ReadError(f"the server answered {status} ({meaning.get(status, answer.reason)})")


def _check_encoding(answer: requests.Response) -> None:
    coding = answer.headers.get("Content-Encoding", "identity")
    if coding.lower() != "identity":
        raise ReadError(f"the server answers with {coding[:20]!r} encoding instead of the file's bytes")


def _length(answer: requests.Response) -> int | None:
    stated = answer.headers.get("Content-Length", "")
    return int(stated) if stated.isdigit() else None


def _content_range(answer: requests.Response) -> tuple[int, int | None]:
    """First byte and total size of a partial answer (RFC 9110, 14.4)."""
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if match is None:
        raise TransientError("the answer does not say which range it holds")
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _pieces(answer: requests.Response) -> Iterator[bytes]:
    import requests

    # What came of an answer that breaks off is kept: its length is checked by whoever takes it in.
    answer.raw.enforce_content_length = False
    try:
        yield from answer.iter_content(CHUNK_BYTES)
    except requests.RequestException:
        raise UnreachableError("the answer broke off") from None


def http_session(connections: int) -> requests.Session:
    """A session that keeps so many connections to a host open; it repeats nothing by itself."""
    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_connections=connections, pool_maxsize=connections))
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
        except exceptions.BotoCoreError as error:
            raise ReadError(f"S3 cannot be asked ({type(error).__name__})") from None
        length = answer.get("ContentLength")
        # Without a range it is the whole object.
        stated = answer.get("ContentRange", f"bytes 0-{length}/{length}")
        span = _CONTENT_RANGE.fullmatch(stated)
        if span is None or span[2] == "*":
            answer["Body"].close()
            raise TransientError("the answer does not say which range it holds")
        return Part(
            start=int(span[1]),
            pieces=_s3_pieces(answer["Body"]),
            length=length,
            total=int(span[2]),
            version=answer.get("ETag"),
            close=answer["Body"].close,
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


def _s3_pieces(body: Any) -> Iterator[bytes]:  # noqa: ANN401  # botocore's StreamingBody
    from botocore import exceptions
    from urllib3.exceptions import HTTPError

    try:
        yield from body.iter_chunks(CHUNK_BYTES)
    except (exceptions.HTTPClientError, exceptions.IncompleteReadError, HTTPError):
        raise UnreachableError("the answer broke off") from None


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
