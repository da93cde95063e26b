"""Sentences for the synthetic corpus: numbers, dates, places, short commands, spelled letters; 2 to 14 lower-case words."""

from __future__ import annotations

import string
import zlib
from dataclasses import dataclass

import numpy as np


def _list(words: str) -> list[str]:
    return words.split()


UNITS = _list("zero one two three four five six seven eight nine")
TEENS = _list("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen")
TENS = _list("twenty thirty forty fifty sixty seventy eighty ninety")
ORDINALS = _list(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth"
)
MONTHS = _list("january february march april may june july august september october november december")
DAYS = _list("monday tuesday wednesday thursday friday saturday sunday")
PLACES = _list(
    "london paris berlin rome madrid vienna dublin boston chicago denver houston oxford cambridge glasgow leeds bristol "
    "toronto sydney cairo tokyo delhi moscow lisbon athens oslo prague warsaw geneva montreal florida texas norway"
)
LANDMARKS = _list("station airport harbour museum library market hospital school bridge castle park church theatre hotel bank")
STREETS = _list("maple river church garden victoria mill station park lake hill king queen north south orchard forest")
ROADS = _list("street road avenue lane square")
ROOMS = _list("kitchen bedroom bathroom garage hall office garden attic basement nursery")
DEVICES = _list("light lamp heater radio fan television oven alarm camera printer kettle speaker")
OPENABLES = _list("window door gate curtain drawer cupboard")
PEOPLE = _list("john mary peter susan david laura michael emma robert helen thomas alice george sarah martin julia oscar nina")
MEDIA = _list("song film story record concert programme")
MOODS = _list("quiet happy slow modern famous short long new")
FOODS = _list("bread milk butter cheese coffee sugar apples oranges potatoes rice chicken fish salad soup eggs honey tea")
COLOURS = _list("red green blue yellow white black brown orange purple grey")
THINGS = _list("box book chair table bottle ticket letter jacket basket cup pencil blanket parcel key")
MEASURES = _list("minutes hours days weeks miles metres pounds dollars degrees litres")
PERIODS = ["in the morning", "in the afternoon", "in the evening", "at night", "today", "tomorrow", "next week", "this weekend"]
WEATHER = _list("rain snow wind fog sunshine thunder")
VEHICLES = _list("train bus flight ferry taxi")


@dataclass(frozen=True)
class Sentence:
    """`words` are the transcript; `pauses` the indices of words after which a speaker may pause."""

    words: tuple[str, ...]
    pauses: tuple[int, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)


class _Writer:
    """Draws phrases; every method returns a string of lower-case words."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def one(self, words: list[str]) -> str:
        return words[int(self.rng.integers(len(words)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def below_hundred(self, low: int = 0) -> str:
        n = int(self.rng.integers(low, 100))
        if n < 10:
            return UNITS[n]
        if n < 20:
            return TEENS[n - 10]
        return TENS[n // 10 - 2] + (f" {UNITS[n % 10]}" if n % 10 else "")

    def number(self) -> str:
        kind = self.rng.random()
        if kind < 0.5:
            return self.below_hundred(2)
        hundreds = f"{UNITS[int(self.rng.integers(1, 10))]} hundred"
        rest = f" and {self.below_hundred(1)}" if self.chance(0.7) else ""
        if kind < 0.8:
            return hundreds + rest
        return f"{self.below_hundred(1)} thousand" + (f" {hundreds}" if self.chance(0.6) else "")

    def digits(self, low: int, high: int) -> str:
        return " ".join(self.one(UNITS) for _ in range(int(self.rng.integers(low, high + 1))))

    def letters(self, low: int, high: int) -> str:
        alphabet = list(string.ascii_lowercase)
        return " ".join(self.one(alphabet) for _ in range(int(self.rng.integers(low, high + 1))))

    def ordinal(self) -> str:
        n = int(self.rng.integers(1, 32))
        if n <= 20:
            return ORDINALS[n - 1]
        return "thirtieth" if n == 30 else f"{'thirty' if n > 30 else 'twenty'} {ORDINALS[n % 10 - 1]}"

    def year(self) -> str:
        return f"{self.one(['nineteen', 'eighteen', 'twenty', 'seventeen'])} {self.below_hundred(10)}"

    def time(self) -> str:
        hour = self.one(UNITS[1:] + TEENS[:3])
        return self.one(
            [f"half past {hour}", f"quarter to {hour}", f"quarter past {hour}", f"{hour} {self.one(TENS[:4])}", f"{hour} o'clock"]
        )

    def place(self) -> str:
        kind = self.rng.random()
        if kind < 0.45:
            return self.one(PLACES)
        if kind < 0.75:
            return f"the {self.one(LANDMARKS)}"
        return f"{self.one(STREETS)} {self.one(ROADS)}"

    # ---- whole sentences, as phrases with a possible pause between them

    def command(self) -> list[str]:
        device, room, thing = self.one(DEVICES), self.one(ROOMS), self.one(THINGS)
        forms = [
            [f"turn {self.one(['on', 'off', 'up', 'down'])} the {device}", f"in the {room}"],
            [f"{self.one(['open', 'close', 'lock', 'check'])} the {self.one(OPENABLES)}", f"of the {room}"],
            [f"set the {device} to {self.below_hundred(2)}", self.one(["percent", "degrees"])],
            [f"wake me up at {self.time()}", self.one(PERIODS)],
            [f"{self.one(['call', 'find', 'remind', 'follow', 'invite'])} {self.one(PEOPLE)}", self.one(PERIODS)],
            [f"play the {self.one(MOODS)} {self.one(MEDIA)}", f"for {self.one(PEOPLE)}"],
            [f"bring the {self.one(COLOURS)} {thing}", f"to the {room}"],
            [f"put the {thing} {self.one(['under', 'behind', 'beside', 'near'])} the {self.one(THINGS)}"],
        ]
        form = forms[int(self.rng.integers(len(forms)))]
        return form[:1] if len(form) > 1 and self.chance(0.3) else form

    def date(self) -> list[str]:
        day, month = self.one(DAYS), self.one(MONTHS)
        forms = [
            [f"{month} {self.ordinal()}", self.year()],
            [f"the {self.ordinal()} of {month}", self.year()],
            [f"{day} the {self.ordinal()}", f"of {month}"],
            [f"we meet on {day}", f"at {self.time()}"],
            [f"it is {self.time()}", f"on {day}"],
            [f"{self.one(PEOPLE)} was born", f"in {month} {self.year()}"],
        ]
        return forms[int(self.rng.integers(len(forms)))]

    def travel(self) -> list[str]:
        forms = [
            [f"the {self.one(VEHICLES)} from {self.place()} to {self.place()}", f"leaves at {self.time()}"],
            [f"{self.one(PEOPLE)} lives at {self.below_hundred(1)}", f"{self.one(STREETS)} {self.one(ROADS)}", f"in {self.one(PLACES)}"],
            [f"how far is it from {self.place()}", f"to {self.place()}"],
            [f"there is {self.one(WEATHER)} in {self.one(PLACES)}", self.one(PERIODS)],
            [f"it takes {self.below_hundred(2)} {self.one(MEASURES)}", f"to {self.place()}"],
            [f"go {self.one(['left', 'right', 'straight on'])} at {self.place()}"],
        ]
        return forms[int(self.rng.integers(len(forms)))]

    def count(self) -> list[str]:
        forms = [
            [self.digits(3, 7)],
            [f"my number is {self.digits(3, 4)}", self.digits(3, 4)],
            [self.number(), self.number()],
            [f"{self.number()} {self.one(MEASURES)}"],
            [f"{self.number()} {self.one(['plus', 'minus', 'times'])} {self.number()}"],
            [f"buy {self.below_hundred(2)} {self.one(FOODS)}", f"and some {self.one(FOODS)}"],
            [f"the {self.one(COLOURS)} {self.one(THINGS)} costs {self.number()} {self.one(['pounds', 'dollars'])}"],
        ]
        return forms[int(self.rng.integers(len(forms)))]

    def spelling(self) -> list[str]:
        name = self.one(PEOPLE + PLACES)
        forms = [
            [self.letters(3, 7)],
            [f"{name} is spelled", " ".join(name)],
            [f"code {self.letters(2, 4)}", self.digits(2, 4)],
            [f"seat {self.below_hundred(1)} {self.letters(1, 1)}"],
            [f"flight {self.letters(2, 2)}", self.digits(3, 4)],
        ]
        return forms[int(self.rng.integers(len(forms)))]


KINDS = ("command", "date", "travel", "count", "spelling")
KIND_SHARES = (0.28, 0.18, 0.2, 0.2, 0.14)


def home(text: str) -> str:
    """The only split that a sentence may occur in: a tenth of all sentences each for dev and test, the others for train."""
    return {0: "dev", 1: "test"}.get(zlib.crc32(text.encode()) % 10, "train")


def sentence(rng: np.random.Generator, split: str) -> Sentence:
    """Draw one sentence of 2 to 14 words that belongs to the split."""
    writer = _Writer(rng)
    while True:
        phrases = getattr(writer, KINDS[int(rng.choice(len(KINDS), p=KIND_SHARES))])()
        words: list[str] = []
        pauses = []
        for phrase in phrases:
            words += phrase.split()
            pauses.append(len(words) - 1)
        if 2 <= len(words) <= 14 and home(" ".join(words)) == split:
            return Sentence(tuple(words), tuple(pauses[:-1]))
