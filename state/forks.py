"""A version's rows and changed settings enter; another version that goes on from them leaves.

The worker of the version that is forked only makes a checkpoint, between two commits; what else is to be
done happens in the process that asked. The fork is renamed into its place last, so a kill anywhere
leaves it whole or absent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from state.ledger import Ledger, as_json, sealed
from state.lineage import Origin, lineage_put, read_lineage
from state.rocksdb import RocksStore
from state.spec import OWN_KEYS, Spec, difference_of, new_spec, settings_of
from state.versions import Registry, Version, checkpoint_of
from streaming import learners
from streaming.errors import SettingError, VersionError

_SEED = "seed"
_LIVES = ("users_live_s", "items_live_s")


def forked_spec(source: Version, given: Mapping[str, Any]) -> Spec:
    """The spec of a fork: that of its source with other settings, as far as the rows can carry them.

    They carry what only steps and draws depend on: learning rates, temperature, negatives, evaluation and
    admission. They do not carry what their own numbers depend on: the layout of rows and parameters, the
    length of vectors (cosine), the unit of fields that decay together (half-lives), the seed.

    Raises:
        SettingError: an unknown setting, or one that the rows cannot carry.
    """
    old = source.spec
    own = {key: getattr(old, key) for key in OWN_KEYS}
    new = new_spec(old.learner, {**old.options, **own, **given})
    learner = learners.load(old.learner)
    before, after = learners.options_of(learner, old.options), learners.options_of(learner, new.options)
    changed = [k for k in before._fields if getattr(before, k) != getattr(after, k)]
    alone = {k: before._replace(**{k: getattr(after, k)}) for k in changed}
    wrong = [k for k in changed if not _carries(learner, before, alone[k], k)]
    if not wrong and not _same_form(learner, before, after):
        wrong = changed
    wrong += [_SEED] * (new.seed != old.seed)
    wrong += [k for k in _LIVES if bool(getattr(new, k)) != bool(getattr(old, k))]
    if wrong:
        raise _cannot_carry(source, new, wrong)
    return new


def fork(
    registry: Registry, source: Version, name: str, spec: Spec, checkpoint: Callable[[Path], object]
) -> int:
    """Make a version from another one's rows, offsets and totals.

    Args:
        spec: as `forked_spec` gave it.
        checkpoint: has whoever holds the source's store put a checkpoint of it into `checkpoint_of` the
            directory that it is given, which is that of this process's half-made version.

    Returns:
        The number of the newest event that both have learned.

    Raises:
        VersionError: the name is taken or cannot be one, or the source has learned nothing.
    """
    if not source.learned_anything:
        raise VersionError(
            f'"{source.name}" has learned nothing yet, so there is nothing to fork. '
            f"`freshet versions create {name}` makes a version with other settings."
        )
    with registry.making(name, spec) as half:
        checkpoint(half)
        return _begin(half, source, spec)


def _begin(half: Path, source: Version, spec: Spec) -> int:
    """Make the checkpoint the fork's own, and keep it as its first snapshot."""
    with RocksStore(checkpoint_of(half)) as store:
        ledger = Ledger.read(store)
        origin = Origin(
            "fork",
            source.name,
            ledger.number,
            difference_of(source.spec, spec),
            msgspec.to_builtins(source.spec),
            {s.name: s.next_offset for s in ledger.sources},
        )
        spec_put = b"mspec", sealed(as_json(msgspec.to_builtins(spec)))
        store.write([spec_put, lineage_put([*read_lineage(store), origin])])
        store.checkpoint(half / "snapshots" / f"{ledger.number:012d}")
    return ledger.number


def _carries(learner: Any, before: Any, after: Any, option: str) -> bool:
    """Whether rows learned with `before` mean the same with this one option changed."""
    if option == "cosine":
        return False
    # Fields that decay together are kept in a unit that their half-life gives.
    if learner.decay is not None and option.endswith("half_life"):
        return False
    return _same_form(learner, before, after)


def _same_form(learner: Any, before: Any, after: Any) -> bool:
    def shapes(options: Any) -> list[tuple[str, tuple[int, ...], str]]:
        params = learner.parameters(options)
        return [(n, a.shape, a.dtype.str) for n, a in zip(type(params)._fields, params, strict=True)]

    return bool(learner.layout(before) == learner.layout(after)) and shapes(before) == shapes(after)


def _cannot_carry(source: Version, new: Spec, wrong: list[str]) -> SettingError:
    before, after = settings_of(source.spec), settings_of(new)
    what = ", ".join(f"{k} was {_plain(before[k])}, is {_plain(after[k])}" for k in dict.fromkeys(wrong))
    settings = " ".join(f"--set {k}={_plain(after[k])}" for k in after if before[k] != after[k])
    return SettingError(
        f'The rows of "{source.name}" cannot carry this: {what}. Make a version that learns from the start '
        f"of the log: `freshet versions create NAME --learner {new.learner} {settings}`, then "
        "`freshet work NAME --from …` (--start earliest for a topic)."
    )


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return f"{value:.0f}"
    return str(value)
