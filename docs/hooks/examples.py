"""Examples in the docstrings become code on the site.

Google's style knows the section `Examples:`; ours are headed `Example:`, for there is one.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object


class OneExample(Extension):
    """Heads a docstring's example as griffe expects it."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rename the section in the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
