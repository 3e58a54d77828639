"""Compiles a kernel for GPUs that are not there, and reads from the machine code what would make it slow."""

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vllm_mtp.kernels.common.tables import ARCHITECTURES, Launch, Table, shared_bytes

_TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
_BINARIES = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin")


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiled:
    """What the machine code of a kernel says."""

    target: str
    num_registers: int
    num_spills: int
    """Instructions that move registers to local memory or back, or registers that were spilled (AMD)."""
    shared_bytes: int
    matrix_instructions: frozenset[str]
    """Kinds of them: HMMA, HGMMA, QGMMA, UTCHMMA, UTCQMMA, v_mfma."""
    load_bits: frozenset[int]
    """Widths of the loads from global memory."""
    text: str
    """The machine code."""

    def check(self, *, matrix: bool = False, widest_load_bits: int = 128) -> None:
        """Fails on spills, on shared memory over the limit, on products without matrix instructions, on narrow loads.

        Args:
            matrix: the kernel multiplies matrices.
            widest_load_bits: what its bulk loads must at least be.
        """
        limit = shared_bytes(self.target)
        assert self.num_spills == 0, f"{self.target}: {self.num_spills} spills at {self.num_registers} registers"
        assert self.shared_bytes <= limit, f"{self.target}: {self.shared_bytes} bytes of shared memory, limit {limit}"
        assert self.matrix_instructions or not matrix, f"{self.target}: no matrix instruction"
        widest = max(self.load_bits, default=0)
        assert widest >= widest_load_bits, f"{self.target}: the widest load has {widest} bits, not {widest_load_bits}"


def compile_for(
    target: str, kernel: Any, types: Mapping[str, str], constants: Mapping[str, Any], launch: Launch
) -> Compiled:
    """Compiles a kernel as a launch on this architecture would.

    Args:
        target: one of ARCHITECTURES.
        kernel: the jitted function.
        types: of its arguments, as Triton writes them: "*bf16", "*fp32", "*i64", "i32", "fp32"; "i32:16" says that the
            number is a multiple of 16, as every pointer is taken to be. Without that, loads are scalar.
        constants: values of its other constexpr parameters.
        launch: tile sizes, warps and stages.
    """
    constants = {**constants, **launch.tiles}
    signature: dict[str, str] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        kind, _, multiple = types[name].partition(":")
        if multiple or kind.startswith("*"):
            attributes[(i,)] = [["tt.divisibility", 16]]
        signature[name] = kind
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    compiled = triton.compile(source, target=_TARGETS[target], options=options)
    return _nvidia(target, compiled) if target.startswith("sm_") else _amd(target, compiled)


def shipped(table: Table) -> list[tuple[str, int, Launch]]:
    """(architecture, token bucket, launch) of a table: what each of ARCHITECTURES would be given."""
    return [
        (target, bucket, launch)
        for target in ARCHITECTURES
        for bucket, launch in table.get(target, table["default"]).items()
    ]


def _nvidia(target: str, compiled: Any) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "--dump-resource-usage", file.name)
        text = _run("nvdisasm", "-c", file.name)
    registers = re.search(r"REG:(\d+)", usage)
    assert registers is not None, usage
    loads = re.findall(r"\b(?:LDGSTS|LDG)((?:\.\w+)*)", text)
    bits = {next((int(n) for n in re.findall(r"\.(?:U)?(8|16|64|128|256)\b", load)), 32) for load in loads}
    if re.search(r"\bUTMALDG", text):
        bits.add(128)
    return Compiled(
        target=target,
        num_registers=int(registers[1]),
        num_spills=len(re.findall(r"\b(?:LDL|STL)\b", text)),
        shared_bytes=compiled.metadata.shared,
        matrix_instructions=frozenset(re.findall(r"\b(HMMA|HGMMA|QGMMA|QMMA|IMMA|IGMMA|UTC[A-Z]*MMA)\b", text)),
        load_bits=frozenset(bits),
        text=text,
    )


def _amd(target: str, compiled: Any) -> Compiled:
    text = compiled.asm["amdgcn"]

    def number(field: str) -> int:
        found = re.search(rf"\.{field}:?\s+(\d+)", text)
        assert found is not None, field
        return int(found[1])

    names = {"dwordx4": 128, "dwordx3": 96, "dwordx2": 64, "dword": 32, "ushort": 16, "ubyte": 8}
    loads = re.findall(r"\b(?:global|buffer)_load_(dwordx4|dwordx3|dwordx2|dword|ushort|ubyte)", text)
    return Compiled(
        target=target,
        num_registers=number("vgpr_count"),
        num_spills=number("vgpr_spill_count"),
        shared_bytes=compiled.metadata.shared,
        matrix_instructions=frozenset(["v_mfma"] if "v_mfma" in text else []),
        load_bits=frozenset(names[load] for load in loads),
        text=text,
    )


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run(
        [os.path.join(_BINARIES, tool), *arguments], capture_output=True, text=True, check=True
    ).stdout
