"""The API's `Status` objects, which give the reason for a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymicro.base.printable import shortened
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.resource import Asked, rule_for

__all__ = ["refusal"]

# The server's own words go into our errors and logs, and some admission hooks write pages.
_LONGEST_TEXT = 500
# What stands before the words of an admission policy, and of a webhook. RBAC says "cannot patch resource".
_ADMISSION = (" denied request: ", " denied the request")
# What JSON may hold as a number can be too large for a float; nobody is asked to wait longer than a day.
_LONGEST_WAIT = 86_400


def refusal(
    asked: Asked,
    status: Mapping[str, Any],
    *,
    server: str,
    account: str,
    code: int = 0,
    retry_after: float | None = None,
    shown: str = "",
) -> KubeError:
    """The error for a Status, which is an answer or an ERROR event within a watch.

    Args:
        asked: The request that was refused.
        status: The Status as it came; of any shape, since proxies answer too.
        server: The server that refused.
        account: The account that was refused.
        code: The HTTP status; if 0, the Status's own code counts.
        retry_after: Seconds from the answer's head; if None, the Status's own count.
        shown: What is wrong with the client certificate that was shown; empty if nothing is known.
    """
    said = status.get("code")
    if not code and isinstance(said, int) and 100 <= said <= 599:
        code = said
    reason = _log_text(status.get("reason"))
    details = status.get("details")
    if isinstance(details, dict):
        causes = details.get("causes")
        # Only a cause tells of a version from the future; the reason is `Timeout`.
        if isinstance(causes, list) and any(
            isinstance(cause, dict) and cause.get("reason") == "ResourceVersionTooLarge" for cause in causes
        ):
            reason = "ResourceVersionTooLarge"
        seconds = details.get("retryAfterSeconds")
        if retry_after is None and isinstance(seconds, int) and seconds > 0:
            retry_after = float(min(seconds, _LONGEST_WAIT))
    answer = f"{code or 'an error'} {reason}".rstrip()
    message = _log_text(status.get("message"))
    if message:
        answer += f": {message}"
    if code == 403 and any(words in message for words in _ADMISSION):
        # The account has the right. Another rule for its role would not help.
        text = f"cannot {asked} at {server}: the cluster's admission control refused it ({answer})"
    elif code == 403 and asked.resource is not None:
        # An account that may list but not watch is no better off, so the rule names both.
        verbs = ("list", "watch") if asked.verb in ("list", "watch") else (asked.verb,)
        rule = rule_for(asked.resource, verbs, asked.namespace)
        who = account or "a client without credentials"
        text = f"{who} may not {asked} at {server} ({answer}); this RBAC rule is missing:\n{rule}"
    elif code == 401:
        whose = f"the credentials of {account}" if account else "a client without credentials"
        text = f"cannot {asked} at {server}: it does not accept {whose} ({answer})"
        text += f"; {shown}" if shown else ""
    else:
        text = f"cannot {asked} at {server}: it answered {answer}"
    return KubeError(text, status=code, reason=reason, retry_after=retry_after)


def _log_text(value: object) -> str:
    """A string that fits into one line of a log."""
    if not isinstance(value, str):
        return ""
    text = " ".join(shortened(value, _LONGEST_TEXT).split())
    return text if text.isprintable() else repr(text)[1:-1]
