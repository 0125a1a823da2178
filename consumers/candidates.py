"""Words of a command line enter; learners with their options, to be compared by a backtest, leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from state.spec import Spec, new_spec
from streaming import learners
from streaming.errors import UsageError

DEFAULT_LEARNERS = ("popularity", "transitions", "item_knn", "bpr", "softmax", "blend")


class Candidate(NamedTuple):
    """A learner to be tried, as the user wrote it: name:key=value,…"""

    text: str
    learner: str
    options: dict[str, str]

    def spec(self, seed: int) -> Spec:
        """The spec of a version with this learner; a seed among the options wins."""
        return new_spec(self.learner, {"seed": seed, **self.options})


def candidate(text: str) -> Candidate:
    """Read "name:key=value,…".

    Raises:
        SettingError: no such learner, option or value.
        UsageError: the text is not of this form.

    >>> candidate("popularity:half_life=100").options
    {'half_life': '100'}
    """
    learner, _, rest = text.partition(":")
    options: dict[str, str] = {}
    for word in rest.split(",") if rest else []:
        key, equals, value = (part.strip() for part in word.partition("="))
        if not (key and equals and value):
            raise UsageError(f'--learner {text}: an option must be key=value, got "{word}".')
        if key in options:
            raise UsageError(f"--learner {text}: {key} is given twice.")
        options[key] = value
    made = Candidate(text, learner.strip(), options)
    made.spec(1)
    return made


def candidates_of(texts: Sequence[str]) -> list[Candidate]:
    """The learners to be compared: those given, else the usual ones.

    Raises:
        UsageError: one is given twice, or not well.
    """
    made = [candidate(text) for text in texts or [n for n in DEFAULT_LEARNERS if n in learners.names()]]
    for k, one in enumerate(made):
        if one.text in [other.text for other in made[:k]]:
            raise UsageError(
                f'The learner "{one.text}" is given twice; entries are told apart by their text.'
            )
    return made


class Sweep(NamedTuple):
    """Values of one option to be tried: --sweep key=v1,v2,…"""

    key: str
    values: tuple[str, ...]


def parsed_sweep(text: str) -> Sweep:
    """Read "key=v1,v2,…".

    Raises:
        UsageError: the text is not of this form.

    >>> parsed_sweep("dimension=16,32")
    Sweep(key='dimension', values=('16', '32'))
    """
    key, equals, rest = text.partition("=")
    values = tuple(value.strip() for value in rest.split(","))
    if not (key.strip() and equals and all(values)) or len(set(values)) < len(values):
        raise UsageError(f'--sweep must be followed by key=v1,v2,… with different values, got "{text}".')
    return Sweep(key.strip(), values)


def swept(base: Candidate, sweep: Sweep) -> list[Candidate]:
    """A learner with each value of a sweep.

    Raises:
        UsageError: the learner has that option already, or not at all.
    """
    if sweep.key in base.options:
        raise UsageError(f"--learner {base.text} sets {sweep.key} and --sweep tries its values; drop one.")
    joint = "," if base.options else ":"
    return [candidate(f"{base.text.rstrip(':')}{joint}{sweep.key}={value}") for value in sweep.values]
