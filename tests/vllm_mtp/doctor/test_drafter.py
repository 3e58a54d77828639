"""The drafter's folder by itself: everything that the contract refuses, and what vLLM would read into its path."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.drafts import EARLY, LATE, Damage, change_tensors, config_for, damaged, write_random_draft
from tests.vllm_mtp.doctor.cases import case_of
from vllm_mtp.doctor.drafter import folder_keeps_the_contract, path_is_plain, ranks_divide_it
from vllm_mtp.doctor.examine import Check, answers
from vllm_mtp.doctor.finding import ERROR, OK

CONTRACT = Check(name="drafter", ask=folder_keeps_the_contract)


@pytest.fixture(scope="module")
def draft(target_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_draft(tmp_path_factory.mktemp("valid") / "draft", config_for(target_dir))


def test_the_valid_drafter(target_dir: Path, draft: Path) -> None:
    [found] = folder_keeps_the_contract(case_of(target_dir, draft))
    assert (found.status, found.message) == (OK, "15 tensors in F32, as config.json says")


@pytest.mark.parametrize("damage", [*EARLY, *LATE], ids=lambda damage: damage.name)
def test_everything_that_the_contract_refuses(target_dir: Path, draft: Path, tmp_path: Path, damage: Damage) -> None:
    [found] = answers(CONTRACT, case_of(target_dir, damaged(draft, tmp_path / "broken", damage)))
    assert found.status == ERROR
    with pytest.raises(ValueError, match=damage.message):
        raise ValueError(found.message)
    assert "\n" not in found.message


def test_tensors_in_64_bits(target_dir: Path, draft: Path, tmp_path: Path) -> None:
    """Catches a refusal of what is served."""
    wide = shutil.copytree(draft, tmp_path / "wide")
    change_tensors(wide, lambda tensors: tensors.update({name: one.double() for name, one in tensors.items()}))
    [found] = answers(CONTRACT, case_of(target_dir, wide))
    assert (found.status, found.message) == (OK, "15 tensors in F64, as config.json says")


def test_a_folder_that_is_not_there(target_dir: Path, tmp_path: Path) -> None:
    [found] = answers(CONTRACT, case_of(target_dir, tmp_path / "nowhere"))
    assert found.status == ERROR
    assert "found no config" in found.message


def test_tensors_in_8_bits(target_dir: Path, draft: Path, tmp_path: Path) -> None:
    """Catches a quantized drafter that is read as numbers: nothing says how they were scaled."""
    broken = shutil.copytree(draft, tmp_path / "broken")

    def quantize(tensors: dict[str, torch.Tensor]) -> None:
        tensors["eh_proj.weight"] = tensors["eh_proj.weight"].to(torch.float8_e4m3fn)

    change_tensors(broken, quantize)
    [found] = answers(CONTRACT, case_of(target_dir, broken))
    assert found.status == ERROR
    assert "F8_E4M3" in found.message


@pytest.mark.parametrize(
    ("path", "further", "status"),
    [
        ("runs/x/draft", None, OK),
        ("runs/Eagle3-study/draft", None, ERROR),
        ("runs/Eagle3-study/draft", '{"method": "mtp"}', ERROR),
        ("draft.v2", None, ERROR),
        ("draft.v2", '{"method": "mtp"}', OK),
        ("./draft.v2", None, OK),
        ("ngram", None, ERROR),
    ],
)
def test_paths_that_mislead_vllm(target_dir: Path, path: str, further: str | None, status: str) -> None:
    """Catches a folder's name that vLLM takes for an import path or a method, besides those that it looks for."""
    [found] = path_is_plain(case_of(target_dir, path, speculative_config=further))
    assert found.status == status


def test_what_cannot_be_divided(target_dir: Path, tmp_path: Path) -> None:
    from vllm_mtp.doctor.config import ServingOptions

    draft = write_random_draft(tmp_path / "draft", config_for(target_dir, intermediate_size=25))
    statuses = []
    for size in (1, 2, 64):
        case = case_of(target_dir, draft, engine_options=ServingOptions(tensor_parallel_size=size))
        statuses.append([(one.status, "intermediate_size" in one.message) for one in ranks_divide_it(case)])
    assert statuses == [[(OK, False)], [(ERROR, True)], [(ERROR, False)]], "by 64 not even the target"
