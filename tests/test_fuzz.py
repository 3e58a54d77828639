"""A drafter's folder whose config.json or safetensors header holds anything at all: it loads, or there is one clear
error.

Catches: a traceback, or an end of the process, for a file that somebody sent; memory asked for because a header says
so; code, processes and connections that a file starts; files outside the folder that it opens.
"""

import contextlib
import json
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save

from tests.drafts import random_tensors, small_config, write_random_draft
from vllm_mtp.contract.checkpoint import load_draft
from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.contract.tensors import WEIGHTS_FILE
from vllm_mtp.module.mtp import MTPModule

pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FEW, MANY = 300, 10_000
_MORE_MEMORY = 2**30
"""Bytes of address space that reading a drafter of a few kilobytes may take at most."""
_FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
)

# JSON.

_words = st.sampled_from(
    [
        *("", "..", "../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "default", "post", "mtp", "yarn", "fp8"),
        *("float32", "__class__", "__reduce__", "\ud83d", "\0", "{}", "eagle3", "os.system", "1e999", "nan"),
    ]
)
_numbers = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([2**31, 2**60, 2**63, 2**64, 10**30, 10**400, -(2**63), 0.5, -0.0, 1e-30, 1e300]),
    st.floats(allow_nan=True, allow_infinity=True),
)
_scalars = st.one_of(st.none(), st.booleans(), _numbers, _words, st.text(max_size=8))
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(_words | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
_VALID = small_config(draft_vocab_size=7).contract()
_names = st.one_of(
    st.sampled_from(sorted(_VALID)),
    st.sampled_from(["draft_head_dtype", "lookup", "target_fingerprint", "name_or_path", "_name_or_path", "auto_map"]),
    st.sampled_from(
        ["quantization_config", "text_config", "torch_dtype", "dtype", "id2label", "num_labels", "transformers_version"]
    ),
    st.sampled_from(sorted(set(dir(MTPConfig)) | set(vars(small_config())))),
    st.text(max_size=8),
)


@st.composite
def configs(draw: Callable[..., Any]) -> bytes:
    """A config.json: a few of its fields are anything, or its bytes are."""
    fields = dict(_VALID)
    for name in draw(st.lists(_names, max_size=4)):
        if draw(st.integers(0, 4)):
            fields[name] = draw(_values)
        else:
            fields.pop(name, None)
    text = json.dumps(fields if draw(st.integers(0, 20)) else draw(_values)).encode()
    return draw(spoiled(text)) if not draw(st.integers(0, 5)) else text


@st.composite
def spoiled(draw: Callable[..., Any], whole: bytes) -> bytes:
    """Bytes cut, overwritten or added to somewhere."""
    start, stop = sorted((draw(st.integers(0, len(whole))), draw(st.integers(0, len(whole)))))
    return whole[:start] + draw(st.binary(max_size=20)) + draw(st.sampled_from([whole[stop:], b"", whole[start:]]))


# safetensors.

_WHOLE = save(random_tensors(small_config(draft_vocab_size=7)), metadata={"format": "pt"})
_HEADER_END = 8 + int.from_bytes(_WHOLE[:8], "little")
_HEADER: dict[str, Any] = json.loads(_WHOLE[8:_HEADER_END])
_DTYPES = [
    "BOOL",
    "U8",
    "I8",
    "F8_E5M2",
    "F8_E4M3",
    "F4",
    "I16",
    "U16",
    "F16",
    "BF16",
    "I32",
    "F32",
    "C64",
    "F64",
    "I64",
    "U64",
    "X",
]
_sizes = st.one_of(st.integers(-1, 40), st.sampled_from([2**31, 2**32, 2**60, 2**63, 2**64 - 1, 10**30]))
_infos = st.one_of(
    _values,
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(_DTYPES),
            "shape": st.lists(_sizes, max_size=3),
            "data_offsets": st.lists(_sizes, max_size=3),
        }
    ),
)


@st.composite
def weights(draw: Callable[..., Any]) -> bytes:
    """A model.safetensors whose header says something else here and there, or whose bytes are spoiled."""
    header = json.loads(json.dumps(_HEADER))
    for name in draw(st.lists(st.sampled_from(sorted(_HEADER)) | _words | st.text(max_size=8), max_size=3)):
        choice = draw(st.integers(0, 5))
        if choice == 0:
            header.pop(name, None)
        elif choice == 1 or not isinstance(header.get(name), dict):
            header[name] = draw(_infos)
        else:
            key = draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
            header[name][key] = draw(
                {"dtype": st.sampled_from(_DTYPES)}.get(key, st.lists(_sizes, max_size=3)) | _values
            )
    text = json.dumps(header).encode()
    length = len(text) if draw(st.integers(0, 4)) else draw(_sizes) % 2**64
    whole = length.to_bytes(8, "little") + text + _WHOLE[_HEADER_END:]
    return draw(spoiled(whole)) if not draw(st.integers(0, 3)) else whole


# What is watched.


class Watch:
    """What Python does while a drafter is read."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.is_on = False
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_on and (event == "open" or event in _FORBIDDEN):
            self.events.append(f"{event} {arguments[0]}" if event == "open" else event)

    @contextlib.contextmanager
    def reading(self, folder: Path) -> Iterator[None]:
        """Nothing but files of the folder is opened, nothing is started, and no memory to speak of is asked for."""
        self.events.clear()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + _MORE_MEMORY, hard))
        self.is_on = True
        try:
            yield
        finally:
            self.is_on = False
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        assert [event for event in self.events if not event.startswith(f"open {folder}/")] == []


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


def is_read(folder: Path) -> bool:
    """Whether the folder is a drafter; otherwise there is a ValueError that names it."""
    try:
        config, tensors = load_draft(folder)
    except ValueError as error:
        if str(folder) not in str(error):
            raise AssertionError("does not name the file") from error
        return False
    MTPModule(config).load_state_dict(tensors)
    again = MTPConfig.from_dict(config.contract())
    assert again.contract() == config.contract()
    return True


def fuzz(strategy: st.SearchStrategy[bytes], file: str, folder: Path, watch: Watch, number: int) -> int:
    """Reads the drafter with anything in one of its files, so many times; how often it could be read."""
    write_random_draft(folder, small_config(draft_vocab_size=7))
    assert is_read(folder)
    read = 0

    @settings(
        max_examples=number, derandomize=number == FEW, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def try_one(content: bytes) -> None:
        nonlocal read
        (folder / file).write_bytes(content)
        with watch.reading(folder):
            read += is_read(folder)

    try_one()
    return read


@pytest.mark.parametrize("number", [FEW, pytest.param(MANY, marks=pytest.mark.extended)])
@pytest.mark.parametrize(
    ("strategy", "file"), [(configs(), "config.json"), (weights(), WEIGHTS_FILE)], ids=["config", "weights"]
)
def test_a_drafter_that_holds_anything(
    strategy: st.SearchStrategy[bytes], file: str, number: int, tmp_path: Path, watch: Watch
) -> None:
    read = fuzz(strategy, file, tmp_path / "draft", watch, number)
    assert 0.02 * number < read < 0.9 * number, "some are drafters, most are not"
