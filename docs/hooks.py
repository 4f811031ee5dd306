"""The build looks at every page it made: nothing may be loaded from elsewhere."""

import re
from typing import Any

from mkdocs.exceptions import PluginError

_LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["']?(?:https?:)?//"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon))[^>]*\bhref=["']?"""
    r"""(?:https?:)?//"""
)


def on_post_page(output: str, page: Any, **_: Any) -> str:  # noqa: ANN401 - MkDocs' own types
    """Refuse a page that needs the network to be read."""
    found = _LOADED.search(output)
    if found:
        raise PluginError(f"{page.file.src_uri}: loaded from elsewhere: {found.group()}")
    return output
