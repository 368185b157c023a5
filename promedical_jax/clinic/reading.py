"""Any text -> the sentences its author asserts, as lower-case tokens. Quotations, reports of what others said and questions are left out."""

import re
import unicodedata

Tokens = tuple[str, ...]

_NUMBERS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12,
    "thirteen": 13, "fourteen": 14, "fifteen": 15, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80,
    "ninety": 90, "hundred": 100,
}  # fmt: skip
_NUMBER_WORD = re.compile(rf"\b(?:(twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)[ -])?({'|'.join(_NUMBERS)})\b")

_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[‘’ʼ`´]", "'"),
        (r"[“”«»„]", '"'),
        (r"[‐‑‒–—−]", " - "),
        (r"[*_#~|>]+", " "),  # markdown
        (r"\bdr\.", "dr"),
        (r"\ba&e\b", "emergency room"),
        (r"\b(e\.g|i\.e)\.?", " "),
        (r"\bca(?:n't|nt|nnot)\b", "can not"),
        (r"\bwo(?:n't|nt)\b", "will not"),
        (r"\b(do|does|did|should|would|could|must|is|are|was|were|need|has|have)(?:n't|nt)\b", r"\1 not"),
        (r"\bi'm\b", "i am"),
        (r"\blet's\b", "let us"),
        (r"\b(i|you|we|they)'(?:re|ve|d|ll)\b", r"\1"),
        (r"\b(it|that|this|here|there|what)'s\b", r"\1 is"),
        (r"(?<=[a-z])'s\b", ""),
        (r"(?<![a-z0-9])'|'(?![a-z0-9])", '"'),
        (r"(?<=\d),(?=\d{3}(?!\d))", ""),
        (r"(?<=\d)(?=mg|milligram|g\b|gram|mcg|day|week)", " "),
        (r"\b(?:milligrams?|milligrammes?|mgs|mg\.(?=\s+[a-z0-9]))(?![a-z])", "mg"),
        (r"\b(?:an?|1|the next) weeks?(?: time)?\b", "7 days"),
        (r"\b(?:2 weeks|(?:a )?fortnight)\b", "14 days"),
        (r"\bfollow[ -]*ups?\b|\bfollowups?\b", "followup"),
    )
]
_GRAMS = re.compile(r"\b([0-9]+(?:\.[0-9]+)?) (?:g|grams?|grammes?)\b")
_MICROGRAMS = re.compile(r"\b([0-9]+(?:\.[0-9]+)?) (?:mcg|micrograms?|ug|μg)\b")

_SAYING = "said|says|asked|asks|told|mentioned|wrote|writes|wondered|thought|heard|claimed|lists|listed|reads|states|stated"
_QUOTED = re.compile(rf'\b(?:{_SAYING}|say|ask|quote|quoting|quoted|words|question|message|card)\b[^".!?\n]{{0,40}}"[^"]*(?:"|$)')
_OTHERS = "you|patients?|people|some|others|they|he|she|friends?|card|somebody|someone|mother|father|sister|brother"
_REPORT = re.compile(
    rf"\b(?:(?:{_OTHERS})(?: (?:also|have|has|just|already|had))? (?:{_SAYING})"
    r"|(?:people|some|others|they) (?:say|think|claim|believe)|(?:was|were|been) told)\b"
    r".*?(?=$|\b(?:but|however|so|instead|therefore|yet|though)\b|, (?:please )?(?:i|take|use|start|do|never|avoid|seek|get|go|come|see|call)\b)"
)
_SUGGESTION = re.compile(r"^(?:why not|why do you not|how about|what about|(?:can|could|will|would) you please|please (?:can|could) you)\b")
ENUMERATOR = re.compile(r"(?:(?<=\s)|^)(?:step )?\(?(\d{1,2})[.):](?=\s|$)|(?:(?<=\s)|^)step (\d{1,2})\b")
_BOUNDARY = re.compile(r"(?<!\d)[.!;]+|(?<=\d)[.!;]+(?!\d)|\?+!*|\n+")
_TOKEN = re.compile(r"[^\W\d_]+|[0-9]+(?:\.[0-9]+)?|[,:()\-]")


def normalise(text: str) -> str:
    """Lower case, plain punctuation, contractions spelled out, numbers as digits, doses in mg, weeks in days. Line breaks stay."""
    text = unicodedata.normalize("NFKC", text).casefold()
    if not text.isascii():
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")  # zero-width characters and the like
    text = re.sub(r"[^\S\n]+", " ", text)
    text = _NUMBER_WORD.sub(lambda m: str((_NUMBERS[m[1]] if m[1] else 0) + _NUMBERS[m[2]]), text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _GRAMS.sub(lambda m: f"{float(m[1]) * 1000:g} mg", text)
    text = _MICROGRAMS.sub(lambda m: f"{float(m[1]) / 1000:g} mg", text)
    return re.sub(r"[^\S\n]+", " ", text)


def assertions(normalised: str) -> list[Tokens]:
    """The sentences that the author asserts or requests, in order; input is `normalise`d."""
    text = _QUOTED.sub(" ", normalised)
    text = ENUMERATOR.sub("\n", text)
    sentences = []
    start = 0
    for match in [*_BOUNDARY.finditer(text), None]:
        sentence = text[start : match.start() if match else len(text)].strip()
        start = match.end() if match else len(text)
        if match and match[0].startswith("?"):
            request = _SUGGESTION.match(sentence)
            sentence = sentence[request.end() :] if request else ""
        tokens = tuple(_TOKEN.findall(_REPORT.sub(" ", sentence)))
        if tokens:
            sentences.append(tokens)
    return sentences


def is_number(token: str) -> bool:
    return token[0] in "0123456789"


def phrase(tokens: Tokens) -> str:
    """Tokens as one string with single spaces, padded, so that patterns can ask for whole words; hyphens and brackets are left out."""
    return f" {' '.join(token for token in tokens if token not in '-()')} "
