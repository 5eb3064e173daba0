"""Counts what was tried and how it ended: survived, unclear or failed. A program decides."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from metaembed_lite.items import describe

MOST_EXAMPLES = 5  # of unclear and of failed cases that a row keeps
MOST_SECONDS = 60.0  # for one case, or it hangs
# Raised by a library on bad data. Their messages do not name the file.
RAW = {"JSONDecodeError", "UnicodeDecodeError", "UnicodeEncodeError"}


class HangError(BaseException):
    """A case took longer than its limit. It is no Exception, so nothing that is tried catches it.

    Example:
        >>> issubclass(HangError, Exception)
        False
    """


@dataclass(frozen=True)
class Effort:
    """How much to try.

    Attributes:
        share: of the long form. Defaults to all of it.
        is_short: the form for ``make test``. Defaults to False.

    Example:
        >>> efforts = Effort(), Effort(0.1), Effort(is_short=True)
        >>> [effort.count(1000, short=5) for effort in efforts]
        [1000, 100, 5]
    """

    share: float = 1.0
    is_short: bool = False

    def count(self, full: int, short: int) -> int:
        """How often to try what the long form tries ``full`` times, and the short one ``short``."""
        return short if self.is_short else max(min(short, full), round(full * self.share))


@dataclass
class Row:
    """One kind of abuse.

    Attributes:
        what: was tried, in words.
        planned: how many cases the long form has.
        survived: right answers, and errors of this project that name the value.
        unclear: errors that do not name it.
        failed: wrong answers, lost data, code that ran, hangs and crashes.
        notes: the first unclear and failed cases.
        measured: numbers that belong to the row, such as latencies.

    Example:
        >>> row = Row("halving", planned=2)
        >>> row.attempt("4", lambda: 4 // 2, is_right=lambda half: half == 2)
        >>> row.attempt("nothing", lambda: None // 2)
        >>> row.tried, row.survived, row.unclear
        (2, 1, 1)
    """

    what: str
    planned: int
    survived: int = 0
    unclear: int = 0
    failed: int = 0
    notes: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def tried(self) -> int:
        """The number of cases."""
        return self.survived + self.unclear + self.failed

    def survive(self) -> None:
        """Count a case that survived."""
        self.survived += 1

    def note_unclear(self, case: str, problem: str) -> None:
        """Count a case that ended in an unclear error."""
        self.unclear += 1
        self._note(f"unclear: {case}: {problem}")

    def fail(self, case: str, problem: str) -> None:
        """Count a case that failed."""
        self.failed += 1
        self._note(f"failed: {case}: {problem}")

    def check(self, case: str, is_right: bool, problem: str) -> None:
        """Count a case that survived if ``is_right``, or else failed."""
        if is_right:
            self.survive()
        else:
            self.fail(case, problem)

    def _note(self, text: str) -> None:
        if len(self.notes) < MOST_EXAMPLES:
            self.notes.append(text[:500])

    def attempt(
        self,
        case: str,
        call: Callable[[], Any],
        *,
        is_right: Callable[[Any], bool] | None = None,
        names: Collection[str] = (),
        seconds: float = MOST_SECONDS,
    ) -> None:
        """Make a call, and count how it ended.

        Args:
            case: for the note, if it does not survive.
            call: what is tried.
            is_right: judges an answer. Without it no answer is right: the call must be refused.
            names: the error must contain one of them. Defaults to any message.
            seconds: after which it counts as a hang.
        """
        try:
            with time_limit(seconds):
                answer = call()
        except HangError:
            self.fail(case, f"takes more than {seconds:.0f} s")
        except Exception as error:
            problem = find_problem(error, names)
            if problem is None:
                self.survive()
            else:
                self.note_unclear(case, problem)
        else:
            accepted = is_right is not None and is_right(answer)
            self.check(case, accepted, f"gives {describe(answer)}: {answer!r:.200}")

    def to_json(self) -> dict[str, Any]:
        """The row as the result file has it."""
        counts = ("planned", "tried", "survived", "unclear", "failed")
        row = {"what": self.what, **{name: getattr(self, name) for name in counts}}
        return row | {"notes": self.notes, "measured": self.measured}


def find_problem(error: Exception, names: Collection[str] = ()) -> str | None:
    """What is unclear about an error, or None.

    An error is clear if this package raised it, with a type that the package uses, or if the
    operating system raised it and the message names the file. The message must name the value.

    Args:
        error: with its traceback.
        names: the message must contain one of them. Defaults to any message.

    Example:
        >>> from metaembed_lite.budget import Budget
        >>> def problem(call, names=()):
        ...     try:
        ...         call()
        ...     except Exception as error:
        ...         return find_problem(error, names)
        >>> problem(lambda: Budget(0, 1), ["r_q=0"]) is None
        True
        >>> problem(lambda: {}["a"])
        "KeyError: 'a'"
    """
    text = f"{type(error).__name__}: {error}"
    kinds = (ValueError, OSError, MemoryError, ImportError)
    if type(error).__name__ in RAW or not isinstance(error, kinds) or not str(error):
        return text
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    is_ours = bool(frames) and is_of_package(frames[-1])
    if not is_ours and not (isinstance(error, OSError) and error.filename is not None):
        place = frames[-1].f_globals.get("__name__", "?") if frames else "?"
        return f"{text} (raised in {place})"
    if names and not any(name in str(error) for name in names):
        return f"{text} (names none of {', '.join(map(repr, names))})"
    return None


def is_of_package(frame: FrameType) -> bool:
    """Whether a frame runs code of the package."""
    return str(frame.f_globals.get("__name__", "")).startswith("metaembed_lite")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise ``HangError`` in the main thread after some seconds.

    Example:
        >>> import time
        >>> try:
        ...     with time_limit(0.01):
        ...         time.sleep(1)
        ... except HangError:
        ...     print("too slow")
        too slow
    """

    def stop(number: int, frame: Any) -> None:
        raise HangError

    started = time.monotonic()
    before = signal.signal(signal.SIGALRM, stop)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)  # of a timer of pytest, or 0
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(0.01, left - time.monotonic() + started))
