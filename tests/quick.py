"""Properties whose examples cost much: fewer in a default run than others have, all of them among the slow tests."""

from collections.abc import Callable
from typing import TypeVar

Test = TypeVar("Test", bound=Callable[..., object])


def costly(n: int) -> Callable[[Test], Test]:
    """Above `@settings` and `@given`: at most `n` examples in a default run."""

    def mark(test: Test) -> Test:
        test.quick_examples = n  # type: ignore[attr-defined]
        return test

    return mark
