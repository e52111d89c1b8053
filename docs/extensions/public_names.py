"""The public names of jaxprune: where they are documented, and every mention of them a link.

A `jp.…` in code style, in a page or a docstring, is a link to its entry in the reference. One that
does not exist, and a public name without an entry, are warnings, which `sphinx-build -W` refuses.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType, ModuleType
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

import jaxprune as jp

MENTION = re.compile(r"(?:jp|jaxprune)((?:\.[A-Za-z_]\w*)+)(\(.*\))?", re.DOTALL)
APART = (nodes.reference, nodes.title, addnodes.pending_xref)
LOG = logging.getLogger(__name__)


@cache
def modules() -> Mapping[str, ModuleType]:
    """The public modules by name; that of the package itself is empty."""
    found = {name: getattr(jp, name) for name in jp.__all__}
    inner = {name: value for name, value in found.items() if inspect.ismodule(value)}
    return MappingProxyType({"": jp} | inner)


def exported(module: ModuleType) -> list[str]:
    """The public names of a module: its `__all__`, or what it defines itself."""
    own = (
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    )
    return [name for name in getattr(module, "__all__", own)]


def public() -> Iterator[tuple[str, Any]]:
    """Yields the full name, as users write it after `jaxprune.`, and the value of all of them."""
    for prefix, module in modules().items():
        for name in exported(module):
            if not inspect.ismodule(value := getattr(module, name)):
                yield f"{prefix}.{name}".lstrip("."), value


@cache
def homes() -> Mapping[str, str]:
    """{where a public thing is defined: its public name}, which the types of signatures need."""
    found = {}
    for name, value in public():
        if inspect.isclass(value) or inspect.isfunction(value):
            found.setdefault(f"{value.__module__}.{value.__qualname__}", f"jaxprune.{name}")
    return MappingProxyType(found)


class Mentions(SphinxPostTransform):
    """Makes a link of every public name that stands in code style."""

    default_priority = 5

    def run(self, **_: Any) -> None:
        """Replaces the literals by cross-references, which later transforms resolve."""
        for literal in list(self.document.findall(nodes.literal)):
            match = MENTION.fullmatch(literal.astext())
            if match is None or isinstance(literal.parent, APART):
                continue
            name = f"jaxprune{match[1]}"
            if not exists(match[1][1:]):
                LOG.warning("`%s` is not a public name", literal.astext(), location=literal)
            link = addnodes.pending_xref(
                "", refdomain="py", reftype="obj", reftarget=name, refexplicit=True
            )
            link["refdoc"] = self.env.docname
            literal.replace_self(link)
            link += literal


def exists(dotted: str) -> bool:
    """True for a public name, an attribute of one, and a public module."""
    first, *rest = dotted.split(".")
    if first not in jp.__all__:
        return hasattr(jp, first) and first.startswith("__")
    value = getattr(jp, first)
    for part in rest:
        public_here = not inspect.ismodule(value) or part in exported(value)
        fields = getattr(value, "__annotations__", {})
        if not public_here or not (hasattr(value, part) or part in fields):
            return False
        value = getattr(value, part, None)
    return True


def resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Node
) -> nodes.Node | None:
    """Finds what a signature or a mention means, whose target is not the name of an entry."""
    if node.get("refdomain") != "py":
        return None
    target = str(node["reftarget"])
    name = homes().get(target)
    if name is None and target.removeprefix("jaxprune.") in modules():
        page = f"reference/{target.removeprefix('jaxprune.')}"
        uri = app.builder.get_relative_uri(node["refdoc"], page)
        return nodes.reference("", "", content, refuri=uri, internal=True)
    if name is None or name == target:
        return None
    domain = env.domains["py"]
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)


def shorten(_: Sphinx, doctree: nodes.document) -> None:
    """Shows the names of entries as users write them, `jp.` before them."""
    for node in doctree.findall(addnodes.desc_addname):
        text = node.astext().removeprefix("jaxprune.")
        if node.parent.get("module") == "jaxprune":
            node.children = [nodes.Text(f"jp.{text}")]


def check_reference(_: Sphinx, env: BuildEnvironment) -> None:
    """Warns of every public name that has no entry in the reference."""
    entries = {name for name, *_ in env.domains["py"].get_objects()}
    for name, _value in public():
        if f"jaxprune.{name}" not in entries:
            LOG.warning("jaxprune.%s is public and not in the reference", name)
    LOG.info("%d public names are in the reference", len(list(public())))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects this extension."""
    app.add_post_transform(Mentions)
    app.connect("missing-reference", resolve)
    app.connect("doctree-read", shorten)
    app.connect("env-check-consistency", check_reference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
