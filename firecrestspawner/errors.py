"""What can go wrong, and what a user may be told about it.

Every error the project raises on purpose hangs from one tree::

    Error                              message for the user, HTTP status, detail for the log
    ├── ConfigurationError      500    the admin has to change something
    ├── OptionsError            400    the user asked for something that cannot be asked for
    ├── LoginRequired           403    the identity provider refused for good: log in again
    ├── PermissionDenied        403    the access token lacks a permission the Hub requires
    ├── LogoutTokenError        400    what the issuer is said to have sent does not prove a logout
    ├── ProviderUnavailable     503    the identity provider is away: nothing is concluded from it
    ├── AddressRefused          502    a job reported an address the Hub must not connect to (S8)
    ├── JobEnded                500    the job ended before its server was ready
    ├── StartTimedOut           504    no server within start_timeout, though nothing has ended
    ├── ChannelError            400/403  a message on the job channel was malformed or not proven
    └── FirecRESTError                 FirecREST answered, or failed to
        ├── Unreachable         503    no usable answer: refused, reset, timed out
        ├── Unwell              503    5xx, 424, 429: try later
        ├── BadAnswer           502    200 with something else than the API's JSON
        ├── Unauthorized        403    401: the API does not accept this token
        ├── Forbidden           403    403: not allowed to do this
        ├── NotFound            404    unknown system, job or path
        ├── BadRequest          400    400, 413 and their like
        └── SubmissionRejected  400    the scheduler's own refusal, in its own words

``message`` is one sentence fit for the user's page. ``detail`` goes to the log only and never
holds another server's answer as a whole: FirecREST's bodies echo what was sent (S9).
"""

from __future__ import annotations


class Error(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    message: one sentence for the user, without secrets.
    detail: one line for the log, without secrets; defaults to the message.
    status: the HTTP status to answer with; defaults to the class's.
    """

    status = 500
    reason = "error"

    def __init__(self, message: str, *, detail: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail or message
        if status is not None:
            self.status = status


class ConfigurationError(Error):
    """The Hub's configuration, or the system's, does not allow what was asked."""

    reason = "configuration"


class OptionsError(Error):
    """A user option is unknown, of the wrong type, or not allowed."""

    status = 400
    reason = "options"


class LoginRequired(Error):
    """Only an authoritative refusal of the issuer raises this (R5)."""

    status = 403
    reason = "login-required"


class PermissionDenied(Error):
    """The verified access token lacks a permission that the Hub requires of its users."""

    status = 403
    reason = "permission-denied"


class LogoutTokenError(Error):
    """A logout token does not verify, is about something else, or was used before."""

    status = 400
    reason = "logout-token"


class ProviderUnavailable(Error):
    """The issuer gave no authoritative answer: nobody is logged out because of it (R5)."""

    status = 503
    reason = "issuer-unavailable"


class AddressRefused(Error):
    """The address a job reported fails the checks of invariant S8."""

    status = 502
    reason = "address-refused"


class JobEnded(Error):
    """The job ended before its server was ready."""

    reason = "job-ended"


class StartTimedOut(Error):
    """The server was not ready within start_timeout; nothing says that its job has ended."""

    status = 504
    reason = "start-timeout"


class ChannelError(Error):
    """A job-channel message is malformed (400) or not proven (403)."""

    status = 400
    reason = "channel"


class FirecRESTError(Error):
    """FirecREST refused, failed, or could not be reached.

    ``ambiguous`` is true when the request may have taken effect all the same, as a submit answered
    with 408, 500 or a reset may have (R3). ``away`` is true when the failure says something of the
    system or the API as a whole, and not of this request alone (R9).
    """

    status = 502
    reason = "firecrest"
    away = False

    def __init__(
        self,
        message: str,
        *,
        detail: str = "",
        status: int | None = None,
        ambiguous: bool = False,
        away: bool | None = None,
    ) -> None:
        super().__init__(message, detail=detail, status=status)
        self.ambiguous = ambiguous
        if away is not None:
            self.away = away


class Unreachable(FirecRESTError):
    """No answer at all: connection refused, reset, or the deadline passed."""

    status = 503
    reason = "firecrest-unreachable"
    away = True


class Unwell(FirecRESTError):
    """FirecREST or the system behind it is in trouble (5xx, 424, 429)."""

    status = 503
    reason = "firecrest-unwell"


class BadAnswer(FirecRESTError):
    """A success status with a body that is not what the API promises."""

    reason = "firecrest-bad-answer"


class Unauthorized(FirecRESTError):
    """FirecREST does not accept the token (its 401)."""

    status = 403
    reason = "firecrest-unauthorized"


class Forbidden(FirecRESTError):
    """FirecREST denies the operation (its 403)."""

    status = 403
    reason = "firecrest-forbidden"


class NotFound(FirecRESTError):
    """Unknown system, job or path. For a job it never proves absence (FirecREST facts, 1)."""

    status = 404
    reason = "firecrest-not-found"


class BadRequest(FirecRESTError):
    """FirecREST found the request itself wrong."""

    status = 400
    reason = "firecrest-bad-request"


class SubmissionRejected(FirecRESTError):
    """The scheduler's own refusal of a submitted script."""

    status = 400
    reason = "rejected"
