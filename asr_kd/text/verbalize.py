"""Written text as words that are spoken: digits, spelled letters, abbreviations, symbols and annotations.

Whisper and other systems write "Enter 45821." and "M-A-R-G-A-R-E-T"; a student that is trained on characters needs
ENTER FOUR FIVE EIGHT TWO ONE and M A R G A R E T. One written form often has several readings ("1984": nineteen
eighty four, one thousand nine hundred eighty four, one nine eight four), so the result is a list, the most usual first.
Numbers are spelled by num2words.
"""

import itertools
import re
from collections.abc import Iterable, Iterator

from asr_kd.errors import VocabularyError, import_extra

MAX_READINGS = 16
"""Readings of one text at most; those that differ least from the most usual one are kept."""

MAX_SPELLED = 3
"""Words in capitals of a text without small letters that may have been spelled letter by letter."""
LONGEST_CARDINAL = 12
"""Digits of the longest number that is read as one number; longer ones are read digit by digit."""

_ANNOTATIONS = re.compile(r"\[[^\[\]]*\]|\([^()]*\)|<\|[^|]*\|>|\*[^*]+\*|♪[^♪]*♪|[♪♫]")
_TITLES = {
    "mr": ["mister"],
    "mrs": ["missus"],
    "ms": ["miss", "mizz"],
    "dr": ["doctor", "drive"],
    "st": ["saint", "street"],
    "prof": ["professor"],
    "jr": ["junior"],
    "sr": ["senior"],
    "vs": ["versus"],
    "etc": ["et cetera"],
    "ave": ["avenue"],
    "blvd": ["boulevard"],
}
_SYMBOLS = {"&": "and", "+": "plus", "@": "at", "=": "equals", "#": "number", "°": "degrees", "%": "percent"}
_CURRENCIES = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent")}
_ROMAN = re.compile(r"M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})$")
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}

_TOKEN = re.compile(
    r"(?P<amount>[$£€]\s?\d[\d,]*(?:\.\d+)?[ -](?i:hundred|thousand|million|billion|trillion)\b)"
    r"|(?P<money>[$£€]\s?\d[\d,]*(?:\.\d{1,2})?)"
    r"|(?P<time>\b\d{1,2}:[0-5]\d\b)"
    r"|(?P<ordinal>\b\d[\d,]*(?:st|nd|rd|th)\b)"
    r"|(?P<decade>\b\d{3}0s\b|(?<![\w'’])['’]?\d0s\b)"
    r"|(?P<decimal>\b\d[\d,]*\.\d+)"
    r"|(?P<grouped>\b\d{1,3}(?:,\d{3})+\b)"
    r"|(?P<date>\b(?:January|February|March|April|May|June|July|August|September|October|November|December) [0-3]?\d\b)"
    r"|(?P<phone>\b\d+(?:-\d+)+\b)"
    r"|(?P<mixed>\b(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z\d]+(?:-[A-Za-z\d]+)*\b)"
    r"|(?P<integer>\b\d+\b)"
    r"|(?P<spelled>(?<![\w'’])(?:[A-Za-z][-.])+[A-Za-z](?![\w'’])\.?)"
    r"|(?P<roman>(?<=[Cc]hapter )[IVXLC]+\b|(?<=[Bb]ook )[IVXLC]+\b|(?<=[Pp]art )[IVXLC]+\b|(?<=[Vv]olume )[IVXLC]+\b)"
    r"|(?P<title>\b(?:Mr|Mrs|Ms|Dr|St|Prof|Jr|Sr|vs|etc|Ave|Blvd|MR|MRS|MS|DR|PROF)\b\.?)"
    r"|(?P<capitals>(?<![\w'’])[A-Z]{2,12}(?:-[A-Z]+)*(?![\w'’-])|(?<![\w'’])[A-Z]+(?:-[A-Z]+)+(?![\w'’-]))"
    r"|(?P<symbol>[&+@=#°%])"
)


_READ_AS_NUMBERS = {"integer", "grouped", "decimal", "phone", "ordinal", "mixed"}
_READ_IN_ENGLISH = {"amount", "money", "date", "time", "decade", "roman"}
"""Kinds of tokens, each with a method of `_Numbers`."""


def verbalize(text: str, language: str = "en", max_readings: int = MAX_READINGS) -> list[str]:
    """Return the readings of a written text, the most usual first; at least one, which may be empty.

    Annotations ("[BLANK_AUDIO]", "(laughs)", "♪") are removed. Case and punctuation outside of what is rewritten are
    left to the normalizer. Titles, symbols, currencies, clock times and spelled letters are English; of other
    languages, numbers are read as cardinals or digit by digit.

    Raises:
        VocabularyError: num2words does not support the language.
        MissingExtraError: the extra `whisper` is not installed.
    """
    text = _ANNOTATIONS.sub(" ", text)
    numbers = _Numbers(language)
    # In a text that is all capitals, these do not indicate acronyms; a word or two of them was spelled.
    shouted = text.upper() == text and len(re.findall(r"\b[A-Z]{2,}\b", text)) > MAX_SPELLED
    fixed: list[str] = []
    choices: list[list[str]] = []
    end = 0
    for match in _TOKEN.finditer(text):
        readings = _readings(match, numbers, language, shouted)
        if readings is None:
            continue
        fixed.append(text[end : match.start()])
        choices.append(readings)
        end = match.end()
    rest = text[end:]
    found: dict[str, None] = {}
    for picked in _nearest_first(choices):
        pieces = [piece for pair in zip(fixed, picked, strict=True) for piece in (pair[0], f" {pair[1]} ")]
        found.setdefault(" ".join("".join([*pieces, rest]).split()))
        if len(found) == max_readings:
            break
    return list(found)


def strip_annotations(text: str) -> str:
    """Return the text without "[…]", "(…)", "♪ … ♪" and control tokens, white space collapsed."""
    return " ".join(_ANNOTATIONS.sub(" ", text).split())


def _readings(match: re.Match[str], numbers: "_Numbers", language: str, shouted: bool) -> list[str] | None:
    """Readings of one written token; None leaves it as it is."""
    kind, token, english = match.lastgroup or "", match.group(), language == "en"
    if kind in _READ_AS_NUMBERS or (english and kind in _READ_IN_ENGLISH):
        readings: list[str] = getattr(numbers, kind)(token)
        return readings
    if kind == "spelled":
        return [" ".join(token.replace("-", " ").replace(".", " ").split())]
    if kind == "symbol" and (english or token == "&"):
        return [_SYMBOLS[token]]
    if not english or (kind == "capitals" and shouted):
        return None
    if kind == "title":
        return _TITLES[token.rstrip(".").lower()]
    letters = " ".join(token.replace("-", ""))
    return [letters, token] if "-" in token else [token, letters]


def _nearest_first(choices: list[list[str]]) -> Iterator[tuple[str, ...]]:
    """Combinations of readings, those with the fewest unusual ones first; kinds of reading stay together.

    A speaker who reads one number digit by digit reads the next one so too, therefore the combinations that take the
    same reading throughout come before mixed ones.
    """
    most = max((len(readings) for readings in choices), default=1)
    for index in range(most):
        yield tuple(readings[min(index, len(readings) - 1)] for readings in choices)
    yield from itertools.islice(itertools.product(*choices), 4 * MAX_READINGS)


class _Numbers:
    """Readings of numbers in one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.english = language == "en"

    def _spell(self, value: int, to: str = "cardinal") -> str:
        num2words = import_extra("num2words", "whisper")
        try:
            spelled = num2words.num2words(value, lang=self.language, to=to)
        except (NotImplementedError, LookupError) as error:
            if to == "ordinal":  # num2words has those of some languages only
                return self._spell(value)
            raise VocabularyError(
                f"numbers cannot be spelled in the language {self.language!r}",
                expected="a language of num2words, such as en, de, fr, es",
                remedy="Set verbalize: false, or let the other system spell numbers out",
            ) from error
        return str(spelled).replace("-", " ").replace(",", "")

    def digits(self, token: str) -> list[str]:
        """Digit by digit; in English 0 is read as zero or as oh."""
        zeros = ["", "oh"] if self.english and "0" in token else [""]
        return [
            " ".join(zero if zero and digit == "0" else self._spell(int(digit)) for digit in token) for zero in zeros
        ]

    def cardinals(self, value: int) -> list[str]:
        """With and, in English, without "and"."""
        spelled = self._spell(value)
        return _unique([spelled.replace(" and ", " "), spelled]) if self.english else [spelled]

    def integer(self, token: str) -> list[str]:
        """Cardinal, digits, year or pairs: digits first when the number is long or begins with 0.

        The years 2000 to 2009 are read as cardinals.
        """
        if len(token) > LONGEST_CARDINAL:
            return self.digits(token)
        cardinals, digits = self.cardinals(int(token)), self.digits(token)
        if len(token) == 1:
            return _unique([*cardinals, *digits])
        pairs = self._pairs(token)
        if len(token) >= 5 or token[0] == "0":
            return _unique([*digits, *cardinals, *pairs])
        if len(token) == 4 and (1100 <= int(token) <= 1999 or 2010 <= int(token) <= 2099):
            return _unique([*pairs, *cardinals, *digits])
        return _unique([*cardinals, *digits, *pairs])

    def grouped(self, token: str) -> list[str]:
        """1,305: a cardinal; digits read one by one are not grouped."""
        number = token.replace(",", "")
        return self.cardinals(int(number)) if len(number) <= LONGEST_CARDINAL else self.digits(number)

    def _pairs(self, token: str) -> list[str]:
        """1984 as nineteen eighty four, 1905 as nineteen oh five, 305 as three oh five; English only."""
        if not self.english or not 3 <= len(token) <= 6 or token[0] == "0":
            return []
        first = 2 - len(token) % 2
        groups = [token[:first], *(token[at : at + 2] for at in range(first, len(token), 2))]
        if len(groups) == 2 and groups[1] == "00":
            return [f"{self._spell(int(groups[0]))} hundred"]
        return [" ".join(self._pair(group) for group in groups)]

    def _pair(self, group: str) -> str:
        if len(group) == 2 and group[0] == "0":
            return f"oh {'oh' if group[1] == '0' else self._spell(int(group[1]))}"
        return self._spell(int(group))

    def decimal(self, token: str) -> list[str]:
        whole, _, fraction = token.replace(",", "").partition(".")
        halves = [f"{head} and a half" for head in self.integer(whole)] if fraction == "5" else []
        point = {"en": "point", "de": "komma", "fr": "virgule", "es": "coma", "it": "virgola"}.get(self.language, "")
        read = [f"{head} {point} {tail}" for head in self.integer(whole) for tail in self.digits(fraction)]
        return _unique([*read, *halves]) if self.english else read

    def phone(self, token: str) -> list[str]:
        """Digit groups joined by hyphens: digit by digit, or group by group."""
        groups = token.split("-")
        by_group = " ".join(self.integer(group)[0] for group in groups)
        in_pairs = " ".join((self._pairs(group) or self.grouped(group))[0] for group in groups)
        return _unique([*self.digits("".join(groups)), by_group, in_pairs])

    def ordinal(self, token: str) -> list[str]:
        number = re.sub(r"\D", "", token)
        if len(number) > LONGEST_CARDINAL:
            return self.digits(number)
        spelled = self._spell(int(number), "ordinal")
        return _unique([spelled.replace(" and ", " "), spelled]) if self.english else [spelled]

    def date(self, token: str) -> list[str]:
        """January 12: the day as an ordinal or a cardinal."""
        month, _, day = token.partition(" ")
        return [f"{month} {self._spell(int(day), 'ordinal')}", f"{month} {self._spell(int(day))}"]

    def mixed(self, token: str) -> list[str]:
        """Letters and digits together, as in B12 or 3D: letters one by one, each run of digits by its readings."""
        runs = re.findall(r"[A-Za-z]+|\d+", token)
        readings = [self.integer(run) if run.isdigit() else [" ".join(run)] for run in runs]
        return _unique(" ".join(picked) for picked in itertools.islice(itertools.product(*readings), MAX_READINGS))

    def amount(self, token: str) -> list[str]:
        """$1.5 million: the currency comes last, in the singular before a noun ("a five million dollar house")."""
        unit, _ = _CURRENCIES[token[0]]
        number, scale = re.split(r"[ -]", token[1:].strip())
        heads = self.decimal(number) if "." in number else self.grouped(number)
        return [f"{head} {scale} {unit}{plural}" for plural in ("s", "") for head in heads]

    def money(self, token: str) -> list[str]:
        unit, cent = _CURRENCIES[token[0]]
        whole, _, fraction = token[1:].strip().replace(",", "").partition(".")
        found = []
        for head in self.grouped(whole):
            plain = f"{head} {unit}{'' if whole.lstrip('0') == '1' else 's'}"
            if not int(fraction or 0):
                found.append(plain)
                continue
            amount = int(fraction.ljust(2, "0"))
            cents = "pence" if cent == "penny" and amount != 1 else cent + ("" if amount == 1 else "s")
            spelled = self._spell(amount)
            found += [f"{plain} and {spelled} {cents}", f"{plain} {spelled}", f"{head} {spelled}"]
        return _unique(found)

    def time(self, token: str) -> list[str]:
        hour, minute = token.split(":")
        if minute == "00":
            return [f"{self._spell(int(hour))} o'clock", self._spell(int(hour)), f"{self._spell(int(hour))} hundred"]
        tail = f"oh {self._spell(int(minute))}" if minute[0] == "0" else self._spell(int(minute))
        return [f"{self._spell(int(hour))} {tail}"]

    def decade(self, token: str) -> list[str]:
        """The 1990s, '90s, 1900s, 2000s or '00s."""
        number = re.sub(r"\D", "", token)
        if number in ("00", "2000"):
            return ["two thousands"]
        if number == "1000":
            return ["thousands"]
        head = self._spell(int(number[:-2])) + " " if len(number) > 2 else ""
        tens = int(number[-2:])
        if tens == 0:
            return [f"{head}hundreds"]
        return [f"{head}{self._spell(tens)[:-1]}ies" if tens > 10 else f"{head}tens"]

    def roman(self, token: str) -> list[str]:
        if not _ROMAN.match(token):
            return [token]
        values = [_ROMAN_VALUES[letter] for letter in token]
        total = sum(-v if v < after else v for v, after in zip(values, [*values[1:], 0], strict=True))
        return _unique([*self.cardinals(total), token])


def _unique(readings: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(readings))
