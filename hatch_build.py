"""The README for the package index: its relative links lead to the site and the repository."""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

PAGE = re.compile(r"((?<!!)\[[^\]]*\]\()docs/([^)#]+)\.md(#[^)]*)?\)")
IMAGE = re.compile(r'((?:src|srcset)=")(?!https?:)([^"]+")')
LINK = re.compile(r"((?<!!)\[[^\]]*\]\()(?!https?:|#)([^)]+\))")


class AbsoluteLinks(MetadataHookInterface):
    """Makes `README.md` with absolute links the description of the package."""

    def update(self, metadata: dict) -> None:
        """Adds the description, whose links lead to the tag of this version."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        repository, site = metadata["urls"]["Repository"], metadata["urls"]["Documentation"]
        raw = repository.replace("https://github.com", "https://raw.githubusercontent.com")
        version = metadata["version"]
        text = PAGE.sub(rf"\g<1>{site}/{version}/\2.html\3)", text)
        text = IMAGE.sub(rf"\g<1>{raw}/v{version}/\2", text)
        text = LINK.sub(rf"\g<1>{repository}/blob/v{version}/\2", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
