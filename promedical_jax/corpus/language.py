"""Which questions are surely in another language than the wanted ones.

py3langid counts pieces of letters, and gives each of its 139 languages a probability. Drug names, abbreviations and species look like Latin or Italian to it,
and a question of two words like anything: so what counts is not which language comes first, but that the wanted ones together have next to no probability left.
"""

from collections.abc import Sequence

from promedical_jax.errors import InputError
from promedical_jax.recipe import suggestion

NEXT_TO_NONE = 0.001  # for the wanted languages together; the least of 10,662 real English questions and cases is 0.017
HEAD = 80  # letters by which most questions show that they are wanted; only of the others is more looked at
NO_LANGUAGE = "zxx"  # numbers, formulas, markup


def foreign(texts: Sequence[str], wanted: Sequence[str]) -> dict[int, str]:
    """Of each text that is surely in none of the `wanted` languages (ISO 639-1 codes) its place, and the language that it most looks like.

    What is short or doubtful is not among them. Raises InputError for a code that is not known, and without py3langid.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise InputError('sieve.languages needs py3langid; run pip install "promedical-jax[corpus]", or leave it out') from None
    reader = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    for code in wanted:
        if code not in reader.labels or code == NO_LANGUAGE:
            raise InputError(f"sieve.languages: {code!r} is no language that is known; {suggestion(code, reader.labels)}; codes are those of ISO 639-1")
    found: dict[int, str] = {}
    for place, text in enumerate(texts):
        if reader.classify(text[:HEAD])[0] in wanted:
            continue
        ranked = reader.rank(text)
        first = ranked[0][0]
        if first != NO_LANGUAGE and sum(share for code, share in ranked if code in wanted) < NEXT_TO_NONE:
            found[place] = first
    return found
