"""The example app `workers/etl` as plain functions: what its steps write, and that they may run again."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

APP = Path(__file__).resolve().parents[2] / "workers" / "etl" / "etl.py"


@pytest.fixture(scope="module")
def etl() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("etl_under_test", APP)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def row(**changed: str) -> dict[str, str]:
    sound = {"icao": "LFPG", "iata": "CDG", "name": "Charles de Gaulle", "city": "Paris", "subd": "Ile-de-France"}
    return sound | {"country": "FR", "elevation": "392", "lat": "49.01", "lon": "2.55", "tz": "Europe/Paris"} | changed


def test_a_sound_row_has_no_fault(etl: ModuleType) -> None:
    assert etl.fault(row()) == ""


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"icao": "lf pg"}, "code"),
        ({"country": "France"}, "country"),
        ({"lat": "north"}, "number"),
        ({"lat": "91"}, "position"),
        ({"lat": "0", "lon": "0.0"}, "position"),
        ({"elevation": "40000"}, "elevation"),
        ({"name": "  "}, "name"),
    ],
)
def test_a_row_is_refused_for_what_is_wrong_with_it(etl: ModuleType, changed: dict[str, str], fault: str) -> None:
    assert etl.fault(row(**changed)) == fault


def test_cleaning_gives_metres_a_continent_and_tidy_names(etl: ModuleType) -> None:
    clean = etl.cleaned("LFPG", "CDG", " Charles  de Gaulle Airport", "Paris", "FR", "Europe/Paris", 392.0, 49.01, 2.55)
    assert clean[2] == "Charles de Gaulle Airport"
    assert clean[6:8] == ("Europe", 119.5)
    assert clean[10:] == (4901, 255, "charles de gaulle")


def test_of_two_entries_of_one_airfield_the_better_known_stays(etl: ModuleType) -> None:
    near = [("AA11", "", "paris north", 49.0, 2.0), ("ZZ99", "PNO", "paris", 49.001, 2.001)]
    assert [(code, of) for code, of, _ in etl.repeated(near)] == [("AA11", "ZZ99")]


@pytest.mark.parametrize(("words", "lat"), [("lyon", 49.001), ("", 49.001), ("paris", 49.02)])
def test_another_name_or_a_kilometre_makes_another_airfield(etl: ModuleType, words: str, lat: float) -> None:
    assert list(etl.repeated([("AA11", "", "paris", 49.0, 2.0), ("BB22", "", words, lat, 2.001)])) == []


def test_a_run_without_a_worker_is_an_ordinary_call_of_fifty_steps(etl: ModuleType, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    summary = etl.handler(str(tmp_path / "a.sqlite"), str(ledger))
    assert summary["read"] == 28_000 + summary["read"] % 1000  # 28 thousand, whatever this year's edition adds
    assert summary["airports"] == summary["read"] - summary["rejected"] - summary["duplicates"]
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "start"] == list(range(1, etl.STEPS + 1))
    assert [line["step"] for line in lines if line["event"] == "end"] == list(range(1, etl.STEPS + 1))
    assert lines[46 * 2]["name"] == "load"  # step 47

    job, before = etl.Job(str(tmp_path / "a.sqlite")), list(etl.dump(str(tmp_path / "a.sqlite")))
    etl.extract(job, 1, 0)
    etl.transform(job, 21, 0)
    etl.deduplicate(job, 36, 0)
    etl.load(job, 47, 6)
    assert list(etl.dump(str(tmp_path / "a.sqlite"))) == before, "a step that runs again leaves the same rows"
