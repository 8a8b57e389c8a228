"""A step of a chain: what is blocked goes no further, and all else goes on as it is."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from langchain_core.runnables.utils import AddableDict
from langchain_core.tracers.base import BaseTracer
from PIL import Image as pil  # noqa: N813 (the module)

from images.support import exif
from integrations.http.pictures import GREEN, RED, b64, colour_guard, data_uri, picture
from policyguard import ConfigurationError, Guard, PolicyViolation
from policyguard.assessment import Failure, FailureKind
from policyguard.images import decode
from policyguard.images.fetch import Fetched
from policyguard.integrations.langchain import GuardRunnable
from policyguard.integrations.langchain.sites import sites_of
from policyguard.integrations.screen import ScreenResult
from policyguard.testing import FakeBackend

GREEN_PNG, RED_PNG = picture(GREEN), picture(RED)
EXAMPLES = Path(__file__).parents[3] / "examples" / "images"


def opened(data: bytes) -> pil.Image:
    return pil.open(io.BytesIO(data))  # noqa: TID251 (an app's own)


def block(data: bytes) -> dict[str, str]:
    return {"type": "image", "base64": b64(data), "mime_type": "image/png"}


def human(*images: bytes) -> HumanMessage:
    return HumanMessage([{"type": "text", "text": "hi"}, *(block(data) for data in images)])


def step(**options: Any) -> GuardRunnable:
    return GuardRunnable(colour_guard()[0], **options)


def stream(runnable: Any, value: Any) -> Any:
    (piece,) = runnable.stream(value)
    return piece


def astream(runnable: Any, value: Any) -> Any:
    async def read() -> list[Any]:
        return [piece async for piece in runnable.astream(value)]

    (piece,) = asyncio.run(read())
    return piece


CALLS: list[Callable[[Any, Any], Any]] = [
    lambda runnable, value: runnable.invoke(value),
    lambda runnable, value: asyncio.run(runnable.ainvoke(value)),
    lambda runnable, value: runnable.batch([value])[0],
    lambda runnable, value: asyncio.run(runnable.abatch([value]))[0],
    stream,
    astream,
]
called = pytest.mark.parametrize(
    "call", CALLS, ids=["invoke", "ainvoke", "batch", "abatch", "stream", "astream"]
)


def values(data: bytes, path: Path) -> list[Any]:
    """One of everything that a step takes, with the picture in it."""
    path.write_bytes(data)
    return [
        human(data),
        [AIMessage("hi"), human(data)],
        ChatPromptValue(messages=[human(data)]),
        StringPromptValue(text=f"see {data_uri(data)}"),
        f"see {data_uri(data)}",
        {"question": "hi", "picture": data},
        AIMessage("", tool_calls=[{"name": "f", "args": {"image": data_uri(data)}, "id": "1"}]),
        ToolMessage("hi", artifact=opened(data), tool_call_id="1"),
        data,
        io.BytesIO(data),
        path,
        opened(data),
        ["hi", data, path],
        ChatResult(generations=[ChatGeneration(message=AIMessage([block(data)]))]),
    ]


@called
@pytest.mark.parametrize("number", range(14))
def test_the_same_object_comes_out_where_nothing_is_blocked(call: Any, number: int, tmp_path: Path) -> None:
    value = values(GREEN_PNG, tmp_path / "x")[number]
    results: list[ScreenResult] = []
    assert call(step(on_result=results.append), value) is value
    assert results[-1].images_seen == results[-1].images_checked == (2 if number == 12 else 1)


def turned() -> bytes:
    """A file that viewers show upright or lying, as they read its orientation or not."""
    buffer = io.BytesIO()
    made = pil.new("RGB", (40, 24), GREEN)
    made.save(buffer, "WEBP", lossless=True, exif=exif(6))
    return buffer.getvalue()


@called
@pytest.mark.parametrize("number", range(14))
def test_what_was_judged_is_passed_on(call: Any, number: int, tmp_path: Path) -> None:
    data = turned()
    value = values(data, tmp_path / "x")[number]
    assert call(step(pass_on="original"), value) is value
    passed = call(step(), value)
    sites = sites_of(passed)
    assert {type(value)} == {type(passed)} if number < 11 else passed is not None
    for site in sites:
        image = decode(site.data or b"")
        if site.where in ("", "/2") and number in (10, 12):  # paths stay paths
            assert data == site.data
            continue
        assert (True, GREEN) == (image.is_plain, image.frames[0].getpixel((3, 3)))
    assert len(sites) == (2 if number == 12 else 1)
    assert number in (7, 10, 11) or passed is not value
    if number == 0:
        assert "image/png" == passed.content[1]["mime_type"]
    again = call(step(), passed)
    assert number in (10, 12) or again is passed


@called
@pytest.mark.parametrize("number", range(14))
def test_what_is_blocked_raises_the_violation_itself(call: Any, number: int, tmp_path: Path) -> None:
    with pytest.raises(PolicyViolation) as caught:
        call(step(), values(RED_PNG, tmp_path / "x")[number])
    assert type(caught.value) is PolicyViolation
    assert caught.value.__cause__ is None


@called
def test_a_guard_that_is_down_blocks(call: Any) -> None:
    guard = Guard(policy="safeedit/l3", backend=FakeBackend(Failure(FailureKind.ERROR, "down")))
    with pytest.raises(PolicyViolation, match="down"):
        call(GuardRunnable(guard), human(GREEN_PNG))


@called
@pytest.mark.parametrize(
    "value",
    [b"", b"no image", io.BytesIO(b"x"), Path("/nowhere/x.png"), object(), ["hi", b"no image"], [object()]],
    ids=["empty", "bytes", "buffer", "path", "object", "bytes in a list", "object in a list"],
)
def test_what_stands_for_an_image_and_is_none_blocks(call: Any, value: Any) -> None:
    with pytest.raises(PolicyViolation, match="unscannable"):
        call(step(), value)


@called
@pytest.mark.parametrize("place", ["itself", "an artifact"])
def test_every_frame_of_an_open_animation_is_judged(call: Any, place: str) -> None:
    buffer = io.BytesIO()
    frames = [pil.new("RGB", (24, 16), colour) for colour in (GREEN, RED, GREEN)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=100)
    value: Any = opened(buffer.getvalue())
    value = value if place == "itself" else ToolMessage("hi", artifact=value, tool_call_id="1")
    with pytest.raises(PolicyViolation):
        call(step(), value)


@pytest.mark.parametrize("value", [None, 7, 1.5, True, "words", {}, [], ["a", 1], AIMessage("hi"), [None]])
def test_values_without_images_pass(value: Any) -> None:
    assert step().invoke(value) is value


@called
def test_nothing_after_the_step_runs_where_an_image_is_blocked(call: Any) -> None:
    seen: list[Any] = []
    chain = step() | RunnableLambda(lambda value: seen.append(value) or "answer")
    with pytest.raises(PolicyViolation):
        call(chain, [human(RED_PNG)])
    assert not seen
    assert "answer" == call(chain, [human(GREEN_PNG)])


@called
def test_an_answer_is_judged_after_one_call_of_the_model(call: Any) -> None:
    calls: list[Any] = []
    model = RunnableLambda(lambda value: calls.append(value) or AIMessage([block(RED_PNG)]))
    with pytest.raises(PolicyViolation):
        call(model | step(), "draw")
    assert 1 == len(calls)


def test_a_prompt_template_goes_through() -> None:
    prompt = ChatPromptTemplate(
        [
            (
                "human",
                [{"type": "text", "text": "{q}"}, {"type": "image_url", "image_url": {"url": "{address}"}}],
            )
        ]
    )
    chain = prompt | step()
    assert chain.invoke({"q": "?", "address": data_uri(GREEN_PNG)}).to_messages()
    with pytest.raises(PolicyViolation):
        chain.invoke({"q": "?", "address": data_uri(RED_PNG)})


def test_a_batch_fails_where_it_is_told_to() -> None:
    results = step().batch([human(GREEN_PNG), human(RED_PNG)], return_exceptions=True)
    assert isinstance(results[0], HumanMessage)
    assert isinstance(results[1], PolicyViolation)


# Replacing.


@called
def test_replaced_images_have_size_and_place_of_the_old_ones(call: Any) -> None:
    message = human(GREEN_PNG, RED_PNG)
    new = call(step(on_block="replace"), message)
    assert isinstance(new, HumanMessage)
    assert new is not message
    assert message.content[:2] == new.content[:2]
    data = base64.b64decode(new.content[2]["base64"])  # type: ignore[index]
    assert (24, 16) == opened(data).size
    assert data != RED_PNG
    assert human(GREEN_PNG, RED_PNG) == message


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13])
def test_nothing_of_a_replaced_image_is_left(number: int, tmp_path: Path) -> None:
    value = values(RED_PNG, tmp_path / "x")[number]
    new = step(on_block="replace").invoke(value)
    results: list[ScreenResult] = []
    step(on_result=results.append).invoke(new)
    assert b64(RED_PNG) not in repr(new)
    assert type(value) is type(new) or isinstance(new, pil.Image)


@pytest.mark.parametrize(
    "broken",
    [
        {"type": "image", "url": "https://pictures.example/x"},
        {"type": "image", "file_id": "file-1"},
        {"type": "image", "base64": "!!", "mime_type": "image/png"},
        {"type": "image"},
    ],
    ids=["url", "file", "broken", "empty"],
)
def test_what_cannot_be_judged_is_replaced_too(broken: dict[str, str]) -> None:
    message = HumanMessage(["hi", broken])
    new = step(on_block="replace").invoke(message)
    results: list[ScreenResult] = []
    step(on_result=results.append).invoke(new)
    assert "pictures.example" not in str(new)
    assert all(item.verdict.outcome.judged for item in results[0].items)


def test_a_message_that_has_no_place_for_another_image_loses_its_content() -> None:
    message = ToolMessage("x", artifact=[opened(RED_PNG)], tool_call_id="1", name="draw")
    new = step(on_block="replace").invoke([AIMessage("kept"), message])
    assert "kept" == new[0].content
    assert "blocked by PolicyGuard" in new[1].content
    assert (None, "1", "draw") == (new[1].artifact, new[1].tool_call_id, new[1].name)


class Own(HumanMessage):
    """A message of an app's own class."""

    note: Any = None


@pytest.mark.parametrize(
    "message",
    [
        Own("hi", note=opened(RED_PNG)),
        Own("hi", note={"type": "image", "id": "x"}),
        HumanMessage("hi", name="x", id=data_uri(RED_PNG)),
        AIMessage("hi", additional_kwargs={"image": [object()]}),
        ToolMessage("hi", artifact={"image": object()}, tool_call_id="1"),
    ],
    ids=["own field", "own block", "id", "object", "object in an artifact"],
)
def test_what_is_left_after_replacing_is_looked_at_again(message: BaseMessage) -> None:
    """Either the image is gone, or the message goes no further."""
    try:
        new = step(on_block="replace").invoke(message)
    except PolicyViolation:
        return
    results: list[ScreenResult] = []
    step(on_result=results.append).invoke(new)
    assert all(item.verdict.allowed for item in results[0].items)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_message_keeps_a_placeholder_that_it_has_already(kind: str) -> None:
    guard = Guard(policy="safeedit/l3", backend=FakeBackend(0.97))  # finds grey unsafe, too
    replacing = GuardRunnable(guard, on_block="replace")
    first = replacing.invoke(human(picture(GREEN, kind)))
    assert replacing.invoke(first) is first
    assert first.content[0] == {"type": "text", "text": "hi"}


def test_a_value_that_cannot_be_replaced_raises(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(RED_PNG)
    with pytest.raises(PolicyViolation):
        step(on_block="replace").invoke(path)


class Pictures:
    """A fetcher that knows one address."""

    def fetch(self, url: str) -> Fetched:
        return Fetched(GREEN_PNG, "image/png", url)

    async def afetch(self, url: str) -> Fetched:
        return self.fetch(url)


@called
def test_the_bytes_that_were_fetched_and_judged_go_on(call: Any) -> None:
    fetching = step(urls="fetch", fetcher=Pictures())
    new = call(fetching, HumanMessage([{"type": "image", "url": "https://pictures.example/x"}]))
    assert "pictures.example" not in str(new)
    assert b64(GREEN_PNG) in str(new)


# Callbacks and traces.


class Recorder(BaseTracer):
    """Keeps all that a tracer is told, as it would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Any] = []

    def _persist_run(self, run: Any) -> None:
        self.runs.append(run)


class Listener(BaseCallbackHandler):
    """Keeps the inputs and outputs of chains, as handlers get them."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.names: list[Any] = []
        self.tags: list[Any] = []

    def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        self.told.append(inputs)
        self.names.append(kwargs.get("name"))
        self.tags.append(kwargs.get("tags"))

    def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
        self.told.append(outputs)

    def on_chain_error(self, error: BaseException, **kwargs: Any) -> None:
        self.told.append(error)


def with_config(call: int, runnable: Any, value: Any, config: Any) -> None:
    if call == 0:
        runnable.invoke(value, config)
    elif call == 1:
        asyncio.run(runnable.ainvoke(value, config))
    elif call == 2:
        list(runnable.stream(value, config))
    else:

        async def read() -> list[Any]:
            return [piece async for piece in runnable.astream(value, config)]

        asyncio.run(read())


@pytest.mark.parametrize("call", range(4))
@pytest.mark.parametrize("number", range(14))
def test_no_image_enters_a_trace(call: int, number: int, tmp_path: Path) -> None:
    for data, on_block in ((GREEN_PNG, "raise"), (RED_PNG, "raise"), (RED_PNG, "replace")):
        value = values(data, tmp_path / "x")[number]
        recorder, listener = Recorder(), Listener()
        try:
            with_config(call, step(on_block=on_block), value, {"callbacks": [recorder, listener]})
        except PolicyViolation:
            assert data == RED_PNG
        assert listener.told
        (run,) = recorder.runs
        told = repr((listener.told, run.inputs, run.outputs, run.error, run.extra))
        assert b64(data)[:60] not in told
        assert repr(data)[2:60] not in told
        assert "PIL" not in told
        assert "BytesIO" not in told


@pytest.mark.parametrize("call", range(4))
def test_what_a_trace_keeps_of_a_message_is_its_text(call: int) -> None:
    listener = Listener()
    with_config(call, step(), human(GREEN_PNG), {"callbacks": [listener]})
    (message,) = [told for told in listener.told if isinstance(told, BaseMessage)][-1:]
    assert "hi" in str(message.content)
    assert f"{len(GREEN_PNG)} bytes" in str(message.content)


@pytest.mark.parametrize("call", range(4))
def test_run_names_and_tags_are_kept(call: int) -> None:
    listener = Listener()
    with_config(call, step(name="door"), "hi", {"callbacks": [listener], "tags": ["t"]})
    with_config(call, step(), "hi", {"callbacks": [listener], "run_name": "mine"})
    with_config(call, step(), "hi", {"callbacks": [listener]})
    assert ["door", "mine", "GuardRunnable"] == listener.names
    assert ["t"] == listener.tags[0]


# Streams.


def pieces_of(*contents: Any) -> Any:
    """A model that gives its answer in pieces; ``given`` holds what it has given so far."""
    given: list[Any] = []

    def pieces(_: Iterator[Any]) -> Iterator[Any]:
        for content in contents:
            given.append(content)
            yield content if isinstance(content, str) else AIMessageChunk(content)

    async def apieces(_: AsyncIterator[Any]) -> AsyncIterator[Any]:
        for piece in pieces(iter(())):
            yield piece

    return RunnableGenerator(pieces, apieces), given


def read(chain: Any, *, asynchronous: bool) -> tuple[list[Any], Exception | None]:
    """The pieces that come out, and what ends the stream."""
    found: list[Any] = []

    async def aread() -> None:
        async for piece in chain.astream("x"):
            found.append(piece)  # noqa: PERF401 (what came before an error counts)

    try:
        if asynchronous:
            asyncio.run(aread())
        else:
            found.extend(chain.stream("x"))
    except PolicyViolation as error:
        return found, error
    return found, None


both = pytest.mark.parametrize("asynchronous", [False, True])


def split(text: str, size: int = 7) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def image_pieces(data: bytes) -> list[list[dict[str, Any]]]:
    code = b64(data)
    first = {"type": "image", "index": 1, "base64": code[:20], "mime_type": "image/png"}
    return [[first], *([{"type": "image", "index": 1, "base64": part}] for part in split(code[20:], 40))]


WRITTEN = {
    "a data URI": lambda data: split(f"See ![x]({data_uri(data)}) there. " + "And so on. " * 80),
    "base64 alone": lambda data: split(b64(data)),
    "JSON": lambda data: split(json.dumps({"b64_json": b64(data)})),
    "HTML": lambda data: split(f"<p><img src='{data_uri(data)}'></p>"),
}


def test_text_passes_at_once() -> None:
    model, given = pieces_of([{"type": "text", "text": "one"}], [{"type": "text", "text": "two"}])
    stream = (model | step()).stream("x")
    next(stream)
    assert 1 == len(given)
    next(stream)
    assert 2 == len(given)


@both
def test_words_that_merely_look_like_an_image_come_out_whole(asynchronous: bool) -> None:
    text = "Write data: first, then ![this] and <img. " + "a" * 80 + " Words. " * 100
    model, _ = pieces_of(*split(text))
    found, error = read(model | step(), asynchronous=asynchronous)
    assert error is None
    assert text == "".join(found)
    assert len(found) > 10


@both
@pytest.mark.parametrize("shape", WRITTEN)
def test_an_image_that_is_written_piece_by_piece_is_held(asynchronous: bool, shape: str) -> None:
    model, _ = pieces_of(*WRITTEN[shape](RED_PNG))
    found, error = read(model | step(), asynchronous=asynchronous)
    assert isinstance(error, PolicyViolation)
    assert b64(RED_PNG)[64:] not in "".join(found)
    model, _ = pieces_of(*WRITTEN[shape](GREEN_PNG))
    found, error = read(model | step(), asynchronous=asynchronous)
    assert error is None
    assert "".join(WRITTEN[shape](GREEN_PNG)) == "".join(found)


@both
@pytest.mark.parametrize("addable", [False, True])
def test_an_image_that_is_written_into_a_dict_piece_by_piece_is_held(
    asynchronous: bool, addable: bool
) -> None:
    kind = AddableDict if addable else dict

    def chain(data: bytes) -> Any:
        pieces = [kind(answer=part) for part in split(f"See ![x]({data_uri(data)}) there.")]

        def give(_: Any) -> Iterator[Any]:
            yield from pieces

        async def agive(_: Any) -> AsyncIterator[Any]:
            for piece in pieces:
                yield piece

        return RunnableGenerator(give, agive) | step(), pieces

    found, error = read(chain(RED_PNG)[0], asynchronous=asynchronous)
    assert isinstance(error, PolicyViolation)
    assert b64(RED_PNG)[64:] not in "".join(piece["answer"] for piece in found)
    runnable, pieces = chain(GREEN_PNG)
    assert (pieces, None) == read(runnable, asynchronous=asynchronous)


@both
def test_an_image_in_many_pieces_is_held_until_it_is_judged(asynchronous: bool) -> None:
    contents = [[{"type": "text", "text": "Here: ", "index": 0}], *image_pieces(RED_PNG)]
    model, _ = pieces_of(*contents)
    found, error = read(model | step(), asynchronous=asynchronous)
    assert isinstance(error, PolicyViolation)
    assert [contents[0]] == [piece.content for piece in found]
    contents[1:] = image_pieces(GREEN_PNG)
    model, _ = pieces_of(*contents)
    found, error = read(model | step(), asynchronous=asynchronous)
    assert error is None
    assert contents == [piece.content for piece in found]


@both
def test_what_follows_a_held_image_keeps_its_place(asynchronous: bool) -> None:
    contents = [["a"], *image_pieces(GREEN_PNG), [{"type": "text", "text": "b", "index": 2}]]
    model, _ = pieces_of(*contents)
    found, _ = read(model | step(), asynchronous=asynchronous)
    assert contents == [piece.content for piece in found]


@both
def test_a_replaced_image_ends_a_stream_in_one_piece(asynchronous: bool) -> None:
    contents = [[{"type": "text", "text": "Here: ", "index": 0}], *image_pieces(RED_PNG)]
    model, _ = pieces_of(*contents)
    found, error = read(model | step(on_block="replace"), asynchronous=asynchronous)
    assert error is None
    assert 2 == len(found)
    assert b64(RED_PNG) not in str(found)
    assert "image" == found[1].content[0]["type"]


@both
def test_a_tool_call_with_an_image_is_judged_before_its_end(asynchronous: bool) -> None:
    arguments = json.dumps({"image": data_uri(RED_PNG)})

    def pieces(_: Any) -> Iterator[Any]:
        for number, part in enumerate(split(arguments, 30)):
            name, key = ("draw", "1") if number == 0 else (None, None)
            chunk = {"name": name, "args": part, "id": key, "index": 0, "type": "tool_call_chunk"}
            yield AIMessageChunk("", tool_call_chunks=[chunk])

    async def apieces(_: Any) -> AsyncIterator[Any]:
        for piece in pieces(None):
            yield piece

    found, error = read(RunnableGenerator(pieces, apieces) | step(), asynchronous=asynchronous)
    assert isinstance(error, PolicyViolation)
    assert len(found) <= 2


def test_a_stream_that_is_left_early_ends_its_run() -> None:
    listener = Listener()
    model, _ = pieces_of("one ", "two ", "three ")
    stream = (model | step(name="door")).stream("x", {"callbacks": [listener]})
    assert "one " == next(stream)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream.close()
    assert not [told for told in listener.told if isinstance(told, Exception)]


# Set-up.


@pytest.mark.parametrize(
    "options",
    [{"on_block": "ignore"}, {"replace_with": "nothing"}, {"urls": "maybe"}, {"fetcher": Pictures()}],
)
def test_settings_that_cannot_work_raise_at_once(options: Any) -> None:
    with pytest.raises(ConfigurationError):
        step(**options)


@called
def test_a_wrong_set_up_is_no_verdict(call: Any) -> None:
    backend = FakeBackend()
    guard = Guard(policy="safeedit/l3", backend=backend)
    backend.close()
    with pytest.raises(ConfigurationError):
        call(GuardRunnable(guard), human(GREEN_PNG))


def test_pico_guards_a_chain() -> None:
    chain = GuardRunnable(Guard(policy="pictosafe/l3")) | RunnableLambda(lambda messages: AIMessage("seen"))
    camera, dagger = ((EXAMPLES / f"pair-{name}.png").read_bytes() for name in ("camera", "dagger"))
    assert "seen" == chain.invoke([human(camera)]).content
    with pytest.raises(PolicyViolation):
        asyncio.run(chain.ainvoke([human(dagger)]))


LINKED = "https://pictures.example/cat.png"


@pytest.mark.parametrize(
    "text",
    [
        f"![a [nested] name]({LINKED}) and",
        f"![{'a ' * 900}]({LINKED}) and",
        f"![a]\n\nmore\n\n[a]: {LINKED} \n and",
        f"![a]\n\n{'more ' * 500}\n\n[a]: {LINKED} \n and",
        f"<img alt='{'a ' * 900}' src={LINKED}> and",
    ],
)
def test_a_picture_that_is_linked_in_a_long_way_is_held(text: str) -> None:
    got: list[str] = []
    pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
    with pytest.raises(PolicyViolation):
        got.extend(step(links="block").transform(iter(pieces)))
    assert "pictures.example" not in "".join(got)
    assert text == "".join(step().transform(iter(pieces)))


@pytest.mark.parametrize(
    "pieces",
    [
        [{"a": RED_PNG[:5]}, {"a": RED_PNG[5:30]}, {"a": RED_PNG[30:]}],
        [{"a": list(RED_PNG[:5])}, {"a": list(RED_PNG[5:])}],
        [
            AIMessageChunk("", response_metadata={"x": "data:ima"}),
            AIMessageChunk("", response_metadata={"x": f"ge/png;base64,{b64(RED_PNG)}"}),
        ],
    ],
)
def test_bytes_and_metadata_that_grow_into_a_blocked_image_are_held(pieces: list[Any]) -> None:
    got: list[Any] = []
    with pytest.raises(PolicyViolation):
        got.extend(step().transform(iter(pieces)))
    assert b64(RED_PNG) not in repr(got)
    assert not any(isinstance(piece, dict) for piece in got)


PDF = {"type": "file", "base64": b64(b"%PDF-1.7 " + bytes(99)), "mime_type": "application/pdf"}


def test_documents_block_unless_they_are_told_to_pass() -> None:
    message = HumanMessage([PDF])
    with pytest.raises(PolicyViolation, match="unscannable"):
        step().invoke([message])
    passing = step(documents="pass")
    assert passing.invoke([message]) == [message]
    assert [message] == asyncio.run(passing.ainvoke([message]))
    with pytest.raises(PolicyViolation, match="Red"):
        passing.invoke([message, human(RED_PNG)])
    with pytest.raises(ConfigurationError):
        step(documents="read")


def test_a_document_that_passes_does_not_keep_another_picture_from_its_place() -> None:
    pieces = [AIMessageChunk("text "), AIMessageChunk([PDF, block(RED_PNG)])]
    got = list(step(documents="pass", on_block="replace").transform(iter(pieces)))
    assert "text " == got[0].content
    assert PDF in got[-1].content
    assert b64(RED_PNG) not in repr(got)


@called
def test_a_watched_step_lets_everything_through_and_reports_it(call: Any) -> None:
    results: list[ScreenResult] = []
    watching = step(on_block="watch", on_result=results.append)
    for message in (
        human(RED_PNG),
        human(GREEN_PNG),
        HumanMessage([{"type": "image", "url": "https://e.example/a"}]),
    ):
        assert message == call(watching, message)
    assert [(True, False), (True, True), (True, False)] == [(r.watched, r.allowed) for r in results]
    assert results[0].to_dict()["watched"] is True
