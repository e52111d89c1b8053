"""Programs of two processes that talk over the loopback, as two hosts of a cluster do."""

import os
import socket
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
START = """
import sys
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
*given, port, process = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(process))
"""


def in_two_processes(program: str, *given: str) -> list[list[str]]:
    """Returns the lines that each process printed; two devices each; `given` is read there."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    flags = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", START + program, *given, port, str(number)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=flags, cwd=TESTS,
        )
        for number in range(2)
    ]  # fmt: skip
    found = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], found
    return [out.splitlines() for out, _ in found]
