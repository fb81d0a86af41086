"""
A pipeline of 50 steps: 28,000 airports from a CSV file into SQLite, cleaned, without duplicates.

     1..20  extract      a twentieth of the file: read, checked, written to `raw` and `rejected`
    21..35  transform    a fifteenth of `raw`: names, metres, continent, map cell, written to `clean`
    36..40  deduplicate  a band of latitudes: the same airfield listed twice, written to `duplicate`
    41..49  load         a ninth of the countries: `airport` and `country`, what the pipeline is for
        50  summarise    checks the whole, and says what it is

This is all of it: plain functions, made durable by `@step`. Without a worker they are ordinary calls (`handler(
"airports.sqlite")`); under `redurable worker etl:handler` each result is recorded before the next line runs, and when
the process dies, another one carries on at the step that was lost.

What such a step owes: its body may run again, so that it must leave the same rows however often it ran and wherever
the last run stopped. Here every write is an upsert of a keyed row, in transactions; no row holds a time or a process.

`Ledger` is no part of a pipeline: it writes down, outside of redurable, how often each body really ran.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import re
import sqlite3
import time
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypedDict

from redurable import TerminalError, step

EXTRACTS, TRANSFORMS, BANDS, LOADS = 20, 15, 5, 9
STEPS = EXTRACTS + TRANSFORMS + BANDS + LOADS + 1
SLICES = 8  # transactions of one step: a kill leaves some of them done

SCHEMA = """
CREATE TABLE IF NOT EXISTS raw (code TEXT PRIMARY KEY, bucket INTEGER, iata TEXT, name TEXT, city TEXT, region TEXT,
    country TEXT, feet REAL, lat REAL, lon REAL, tz TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rejected (code TEXT PRIMARY KEY, reason TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS clean (code TEXT PRIMARY KEY, iata TEXT, name TEXT, city TEXT, country TEXT, part INTEGER,
    continent TEXT, metres REAL, lat REAL, lon REAL, cell_y INTEGER, cell_x INTEGER, words TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS clean_cell ON clean (cell_y, cell_x);
CREATE TABLE IF NOT EXISTS duplicate (code TEXT PRIMARY KEY, of TEXT, km REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS airport (code TEXT PRIMARY KEY, iata TEXT, name TEXT, city TEXT, country TEXT,
    continent TEXT, metres REAL, lat REAL, lon REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS country (code TEXT PRIMARY KEY, airports INTEGER, with_iata INTEGER, mean_metres REAL,
    highest TEXT) WITHOUT ROWID;
"""
Pace = Callable[[float], None]
TABLES = ("raw", "rejected", "clean", "duplicate", "airport", "country")


@dataclass(frozen=True)
class Job:
    """What every step is given: where to write, where to say so, and how long a step takes at least (seconds)."""

    database: str
    ledger: str = ""
    pace: float = 0.0


class Extracted(TypedDict):
    """Rows of one part of the file."""

    read: int
    rejected: int


class Summary(TypedDict):
    """What the handler returns."""

    read: int
    rejected: int
    duplicates: int
    airports: int
    countries: int
    highest: str


# --- the handler ------------------------------------------------------------------------------------------------------


def handler(database: str, ledger: str = "", pace: float = 0.0) -> Summary:
    """Fill *database*; all that is durable about it stands in the decorators below."""
    job = Job(os.path.abspath(database), ledger, pace)
    number = itertools.count(1)
    read = rejected = duplicates = airports = 0
    for part in range(EXTRACTS):
        extracted = extract(job, next(number), part)
        read, rejected = read + extracted["read"], rejected + extracted["rejected"]
    for part in range(TRANSFORMS):
        transform(job, next(number), part)
    for band in range(BANDS):
        duplicates += deduplicate(job, next(number), band)
    for part in range(LOADS):
        airports += load(job, next(number), part)
    if airports != read - rejected - duplicates:
        raise TerminalError(f"{airports} airports out of {read} read, {rejected} rejected, {duplicates} duplicates")
    countries, highest = summarise(job, next(number), airports)
    return Summary(
        read=read, rejected=rejected, duplicates=duplicates, airports=airports, countries=countries, highest=highest
    )


# --- the steps --------------------------------------------------------------------------------------------------------


@step
def extract(job: Job, number: int, part: int) -> Extracted:
    """Read every 20th row of the file, beginning at *part*; keep the sound ones, note what is wrong with the others."""
    good, bad = [], []
    with body(job, number, "extract") as (database, pace):
        with (files("airportsdata") / "airports.csv").open(encoding="utf-8") as text:
            for row in itertools.islice(csv.DictReader(text), part, None, EXTRACTS):
                if reason := fault(row):
                    bad.append((row["icao"], reason))
                else:
                    good.append(raw(row))
        write(database, "raw", good, pace)
        write(database, "rejected", bad)
    return Extracted(read=len(good) + len(bad), rejected=len(bad))


@step
def transform(job: Job, number: int, part: int) -> int:
    """Turn raw rows into clean ones."""
    with body(job, number, "transform") as (database, pace):
        rows = database.execute(
            "SELECT code, iata, name, city, country, tz, feet, lat, lon FROM raw WHERE bucket = ?", (part,)
        )
        return write(database, "clean", [cleaned(*row) for row in rows], pace)


@step
def deduplicate(job: Job, number: int, band: int) -> int:
    """Find airfields listed twice: under a kilometre apart and alike in name; the better known entry stays."""
    with body(job, number, "deduplicate") as (database, pace):
        lowest, highest = -9000 + band * 18000 // BANDS, -9000 + (band + 1) * 18000 // BANDS
        rows = database.execute(
            "SELECT cell_y, cell_x, code, iata, words, lat, lon FROM clean WHERE cell_y >= ? AND cell_y < ?",
            (lowest, highest if band < BANDS - 1 else highest + 1),
        ).fetchall()
        cells: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
        for y, x, *airfield in rows:
            cells.setdefault((y, x), []).append(tuple(airfield))
        return write(database, "duplicate", [d for cell in cells.values() for d in repeated(cell)], pace)


@step
def load(job: Job, number: int, part: int) -> int:
    """Write the airports of a ninth of the countries, and what is to be said of each country."""
    with body(job, number, "load") as (database, pace):
        rows = database.execute(
            "SELECT code, iata, name, city, country, continent, metres, lat, lon FROM clean"
            " WHERE part = ? AND code NOT IN (SELECT code FROM duplicate) ORDER BY code",
            (part,),
        ).fetchall()
        write(database, "airport", rows, pace)
        countries: dict[str, list[tuple[Any, ...]]] = {}
        for row in rows:
            countries.setdefault(row[4], []).append(row)
        write(database, "country", [described(code, own) for code, own in sorted(countries.items())])
    return len(rows)


@step
def summarise(job: Job, number: int, airports: int) -> tuple[int, str]:
    """Check that the database holds *airports* airports; return the number of countries and the highest airport."""
    with body(job, number, "summarise") as (database, pace):
        (held,) = database.execute("SELECT count(*) FROM airport").fetchone()
        countries, counted = database.execute("SELECT count(*), sum(airports) FROM country").fetchone()
        if not held == counted == airports:
            raise TerminalError(f"{airports} airports were loaded, {held} are there, countries have {counted}")
        (highest,) = database.execute("SELECT name FROM airport ORDER BY metres DESC, code LIMIT 1").fetchone()
        pace(1.0)
        return int(countries), str(highest)


# --- what they do with a row ------------------------------------------------------------------------------------------


def fault(row: dict[str, str]) -> str:
    """Return what is wrong with a row of the file, or ""."""
    if not re.fullmatch(r"[A-Z0-9-]{2,8}", row["icao"]):
        return "code"
    if not re.fullmatch(r"[A-Z]{2}", row["country"]):
        return "country"
    try:
        lat, lon, feet = float(row["lat"]), float(row["lon"]), float(row["elevation"] or 0)
    except ValueError:
        return "number"
    if not (-90 <= lat <= 90 and -180 <= lon <= 180) or (lat == 0 and lon == 0):
        return "position"
    if not -1500 <= feet <= 18_000:
        return "elevation"
    return "" if row["name"].strip() else "name"


def raw(row: dict[str, str]) -> tuple[Any, ...]:
    """Return a sound row of the file, typed."""
    code, feet = row["icao"], float(row["elevation"] or 0)
    texts = (row["iata"], row["name"], row["city"], row["subd"], row["country"])
    return code, bucket(code, TRANSFORMS), *texts, feet, float(row["lat"]), float(row["lon"]), row["tz"]


def cleaned(
    code: str, iata: str, name: str, city: str, country: str, tz: str, feet: float, lat: float, lon: float
) -> tuple[Any, ...]:
    """Return the clean row of a raw one."""
    name = " ".join(unicodedata.normalize("NFC", name).split())
    city = " ".join(unicodedata.normalize("NFC", city).split())
    area = tz.partition("/")[0]
    continent = "Ocean" if area in _OCEANS else area
    return (
        code, iata, name, city, country, bucket(country, LOADS), continent, round(feet * 0.3048, 1), lat, lon,
        round(lat * 100), round(lon * 100), words_of(name),
    )  # fmt: skip


_OCEANS = frozenset({"Atlantic", "Indian", "Pacific"})
_COMMON = frozenset(
    {
        "airport",
        "airfield",
        "airstrip",
        "strip",
        "field",
        "ranch",
        "international",
        "regional",
        "municipal",
        "the",
        "of",
    }
)


def words_of(name: str) -> str:
    """Return the words that tell a name from others: folded, sorted, without what half of all airports are called."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return " ".join(sorted(set(re.findall(r"[a-z0-9]{2,}", plain.replace("'", ""))) - _COMMON))


def repeated(cell: list[tuple[Any, ...]]) -> Iterator[tuple[str, str, float]]:
    """Yield code, the code of the entry that stays, and their distance for each duplicate of one map cell."""
    kept: list[tuple[Any, ...]] = []
    # who has an IATA code is better known; then the code decides, so that every run decides alike
    for code, iata, words, lat, lon in sorted(cell, key=lambda airfield: (not airfield[1], airfield[0])):
        for other, _, theirs, y, x in kept:
            km = distance(lat, lon, y, x)
            if km < 1.0 and alike(set(words.split()), set(theirs.split())):
                yield code, other, round(km, 3)
                break
        else:
            kept.append((code, iata, words, lat, lon))


def alike(some: set[str], others: set[str]) -> bool:
    """Return whether one name says no more than the other."""
    return bool(some and others) and (some <= others or others <= some)


def distance(lat: float, lon: float, other_lat: float, other_lon: float) -> float:
    """Return the kilometres between two points (haversine)."""
    a, b = math.radians(lat), math.radians(other_lat)
    h = math.sin((b - a) / 2) ** 2 + math.cos(a) * math.cos(b) * math.sin(math.radians(other_lon - lon) / 2) ** 2
    return 2 * 6371.0 * math.asin(math.sqrt(h))


def described(country: str, airports: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Return the row of a country that has *airports*."""
    highest = max(airports, key=lambda row: (row[6], row[0]))
    mean = round(sum(row[6] for row in airports) / len(airports), 1)
    return country, len(airports), sum(bool(row[1]) for row in airports), mean, highest[0]


def bucket(text: str, of: int) -> int:
    """Return a number below *of* that depends on *text* alone, in every process."""
    return zlib.crc32(text.encode()) % of


# --- the database -----------------------------------------------------------------------------------------------------


def connect(path: str) -> sqlite3.Connection:
    """Return a connection to the database at *path*, its tables made."""
    database = sqlite3.connect(path, timeout=30.0)
    database.execute("PRAGMA synchronous = NORMAL")
    database.executescript(SCHEMA)
    return database


def write(database: sqlite3.Connection, table: str, rows: Sequence[tuple[Any, ...]], pace: Pace | None = None) -> int:
    """Upsert *rows* in a few transactions, and return how many they are."""
    size = max(1, math.ceil(len(rows) / SLICES))
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        with database:
            marks = ", ".join("?" * len(part[0]))
            database.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", part)
        if pace is not None:
            pace((start + len(part)) / len(rows))
    return len(rows)


def dump(path: str) -> Iterator[str]:
    """Yield every row of the database as a line, sorted: two databases hold the same if their dumps are the same."""
    with closing(sqlite3.connect(path, timeout=30.0)) as database:
        for table in TABLES:
            rows: Iterable[tuple[Any, ...]] = database.execute(f"SELECT * FROM {table}")
            yield from sorted(f"{table} {row!r}" for row in rows)


# --- the ledger -------------------------------------------------------------------------------------------------------


class Ledger:
    """A file of one JSON line an event. A line is one write to a file opened for appending: a kill loses none."""

    def __init__(self, path: str) -> None:
        self.path = path

    def note(self, number: int, name: str, event: str) -> None:
        """Append one line; the time is of the monotonic clock, which all processes of a machine share."""
        line = {"step": number, "name": name, "event": event, "pid": os.getpid(), "parent": os.getppid(),
                "at": time.monotonic_ns()}  # fmt: skip
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, json.dumps(line).encode() + b"\n")
        finally:
            os.close(file)


@contextmanager
def body(job: Job, number: int, name: str) -> Iterator[tuple[sqlite3.Connection, Pace]]:
    """
    Frame a step's body: its lines in the ledger, the database, and its pace.

    The second value waits until the given part of the declared time is over: `pace(0.5)` returns after half of it.
    A step does not end while there is a file named like the ledger, with `.hold-` and its number: who means to kill a
    worker in it is in time however slow the machine is.
    """
    begun = time.monotonic()
    ledger = Ledger(job.ledger) if job.ledger else None
    if ledger is not None:
        ledger.note(number, name, "start")

    def pace(part: float) -> None:
        time.sleep(max(0.0, begun + job.pace * part - time.monotonic()))

    with closing(connect(job.database)) as database:
        yield database, pace
    pace(1.0)
    if ledger is not None:
        while os.path.exists(f"{job.ledger}.hold-{number}"):
            time.sleep(0.005)
        ledger.note(number, name, "end")
