"""Oracle: the parts of a URL as RFC 3986 has them; only scheme, host and path may be told."""

import pytest

from landuse.redact import redact, redact_href


def test_redact_keeps_neither_tokens_nor_passwords():
    message = "'/vsicurl/https://me:pw@x.org/a.tif?sig=abc%3D&se=1' does not exist; see http://y.org#z"
    assert redact(message) == "'/vsicurl/https://x.org/a.tif' does not exist; see http://y.org"
    assert redact("at http://a@b:pw@x.org/a.tif, twice") == "at http://x.org/a.tif, twice"
    assert redact("/data/what?.tif") == "/data/what?.tif"


@pytest.mark.parametrize(
    ("href", "told"),
    [
        ("https://me:pw@x.org:8080/a.tif?sig=s#t", "https://x.org:8080/a.tif"),
        ("https://a@b:p w@x.org/my 'a' <b>.tif?sig=s t", "https://x.org/my 'a' <b>.tif"),
        ("s3://bucket/my scenes/a.jp2", "s3://bucket/my scenes/a.jp2"),
        ("https://[pw@x.org/a?sig=s", "https://..."),
        ("/data/what?#me@x.tif", "/data/what?#me@x.tif"),
        ("C:/data/what?.tif", "C:/data/what?.tif"),
        ("../what?.tif", "../what?.tif"),
    ],
)
def test_redact_href_cuts_urls_and_leaves_paths(href, told):
    assert redact_href(href) == told
