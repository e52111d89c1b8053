"""Programs of two processes that talk over the loopback, as two hosts of a cluster do."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).parent
START = """
import sys
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
*given, port, process = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(process), initialization_timeout=600)
"""
TAKEN = ("already in use", "Failed to add port")  # another program took the port meanwhile


def in_two_processes(program: str, *given: str, devices: int = 2) -> list[list[str]]:
    """Returns the lines that each process printed, with so many devices each.

    The program reads `given`. Should another program take the port between its choice and its use,
    both start again.
    """
    for attempt in range(3):
        codes, outs, errors = _started(program, given, devices)
        if codes == [0, 0]:
            return [out.splitlines() for out in outs]
        if attempt == 2 or not any(text in error for text in TAKEN for error in errors):
            break
    raise AssertionError("\n".join([f"the processes ended with {codes}", *outs, *errors]))


def _started(
    program: str, given: tuple[str, ...], devices: int
) -> tuple[list[int], list[str], list[str]]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    count = f"--xla_force_host_platform_device_count={devices}"
    flags = " ".join([os.environ.get("XLA_FLAGS", ""), count])  # the last one counts
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", START + program, *given, port, str(number)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"XLA_FLAGS": flags}, cwd=TESTS,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        with ThreadPoolExecutor(2) as pool:  # a pipe that nobody reads would stop both
            ends = [*pool.map(lambda process: process.communicate(timeout=900), processes)]
    finally:
        for process in processes:
            process.kill()
    codes = [process.wait() for process in processes]
    return codes, [out for out, _ in ends], [error for _, error in ends]
