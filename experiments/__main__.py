"""`python -m experiments`: lists the experiments, or runs the one that is named."""

import runpy
import sys

from experiments.runner import registry

TOOLS = {
    "compare": "Prunes one dense network by every method, and writes the table.",
    "search": "Chooses lambda and the ratio of Network Slimming on validation images.",
    "evaluate": "Evaluates the pruned network of a run from its directory alone.",
    "spectrum": "Draws the networks of several runs with slimmable networks in one picture.",
    "data": "Prepares data sets and shows their sizes.",
}
"""Commands beside the experiments."""


def main(arguments: list[str]) -> None:
    """Runs the experiment that the first argument names; lists all where there is none."""
    if arguments and not arguments[0].startswith("-"):
        _run(*arguments)
        return
    lines = {name: entry.line for name, entry in registry.known().items()} | TOOLS
    width = max(map(len, lines))
    print("python -m experiments NAME --help shows the flags of:\n")
    print("\n".join(f"  {name:{width}}  {line}" for name, line in lines.items()))


def _run(name: str, *arguments: str) -> None:
    if name in TOOLS:
        sys.argv = [name, *arguments]
        runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
        return
    from experiments.runner.command import command, one_line  # imports JAX

    with one_line():
        experiment = registry.load(name)
    command(experiment, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
