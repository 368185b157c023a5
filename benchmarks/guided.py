"""What it costs to keep answers to a JSON schema: which tokens may come next, said by the host, and blocks drawn token by token beside blocks drawn in one go.

    python -m benchmarks.guided --tokenizer ../shared/data/tokenizer --vocab 151936

First the host alone: replies of the forms that the corpus asks for are walked through, and each mask is timed in this thread's processor time, once with a
grammar that was just compiled and once with a second copy of it, whose automaton exists. Then `--slots` answers of `--answer` tokens each, by a small model of
random weights with that vocabulary: free, with a guide that allows every token (what drawing token by token costs), and kept to a schema (a text that does not
end before). Prints one JSON line: microseconds of a mask (mean, median, 99 % and the longest) and milliseconds of a compilation, by form; medians of alternate
runs in seconds, and tokens a second. Without `--tokenizer` it is the clinic's.
"""

import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import sizes

SHAPES = {"slots": 16, "answer": 64}
LINE = {"text": "Names colchicine as the first choice.", "tier": "proficiency", "polarity": "required", "weight": 0.6}
SAID: dict[str, Any] = {  # of each form of the corpus, a reply
    "Difficulty": {"difficulty": 7},
    "Topic": {"category": "medication", "specialty": "rheumatology"},
    "Answered": {"answer": "Rest the joint, drink water, and take colchicine if your kidneys are well. " * 4},
    "Lines": {"criteria": [LINE, LINE | {"tier": "safety", "polarity": "forbidden", "weight": None}] * 4},
    "Reply": {"verdict": "unmet"},
}


def main(arguments: Sequence[str] | None = None) -> None:
    given = sizes.parse(__doc__, arguments, {"tokenizer": "folder of a tokenizer; the clinic's where there is none"}, **SHAPES)
    from promedical_jax.clinic import build_tokenizer
    from promedical_jax.data.encode import stop_token
    from promedical_jax.data.load import load_tokenizer
    from promedical_jax.serve.grammar import Grammars

    model = sizes.model(given)
    tokenizer = load_tokenizer(given.tokenizer, model.vocabulary) if given.tokenizer else build_tokenizer()
    begun = time.perf_counter()
    grammars = Grammars(tokenizer, model.vocabulary, stop_token(tokenizer))
    figures: dict[str, Any] = {"tokens": len(tokenizer), "tokenizer_s": round(time.perf_counter() - begun, 2)}
    figures |= {"forms": {name: _walked(name, tokenizer, grammars, model.vocabulary) for name in SAID}}
    seconds = sizes.alternately(_ways(given, model, grammars), given.times)
    took = {name: statistics.median(each) for name, each in seconds.items()}
    for name, each in took.items():
        figures |= {f"{name}_s": round(each, 6), f"{name}_tokens_per_s": round(given.slots * given.answer / each, 1)}
    shapes = [*SHAPES, *(["tokenizer"] if given.tokenizer else [])]
    given.tokenizer = given.tokenizer and str(given.tokenizer)
    sizes.publish("guided", figures | {"guided_over_free": round(took["guided"] / took["free"], 3)}, given, shapes)


def _walked(name: str, tokenizer: Any, grammars: Any, vocabulary: int) -> dict[str, Any]:
    """Of one form: its grammar compiled, and the masks of a reply's tokens."""
    import numpy as np

    from promedical_jax.asking import Reply
    from promedical_jax.corpus import asked
    from promedical_jax.serve import slots

    form = Reply if name == "Reply" else getattr(asked, name)
    begun = time.perf_counter()
    guides = grammars.guides(_wanted(form.model_json_schema()), 2)
    compiled = time.perf_counter() - begun
    tokens, bits = tokenizer.encode(json.dumps(SAID[name]), add_special_tokens=False), np.empty(slots.words(vocabulary), np.int32)
    found: dict[str, Any] = {"compile_ms": round(1e3 * compiled, 2), "masks": len(tokens)}
    for which, guide in zip(("first", "second"), guides, strict=True):
        spent = []
        for token in tokens:
            start = time.thread_time()
            assert guide.allow(bits)
            spent.append(1e6 * (time.thread_time() - start))
            assert bits[token // 32] >> token % 32 & 1, f"{name}: the reply is not of its form"
            guide.hear(token)
        of = {"mean": statistics.mean(spent), "median": statistics.median(spent), "p99": float(np.quantile(spent, 0.99)), "longest": max(spent)}
        found |= {f"{which}_us": {kind: round(each, 1) for kind, each in of.items()}}
    return found


def _ways(given: Any, model: Any, grammars: Any) -> dict[str, Callable[[], Any]]:
    import jax
    import numpy as np

    from promedical_jax.model.decode import settle
    from promedical_jax.serve.engine import Drawing, Engine, Question

    weights = jax.jit(settle, static_argnums=1)(sizes.weights(model, given), given.dtype)
    engine = Engine(weights, model, count=given.slots, queue=given.slots, longest=given.answer + 32, stop=-1)  # no answer ends before its length
    engine.warm()
    text = _wanted({"type": "string", "minLength": 100 * given.answer})

    class Whatever:
        """Allows every token."""

        def allow(self, bits: np.ndarray) -> bool:
            bits.fill(-1)
            return True

        def hear(self, token: int) -> None:
            pass

    def all_of(guides: Callable[[], Any]) -> None:
        left, over = [given.slots], threading.Event()

        def hear(_: int, __: Any, end: Any) -> None:
            left[0] -= end == "length"
            if not left[0] or end not in (None, "length"):
                over.set()

        for seed in range(given.slots):
            engine.ask(Question([1, 2, 3], 1, given.answer, Drawing(seed), hear, guides()))
        over.wait()
        assert not left[0], "an answer could not be kept to its schema"

    whatever = lambda: [Whatever()]  # noqa: E731
    return {"free": lambda: all_of(lambda: None), "token_by_token": lambda: all_of(whatever), "guided": lambda: all_of(lambda: grammars.guides(text, 1))}


def _wanted(schema: dict[str, Any]) -> Any:
    from promedical_jax.serve.protocol import JsonSchema, ResponseFormat

    return ResponseFormat(type="json_schema", json_schema=JsonSchema(name="a", schema=schema))


if __name__ == "__main__":
    main()
