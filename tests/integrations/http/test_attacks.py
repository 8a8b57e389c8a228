# ruff: noqa: E501 (tables: one case per line)
"""Ways to get an image past the middleware, one per test."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import requests

from integrations.http.calling import CHAT, PLAIN, Way, chat
from integrations.http.harmless import multipart
from integrations.http.pictures import BLUE, GREEN, RED, b64, colour_guard, data_uri, picture
from integrations.http.test_streams import STREAM, delta, partial, pieces, sse
from integrations.http.upstream import Answer, Upstream
from policyguard.errors import ConfigurationError
from policyguard.integrations.http import GuardedAdapter, guarded_async_client, guarded_client
from policyguard.integrations.http.bodies import Reading, open_body

PDF = b"%PDF-1.7 " + bytes(range(256))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b" " * 100 + json.dumps({"x": b64(picture(RED))}, indent=1).encode(), "text/plain"),
        (b"\xef\xbb\xbf" + b"\n" * 70 + json.dumps([b64(picture(RED))], indent=1).encode(), ""),
        (json.dumps(b64(picture(RED))).encode(), "text/plain"),
        (b"--b\r\n\r\nx\r\n--b--", "multipart/form-data; boundary=b; boundary=c"),
        (b"--b\r\n\r\nx\r\n--b--", 'multipart/form-data; x="; boundary=b"; boundary=c'),
        (b64(picture(RED)).encode(), "text/plain; charset=utf-7"),
        (b64(picture(RED)).encode("utf-16"), "text/plain; charset=utf-16"),
        (f'{{"n": {"7" * 5000}, "x": "{b64(picture(RED))}"}}'.encode(), "application/json"),
        (f"a=1&a={quote(data_uri(picture(RED)))}".encode(), "application/x-www-form-urlencoded"),
        (f"a={b64(picture(RED))}".encode(), "application/x-www-form-urlencoded"),
    ],
)
def test_a_body_dressed_up_hides_no_image(upstream: Upstream, body: bytes, kind: str) -> None:
    guard, _ = colour_guard()
    reply = PLAIN.send(guard, "POST", upstream.url + CHAT, content=body, headers={"content-type": kind})
    assert (403, 0) == (reply.status, upstream.calls)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/look?image=" + quote(data_uri(picture(RED)), safe=""), {}),
        ("/v1/look?image=" + quote(b64(picture(RED)), safe=""), {}),
        ("/v1/look?" + quote(data_uri(picture(RED)), safe=""), {}),
        ("/v1/look/" + quote(data_uri(picture(RED))), {}),
        ("/v1/look/" + b64(picture(RED)), {}),
        ("/v1/look", {"x-image": b64(picture(RED))}),
    ],
    ids=["query", "query, base64", "the whole query", "path", "path, base64", "header"],
)
def test_an_image_beside_the_body_is_found(
    way: Way, upstream: Upstream, path: str, headers: dict[str, str]
) -> None:
    guard, _ = colour_guard()
    reply = way.send(guard, "GET", upstream.url + path, headers=headers)
    assert (403, 0) == (reply.status, upstream.calls)


def test_two_fields_of_one_name_are_told_apart(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    both = {"image": [data_uri(picture(RED)), data_uri(picture(GREEN))]}
    PLAIN.send(guard, "POST", upstream.url + CHAT, data=both, options={"on_block": "replace"})
    sent = upstream.asked[0].body.decode()
    assert quote(b64(picture(GREEN)), safe="") in sent
    assert quote(b64(picture(RED)), safe="") not in sent


def test_a_stream_put_in_place_of_the_body_is_not_what_is_sent(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    harmless = b'{"x": "' + b"-" * 400 + b'"}'
    secret = json.dumps({"x": data_uri(picture(RED))}).encode()

    def swap(request: httpx.Request) -> None:
        request.stream = httpx.ByteStream(secret)

    with guarded_client(guard, family="httpx", event_hooks={"request": [swap]}) as client:
        client.post(upstream.url + CHAT, content=harmless)
    assert harmless == upstream.asked[0].body


def test_an_image_that_an_auth_flow_adds_is_judged(upstream: Upstream) -> None:
    guard, _ = colour_guard()

    class Adds(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Any:
            yield request
            yield httpx.Request("POST", request.url, json=chat(data_uri(picture(RED))))

    with guarded_client(guard, family="httpx", auth=Adds()) as client:
        assert 403 == client.post(upstream.url + CHAT, json=chat(data_uri(picture(GREEN)))).status_code
    assert 1 == upstream.calls


def test_the_raw_bytes_of_a_stream_are_judged_ones(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    upstream.answer(sse(delta("a"), partial(RED)), content_type=STREAM)
    with (
        guarded_client(guard, family="httpx") as client,
        client.stream("POST", upstream.url + CHAT, json={}) as response,
    ):
        assert b64(picture(RED)).encode() not in b"".join(response.iter_raw())


def test_an_event_that_is_not_utf8_gets_no_image_through_where_images_are_replaced(
    way: Way, upstream: Upstream
) -> None:
    guard, _ = colour_guard()
    event = b'data: {"x": "\xff", "b64_json": "' + b64(picture(RED)).encode() + b'"}\n\n'
    upstream.answer(event, content_type=STREAM)
    reply = way.send(guard, "POST", upstream.url + CHAT, json={}, options={"on_block": "replace"})
    assert b64(picture(RED)).encode() not in reply.body
    assert b"policyguard" in reply.body


@pytest.mark.parametrize("size", [3, 11, 50])
@pytest.mark.parametrize("lead", ["", "Here it is: ", '{"image": "'])
def test_base64_written_piece_by_piece_is_stopped(upstream: Upstream, size: int, lead: str) -> None:
    guard, _ = colour_guard()
    text = lead + b64(picture(RED))
    upstream.answer(sse(*(delta(part.decode()) for part in pieces(text.encode(), size))), content_type=STREAM)
    reply = PLAIN.send(guard, "POST", upstream.url + CHAT, json={})
    assert b"policyguard_unjudged" in reply.body
    assert b"[DONE]" not in reply.body


def test_a_long_piece_does_not_push_the_beginning_of_an_image_out_of_sight(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    code = b64(picture(RED, size=(240, 160))) + "A" * 9000
    upstream.answer(sse(delta("![x](data:ima"), delta(f"ge/png;base64,{code}")), content_type=STREAM)
    reply = PLAIN.send(guard, "POST", upstream.url + CHAT, json={})
    assert code[:200].encode() not in reply.body


def test_an_image_that_complies_does_not_cover_for_one_in_pieces(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    image = {"image_url": {"url": data_uri(picture(GREEN))}}
    middle = delta("age/png;base64,")
    middle["choices"][0]["delta"]["images"] = [image]
    events = (delta("data:im"), middle, delta(b64(picture(RED))[:30]), delta(b64(picture(RED))[30:]))
    upstream.answer(sse(*events), content_type=STREAM)
    reply = PLAIN.send(guard, "POST", upstream.url + CHAT, json={})
    assert b64(picture(RED))[30:].encode() not in reply.body


def test_many_small_images_in_one_place_are_no_pieces(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    body = sse(*(partial(colour) for colour in (GREEN, BLUE, GREEN, BLUE)))
    upstream.answer(body, content_type=STREAM)
    assert body == PLAIN.send(guard, "POST", upstream.url + CHAT, json={}).body


def test_an_image_that_complies_does_not_stop_the_text_behind_it(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    image = f" ![x]({data_uri(picture(GREEN))}) "
    for text in ("x" * 9000 + image, image + "x" * 9000, image):
        body = sse(delta(text), delta("and so on"))
        upstream.answer(body, content_type=STREAM)
        assert body == PLAIN.send(guard, "POST", upstream.url + CHAT, json={}).body


@pytest.mark.parametrize("kind", ["text/plain", "application/json", ""])
def test_events_that_are_not_declared_as_such_are_joined_too(upstream: Upstream, kind: str) -> None:
    guard, _ = colour_guard()
    text = f"Look: ![x]({data_uri(picture(RED))}) done"
    upstream.answer(sse(*(delta(text[at : at + 5]) for at in range(0, len(text), 5))), content_type=kind)
    assert 403 == PLAIN.send(guard, "POST", upstream.url + CHAT, json={}).status


def test_the_hundred_and_first_image_is_not_overlooked(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    images = [data_uri(picture(GREEN, seed=number)) for number in range(100)]
    reply = PLAIN.send(guard, "POST", upstream.url + CHAT, json=chat(*images, data_uri(picture(RED))))
    assert (403, 0, 101) == (reply.status, upstream.calls, reply.result.images_seen)


@pytest.mark.parametrize("fault", [MemoryError, RecursionError, KeyboardInterrupt, SystemExit])
def test_a_guard_that_breaks_down_lets_nothing_out(
    way: Way, upstream: Upstream, fault: type[BaseException]
) -> None:
    guard, backend = colour_guard()

    def fail(_request: Any) -> Any:
        raise fault("no")

    backend.answer = fail
    try:
        reply = way.send(guard, "POST", upstream.url + CHAT, json=chat(data_uri(picture(GREEN))))
    except fault:
        pass
    else:
        assert 403 == reply.status
    assert 0 == upstream.calls


def test_a_response_whose_length_lies_is_not_half_passed(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    upstream.answer(picture(RED)[:60], content_type="image/png")
    assert 403 == way.send(guard, "GET", upstream.url + "/x").status


def test_an_image_in_an_error_or_a_redirect_is_judged(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    for status in (302, 400, 500):
        upstream.answer({"error": {"image": data_uri(picture(RED))}}, status=status)
        assert 403 == way.send(guard, "GET", upstream.url + "/x").status


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"content": [{"type": "file", "file": {"filename": "a.pdf", "file_data": b64(PDF)}}]}]},
        {"contents": [{"parts": [{"inlineData": {"mimeType": "application/pdf", "data": b64(PDF)}}]}]},
        {"messages": [{"content": [{"type": "document", "source": {"type": "url", "url": "https://e.example"}}]}]},
        {"input": [{"content": [{"type": "input_file", "file_id": "file-1"}]}]},
        PDF,
    ],
)  # fmt: skip
def test_documents_block_unless_they_are_let_through(way: Way, upstream: Upstream, body: Any) -> None:
    guard, backend = colour_guard()
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    reply = way.send(guard, "POST", upstream.url + CHAT, **sent)
    assert (403, 0) == (reply.status, upstream.calls)
    assert "documents='pass'" in reply.error["message"]
    reply = way.send(guard, "POST", upstream.url + CHAT, **sent, options={"documents": "pass"})
    assert (200, 1, 0) == (reply.status, upstream.calls, backend.calls)


PDF_OF_TEXT = (
    b"%PDF-1.4\n1 0 obj\n<</Type/XObject/Subtype/Image/Width 8/Height 8/Filter/ASCIIHexDecode>>stream\n"
    + b"c0ffee" * 64
    + b">\nendstream\nendobj\ntrailer<</Root 1 0 R>>\nstartxref\n9\n%%EOF\n"
)
FLAT = b'<?xml version="1.0"?>\n<office:document xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"/>'
DOCUMENTS_OF_TEXT = {
    "a PDF": ("a.pdf", "application/pdf", PDF_OF_TEXT),
    "a PDF of umlauts": ("a.pdf", "application/pdf", PDF_OF_TEXT.replace(b"1 0 obj", "%ä\n1 0 obj".encode(), 1)),
    "a PDF of no type": ("a", "", PDF_OF_TEXT),
    "a PDF called a text": ("a.txt", "text/plain", b"\n" + PDF_OF_TEXT),
    "a PDF behind other words": ("a.bin", "application/octet-stream", b"words\n" + PDF_OF_TEXT),
    "a PDF behind JSON": ("a.bin", "application/octet-stream", b"[1]\n" + PDF_OF_TEXT),
    "a PDF without its first line": ("a.pdf", "application/pdf", PDF_OF_TEXT[9:]),
    "a PDF by its name": ("a.PDF", "application/octet-stream", PDF_OF_TEXT[9:]),
    "a PDF that is JSON": ("a.pdf", "application/pdf", b'"1 0 obj <<>> endobj"'),
    "a PDF that begins like sound": ("a.bin", "application/octet-stream", b"ID3" + PDF_OF_TEXT + bytes(9)),
    "a PDF that is called sound": ("a.mp3", "audio/mpeg", b"ID3" + PDF_OF_TEXT + bytes(9)),
    "a tiny PDF": ("a.pdf", "application/pdf", b"%PDF-1.4 hello"),
    "RTF": ("a.rtf", "application/rtf", b"{\\rtf1 {\\pict\\pngblip 89504e47}}"),
    "RTF called words": ("a.txt", "text/rtf", b"{\\rtf1 {\\pict\\pngblip 89504e47}}"),
    "RTF of no type": ("a.txt", "", b"{\\rtf1 {\\pict\\pngblip 89504e47}}"),
    "EPS": ("a.eps", "application/postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n" * 9),
    "EPS of no type": ("a", "", b"%!PS-Adobe-3.0 EPSF-3.0\n" * 9),
    "flat ODF": ("a.fodt", "application/vnd.oasis.opendocument.text-flat-xml", FLAT),
    "flat ODF by its name": ("a.fodt", "", b"<office:document/>"),
    "flat ODF called XML": ("a.xml", "application/xml", FLAT),
    "Word's XML": ("a.xml", "text/xml", b'<?xml version="1.0"?><?mso-application progid="Word.Document"?><w:wordDocument/>'),
}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS_OF_TEXT)
def test_a_document_made_of_text_blocks_however_it_is_uploaded(upstream: Upstream, name: str) -> None:
    guard, _ = colour_guard()
    filename, kind, data = DOCUMENTS_OF_TEXT[name]
    body, sent_type = multipart((f'name="file"; filename="{filename}"', kind, data))
    upstream.answer({"id": "file-1", "object": "file"})
    with guarded_client(guard, family="httpx") as client:
        ways = [{"content": body, "headers": {"content-type": sent_type}}]
        if kind not in ("", "application/octet-stream"):
            ways.append({"content": data, "headers": {"content-type": kind}})
        for sent in ways:
            response = client.post(upstream.url + "/v1/files", **sent)  # type: ignore[arg-type]
            assert (response.status_code, upstream.calls) == (403, 0)
            assert "documents='pass'" in response.json()["error"]["message"]
            assert "x-policyguard-verdict" in response.headers
    with guarded_client(guard, family="httpx", documents="pass") as client:
        assert client.post(upstream.url + "/v1/files", **ways[0]).status_code == 200  # type: ignore[arg-type]


def test_an_upload_whose_head_announces_a_document_does_not_begin(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    with guarded_client(guard, family="httpx") as client:
        for kind, status in (("application/pdf", 403), ("image/png", 200), ("text/plain", 200)):
            headers = {"x-goog-upload-header-content-type": kind, "x-goog-upload-command": "start"}
            assert client.post(upstream.url + "/upload/v1beta/files", headers=headers).status_code == status


def test_a_document_of_text_that_may_pass_takes_no_image_with_it(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    body, kind = multipart(
        ('name="file"; filename="a.rtf"', "application/rtf", data_uri(picture(RED)).encode())
    )
    with guarded_client(guard, family="httpx", documents="pass") as client:
        response = client.post(upstream.url + "/v1/files", content=body, headers={"content-type": kind})
    assert (response.status_code, upstream.calls) == (403, 0)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/uploads", {"filename": "a.bin", "mime_type": "application/pdf", "bytes": 9, "purpose": "user_data"}),
        ("/v1/uploads", {"filename": "a.pdf", "mime_type": "text/plain", "bytes": 9, "purpose": "user_data"}),
        ("/upload/v1beta/files", {"file": {"mimeType": "application/pdf", "displayName": "x"}}),
    ],
)  # fmt: skip
def test_an_upload_in_pieces_that_is_to_be_a_document_does_not_begin(
    upstream: Upstream, path: str, body: Any
) -> None:
    guard, _ = colour_guard()
    with guarded_client(guard, family="httpx") as client:
        assert client.post(upstream.url + path, json=body).status_code == 403
        harmless = {"filename": "a.jsonl", "mime_type": "application/jsonl", "bytes": 9, "purpose": "batch"}
        assert client.post(upstream.url + "/v1/uploads", json=harmless).status_code == 200
    with guarded_client(guard, family="httpx", documents="pass") as client:
        assert client.post(upstream.url + path, json=body).status_code == 200


def test_documents_that_pass_take_no_image_with_them(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    body = chat(data_uri(picture(RED)))
    body["messages"][0]["content"].append({"type": "file", "file": {"file_data": b64(PDF)}})
    reply = way.send(guard, "POST", upstream.url + CHAT, json=body, options={"documents": "pass"})
    assert (403, 0, 1) == (reply.status, upstream.calls, reply.result.images_seen)
    with pytest.raises(ConfigurationError, match="documents"):
        guarded_client(guard, family="httpx", documents="maybe")  # type: ignore[arg-type]


def test_a_text_file_given_to_requests_ends() -> None:
    guard, _ = colour_guard()
    adapter = GuardedAdapter(guard)
    request = requests.Request("POST", "http://127.0.0.1:9/x").prepare()
    request.body = io.StringIO("words")  # type: ignore[assignment]
    with pytest.raises(requests.ConnectionError):
        adapter.send(request, timeout=100)


def test_a_file_that_is_redirected_is_sent_whole_again(upstream: Upstream) -> None:
    guard, _ = colour_guard()

    def respond(asked: Any) -> Answer:
        if asked.path == "/old":
            return Answer(b"", status=307, headers={"Location": "/new"})
        return Answer()

    upstream.respond = respond
    with requests.Session() as session:
        session.mount("http://", GuardedAdapter(guard))
        assert 200 == session.post(upstream.url + "/old", data=io.BytesIO(picture(GREEN))).status_code
    assert [picture(GREEN)] * 2 == [asked.body for asked in upstream.asked]


def test_a_stream_given_up_in_the_middle_shows_no_more(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    upstream.answer([sse(delta("a")), sse(partial(RED))], content_type=STREAM)

    async def look() -> bytes:
        async with guarded_async_client(guard, family="httpx") as client:
            request = client.build_request("POST", upstream.url + CHAT, json={})
            response = await client.send(request, stream=True)
            seen = b""
            async for chunk in response.aiter_bytes():
                seen += chunk
                break
            await response.aclose()
            return seen

    assert b64(picture(RED)).encode() not in asyncio.run(look())


@pytest.mark.parametrize(
    "head",
    ["filename=\"a.txt\"; filename*=UTF-8''a.png", 'name="a"; name="b"; filename=x', 'FILENAME="a.png"'],
)
@pytest.mark.parametrize("coding", ["", "Content-Transfer-Encoding: base64\r\n"])
def test_no_name_of_a_part_hides_its_bytes(head: str, coding: str) -> None:
    content = b64(picture(RED)).encode() if coding else picture(RED)
    start = (
        f"--b\r\nContent-Disposition: form-data; {head}\r\nContent-Type: text/plain\r\n{coding}\r\n".encode()
    )
    (site,) = open_body(
        start + content + b"\r\n--b--\r\n", "multipart/form-data; boundary=b", Reading(strict=True)
    ).sites
    assert picture(RED) == site.data
