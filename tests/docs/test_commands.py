"""Every documented command line is taken by the real parser, and run on a target of two layers if that takes seconds.

Catches: a flag that was renamed and lives on in the documentation, a command without a page, an example that fails,
a link to nowhere. What starts vLLM is run with `--extended`.
"""

import argparse
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from tests.benchmarks.report import results
from tests.documented import FENCE, PAGES, ROOT, Documented, commands, markdown_files
from tests.training.data.chat.templates import CHATML
from tests.vllm_mtp.monitor.cases import METRICS
from vllm_mtp.cli import main, make_parser
from vllm_mtp.cli.target import take_last_word
from vllm_mtp.training.data.draft_vocab import save_draft_vocab

LINES = commands("vllm-mtp", markdown_files())
# Appended to what is documented: the later one of two equal flags counts.
_SMALL = "--max-tokens 6 --dtype float32"
_SMALL_ENGINE = f"{_SMALL} --enforce-eager"
SMALLER = {
    # An end of text is one token of 2,048 to this target: some of so many user turns have one.
    "generate": f"{_SMALL} --self-prompts 256 --max-user-tokens 64 --max-model-len 256 --temperature 1",
    "vocab": "--size 300",
    "train": "--tokens 300 --sequence-length 128 --batch-size 2 --warmup-steps 1 --dtype float32 --qk-norm",
    "lookup": "",
    "export": "",
    "doctor": "--max-model-len 256 --dtype float32",
    "eval": "--max-tokens 6 --spec-tokens 2",
    "monitor": "--once --interval 0.1",
    "bench acceptance": f"{_SMALL_ENGINE} --spec-tokens 2 --temperature 1 --speed-prompts-per-task 0 --max-num-seqs 2",
    "tune": f"{_SMALL_ENGINE} --spec-tokens 2 --module-steps 1 --batch-size 1 --for-batch-size 1 --turns 2 "
    "--most-turns 2",
    "bench round": f"{_SMALL_ENGINE} --max-tokens 8 --spec-tokens 2 --num-prompts 1",
    "report": "",
    "bench serving": f"{_SMALL_ENGINE} --concurrency 1 --repeats 1 --min-requests 2 --requests-per-client 1",
    "bench training": "--sequence-length 32 --batch-size 1 --repeats 1 --num-steps-unrolled 1 --dtype float32 "
    "--draft-vocab-size 300",
    "bench kernels": "--size smoke --device cpu --seconds 0.001 --kernels draft_head",
    "bench claims": "--seeds 0 --tokens 4096 --data-tokens 2000 --num-prompts 2 --max-tokens 6 --dtype float32 "
    "--draft-vocab-size 300 --sequence-length 128 --batch-size 2 --engine torch",
}
STARTS_VLLM = ("generate", "tune", "bench acceptance", "bench round", "bench serving")
TAKES_LONGER = ("bench claims", "bench kernels")
NEEDS_A_CLUSTER, NEEDS_A_GPU = "--ray", "bench tune-kernels"


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Every command that does something, by its words."""

    def below(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
        inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not inner:
            yield name, parser
        for word, other in inner[0].choices.items() if inner else ():
            yield from below(f"{name} {word}".strip(), other)

    return dict(below("", make_parser()))


def name_of(line: Documented) -> str:
    return " ".join(line.words[: 2 if line.words[0] == "bench" else 1])


def page_of(name: str) -> Path:
    return PAGES / f"{name.replace(' ', '-')}.md"


def test_every_command_has_a_page_in_the_list() -> None:
    missing = [str(page_of(name).relative_to(ROOT)) for name in parsers() if not page_of(name).is_file()]
    assert not missing, f"write {', '.join(missing)}, as its neighbours are"
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (PAGES / "README.md").read_text()))
    assert listed == {page_of(name).name for name in parsers()}
    assert {page.name for page in PAGES.glob("*.md")} == listed | {"README.md"}


@pytest.mark.parametrize("name", parsers())
def test_a_page_says_what_it_is_for_and_what_goes_wrong(name: str) -> None:
    text = page_of(name).read_text(encoding="utf-8")
    assert text.startswith(f"# vllm-mtp {name}\n")
    assert "**What comes out:**" in text
    assert "**What goes wrong**" in text
    assert [line for line in commands("vllm-mtp", [page_of(name)]) if name_of(line) == name]


@pytest.mark.parametrize("name", parsers())
def test_a_page_names_real_options(name: str) -> None:
    """Options of the table are the command's own; its defaults and the rest are left to `--help`."""
    rows = re.findall(r"^\| (`--.*?) \|", page_of(name).read_text(encoding="utf-8"), re.MULTILINE)
    named = set(re.findall(r"--[\w-]+", " ".join(rows)))
    assert named <= options(name)


def test_many_lines_are_found() -> None:
    """Catches a search that finds nothing."""
    assert {name_of(line) for line in LINES} == parsers().keys()
    assert len(LINES) > 30
    assert any(line.page.name == "README.md" and line.page.parent == ROOT for line in LINES)


@pytest.mark.parametrize("line", LINES, ids=str)
def test_the_parser_takes_it(line: Documented) -> None:
    """With its flags in full: a shortened one would be another's tomorrow."""
    args, rest = make_parser().parse_known_args(list(line.words))
    assert take_last_word(args, rest) == []
    assert {word for word in line.words if word.startswith("--")} <= options(name_of(line))


def options(name: str) -> set[str]:
    return {option for action in parsers()[name]._actions for option in action.option_strings}


@pytest.mark.parametrize("page", markdown_files(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture(scope="module")
def room(target_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real files for what the documentation names: a target, a drafter, prompts, conversations, a draft vocabulary."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("documented")
    shutil.copytree(target_dir, folder / "target", ignore=shutil.ignore_patterns("*.safetensors"))
    config = AutoConfig.from_pretrained(target_dir, num_hidden_layers=2, layer_types=["full_attention"] * 2)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder / "target")
    (folder / "target" / "chat_template.jinja").write_text(CHATML)
    words = [f"def name_{number}(self, value_{number}):\n    return value_{number}" for number in range(12)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in words[:2]))
    talks = [{"prompt": text, "completion": f"{text} + {text}"} for text in words]
    (folder / "chats.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    save_draft_vocab(folder / "vocab.json", torch.arange(300), {})
    for name, found in (("serving", results.serving()), ("round", results.rounds()), ("tune", results.tuned())):
        (folder / name).mkdir()
        (folder / name / "results.json").write_text(json.dumps(found))
    trained = f"train {folder}/target --data {folder}/chats.jsonl --output {folder}/draft {SMALLER['train']}"
    assert main(trained.split()) == 0
    return folder


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server's metrics, as one was saved."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(METRICS.read_bytes())

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def made_small(line: Documented, room: Path, output: Path, url: str) -> list[str]:
    """The line with real files for those that it names, and smaller."""
    draft = shutil.copytree(room / "draft", output.parent / "draft")
    names = {"MODEL": room / "target", "TARGET": room / "target", "TUNED": room / "target"}
    names |= {"DRAFT_DIR": draft, "runs/x/draft": draft, "http://localhost:8000": url, "http://localhost:8001": url}
    names |= {f"runs/x/{name}": room / name for name in ("serving", "round", "tune")}
    names["runs/x/bench"] = ROOT / "benchmarks" / "results" / "smollm2-lookup"
    files: Mapping[str, Path] = {
        "--draft": draft,
        "--initial": draft,
        "--data": room / "chats.jsonl",
        "--generated": room / "chats.jsonl",
        "--prompts": room / "prompts.jsonl",
        "--draft-vocab": room / "vocab.json",
        "--store": output.parent / "store",
        "--output": output,
    }
    words, flag = [], ""
    for word in line.words:
        if word.startswith("--"):
            flag = word
            words += [word, str(files[word])] if word in files else [word]
        elif flag not in files:
            words.append(str(names.get(word, word)))
    has_vocabulary = ["--draft-vocab-size", "300"] if "--draft-vocab-size" in line.words else []
    return [*words, *SMALLER[name_of(line)].split(), *has_vocabulary]


def ways(line: Documented) -> list[pytest.MarkDecorator]:
    if name_of(line) in STARTS_VLLM or "--hidden-states" in line.words:
        return [pytest.mark.vllm, pytest.mark.slow, pytest.mark.extended]
    if name_of(line) in TAKES_LONGER:
        return [pytest.mark.slow, pytest.mark.extended]
    return [pytest.mark.vllm, pytest.mark.slow] if name_of(line) == "doctor" else []


def can_run(line: Documented) -> bool:
    """Those of the examples have data and targets of their own."""
    is_example = line.page.is_relative_to(ROOT / "examples")
    return not (is_example or NEEDS_A_CLUSTER in line.words or name_of(line) == NEEDS_A_GPU)


def runnable() -> Iterator[Documented]:
    """Of a command that takes longer, its first line alone: the others are parsed."""
    seen: set[str] = set()
    for line in filter(can_run, LINES):
        name = name_of(line)
        if name not in seen or name not in (*STARTS_VLLM, *TAKES_LONGER):
            yield line
        seen.add(name)


RUNNABLE = list(runnable())


@pytest.mark.parametrize("line", [pytest.param(line, marks=ways(line), id=str(line)) for line in RUNNABLE])
def test_it_runs(line: Documented, room: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(made_small(line, room, tmp_path / "output", url)) == 0
