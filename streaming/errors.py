"""Every error that Freshet raises on purpose.

FreshetError                       exit code 1
├── UsageError                     exit code 2: the command or a setting is wrong
│   └── SettingError               an unknown key, a wrong type, an impossible value
├── InputError                     the event log cannot be read
│   ├── BadRecordError             a record is broken and `on_bad_record = "stop"`
│   ├── InputVanishedError         a file disappeared, or shrank below what was learned
│   └── InputFormatError           a file that is not of the format its name promises
├── StoreError                     the embedding store cannot be used
│   ├── StoreLockedError           another process holds it (retriable)
│   ├── StoreFullError             no space left on the device (retriable)
│   ├── StoreReadOnlyError         the disk or directory cannot be written
│   ├── StoreFormatError           written by another format of Freshet
│   └── CorruptRowError            a row whose checksum does not fit its bytes
├── BrokerError                    Kafka for development cannot be fetched, started or reached
├── VersionError                   no such version, or not in a state that allows it
└── UnknownIdError                 a version has never seen the user or item that is asked for

A message says what failed and for which record or setting; what was expected
and what came; and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class FreshetError(Exception):
    """Base of all errors raised on purpose; `retriable` says whether the same call may work later."""

    retriable = False
    exit_code = 1


class UsageError(FreshetError):
    """The command line asks for something impossible."""

    exit_code = 2


class SettingError(UsageError):
    """A setting has an unknown name, a wrong type or an impossible value."""


class InputError(FreshetError):
    """The event log cannot be read."""


class BadRecordError(InputError):
    """A record is broken and the worker was told to stop at the first."""


class InputVanishedError(InputError):
    """A file disappeared while it was read, or is shorter than what was learned from it."""


class InputFormatError(InputError):
    """A file is not of the format that its name promises."""


class StoreError(FreshetError):
    """The embedding store cannot be used."""


class StoreLockedError(StoreError):
    """Another process holds the store."""

    retriable = True


class StoreFullError(StoreError):
    """No space is left on the store's device."""

    retriable = True


class StoreReadOnlyError(StoreError):
    """The store's directory cannot be written."""


class StoreFormatError(StoreError):
    """The store was written by another format of Freshet."""


class CorruptRowError(StoreError):
    """The checksum of a row does not fit its bytes."""


class BrokerError(FreshetError):
    """Kafka for development cannot be fetched, started or reached."""


class VersionError(FreshetError):
    """There is no such version, or its state does not allow this."""


class UnknownIdError(FreshetError):
    """A version has no row of the user or item that is asked for."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The words " Did you mean …?" for a wrong name, or "" where nothing is near.

    >>> nearest("learning_rat", ["dimension", "learning_rate"])
    ' Did you mean "learning_rate"?'
    """
    near = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f' Did you mean "{near[0]}"?' if near else ""
