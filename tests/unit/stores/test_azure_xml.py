"""Pages of Azure's listings and its refusals, read as they come and refused where they are not whole."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.engine.errors import (
    AlreadyExistsError,
    ChecksumMismatchError,
    ExpiredCredentialsError,
    InvalidRangeError,
    NotFoundError,
    ObjectChangedError,
    PermissionDeniedError,
    ProtocolError,
    RequestRejectedError,
    ServerError,
    ThrottledError,
)
from s3dlio.engine.stores.azure_xml import error_from_refusal, parse_container_page, parse_list_page
from s3dlio.engine.types import ListEntry

ROOT = "az://account/container/"
PROPERTIES = (
    "<Creation-Time>Mon, 30 Nov 2026 20:06:10 GMT</Creation-Time><Last-Modified>Mon, 30 Nov 2026 20:06:11 GMT</Last-Modified>"
    "<Etag>0x8D1</Etag><Content-Length>12</Content-Length><Content-MD5 /><BlobType>BlockBlob</BlobType>"
)


def page(blobs: str, marker: str = "<NextMarker />") -> bytes:
    head = '<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="https://account.blob.core.windows.net/">'
    return f"\ufeff{head}<Blobs>{blobs}</Blobs>{marker}</EnumerationResults>".encode()


def blob(name: str, properties: str = PROPERTIES) -> str:
    return f"<Blob>{name}<Properties>{properties}</Properties><OrMetadata /></Blob>"


def test_a_page_has_objects_then_prefixes_then_a_marker() -> None:
    body = page(
        "<BlobPrefix><Name>dir/</Name></BlobPrefix>" + blob("<Name>a &amp; b&#x1F980;&#233;</Name>") + blob("<Name>c</Name>"),
        "<NextMarker>2!8&amp;x</NextMarker>",
    )
    found = parse_list_page(body, ROOT)
    first = ListEntry(ROOT + "a & b🦀é", 12, "0x8D1", "2026-11-30T20:06:11Z")
    assert found.entries == [first, ListEntry(ROOT + "c", 12, "0x8D1", "2026-11-30T20:06:11Z"), ListEntry(ROOT + "dir/")]
    assert found.next_marker == "2!8&x"


def test_white_space_between_elements_and_quoted_etags_are_read_too() -> None:
    properties = "\n <Etag>&quot;0x1&quot;</Etag>\n<Content-Length>0</Content-Length>"
    body = page(f"\n  <Blob>\n <Name>k</Name>\n <Properties>{properties}</Properties></Blob>")
    assert parse_list_page(body, ROOT).entries == [ListEntry(ROOT + "k", 0, "0x1")]


def test_k4_a_name_that_xml_cannot_hold_comes_percent_encoded() -> None:
    body = page(blob('<Name Encoded="true">a%EF%BF%BF%01</Name>') + blob('<Name Encoded="false">a%41</Name>'))
    assert [entry.uri for entry in parse_list_page(body, ROOT).entries] == [ROOT + "a\uffff\x01", ROOT + "a%41"]


def test_a_directory_of_a_hierarchical_namespace_is_no_object() -> None:
    properties = "<Content-Length>0</Content-Length><ResourceType>directory</ResourceType>"
    body = page(blob("<Name>d</Name>", properties) + blob("<Name>d/f</Name>"))
    assert [entry.uri for entry in parse_list_page(body, ROOT).entries] == [ROOT + "d/f"]


@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1), max_size=5))
def test_names_are_those_that_a_parser_of_xml_reads(names: list[str]) -> None:
    blobs = ET.Element("Blobs")
    for name in names:
        item = ET.SubElement(blobs, "Blob")
        ET.SubElement(item, "Name").text = name
        ET.SubElement(ET.SubElement(item, "Properties"), "Content-Length").text = "1"
    body = page("".join(ET.tostring(item, encoding="unicode") for item in blobs))
    assert [entry.uri for entry in parse_list_page(body, ROOT).entries] == [ROOT + name for name in names]


WHOLE = page(blob("<Name>k</Name>"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>proxy</html>",
        WHOLE[:-5],
        WHOLE.replace(b"</Blob>", b"", 1),
        WHOLE.replace(b"<NextMarker />", b""),
        WHOLE.replace(b"<Name>k</Name>", b""),
        WHOLE.replace(b"<Name>k</Name>", b"<Name></Name>"),
        WHOLE.replace(b"<Name>k</Name>", b"<Name>&nbsp;</Name>"),
        WHOLE.replace(b"<Name>k</Name>", b"<Name>a & b</Name>"),
        WHOLE.replace(b"<Name>k</Name>", b'<Name Encoded="true">%FF</Name>'),
        WHOLE.replace(b"<Name>k</Name>", b"<Name>\xff</Name>"),
        WHOLE.replace(b"<Name>k</Name>", b"<Name><![CDATA[k]]></Name>"),
        WHOLE.replace(b">12<", b">-1<"),
        WHOLE.replace(b">12<", b">twelve<"),
        WHOLE.replace(b">12<", b">1_2<"),
        WHOLE.replace(b"<Name>k</Name>", b"<Name>&#xD800;</Name>"),
        WHOLE.replace(b"<Name>k</Name>", b"<Name>&#0;</Name>"),
        WHOLE.replace(b"<Content-Length>12</Content-Length>", b""),
        WHOLE.replace(b"Nov 2026 20:06:11", b"Xyz 2026 20:06:11"),
        WHOLE.replace(b"<Enum", b'<!DOCTYPE a [<!ENTITY x "y">]><Enum'),
    ],
)
def test_i11_a_page_that_is_not_whole_is_an_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_list_page(body, ROOT)


def test_n12_an_error_sent_as_a_success_is_one() -> None:
    with pytest.raises(ThrottledError):
        parse_list_page(b"<?xml version='1.0'?><Error><Code>ServerBusy</Code><Message>x</Message></Error>", ROOT)


def test_containers_are_named_with_their_roots() -> None:
    containers = b"<Containers><Container><Name>a</Name></Container><Container><Name>$web</Name></Container></Containers>"
    body = page("").replace(b"<Blobs></Blobs>", containers)
    found, marker = parse_container_page(body, "az://account/")
    assert [(one.name, one.uri) for one in found] == [("a", "az://account/a/"), ("$web", "az://account/$web/")]
    assert marker is None


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "BlobNotFound", NotFoundError),
        (404, "ContainerNotFound", NotFoundError),
        (409, "BlobAlreadyExists", AlreadyExistsError),
        (409, "ContainerBeingDeleted", RequestRejectedError),
        (409, "BlobArchived", RequestRejectedError),
        (409, "PublicAccessNotPermitted", PermissionDeniedError),
        (412, "ConditionNotMet", ObjectChangedError),
        (412, "LeaseIdMissing", RequestRejectedError),
        (416, "InvalidRange", InvalidRangeError),
        (403, "AuthenticationFailed", PermissionDeniedError),
        (400, "Crc64Mismatch", ChecksumMismatchError),
        (400, "InvalidHeaderValue", RequestRejectedError),
        (307, None, RequestRejectedError),
        (500, "OperationTimedOut", ServerError),
        (503, "ServerBusy", ThrottledError),
        (503, None, ThrottledError),
    ],
)
def test_a_refusal_is_the_error_that_its_code_calls_for(status: int, code: str | None, expected: type[Exception]) -> None:
    headers = {"x-ms-request-id": "id"} | ({"x-ms-error-code": code} if code else {})
    error = error_from_refusal(status, headers, b"", ROOT, 3)
    assert type(error) is expected
    assert (error.status, error.request_id, error.attempts) == (status, "id", 3)


def test_a2_an_unauthorized_token_has_expired() -> None:
    headers = {"x-ms-error-code": "InvalidAuthenticationInfo"}
    assert type(error_from_refusal(401, headers, b"", ROOT, 1, is_token=True)) is ExpiredCredentialsError
    assert type(error_from_refusal(401, headers, b"", ROOT, 1)) is PermissionDeniedError


def test_a5_what_a_refusal_says_of_the_signature_is_not_repeated() -> None:
    body = (
        b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>AuthenticationFailed</Code><Message>Server failed to authenticate.\nRequestId:abc\n"
        b"Time:2026</Message><AuthenticationErrorDetail>The MAC signature 'CANARY'</AuthenticationErrorDetail></Error>"
    )
    text = str(error_from_refusal(403, {}, body, ROOT, 1))
    assert "CANARY" not in text
    assert "abc" not in text
    assert "AuthenticationFailed: Server failed to authenticate." in text
