"""The command `freshet`: a command line enters, one command runs, an exit code leaves.

The code is 0 when it is done, 1 when it failed, 2 for a wrong usage or setting.
Commands are named here and imported when they run, so that help and small
commands never wait for compiled kernels.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.exceptions import UnknownCommandError

try:
    from consumers.commands.context import current_settings, use
    from consumers.release import release
    from consumers.settings import KEYS
    from streaming.errors import FreshetError, UsageError, nearest
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("streaming"):
        raise
    sys.exit(
        f"error: {error.name} is missing: another project's package named streaming hides Freshet's. "
        "Give Freshet an environment of its own."
    )

_STREAMS = ("--from", "--out", "--items-out")  # options that take "-" for standard input or output
INTERRUPTED = 130
BROKEN_PIPE = 141  # as a shell reports a program that SIGPIPE ended

_GLOBAL = Group("Options of every command", sort_key=1)
_COMMANDS = (
    ("demo", "demo", "Learn a simulated stream live and show how well it goes."),
    ("versions", "app", "Create, list, check, fork, promote, compare and remove versions."),
    ("work", "work", "Learn events into a version."),
    ("serve", "serve", "Answer queries over HTTP, and take events in."),
    ("query", "app", "Ask a version for embeddings, recommendations, similar ids and scores."),
    ("experiment", "app", "Compare versions on users; verdicts may be looked at any time."),
    ("sessions", "sessions", "Keep sequence embeddings of a version fresh."),
    ("outcomes", "outcomes", "Join what was served with what happened since."),
    ("catalogue", "app", "Show the catalogue of items, and check it."),
    ("backtest", "backtest", "Compare learners over history, side by side on the same events."),
    ("simulate", "simulate", "Write the events of a simulated stream."),
    ("replay", "replay", "Send the events of files to a Kafka topic."),
    ("broker", "broker", "Run a Kafka for development on this machine."),
    ("config", "config", "Show each setting in effect, where it came from and what it means."),
    ("doctor", "doctor", "Check that all is well on this machine."),
    ("route", "app", "Divide users between versions."),
    ("watch", "watch", "Show what running workers and servers are doing, in the terminal."),
    ("lag", "lag", "Show how far versions are behind their topics."),
    ("dead-letters", "app", "Show the records that a version refused, and send them again."),
    ("forget", "forget", "Forget a user or an item in all versions, for good."),
)


class _Line(NamedTuple):
    """A command line without what comes before the command."""

    words: tuple[str, ...]
    home: Path | None
    config: Path | None
    sets: list[str]


def _build() -> App:
    app = App(
        name="freshet",
        help="Keep user and item embeddings fresh: events in, rows durable, answers out.",
        version=release,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        exit_on_error=False,
        print_error=False,
    )
    for name, attribute, text in _COMMANDS:
        module = name.replace("-", "_")
        app.command(f"consumers.commands.{module}:{attribute}", name=name, help=text)
    app.meta.suppress_keyboard_interrupt = False
    app.meta.default(_options)
    return app


def _options(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    home: Annotated[
        Path | None, Parameter(group=_GLOBAL, help="Home directory (FRESHET_HOME, else ./freshet-home).")
    ] = None,
    config: Annotated[
        Path | None,
        Parameter(
            group=_GLOBAL,
            help="Configuration file (FRESHET_CONFIG, else ./freshet.toml, else freshet.toml in the home).",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        Parameter(
            name="--set",
            negative=(),
            group=_GLOBAL,
            help="One setting as section.key=value, above file and environment; may be repeated.",
        ),
    ] = None,
) -> _Line:
    """Declares the options of every command; the rest of the words are for the command."""
    return _Line(tokens, home, config, set_ or [])


def _run(arguments: Sequence[str]) -> Any:
    """Runs one command line and returns what its command returned."""
    # Ids after "--" may look like options, so nothing but the command sees them.
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    overrides, words = _take_settings(_attach_dashes(arguments[:cut]))
    with _whole_help(words):
        line = app.meta(words)
    if not isinstance(line, _Line):
        return None
    if line.sets:
        raise _unknown_set(line.sets[0])
    use(line.config, line.home, overrides)
    command, bound, _ = app.parse_args([*line.words, *arguments[cut:]])
    if command.__module__.startswith("consumers."):
        _prepare(command.__name__)
    return command(*bound.args, **bound.kwargs)


@contextmanager
def _whole_help(words: Sequence[str]) -> Iterator[None]:
    """Lets the page of a command say all that its function does; lists of commands have a line for each."""
    command = app
    for word in words if {"--help", "-h"} & {*words} else ():
        if not word.startswith("-") and word in command:
            command = command[word]
    if command.default_command is None:  # a family of commands, which has no function
        yield
        return
    line, command.help = command.help, None
    try:
        yield
    finally:
        command.help = line


def _prepare(command: str) -> None:
    """Reads the settings before anything is done, and sets up logs accordingly."""
    from consumers.logs import configure_logs

    configure_logs("auto", "info")
    # The doctor reports wrong settings among its findings.
    if command != "doctor":
        worker = current_settings().worker
        configure_logs(worker.log_format, worker.log_level)


def _attach_dashes(words: Sequence[str]) -> list[str]:
    """`--from -` as `--from=-`, also behind files, because the parser takes a lone "-" for an option.

    >>> _attach_dashes(["work", "mine", "--from", "a.jsonl", "-", "--json"])
    ['work', 'mine', '--from', 'a.jsonl', '--from=-', '--json']
    """
    attached: list[str] = []
    option = ""
    for word in words:
        if word == "-" and attached and attached[-1] in _STREAMS:
            attached[-1] += "=-"
        elif word == "-" and option == "--from":  # behind files
            attached.append("--from=-")
        else:
            attached.append(word)
        if word.startswith("--"):
            option = word.partition("=")[0]
    return attached


def _take_settings(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Settings as key → value, and the other words.

    A command may have a `--set` of its own, so only keys with a dot are settings.
    """
    overrides: dict[str, str] = {}
    others: list[str] = []
    left = iter(words)
    for word in left:
        option, attached, text = word.partition("=")
        if option != "--set":
            others.append(word)
            continue
        given = text if attached else next(left, "")
        key, equals, value = given.partition("=")
        if not equals or not key:
            raise UsageError(f'--set must be followed by key=value, got "{given}".')
        if "." in key:
            overrides[key.strip()] = value
        else:
            others += ["--set", given]
    return overrides, others


def _unknown_set(given: str) -> UsageError:
    key = given.partition("=")[0]
    last = {known.rpartition(".")[2]: known for known in KEYS}
    near = last.get(key) or next((known for name, known in last.items() if nearest(key, [name])), None)
    hint = f' Did you mean "{near}"?' if near else ""
    return UsageError(
        f"--set {key} is not something that this command can set; a setting is section.key.{hint}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line.

    Args:
        arguments: the words after `freshet`; those of the process when None.

    Returns:
        The exit code.
    """
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except FreshetError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except CycloptsError as error:
        print(f"error: {_usage(error)}", file=sys.stderr)
        return UsageError.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone; without this the interpreter would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _usage(error: CycloptsError) -> str:
    """A wrong command line in one line."""
    if isinstance(error, UnknownCommandError) and error.app is app:
        # The library's own text would import every command to find the nearest.
        word = error.unused_tokens[0] if error.unused_tokens else ""
        near = nearest(word, [name for name, *_ in _COMMANDS])
        return f'"{word}" is not a command.{near} `freshet --help` lists them all.'
    line = " ".join(str(error).split())
    return f"{line} See `freshet --help`."


app = _build()
