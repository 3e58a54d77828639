"""What tests of a server leave behind. Catches an engine core that outlives them, its API server being gone already."""

import subprocess
import time

from tests.serving.server import living_processes
from vllm_mtp.benchmarks.serving.server import MAX_STOP_S, stop


def test_nothing_is_left_of_a_server_that_is_gone() -> None:
    process = subprocess.Popen(["sh", "-c", "sleep 60 & exit 0"], start_new_session=True)
    process.wait()
    assert living_processes(process.pid)
    stop(process)
    deadline = time.monotonic() + MAX_STOP_S / 2
    while living_processes(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
