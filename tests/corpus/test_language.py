"""Who speaks another language: sentences of several, what must not be taken for Latin, and every real question, of which none may be lost."""

import csv
import json
import re
import sys
from pathlib import Path

import pytest

from promedical_jax.corpus.language import foreign
from promedical_jax.corpus.question import Question
from promedical_jax.corpus.recipe import CorpusConfig, Sieve
from promedical_jax.corpus.sieve import sieve
from promedical_jax.corpus.sources import SOURCES, read_source
from promedical_jax.errors import InputError
from promedical_jax.recipe import read_recipe
from promedical_jax.rubric import Message

SAID = {
    "de": "Mein Vater nimmt seit drei Wochen Blutdrucktabletten und klagt über Schwindel beim Aufstehen. Soll er sie absetzen?",
    "fr": "Ma fille a de la fièvre depuis hier soir et refuse de manger. Faut-il aller aux urgences ?",
    "es": "¿Puedo tomar ibuprofeno si estoy embarazada de ocho semanas y me duele la cabeza todos los días?",
    "pt": "Minha mãe tem diabetes e começou a sentir formigamento nos pés. O que devemos fazer agora?",
    "pl": "Od tygodnia boli mnie gardło i mam powiększone węzły chłonne. Czy powinienem iść do lekarza?",
    "ru": "У моего сына третий день держится температура и появилась сыпь на животе. Что делать?",
    "zh": "我父亲最近总是头晕，血压有点高，需要马上吃药吗？",
    "ar": "ابنتي تعاني من السعال منذ أسبوع، هل تحتاج إلى مضاد حيوي؟",
    "en": "My father has been taking blood pressure tablets for three weeks and feels dizzy when he stands up. Should he stop?",
}
DOUBTFUL = [
    "Is halofantrine ototoxic?",
    "Whats menigitis?",
    "Ig in GCF?\n\nA. Ig A\nB. Ig M\nC. Ig G\nD. Ig D",
    "Staphylococcus aureus, Streptococcus viridans, Enterococcus faecalis, Candida albicans",
    "Metoprolol, lisinopril, atorvastatin, clopidogrel, pantoprazole",
    "COPD, CHF, T2DM, HTN, CKD 3b",
    "Tinea capitis",
    "500 mg 2 x 1",
    "?",
    "",
]


def test_each_language_is_named_and_the_wanted_ones_stay() -> None:
    texts = list(SAID.values())
    assert foreign(texts, ["en"]) == {place: code for place, code in enumerate(SAID) if code != "en"}
    assert foreign(texts, ["en", "de", "pl"]) == {place: code for place, code in enumerate(SAID) if code not in ("en", "de", "pl")}
    assert list(SAID).index("en") in foreign(texts, ["de"])  # English is no exception


def test_a_question_that_begins_in_one_language_and_goes_on_in_another_is_not_surely_foreign() -> None:
    assert not foreign([f"{SAID['de']} {SAID['en']}", f"{SAID['en']} {SAID['de']}"], ["en"])


@pytest.mark.parametrize("text", DOUBTFUL)
def test_silence_and_doubt_are_no_evidence(text: str) -> None:
    assert not foreign([text], ["en"])


def test_of_the_real_english_questions_none_is_lost_and_healthbenchs_foreign_ones_are_found(data: Path) -> None:
    files = {"medqa": "medqa", "medmcqa": "medmcqa", "pubmedqa": "pubmedqa/ori_pqal.json", "medquad": "medquad", "chatdoctor": "chatdoctor/chatdoctor5k.json",
             "kqa": "kqa/questions_w_answers.jsonl"}  # fmt: skip
    texts = [question.text for name, path in files.items() for question in read_source(SOURCES[name], data / path)]
    with (data / "medec" / "MEDEC-MS-TestSet.csv").open() as file:
        texts += [row["Text"] for row in csv.DictReader(file) if row["Text"]]
    for path in sorted((data / "medsafetybench").glob("*.csv")):
        with path.open() as file:
            texts += [row["harmful_medical_request"] for row in csv.DictReader(file)]
    assert len(texts) == 10_662 and foreign(texts, ["en"]) == {}

    bench = [json.loads(line) for line in (data / "healthbench" / "healthbench_300.jsonl").read_text().splitlines()]
    asked = ["\n".join(message["content"] for message in row["prompt"]) for row in bench]
    found = foreign(asked, ["en"])
    of_other_letters = {place for place, text in enumerate(asked) if len(re.findall(r"[\u0400-\u04ff\u0600-\u06ff\u3040-\u9fff]", text)) > len(text) / 3}
    assert of_other_letters <= found.keys() and len(of_other_letters) == 12
    assert len(found) == 49  # read one by one: each is in another language


def test_the_sieve_takes_them_out_and_says_which_language() -> None:
    asked = [Question(id=code, instruction=(Message(role="user", content=text),), source="test", licence="MIT") for code, text in SAID.items()]
    kept, dropped = sieve(asked, Sieve(languages=("en", "fr")))
    assert [q.id for q in kept] == ["fr", "en"]
    assert {(d.id, d.reason, d.because) for d in dropped} == {(code, "language", code) for code in SAID if code not in ("en", "fr")}
    assert len(sieve(asked, Sieve(shortest=1))[0]) == len(SAID)  # where no language is asked for, any may stay


@pytest.mark.parametrize(
    ("code", "words"), [("de-", "'de-' is no language that is known; did you mean 'de'?"), ("English", "codes are those of ISO 639-1"), ("zxx", "no language")]
)
def test_a_code_that_is_none_is_named(code: str, words: str) -> None:
    with pytest.raises(InputError, match=r"sieve\.languages: ") as error:
        foreign(["What is gout?"], ["en", code])
    assert words in str(error.value)


def test_a_list_of_no_language_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus.yaml").write_text("out: x\nsources: [{name: dahl, path: x.csv}]\nsieve: {languages: []}\n")
    with pytest.raises(InputError, match=r"sieve\.languages"):
        read_recipe(CorpusConfig, tmp_path / "corpus.yaml")


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(InputError, match=r'sieve\.languages needs py3langid; run pip install "promedical-jax\[corpus\]"'):
        foreign(["What is gout?"], ["en"])
