"""
When to try again: the policy of a step or a handler.

Full jitter after "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): a delay is drawn evenly from
[0, min(max_delay, first * factor**(tries - 1))].
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from redurable.clock import Seconds, seconds
from redurable.errors import ConfigurationError, RetryLater, TerminalError

__all__ = ["NO_RETRY", "Retry"]


@dataclass(frozen=True, slots=True)
class Retry:
    """
    How often and how soon to try again.

    Args:
        attempts: Tries in all, the first included; 1 means never again.
        first: Seconds before the second try.
        factor: By what the delay grows with each try.
        max_delay: Seconds that no delay exceeds.
        jitter: Draw each delay evenly between 0 and its full length.
        on: Only these errors are tried again; all if empty.
        never: These errors are not, even if they are in *on*.
    """

    attempts: int = 4
    first: Seconds = 0.5
    factor: float = 2.0
    max_delay: Seconds = 60.0
    jitter: bool = True
    on: tuple[type[BaseException], ...] = field(default=())
    never: tuple[type[BaseException], ...] = field(default=())

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigurationError(f"Retry(attempts=) must be 1 or more, got {self.attempts}")
        if not 1 <= self.factor < 1e9:
            raise ConfigurationError(f"Retry(factor=) must be from 1 to 1e9, got {self.factor}")
        seconds(self.first, "Retry(first=)")
        seconds(self.max_delay, "Retry(max_delay=)")

    def delay(self, tries: int, error: BaseException) -> float | None:
        """
        Return the seconds to wait after *tries* tries of which the last raised *error*; None means give up.

        `TerminalError` always gives up; `RetryLater` sets the delay itself while attempts are left.
        """
        if tries >= self.attempts or isinstance(error, (TerminalError, *self.never)):
            return None
        if isinstance(error, RetryLater):
            return error.after
        if self.on and not isinstance(error, self.on):
            return None
        longest = float(seconds(self.max_delay))
        try:
            full = min(longest, float(seconds(self.first)) * self.factor ** (tries - 1))
        except OverflowError:
            full = longest
        return random.uniform(0, full) if self.jitter else full


NO_RETRY = Retry(attempts=1)
