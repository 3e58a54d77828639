"""Requests of every kind to a real server, by OpenAI's client: with a drafter the answers are those without.

Catches: a drafted token that a grammar, a penalty or an allowed set forbids, logprobs of another row, a structured
answer that begins while the model still reasons, an adapter's answer that is drafted away, answers that change beside
others, under preemption or after a prefix hit, a request that ends the engine for everybody, one that goes on or keeps
its place after its client has gone.

Prompts are read in parts of 64 tokens, the KV cache is too small for all requests at once.
"""

import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from tests.serving.server import MAX_REQUEST_S, Server, served

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.extended, pytest.mark.alone]

NUM_BLOCKS = 13  # of 128 tokens, one of them vLLM's own
MAX_IDLE_S = 60
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "done": {"type": "boolean"},
        "size": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "done", "size"],
    "additionalProperties": False,
}
SIDES = {"enum": ["left", "right"]}
TAG = {"type": "tag", "begin": "<call>", "content": {"type": "json_schema", "json_schema": SIDES}, "end": "</call>"}
TOOL = {"type": "function", "function": {"name": "save", "parameters": SCHEMA}}
# With END in a prompt, what follows is no longer reasoning; without, it is until the model has written END.
END = "("
PARSER = f'''
from vllm.reasoning import ReasoningParserManager
from vllm.reasoning.basic_parsers import BaseThinkingReasoningParser


@ReasoningParserManager.register_module(["until_end"])
class UntilEnd(BaseThinkingReasoningParser):
    """Takes what comes before the first END for reasoning."""

    start_token, end_token = "@", {END!r}
'''
CODE = "import os\nimport sys\n\n\ndef main(args):\n    for name in "
CHAT = [{"role": "user", "content": "Write a function."}]
DONE_CHAT = [{"role": "user", "content": "def main(args)."}]
LONG = "".join(f"def function_{number}(args):\n    return args[{number}]\n\n\n" for number in range(20))

# Greedy, of at most 40 tokens, unless they say something else.
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"prompt": CODE},
    "chat": {"messages": CHAT},
    "long prompt": {"prompt": LONG},
    "logprobs": {"prompt": CODE, "logprobs": 5},
    "logprobs of a chat": {"messages": CHAT, "logprobs": True, "top_logprobs": 3},
    "prompt_logprobs": {"prompt": LONG[:200], "prompt_logprobs": 3, "echo": True},
    "n": {"prompt": CODE, "n": 3, "temperature": 1, "top_k": 1},
    "frequency_penalty": {"prompt": CODE, "frequency_penalty": 1.2},
    "presence_penalty": {"prompt": CODE, "presence_penalty": 0.9},
    "repetition_penalty": {"prompt": LONG, "repetition_penalty": 1.3},
    "min_tokens": {"prompt": CODE, "min_tokens": 30, "ignore_eos": False},
    "bad_words": {"prompt": CODE, "bad_words": ["self", " name", "os"]},
    "stop strings": {"prompt": LONG, "stop": ["return", "\n\n"]},
    "stop string kept": {"prompt": CODE, "stop": ["\n"], "include_stop_str_in_output": True},
    "stop_token_ids": {"prompt": CODE, "stop_token_ids": list(range(200, 400)), "include_stop_str_in_output": True},
    "allowed_token_ids": {"prompt": CODE, "allowed_token_ids": list(range(20, 300))},
    "echo": {"prompt": CODE, "echo": True, "logprobs": 1},
    "json_schema": {
        "messages": DONE_CHAT,
        "response_format": {"type": "json_schema", "json_schema": {"name": "file", "schema": SCHEMA}},
        "max_tokens": 100,
    },
    "schema of a completion": {"prompt": CODE, "structured_outputs": {"json": SCHEMA}, "max_tokens": 100},
    "regex": {"prompt": CODE, "structured_outputs": {"regex": "[a-z]{3,12}[.][0-9]{2}"}},
    "choice": {"prompt": CODE, "structured_outputs": {"choice": ["os.listdir", "sys.argv", "range"]}},
    "grammar": {
        "prompt": CODE,
        "structured_outputs": {"grammar": 'root ::= item ("," item){2,4} ";"\nitem ::= "os" | "sys" [0-9]'},
    },
    "structural tag": {
        "messages": DONE_CHAT,
        "response_format": {"type": "structural_tag", "format": TAG},
        "max_tokens": 100,
    },
    "named tool": {
        "messages": DONE_CHAT,
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "save"}},
        "max_tokens": 100,
    },
    "reasoning": {"messages": CHAT, "max_tokens": 80},
    "reasoning, then a schema": {
        "messages": CHAT,
        "response_format": {"type": "json_schema", "json_schema": {"name": "file", "schema": SCHEMA}},
        "max_tokens": 160,
    },
    "reasoning, then a tag": {
        "messages": CHAT,
        "response_format": {"type": "structural_tag", "format": TAG},
        "max_tokens": 160,
    },
    "adapter": {"model": "adapter", "prompt": CODE},
    "adapter, long prompt": {"model": "adapter", "prompt": LONG},
    "adapter, schema": {
        "model": "adapter",
        "prompt": CODE,
        "structured_outputs": {"json": SCHEMA},
        "max_tokens": 100,
    },
}
STRUCTURED = [name for name in REQUESTS if "schema" in name]
SHORT = ("regex", "choice", "grammar", "structural tag")
"""Answers that may be over before anything is drafted that their constraint allows."""


def ask(server: Server, request: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of the answer, without what is different in every answer."""
    import openai

    request = {"model": "target", "temperature": 0, "max_tokens": 40, "ignore_eos": True} | request
    if "tool_choice" in request or "response_format" in request or "structured_outputs" in request:
        request["ignore_eos"] = False
    with (
        openai.DefaultHttpxClient(trust_env=False, timeout=MAX_REQUEST_S) as http,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", http_client=http, max_retries=0) as client,
    ):
        kind: Any = client.chat.completions if "messages" in request else client.completions
        input_name = "messages" if "messages" in request else "prompt"
        positional = {name: request.pop(name) for name in ("model", input_name)}
        answer = kind.create(**positional, extra_body=request).model_dump()
    for choice in answer["choices"]:
        for call in (choice.get("message") or {}).get("tool_calls") or []:
            del call["id"]
    choices: list[dict[str, Any]] = answer["choices"]
    return choices


def written(choices: list[dict[str, Any]]) -> str:
    """The text of an answer; where its prompt had ended the reasoning, the parser takes all of it for reasoning."""
    choice = choices[0]
    text: str = choice["text"] if "text" in choice else choice["message"]["content"] or choice["message"]["reasoning"]
    return text


def same(found: Any, expected: Any) -> bool:
    """Equal, but for the last digits of numbers."""
    if isinstance(expected, float):
        return isinstance(found, float) and math.isclose(found, expected, rel_tol=1e-3, abs_tol=1e-3)
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[k], expected[k]) for k in found)
        )
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == expected)


@pytest.fixture(scope="module")
def adapter(target_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of the target with random weights, large enough to be seen."""
    from safetensors.torch import save_file

    folder, rank = tmp_path_factory.mktemp("adapter"), 4
    config = json.loads((target_dir / "config.json").read_text())
    sizes = {
        "self_attn.q_proj": (config["hidden_size"], config["num_attention_heads"] * config["head_dim"]),
        "mlp.down_proj": (config["intermediate_size"], config["hidden_size"]),
    }
    generator, tensors = torch.Generator().manual_seed(0), {}
    for layer in range(config["num_hidden_layers"]):
        for name, (in_size, out_size) in sizes.items():
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, in_size, generator=generator) * in_size**-0.5
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(out_size, rank, generator=generator) * 0.05
    save_file(tensors, folder / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "bias": "none"}
    (folder / "adapter_config.json").write_text(
        json.dumps(fields | {"target_modules": [name.split(".")[1] for name in sizes]})
    )
    return folder


@contextmanager
def server_of(target_dir: Path, adapter: Path, folder: Path, *arguments: str) -> Iterator[Server]:
    """A server that has all that the requests need; `arguments` say how it drafts."""
    (folder / "parser.py").write_text(PARSER)
    limits = ["--max-num-batched-tokens", "64", "--num-gpu-blocks-override", str(NUM_BLOCKS)]
    reasoning = ["--reasoning-parser-plugin", str(folder / "parser.py"), "--reasoning-parser", "until_end"]
    tools = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    structured = ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
    # A second place for adapters that stays empty: in vLLM 0.32 on a CPU, requests without one take the last place.
    lora = ["--enable-lora", "--max-loras", "2", "--max-lora-rank", "8", "--lora-modules", f"adapter={adapter}"]
    with served(target_dir, folder, [*limits, *reasoning, *tools, *structured, *lora, *arguments]) as server:
        yield server


@pytest.fixture(scope="module")
def expected(
    target_dir: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """Every answer of a server that does not draft, one after another."""
    with server_of(target_dir, adapter, tmp_path_factory.mktemp("plain")) as server:
        return {name: ask(server, request) for name, request in REQUESTS.items()}


@pytest.fixture(scope="module", params=["module, synchronous", "lookup"])
def server(
    request: pytest.FixtureRequest,
    target_dir: Path,
    draft_dir: Path,
    lookup_draft_dir: Path,
    adapter: Path,
    expected: dict[str, list[dict[str, Any]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    drafter = lookup_draft_dir if request.param == "lookup" else draft_dir
    drafting = ["--spec-method", "mtp", "--spec-model", str(drafter), "--spec-tokens", "3"]
    scheduling = [] if request.param == "lookup" else ["--no-async-scheduling"]
    with server_of(target_dir, adapter, tmp_path_factory.mktemp("drafting"), *drafting, *scheduling) as server:
        yield server


@pytest.fixture(autouse=True)
def log_of_a_failed_test(server: Server) -> Iterator[None]:
    """pytest shows what is printed here with a test that failed."""
    yield
    print(server.tail())


@pytest.fixture
def as_before(server: Server, expected: dict[str, list[dict[str, Any]]]) -> Iterator[None]:
    """After the test nothing is left running, and the server answers as before."""
    yield
    wait_until_idle(server)
    assert same(ask(server, REQUESTS["plain"]), expected["plain"])


def wait_until_idle(server: Server) -> None:
    deadline = time.monotonic() + MAX_IDLE_S
    while server.metric("num_requests_running") + server.metric("num_requests_waiting"):
        assert time.monotonic() < deadline, "a request is stuck"
        time.sleep(0.2)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_same_answer(server: Server, expected: dict[str, list[dict[str, Any]]], name: str) -> None:
    drafts = server.metric("spec_decode_num_drafts_total")
    found = ask(server, REQUESTS[name])
    assert same(found, expected[name]), f"{found}\n{expected[name]}"
    if name not in SHORT:
        assert server.metric("spec_decode_num_drafts_total") > drafts, "nothing was drafted"


def test_what_is_expected_is_what_was_asked_for(expected: dict[str, list[dict[str, Any]]]) -> None:
    """Otherwise the same could be the same error."""
    for name in STRUCTURED:
        assert json.loads(written(expected[name])).keys() == SCHEMA["properties"].keys(), name
    for name in ("reasoning", "reasoning, then a schema", "reasoning, then a tag"):
        assert expected[name][0]["message"]["reasoning"], name
    for name in ("structural tag", "reasoning, then a tag"):
        assert written(expected[name]) in ('<call>"left"</call>', '<call>"right"</call>'), name
    assert '"name": "save"' in written(expected["named tool"])
    texts = {name: expected[name][0]["text"] for name, request in REQUESTS.items() if "prompt" in request}
    assert len(expected["n"]) == 3
    for name in ("frequency_penalty", "bad_words", "allowed_token_ids", "adapter"):
        assert texts[name] != texts["plain"], name
    assert texts["stop string kept"].endswith("\n")
    assert expected["stop strings"][0]["finish_reason"] == "stop"


@pytest.mark.usefixtures("as_before")
def test_the_same_answers_at_once(server: Server, expected: dict[str, list[dict[str, Any]]]) -> None:
    """In batches of different kinds, with and without an adapter, that do not fit into the KV cache."""
    before = server.metric("num_preemptions_total")
    # prompt_logprobs beside an adapter ends vLLM 0.32 on a CPU: it takes the sampled rows' adapters for the prompt's.
    # An echo with logprobs asks for them too.
    names = [name for name in REQUESTS if name not in ("prompt_logprobs", "echo")] * 2
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda name: ask(server, REQUESTS[name]), names))
    assert [name for name, found in zip(names, answers, strict=True) if not same(found, expected[name])] == []
    growing = {"prompt": LONG[:300], "max_tokens": 200}
    with ThreadPoolExecutor(8) as pool:
        long_answers = list(pool.map(lambda _: ask(server, growing), range(8)))
    assert all(same(answer, long_answers[0]) for answer in long_answers)
    assert server.metric("num_preemptions_total") > before


def test_prefix_hits(server: Server, expected: dict[str, list[dict[str, Any]]]) -> None:
    ask(server, REQUESTS["long prompt"])
    before = server.metric("prefix_cache_hits_total")
    assert same(ask(server, REQUESTS["long prompt"]), expected["long prompt"])
    assert server.metric("prefix_cache_hits_total") > before


@pytest.mark.usefixtures("as_before")
def test_seeds(server: Server) -> None:
    """Alone and beside others, of prompts that are never cut; of long ones, which are read in parts, alone."""
    # Other drafts use other draws. They are others where a prompt is cut elsewhere (vLLM tells the drafter a wrong next
    # token at the end of a part), after a prefix hit and after a preemption: none of it happens to short prompts.
    prompts = [f"{number} = {number}\n" for number in range(4)]
    hits, preemptions = server.metric("prefix_cache_hits_total"), server.metric("num_preemptions_total")

    def drawn(seed: int, prompt: str) -> str:
        return str(ask(server, {"prompt": prompt, "temperature": 1.0, "seed": seed})[0]["text"])

    alone = [drawn(seed, prompt) for prompt in prompts for seed in (1, 2)]
    assert all(one != two for one, two in zip(alone[::2], alone[1::2], strict=True)), "seeds that decide nothing"
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(drawn, [1, 2] * 4, [prompt for prompt in prompts for _ in range(2)]))
    assert (server.metric("prefix_cache_hits_total"), server.metric("num_preemptions_total")) == (hits, preemptions)
    assert together == alone
    long_prompts = [f"{number} = {number}\n{LONG}" for number in range(4)]
    first = [drawn(1, prompt) for prompt in long_prompts[:1] for _ in range(3)]
    assert first[1] == first[2]  # of the prompt's three blocks, hits then
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(drawn, [1, 2] * 4, [prompt for prompt in long_prompts for _ in range(2)]))


@pytest.mark.parametrize("field", ["logit_bias", "min_p"])
@pytest.mark.usefixtures("as_before")
def test_what_vllm_refuses_beside_any_drafter(server: Server, field: str) -> None:
    import openai

    value: Any = {"logit_bias": {"5": 10.0}, "min_p": 0.1}[field]
    with pytest.raises(openai.BadRequestError, match="min_p and logit_bias"):
        ask(server, {"prompt": CODE, "temperature": 1.0, field: value})


@pytest.mark.usefixtures("as_before")
def test_clients_that_go_away(server: Server, expected: dict[str, list[dict[str, Any]]]) -> None:
    """In the middle of a stream, before its first chunk, while their prompt is read, and all at once."""

    def leave(num_chunks: int) -> None:
        request = {"model": "target", "prompt": f"x = {num_chunks}\n{LONG}", "max_tokens": 150, "ignore_eos": True}
        with (
            httpx.Client(base_url=server.url, trust_env=False, timeout=MAX_REQUEST_S) as client,
            client.stream("POST", "/v1/completions", json={**request, "stream": num_chunks > 0}) as response,
        ):
            lines = response.iter_lines()
            for _ in range(num_chunks):
                next(lines)

    def give_up(timeout_s: float) -> bool:
        """Whether the client left before its answer came, which on a fast machine may come within the longer times."""
        request = {"model": "target", "prompt": LONG, "max_tokens": 200, "ignore_eos": True}
        try:
            httpx.post(f"{server.url}/v1/completions", json=request, timeout=timeout_s, trust_env=False)
        except httpx.TimeoutException:
            return True
        return False

    with ThreadPoolExecutor(16) as pool:
        left = [pool.submit(leave, num_chunks) for num_chunks in (1, 2, 3, 5, 8, 13) * 2]
        given_up = [pool.submit(give_up, timeout_s) for timeout_s in (0.01, 0.05, 0.2, 0.5)]
        stayed = [pool.submit(ask, server, REQUESTS[name]) for name in ("plain", "long prompt", "adapter")]
    for future in left:
        future.result()
    assert True in [future.result() for future in given_up]
    for future, name in zip(stayed, ("plain", "long prompt", "adapter"), strict=True):
        assert same(future.result(), expected[name])
