"""`rws serve`: OpenAI's client gets what `rws generate` decodes, many requests share batches, bad ones get one sentence."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.error import HTTPError

import pytest
from serving import served

import rws_cli
from rws_cli.errors import UsageError
from rws_cli.serve import app, queue
from rws_cli.serve.queue import Queue

openai = pytest.importorskip("openai")
QUESTION = "ben has 21 apples, gives 2 away, wins 10. how many now?"
QUICK = ("model=tiny", "sampler=rws", "sampler.tokens_per_step=8")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[tuple[str, Queue]]:
    with served(*QUICK) as (url, waiting):
        yield url, waiting


@pytest.fixture
def client(endpoint: tuple[str, Queue]) -> Any:
    return openai.OpenAI(base_url=endpoint[0], api_key="none", max_retries=0)


def ask(client: Any, text: str = QUESTION, **settings: Any) -> Any:
    return client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": text}], **settings)


def post(url: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    """The status and the body of an answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def test_a_message_is_decoded_as_by_generate(client: Any) -> None:
    """Also where tokens are drawn, and with settings in the extra body."""
    drawn = ["sampler.temperature=1", "seed=5", "sampler.order=entropy", "sampler.guidance.strength=3"]
    expected = rws_cli.generate(QUESTION, *QUICK, *drawn)
    extra = {"sampler.order": "entropy", "sampler": {"guidance": {"strength": 3}}}
    answer = ask(client, temperature=1.0, seed=5, extra_body=extra)
    assert answer.choices[0].message.content == expected.text
    usage, cost = answer.usage, expected.sample["cost"]
    for name in ("mdm_passes", "mdm_tokens", "reward_calls", "reward_cache_hits", "reward_tokens"):
        assert getattr(usage, name) == cost[name]
    assert usage.completion_tokens == expected.sample["length"]
    assert usage.reward_calls > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_request_chooses_another_sampler(client: Any) -> None:
    """Settings of the command line's sampler do not carry over to it."""
    expected = rws_cli.generate(QUESTION, "model=tiny", "sampler=threshold", "sampler.schedule.threshold=0.7")
    answer = ask(client, extra_body={"sampler": "threshold", "sampler.schedule.threshold": 0.7})
    assert answer.choices[0].message.content == expected.text
    assert answer.usage.mdm_passes == expected.sample["cost"]["mdm_passes"] < 32
    assert answer.usage.reward_calls == 0
    guided = ask(client, extra_body={"sampler": "threshold", "guidance": "rws"})
    assert guided.usage.reward_calls > 0


def test_a_conversation(client: Any, endpoint: tuple[str, Queue]) -> None:
    model = endpoint[1].prepared.model
    turns = [("user", QUESTION), ("assistant", "29"), ("user", "and 2 more?")]
    messages: Any = [{"role": role, "content": text} for role, text in turns]
    answer = client.chat.completions.create(model="tiny", messages=messages)
    assert answer.usage.prompt_tokens == len(model.encode("and 2 more?", [(QUESTION, "29")]))
    pieces = [{"type": "text", "text": QUESTION[:9]}, {"type": "text", "text": QUESTION[9:]}]
    assert ask(client, pieces).choices[0].message.content == ask(client).choices[0].message.content  # type: ignore[arg-type]


def test_texts_and_tokens_are_completed_alike(client: Any, endpoint: tuple[str, Queue]) -> None:
    """Without the chat template; several completions of a prompt differ."""
    ids = endpoint[1].prepared.model.tokenizer(QUESTION).input_ids
    answers = [client.completions.create(model="tiny", prompt=prompt) for prompt in (QUESTION, ids)]
    assert answers[0].choices[0].text == answers[1].choices[0].text
    assert answers[0].usage.prompt_tokens == len(ids)
    many = client.completions.create(model="tiny", prompt=[QUESTION, ids, "1 2 3"], n=3, temperature=4)
    texts = [choice.text for choice in many.choices]
    assert [choice.index for choice in many.choices] == list(range(9))
    assert texts[:3] == texts[3:6] != texts[6:]
    assert len(set(texts[:3])) > 1


def test_a_stop_string_ends_a_completion(client: Any) -> None:
    whole = ask(client).choices[0]
    assert "####" in whole.message.content
    cut = ask(client, stop=["nowhere", "####", "= 19"]).choices[0]
    assert cut.message.content == min((whole.message.content.partition(s)[0] for s in ("####", "= 19")), key=len)
    assert (whole.finish_reason, cut.finish_reason) == ("stop", "stop")
    assert ask(client, max_tokens=8).choices[0].finish_reason == "length"


def test_fifty_requests_share_batches(
    client: Any, endpoint: tuple[str, Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None changes another: each gets what it gets alone."""
    waiting, sizes = endpoint[1], []
    decode = waiting._decode
    monkeypatch.setattr(waiting, "_decode", lambda jobs: (sizes.append(len(jobs)), decode(jobs))[1])
    questions = [f"ben has {n} apples, gives 2 away. how many now?" for n in range(50)]
    settings = {"temperature": 1, "max_tokens": 8}
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda text: ask(client, text, **settings), questions))
    assert sum(sizes) == 50
    assert len([size for size in sizes if size]) <= 6
    for number in (0, 7, 49):
        alone = ask(client, questions[number], **settings)
        assert answers[number].choices[0].message.content == alone.choices[0].message.content
        assert answers[number].usage.mdm_passes == alone.usage.mdm_passes
    assert len({answer.choices[0].message.content for answer in answers}) > 10


@pytest.mark.slow
def test_equal_requests_are_decoded_once(client: Any, endpoint: tuple[str, Queue]) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: ask(client, "1 2 3", temperature=1), range(4)))
    assert len({answer.choices[0].message.content for answer in answers}) == 1


def test_a_client_that_leaves_stops_its_batch(endpoint: tuple[str, Queue], client: Any) -> None:
    """Its decoding ends at the next step, and the next request is answered."""
    url, waiting = endpoint
    steps, watch = [], waiting._watch
    waiting._watch = lambda jobs: (lambda inner: lambda *step: (steps.append(jobs), inner(*step)))(watch(jobs))  # type: ignore[method-assign]
    body = json.dumps({
        "model": "tiny", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 192,
        "sampler": "rws", "sampler.tokens_per_step": 1,
    }).encode()  # fmt: skip
    port = int(url.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        while len(steps) < 2:
            time.sleep(0.01)
    del waiting._watch
    (job,) = steps[0]
    assert ask(client).choices
    assert job.left
    assert not job.future.done() or isinstance(job.future.exception(), Exception)
    assert 2 <= len(steps) < 150


def test_a_client_that_leaves_does_not_stop_others(endpoint: tuple[str, Queue]) -> None:
    waiting = endpoint[1]
    from rws_cli.serve.requests import read_request

    def job(text: str) -> Any:
        body = {"model": "tiny", "max_tokens": 16, "prompt": text}
        return waiting.submit(read_request(json.dumps(body).encode(), waiting.prepared.model, "tiny", chat=False))

    gone, stays = job("1 2"), job("3 4")
    gone.left = True
    assert len(stays.future.result(30)) == 1
    assert not gone.future.done()


CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "1 2"}]}
BAD: list[tuple[Any, int, str]] = [
    (b"", 400, "The body is not JSON"),
    (b"{", 400, "The body is not JSON"),
    (b'{"model": "tiny", "temperature": NaN}', 400, "The body is not JSON"),
    (b'{"model": "\\ud800"}', 400, "The body is not JSON"),
    (b"[" * 100_000, 400, "The body is not JSON"),
    (b"\xff", 400, "The body is not JSON"),
    ([], 400, "not a JSON object"),
    ({}, 400, "model is missing: it must be tiny."),
    ({**CHAT, "model": 3}, 400, "model is missing"),
    ({**CHAT, "model": "/etc/passwd"}, 404, "model=/etc/passwd is not served here: the model of this endpoint is tiny."),
    ({**CHAT, "model": "llada"}, 404, "model=llada is not served here"),
    ({**CHAT, "model.path": "/etc"}, 400, "model.path is not supported: a request can set "),
    ({**CHAT, "reward": "skywork"}, 400, "reward is not supported"),
    ({**CHAT, "runtime": {"batch_size": 1}}, 400, "runtime is not supported"),
    ({**CHAT, "hydra.run.dir": "/tmp"}, 400, "hydra.run.dir is not supported"),
    ({**CHAT, "tools": [{"type": "function"}]}, 400, "tools is not supported"),
    ({**CHAT, "logprobs": True}, 400, "logprobs is not supported"),
    ({**CHAT, "stream": True}, 400, "stream=true is not supported"),
    ({**CHAT, "stop": [""]}, 400, "stop must be a string or a list of strings"),
    ({"model": "tiny"}, 400, "messages is missing."),
    ({**CHAT, "messages": []}, 400, "messages must be a list"),
    ({**CHAT, "messages": ["hi"]}, 400, "messages[0].role=None is not supported"),
    ({**CHAT, "messages": [{"role": "system", "content": "x"}]}, 400, "messages[0].role=system is not supported"),
    ({**CHAT, "messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content must be text."),
    ({**CHAT, "messages": [{"role": "user", "content": "\ud800"}]}, 400, "The body is not JSON"),
    ({**CHAT, "max_tokens": 10**400}, 400, "is out of range: numbers in requests are at most 65536."),
    ({**CHAT, "max_tokens": "9999999999"}, 400, "is out of range: numbers in requests are at most 65536."),
    ({**CHAT, "seed": 1e400}, 400, "The body is not JSON"),
    ({**CHAT, "seed": "x y"}, 400, "seed=x y is neither a number nor a name"),
    ({**CHAT, "sampler": "../../etc/passwd"}, 400, "sampler=../../etc/passwd is not a name."),
    ({**CHAT, "sampler": {"a b": 1}}, 400, "sampler.a b is not a setting."),
    ({**CHAT, "sampler": {"order": ["pc"]}}, 400, "sampler.order is a list"),
    ({**CHAT, "sampler": "pc", "sampler.pc.frequencies": "/etc/passwd"}, 400, "neither a number nor a name"),
    ({**CHAT, "sampler.order": "${model.path}"}, 400, "neither a number nor a name"),
    ({**CHAT, "max_tokens": 4096}, 400, "that exceeds the context of 256."),
    ({**CHAT, "temperature": -1}, 400, "sampler.temperature=-1.0 is out of range: it must be at least 0.0."),
    ({**CHAT, "sampler": "pc", "sampler.pc.frequencies": "passwd"}, 400, "sampler.pc.frequencies=passwd can be set only by the command line"),
]  # fmt: skip

COMPOSED: list[tuple[Any, int, str]] = [
    ({**CHAT, "max_tokens": 0}, 400, "sampler.gen_length=0 is out of range: it must be at least 1."),
    ({**CHAT, "max_tokens": "many"}, 400, "sampler.gen_length=many has the wrong type: a whole number is expected."),
    ({**CHAT, "n": 2}, 400, "benchmark.completions=2 would all be the same"),
    ({**CHAT, "n": 100_000, "temperature": 1}, 400, "out of range"),
    ({**CHAT, "sampler.temprature": 1}, 400, "sampler.temprature is not a setting here; did you mean sampler.temperature?"),
    ({**CHAT, "sampler": "rsw"}, 400, "sampler=rsw is not known"),
    ({**CHAT, "sampler": "recorded_scale", "sampler.guidance.run": "v001"}, 400, "sampler.guidance.run=v001 can be set only by"),
    ({**CHAT, "sampler._target_": "os.system"}, 400, "would create Python objects"),
]  # fmt: skip
"""Bodies whose settings are composed and checked, which takes a while."""


@pytest.mark.parametrize(
    ("body", "status", "sentence"), [*BAD, *(pytest.param(*case, marks=pytest.mark.slow) for case in COMPOSED)]
)
def test_a_bad_body_gets_one_sentence(endpoint: tuple[str, Queue], body: Any, status: int, sentence: str) -> None:
    answer = post(f"{endpoint[0]}/chat/completions", body)
    assert (answer[0], sentence in answer[1]["error"]["message"]) == (status, True), answer
    assert "\n" not in answer[1]["error"]["message"]
    assert set(answer[1]) == {"error"}


PROMPTS = [None, [], "", [[]], [1.5], [350], [-1], [True], [["a"]], {"a": 1}, [[1], "a", [None]]]


@pytest.mark.parametrize("prompt", PROMPTS, ids=str)
def test_a_prompt_that_is_none(endpoint: tuple[str, Queue], prompt: Any) -> None:
    status, answer = post(f"{endpoint[0]}/completions", {"model": "tiny", "prompt": prompt})
    assert (status, answer["error"]["param"]) == (400, "prompt")


def test_a_body_that_is_too_long(endpoint: tuple[str, Queue]) -> None:
    status, answer = post(f"{endpoint[0]}/completions", b" " * (app.MOST_BYTES + 1))
    assert (status, answer["error"]["message"]) == (413, "The body is longer than 4,194,304 bytes.")


def test_a_page_in_a_browser_cannot_ask(endpoint: tuple[str, Queue]) -> None:
    """Neither by a form, whose content type is another, nor by a name that it made point to this machine."""
    url = f"{endpoint[0]}/chat/completions"
    assert post(url, CHAT, **{"Content-Type": "text/plain"})[0] == 415
    assert post(url, CHAT, Host="evil.example")[0] == 403


def test_models_and_other_paths(client: Any, endpoint: tuple[str, Queue]) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="llada is not served here"):
        client.models.retrieve("llada")
    with pytest.raises(openai.NotFoundError, match="POST /v1/embeddings is not part of this endpoint"):
        client.embeddings.create(model="tiny", input="x")
    with pytest.raises(openai.BadRequestError, match="stream=true is not supported"):
        ask(client, stream=True)


def test_a_full_queue_and_a_failure(client: Any, endpoint: tuple[str, Queue], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(queue, "MOST_WAITING", 0)
        with pytest.raises(openai.RateLimitError, match="requests are waiting"):
            ask(client)

    def broken(jobs: Any) -> None:
        raise ZeroDivisionError("broken")

    with monkeypatch.context() as failing:
        failing.setattr(endpoint[1], "_decode", broken)
        with pytest.raises(openai.InternalServerError, match="Decoding failed: ZeroDivisionError: broken"):
            ask(client)
    assert ask(client).choices


@pytest.mark.slow
def test_waiting_requests_are_refused_when_it_stops() -> None:
    with served(*QUICK) as (url, waiting):
        answers: list[Any] = []
        body = {**CHAT, "max_tokens": 192, "sampler.tokens_per_step": 1}
        clients = [
            threading.Thread(
                target=lambda t=t: answers.append(post(f"{url}/chat/completions", body | {"temperature": t}))
            )
            for t in (0.5, 1.0)
        ]
        for each in clients:
            each.start()
        time.sleep(1)
        waiting.stop()
        for each in clients:
            each.join(20)
        assert [status for status, _ in answers] == [503, 503]
        assert post(f"{url}/chat/completions", CHAT)[1]["error"]["message"] == "The endpoint is stopping."


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("benchmark=sudoku", "rws serve takes its prompts from requests: leave out benchmark=…."),
        ("runtime=devices", "runtime.backend=processes does not work with rws serve"),
        ("sampler=rsw", "sampler=rsw is not known"),
    ],
)
def test_what_cannot_be_served(override: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        Queue(["model=tiny", override])
    assert sentence in str(refused.value)


@pytest.mark.slow
def test_a_reward_that_draws_by_the_seed() -> None:
    waiting = Queue(["model=tiny", "sampler=rws", "reward=shuffled", "seed=4"])
    waiting.stop()
    assert waiting.configured(("seed=4",)).seed == 4
    with pytest.raises(UsageError, match="reward=shuffled draws by the seed of the command line"):
        waiting.configured(("seed=5",))


def test_a_port_that_is_taken(rws) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = rws("serve", "model=tiny", f"--port={port}")
    assert (result.exit_code, result.output) == (1, f"rws: --port={port} cannot be used: Address already in use.\n")


def test_missing_packages_are_named_with_the_extra(monkeypatch: pytest.MonkeyPatch, rws) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "rws_cli.serve.app")
    result = rws("serve", "model=tiny")
    assert (result.exit_code, "pip install 'rws[serve]'" in result.output) == (2, True)


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted() -> None:
    command = [sys.executable, "-m", "rws_cli", "serve", "model=tiny", "sampler=threshold", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            assert line.startswith("model tiny, sampler threshold: http://127.0.0.1:")
            assert post(f"{line.split()[4]}/chat/completions", CHAT)[0] == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
            assert process.stderr
            assert process.stderr.read() == "rws: interrupted\n"
        finally:
            process.kill()
