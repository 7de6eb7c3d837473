"""Network: whether the hub of weights answers. Asked only on demand, for nothing but `instar fetch` needs it."""

import os
import time
import urllib.error
import urllib.request

from instar.job import Finding

_SECONDS = 5.0


def look() -> list[Finding]:
    """One line: reachable, or where else to fetch."""
    address = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    begun = time.monotonic()
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_SECONDS):  # noqa: S310
            pass
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        found = f"{address} does not answer: {error}"
        return [Finding("warning", "hub", found, "run instar fetch on a node with network; jobs need none")]
    return [Finding("ok", "hub", f"{address} answers in {time.monotonic() - begun:.2f} s")]
