"""Odd transcripts and the labels that birq makes of them: the table of docs/inputs.md."""

from __future__ import annotations

from pathlib import Path

import inputs_page

from birq.corpora import check
from birq.corpora.items import Item, Scan
from birq.text.characters import named
from birq.text.normal import Normaliser

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ENGLISH = LETTERS + "' "
SPANISH = LETTERS + "áéíñóúü "
GERMAN = LETTERS + "äöüß "
TURKISH = "abcçdefgğhıijklmnoöprsştuüvyz' "
HINDI = "अआइईउऊएऐओऔकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसहा" + "िीुूेैोौंँ़् "
ARABIC = "ابتثجحخدذرزسشصضطظعغفقكلمنهويءآأإؤئىة "
JAPANESE = "こんにちはせかいーガギ世界"
HEBREW = "אבגדהוזחטיכךלמםנןסעפףצץקרשת "


def normaliser(alphabet: str = ENGLISH, language: str = "en", annotations: str = "drop", quotation_marks: bool = True) -> Normaliser:
    return Normaliser(alphabet, language, annotations, quotation_marks)


# ---- the table of docs/inputs.md: input, language or setting ("" for English), why

PLAIN, QUOTES, ASIDE = "punctuation is a space, so that no two words become one", "quotation marks", "nobody knows how it was said"
TABLE = [
    ("HELLO There", "", "lower case"),
    ("yes,no,maybe", "", PLAIN),
    ("wait…what", "", PLAIN),
    ("stop.go on", "", PLAIN),
    ("call(me)maybe", "", PLAIN),
    ("well—no, fire-engine", "", "hyphens and dashes too"),
    ("and/or", "", PLAIN),
    ("• hello", "", PLAIN),
    ("don’t, Hawaiʻi, o`clock", "", "one sign for the apostrophe"),
    ("the boys' hats, 'tis", "", "apostrophes at the edge of a word stay"),
    ("rock 'n' roll", "", "so do those of known short forms"),
    ("he said 'no way' to me", "", "a pair around words is " + QUOTES),
    ("he said ‘no way’ to me", "", QUOTES),
    ("„ja“, ‚ja‘, «ja», ‹ja›", "German", QUOTES),
    ("don't", "German", "an apostrophe in a word, and the alphabet has none"),
    ("'", "", "nothing is left"),
    ("...", "", "nothing is left"),
    ("hello [noise] there", "", "annotations are dropped (`annotations: drop`)"),
    ("hello <unk> there {cough}", "", "annotations"),
    ("hello [noise there", "", "where does it end?"),
    ("(laughter) yes", "", "a round bracket that is one word and stands alone"),
    ("(he laughs) yes", "", "more words may have been said; `corpus.json` counts them"),
    ("hello [noise] there", "quarantine", "with `annotations: quarantine`"),
    ("hello [oh] there", "words", "with `annotations: words`"),
    ("café", "", "é is not in the alphabet"),
    ("cafe\u0301", "Spanish", "composed (NFC)"),
    ("oﬃce ｆｕｌｌ", "", "plain letters for ligatures and widths"),
    ("room 101", "", ASIDE),
    ("½ cup", "", ASIDE),
    ("chapter Ⅳ", "", ASIDE),
    ("x²", "", ASIDE),
    ("№ five", "", ASIDE),
    ("ten % off", "", ASIDE),
    ("rock & roll", "", ASIDE),
    ("$5", "", ASIDE),
    ("me@home", "", ASIDE),
    ("a+b=c", "", ASIDE),
    ("five′ six″", "", ASIDE),
    ("he *** up", "", "a masked word was said"),
    ("brand™ new ☺ 😀", "", "signs and pictures that nobody says"),
    ("👍🏽 good ❤\ufe0f\u200d🔥", "", "with their selectors and joiners"),
    ("hello\u2028there\u2029my\x85friend", "", "separators are spaces; no line ends there"),
    ("good\x0bnight\x0call\x1cof\rus", "", "so are these controls"),
    ("hello\u00a0there\u200bmy friend", "", "no-break and zero-width spaces"),
    ("\ufeffhello \u200ethere co\u00adoperate\u2060d", "", "byte-order marks, marks of direction, soft hyphens vanish"),
    ("hello\x00there", "", "other controls are damage"),
    ("hello\ufffdthere", "", "the text was decoded wrongly before"),
    ("¿Qué tal? ¡Olé!", "Spanish", "punctuation of any script"),
    ("नमस्ते। दुनिया॥", "Hindi", "danda"),
    ("مرحبا، كيف؟ جمـيل", "Arabic", "comma, question mark; tatweel vanishes"),
    ("こんにちは、世界。ｶﾞｷﾞ", "Japanese", "no space where the alphabet has none; half-width letters"),
    ('צה"ל', "Hebrew", "part of the word, and not in the alphabet"),
    ("İstanbul IRMAK", "Turkish", "`tokenizer.language: tr`"),
    ("İstanbul", "", "English has no İ"),
]
WRITTEN = {
    "": normaliser(),
    "quarantine": normaliser(annotations="quarantine"),
    "words": normaliser(annotations="words"),
    "Spanish": normaliser(SPANISH, "es"),
    "German": normaliser(GERMAN, "de"),
    "Turkish": normaliser(TURKISH, "tr"),
    "Hindi": normaliser(HINDI, "hi"),
    "Arabic": normaliser(ARABIC, "ar"),
    "Japanese": normaliser(JAPANESE, "ja"),
    "Hebrew": normaliser(HEBREW, "he"),
}


def judged(text: str, how: Normaliser) -> Item:
    """What the corpus stage makes of a recording with this transcript."""
    scan = Scan(Path(), [Item("a", "a.wav", "s", text)], "", "")
    (good,), (bad,) = [x or [None] for x in check.judge(scan, lambda i: None, how, 0.1, 10.0)]
    return good or bad


def table() -> str:
    """The table of docs/inputs.md."""
    rows = []
    for text, how, why in TABLE:
        item = judged(text, WRITTEN[how])
        outcome = inputs_page.code(item.text or "") if not item.reason else f"set aside: {item.reason}"
        if item.reason and item.reason.startswith("characters"):
            outcome = f"set aside: {inputs_page.code(named(WRITTEN[how].outside(item.text or '')))} outside the alphabet"
        rows.append((inputs_page.code(text), outcome, f"{how}: {why}" if how[:1].isupper() else why))
    return inputs_page.markdown(("transcript", "label", "why"), rows)
