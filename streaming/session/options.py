"""Options of the session transformer, read from words and checked."""

from __future__ import annotations

from typing import Any, NamedTuple

from streaming.errors import SettingError, nearest

POSITIONS = ("learned", "sinusoidal")


class Options(NamedTuple):
    """Options of the session transformer; hashable, so that a compiled step is a function of them.

    dimension: d, floats in an item's vector and in every layer.
    length: L, items that are read.
    layers, heads: of the transformer; heads divide d.
    hidden: floats in the hidden layer of the feed-forward part.
    positions: "learned" or "sinusoidal".
    gaps: whether the time since each item was had is read, too.
    norm_first: layer normalisation before attention and feed-forward part (else after, as in SASRec).
    dropout: share of floats set to 0 while training.
    temperature: τ, divides the inner product; that of the version's learner.
    residual: ε, scale of the correction.
    input_scale: length of an item's vector as read, in units of √d.
    negatives: items that all sequences of a step are compared with, half uniform, half recent.
    hard: share of the negatives, those that the plain query ranks highest, which the first part of the loss
        compares with.
    breadth: weight of the second part of the loss, over all negatives.
    batch, replayed: sequences of a step, and how many of them come from earlier ones.
    remembered: sequences that replayed ones are drawn from.
    every: events between two steps.
    learning_rate, momentum, smoothing: of Adam (β₁, β₂).
    clip: norm that a gradient is cut to.
    averaging: of the weights over steps: each step keeps so much of the average, which is what is served.
    idle_s: a pause that ends a session, seconds; 0: one running history.
    """

    dimension: int = 64
    length: int = 20
    layers: int = 1
    heads: int = 1
    hidden: int = 256
    positions: str = "learned"
    gaps: bool = True
    norm_first: bool = True
    dropout: float = 0.1
    temperature: float = 1.0
    residual: float = 0.1
    input_scale: float = 0.3
    negatives: int = 512
    hard: float = 0.1
    breadth: float = 0.3
    batch: int = 64
    replayed: int = 32
    remembered: int = 4096
    every: int = 64
    learning_rate: float = 1e-3
    momentum: float = 0.9
    smoothing: float = 0.98
    clip: float = 1.0
    averaging: float = 0.99
    idle_s: int = 0


def check(options: Options) -> Options:
    """The options, where they make sense.

    Raises:
        SettingError: one does not.
    """
    for name in ("dimension", "length", "layers", "heads", "hidden", "negatives", "batch", "every"):
        if getattr(options, name) < 1:
            raise SettingError(f"session: {name} must be at least 1, got {getattr(options, name)}.")
    for name in ("temperature", "learning_rate", "clip", "input_scale"):
        if not getattr(options, name) > 0.0:
            raise SettingError(f"session: {name} must be above 0, got {getattr(options, name)}.")
    for name in ("dropout", "momentum", "smoothing", "averaging"):
        if not 0.0 <= getattr(options, name) < 1.0:
            raise SettingError(f"session: {name} must be from 0 to below 1, got {getattr(options, name)}.")
    if not (0.0 < options.hard <= 1.0 and options.breadth >= 0.0):
        raise SettingError(
            "session: hard must be above 0 and at most 1, and breadth 0 or more, got "
            f"{options.hard} and {options.breadth}."
        )
    if options.dimension % options.heads:
        raise SettingError(
            f"session: heads must divide dimension ({options.dimension}), got {options.heads}."
        )
    if options.positions not in POSITIONS:
        raise SettingError(
            f'session: positions must be one of {", ".join(POSITIONS)}, got "{options.positions}".'
            f"{nearest(options.positions, POSITIONS)}"
        )
    if options.positions == "sinusoidal" and options.dimension % 2:
        raise SettingError(f"session: sinusoidal positions need an even dimension, got {options.dimension}.")
    if not 0 <= options.replayed < options.batch:
        raise SettingError(
            f"session: replayed must be from 0 to below batch ({options.batch}), got {options.replayed}."
        )
    if options.remembered < options.batch or options.idle_s < 0:
        raise SettingError(
            f"session: remembered must be at least batch ({options.batch}) and idle_s 0 or more, got "
            f"{options.remembered} and {options.idle_s}."
        )
    return options


def options_of(given: dict[str, Any]) -> Options:
    """Options with the given ones set; text is converted to the type of the default.

    Raises:
        SettingError: an unknown option, or a value that cannot be.

    >>> options_of({"layers": "2"}).layers
    2
    """
    defaults, values = Options(), {}
    for key, value in given.items():
        if key not in Options._fields:
            raise SettingError(
                f'The session transformer has no option "{key}".{nearest(key, Options._fields)} '
                f"Known: {', '.join(Options._fields)}."
            )
        values[key] = _convert(key, value, type(getattr(defaults, key)))
    return check(defaults._replace(**values))


def _convert(key: str, value: Any, wanted: type) -> Any:
    text = str(value).strip().lower()
    try:
        return {"true": True, "false": False}[text] if wanted is bool else wanted(text)
    except (KeyError, ValueError) as error:
        kind = {bool: "true or false", int: "a whole number", float: "a number"}.get(wanted, "text")
        raise SettingError(f'session: option "{key}" must be {kind}, got "{value}".') from error
