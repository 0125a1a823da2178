"""Words of a command line enter; learners with their options, to be compared by a backtest, leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from state.spec import Spec, new_spec
from streaming import learners
from streaming.errors import UsageError

if TYPE_CHECKING:
    from streaming.session.options import Options

DEFAULT_LEARNERS = ("popularity", "transitions", "item_knn", "bpr", "softmax", "blend")


SESSION = "+session"  # after a learner's name: with the session transformer beside it
_SESSION_OPTION = "session."
_BENEATH = "softmax"  # whose pooled query it corrects
_SHARED = ("dimension", "temperature")  # the transformer takes these from its learner


class Candidate(NamedTuple):
    """A learner to be tried, as the user wrote it: name:key=value,…

    Attributes:
        session: options of the session transformer beside it; None for none.
    """

    text: str
    learner: str
    options: dict[str, str]
    session: dict[str, str] | None = None

    def spec(self, seed: int) -> Spec:
        """The spec of a version with this learner; a seed among the options wins."""
        return new_spec(self.learner, {"seed": seed, **self.options})

    def session_options(self) -> Options:
        """Options of the session transformer.

        Raises:
            SettingError: an unknown option, or a value that cannot be.
        """
        from streaming.session.options import options_of

        learned = learners.options_of(learners.load(self.learner), self.spec(1).options)
        return options_of({name: getattr(learned, name) for name in _SHARED} | (self.session or {}))


def candidate(text: str) -> Candidate:
    """Read "name:key=value,…"; "softmax+session:session.layers=2,…" with the session transformer.

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
    if not learner.strip().endswith(SESSION):
        made = Candidate(text, learner.strip(), options)
        made.spec(1)
        return made
    name = learner.strip().removesuffix(SESSION)
    if name != _BENEATH:
        raise UsageError(f'--learner {text}: the session transformer goes with {_BENEATH}, not "{name}".')
    own = {k.removeprefix(_SESSION_OPTION): v for k, v in options.items() if k.startswith(_SESSION_OPTION)}
    beneath = {k: v for k, v in options.items() if not k.startswith(_SESSION_OPTION)}
    made = Candidate(text, name, beneath, own)
    made.session_options()
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
