from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cyclopts import App

from consumers import cli
from consumers.cli import main
from consumers.commands.context import current_settings
from consumers.settings import KEYS
from streaming.errors import StoreError

ROOT = Path(__file__).parents[2]
START = "import sys; from consumers.cli import main; code = main(sys.argv[1:]); "


def python(code: str, *arguments: str, **streams: int) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FRESHET_")}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, text=True, capture_output=True, timeout=60
    )


@pytest.fixture
def command(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., object]], None]:
    """Puts a command named `try` beside the real ones, in an app of the test's own."""

    def add(function: Callable[..., object]) -> None:
        function.__module__ = "consumers.commands.trial"
        app = cli._build()
        monkeypatch.setattr(cli, "app", app)
        app.command(function, name="try")

    return add


@pytest.mark.parametrize("words", [["--help"], ["config"], ["config", "--help"], ["--version"], ["wrk"]])
def test_light_command_does_not_load_numba(bare: Path, words: list[str]) -> None:
    ended = python(START + "heavy = {'numba', 'pyarrow', 'river', 'rocksdict'} & set(sys.modules); "
                   "print('heavy', sorted(heavy), file=sys.stderr)", *words)  # fmt: skip
    assert "heavy []" in ended.stderr


def test_help_names_every_command_and_global_option(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    words = ["demo", "versions", "work", "query", "backtest", "simulate", "config", "doctor", "dead-letters"]
    words += ["broker", "replay", "lag"]
    assert all(word in text for word in [*words, "--home", "--config", "--set"])


def test_help_of_a_command_says_all_and_leaves_the_list_short(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--help"]) == 0
    before = capsys.readouterr().out
    assert main(["doctor", "--help"]) == 0
    assert "exit code 1" in capsys.readouterr().out
    assert main(["versions", "snapshot", "--help"]) == 0
    assert "worker.snapshots_kept" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == before and "exit code 1" not in before


def test_commands_that_are_there_resolve() -> None:
    for name in ("config", "doctor"):
        assert isinstance(cli.app[name], App)


@pytest.mark.parametrize("before", [True, False])
def test_global_options_are_taken_on_both_sides_of_the_command(
    bare: Path, capsys: pytest.CaptureFixture[str], before: bool
) -> None:
    options = ["--home", "h", "--set", "worker.batch_events=5", "--set=events.on_bad_record=stop"]
    command = ["config", "--json"]
    assert main([*options, *command] if before else [*command, *options]) == 0
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["home"]["value"], rows["home"]["source"]) == ("h", "--home")
    assert rows["worker.batch_events"]["value"] == 5
    assert rows["events.on_bad_record"]["source"] == "--set"


def test_options_of_one_run_do_not_reach_the_next(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["config", "--set", "worker.batch_events=5"])
    main(["config"])
    assert current_settings().worker.batch_events == 4096


def test_config_json_lists_every_key(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["key"] for row in rows] == list(KEYS)
    assert all(set(row) == {"key", "value", "source", "doc"} and row["doc"].endswith(".") for row in rows)


def test_config_table_shows_value_and_source(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bare / "freshet.toml").write_text("[worker]\nuser_cache = 123456")
    assert main(["config"]) == 0
    (line,) = [row for row in capsys.readouterr().out.splitlines() if row.startswith("worker.user_cache")]
    assert line.split()[1:3] == ["123456", "freshet.toml"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["wrk"], '"wrk" is not a command. Did you mean "work"?'),
        (["config", "--nope"], "--nope"),
        (["config", "extra"], "extra"),
        (["config", "--set", "worker.batch_event=3"], 'Did you mean "worker.batch_events"?'),
        (["config", "--set", "batch_events=3"], 'Did you mean "worker.batch_events"?'),
        (["config", "--set", "worker.batch_events"], "--set must be followed by key=value"),
        (["config", "--config", "no.toml"], "--config must name a TOML file"),
        (["--set", "worker.commit_share=2", "config"], "above 0, at most 1"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    bare: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert said in err


def test_failure_is_one_line_and_code_1(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise StoreError("the store is gone")

    command(fail)
    assert main(["try"]) == 1
    assert capsys.readouterr().err == "error: the store is gone\n"


def test_wrong_setting_stops_a_command_that_never_asks(
    command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    command(lambda: ran.append(1))
    monkeypatch.setenv("FRESHET_NONSENSE", "1")
    assert main(["try"]) == 2
    assert main(["try", "--help"]) == 0
    assert ran == []


def test_own_set_of_a_command_gets_keys_without_a_dot(command: Callable[..., None]) -> None:
    got: dict[str, object] = {}

    def create(name: str, *, set: list[str]) -> int:
        got.update(name=name, set=set, batch=current_settings().worker.batch_events)
        return 3

    command(create)
    words = ["try", "--set", "dimension=32", "a", "--set", "worker.batch_events=9", "--set", "seed=1"]
    assert main(words) == 3
    assert got == {"name": "a", "set": ["dimension=32", "seed=1"], "batch": 9}


def test_ids_after_two_dashes_may_look_like_options(command: Callable[..., None]) -> None:
    got: list[str] = []
    command(lambda *ids: got.extend(ids))
    assert main(["try", "--set", "worker.batch_events=9", "--", "-5", "--help", "--home"]) == 0
    assert got == ["-5", "--help", "--home"]


def test_interrupt_that_no_command_handles_is_code_130(command: Callable[..., None]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    command(interrupted)
    assert main(["try"]) == 130


def test_reader_that_goes_away_is_met_quietly(bare: Path) -> None:
    code = f"{sys.executable} -c {START!r}'sys.exit(code)' config | true; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(["bash", "-c", code], env=environment, text=True, capture_output=True, timeout=60)
    assert ended.stderr == ""
    assert ended.stdout.strip() in {"141", "0"}  # 0 where the answer was out before the reader went


def test_doctor_finds_all_well(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert [one for one in findings if not one["ok"]] == []
    assert code == 0
    assert all(set(one) == {"check", "ok", "detail", "remedy"} for one in findings)
    checks = {one["check"] for one in findings}
    assert {
        "settings",
        "python",
        "packages",
        "home",
        "rocksdb",
        "kernel cache",
        "clock",
        "open files",
    } <= checks
    assert list(bare.iterdir()) == []


def test_doctor_reports_home_that_is_a_file(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bare / "h").write_text("")
    assert main(["--home", "h", "doctor"]) == 1
    out, err = capsys.readouterr()
    assert "is not a directory" in out and "home: Name another directory with --home." in err


def test_doctor_reports_wrong_setting_and_goes_on(
    bare: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FRESHET_WORKER__BATCH", "1")
    assert main(["doctor", "--json"]) == 1
    findings = {one["check"]: one for one in json.loads(capsys.readouterr().out)}
    assert "FRESHET_WORKER__BATCH is not a setting" in findings["settings"]["detail"]
    assert findings["rocksdb"]["ok"]


def test_doctor_reports_foreign_package_of_our_name(bare: Path) -> None:
    (bare / "streaming").mkdir()
    (bare / "streaming" / "__init__.py").write_text("")
    code = (
        f"import sys; sys.path.append({str(ROOT)!r}); from consumers.commands import doctor; "
        "del sys.modules['streaming']; sys.path.insert(0, '.'); print(doctor._packages(None))"
    )
    assert "ok=False" in python("import os; os.chdir('/'); " + code.replace("'.'", repr(str(bare)))).stdout


def test_foreign_package_of_our_name_stops_the_start_with_its_name(bare: Path) -> None:
    (bare / "streaming").mkdir()
    (bare / "streaming" / "__init__.py").write_text("")
    ended = python(START)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: streaming.errors is missing: another project's package")


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux tells who holds a lock")
def test_doctor_names_process_that_holds_a_store(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "from rocksdict import Rdict; d = Rdict('home/versions/a/store'); print('open', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        main(["--home", "home", "doctor", "--json"])
        holder.communicate("\n")
    findings = {one["check"]: one for one in json.loads(capsys.readouterr().out)}
    assert f"store by process {holder.pid}" in findings["stores"]["detail"]
