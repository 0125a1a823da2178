"""What is said of the query API holds: each line of docs/serving.md, docs/openapi.json, and any request."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from consumers.cli import main
from consumers.experiments import begin
from consumers.server_forms import document_text
from state.experiments import Trial
from state.releases import Releases
from state.spec import new_spec
from state.versions import Registry
from streaming.experiments import Design
from tests.consumers.served import HERE, LIMITED, application, client, taught
from tests.consumers.worked import learn

ROOT = Path(__file__).parents[2]
SERVING = (ROOT / "docs" / "serving.md").read_text()
EXAMPLES = re.findall(r"^\$ (curl .+)\n(.+)\n```", SERVING, re.MULTILINE)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def run(api: TestClient, line: str) -> Any:
    """What a curl line is answered."""
    method, url, headers, body = "GET", "", {}, None
    words = iter(shlex.split(line)[1:])
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = next(words)
        else:
            url = word
    address = url.replace("http://127.0.0.1:8000", HERE)
    return api.request(method, address, headers=headers, content=body).json()


def shape(value: Any) -> Any:
    """A value without what differs from run to run: numbers that are measured or learned, and times."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items() if name not in ("dimension", "vector")}
    if isinstance(value, list):
        return [shape(part) for part in value]
    if isinstance(value, float):
        return "a number"
    return (
        re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(Z| UTC)", "a time", value)
        if isinstance(value, str)
        else value
    )


def test_each_line_of_the_document_is_answered_as_it_says(tmp_path: Path) -> None:
    version = Registry(tmp_path).create("mine", new_spec("softmax", LIMITED))
    with client(tmp_path) as api:
        for line, said in EXAMPLES:
            if line.endswith("/v1/experiments/exp"):
                Registry(tmp_path).create("other", new_spec("popularity", {}))
                Releases(tmp_path).promote("mine")
                trial = Trial("exp", {"mine": 0.5, "other": 0.5}, "purchase", Design(guardrail=-0.03).state(),
                              "salt", 60_000_000, 1_000_000)  # fmt: skip
                begin(tmp_path, trial)
            found, wanted = shape(run(api, line)), shape(json.loads(said))
            if "/similar" in line:  # which one is nearest is learned
                assert len(found["similar"]) == len(wanted["similar"])
                found["similar"] = wanted["similar"] = []
            for item in [*found.get("items", ()), *wanted.get("items", ())]:
                assert isinstance(item.pop("because"), list)  # what speaks for it is learned, too
            if "nobody" in line:
                found["items"][0]["item"] = wanted["items"][0]["item"] = "any"
            assert found == wanted, line
            if '"log": "segments"' in said:
                learn(version, *sorted((tmp_path / "events").glob("*.jsonl")))


def test_every_path_is_shown_and_every_code_is_listed(api_document: dict[str, Any]) -> None:
    shown = " ".join(line for line, _ in EXAMPLES) + " http://127.0.0.1:8000/metrics"
    for path in api_document["paths"]:
        assert re.search(re.sub(r"\{\w+\}", "[^/ ]+", path) + r"['? ]|" + path + "$", shown + " "), path
    errors = (ROOT / "consumers" / "server_errors.py").read_text()
    for code in re.findall(r'\d{3}, "(\w+)"\)|\d{3}: "(\w+)"', errors):
        if (name := code[0] or code[1]) != "internal":
            assert f"`{name}`" in SERVING, name


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    home = tmp_path_factory.mktemp("home")
    taught(home, "mine", "softmax")
    taught(home, "popular")
    Releases(home).promote("mine")
    with application(home) as made:
        yield made


@pytest.fixture(scope="module")
def api_document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def test_document_in_the_repository_is_that_of_the_server(
    bare: Path, api_document: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "openapi.json").read_text()
    assert text == document_text(api_document), "write it anew: freshet serve --openapi > docs/openapi.json"
    assert main(["serve", "--openapi"]) == 0
    assert capsys.readouterr().out == text


PATHS = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]


RIGHT = [(path, method, GenerationMode.POSITIVE) for path, methods in PATHS.items() for method in methods]
WRONG = [
    ("/v1/users/{user}/recommendations", "get", GenerationMode.NEGATIVE),
    ("/v1/items/{item}/similar", "get", GenerationMode.NEGATIVE),
    ("/v1/scores", "post", GenerationMode.NEGATIVE),
    ("/v1/events", "post", GenerationMode.NEGATIVE),
]


@pytest.mark.parametrize(("path", "method", "mode"), RIGHT + WRONG)
def test_any_request_is_answered_in_the_documented_form(
    app: FastAPI, path: str, method: str, mode: GenerationMode
) -> None:
    operation = schemathesis.openapi.from_asgi("/openapi.json", app)[path][method]

    @settings(
        max_examples=20,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def answered(case: Any) -> None:
        case.call_and_validate(base_url=HERE, checks=CHECKS)

    answered()
