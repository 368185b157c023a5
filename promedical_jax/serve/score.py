"""/v1/score: what the reward model says of answers, criterion by criterion."""

import asyncio
import math

from pydantic import ValidationError

from promedical_jax.data.encode import Encoded
from promedical_jax.errors import InputError
from promedical_jax.reward import RewardJudge, Said
from promedical_jax.rubric import Case, Criterion, Message, Rubric, Tier, score_verdicts
from promedical_jax.rubric.faults import sentence
from promedical_jax.serve.protocol import AnswerSaid, CriterionSaid, Fault, Scored, ScoreRequest, Usage
from promedical_jax.serve.service import Service


async def score(service: Service, request: ScoreRequest, seconds: float) -> Scored:
    """Raises Fault where there is no reward model, for what is no rubric or too long, and when the time is over."""
    if service.judge is None:
        raise Fault(404, "this server was started without a reward model; start it with --reward_model", "model_not_found")
    if request.model is not None:
        service.check_model(request.model)
    judge, case = service.judge, case_of(request)
    encoded = await service.in_encoder(judge.read, case, request.answers)
    tokens = _check_size(service, encoded)
    try:
        said = await asyncio.wait_for(asyncio.wrap_future(service.engine.work(lambda: _said(judge, encoded))), seconds)
    except TimeoutError:
        raise Fault(504, f"the scores were not there in {seconds:g} seconds; ask again when less is asked", "timeout", "server_error") from None
    except InputError as error:
        raise Fault(500, str(error), "server_error", "server_error") from None
    service.counts["scored_total", ""] += said.score.size
    return _shown(service, case, said, tokens)


def case_of(request: ScoreRequest) -> Case:
    """The request as a case without answers. Proficiency criteria without weights weigh the same. Raises Fault."""
    proficient = sum(criterion.tier is Tier.PROFICIENCY for criterion in request.criteria)
    equal = not any(criterion.weight for criterion in request.criteria)
    form: type[Criterion] | type[Rubric] | type[Message] = Message
    try:
        instruction = tuple(Message.model_validate(message) for message in request.said)
        form = Criterion
        criteria = tuple(
            Criterion(id=f"criterion {number}", text=criterion.text, tier=criterion.tier, polarity=criterion.polarity,
                      weight=1 / proficient if equal and criterion.tier is Tier.PROFICIENCY else criterion.weight)
            for number, criterion in enumerate(request.criteria, 1)
        )  # fmt: skip
        form = Rubric
        # A rubric has a proficiency criterion, for its S1; who asks of a violation alone may do so, and gets no S1. Its parts are checked; the whole is not.
        rubric = Rubric(criteria=criteria) if proficient else Rubric.model_construct(criteria=criteria)
    except ValidationError as error:
        raise Fault(400, sentence(error, form)) from None
    return Case.model_construct(id="request", instruction=instruction, rubric=rubric)


def _check_size(service: Service, encoded: Encoded) -> int:
    """The tokens of the case's tree. Raises Fault where a path of it, or all of it, has more than the server has memory for."""
    prompt, answers, criteria = len(encoded.prompt), [len(x) for x in encoded.answers], [len(x) for x in encoded.criteria]
    service.check_length(prompt + max(answers) + max(criteria), "an instruction with an answer and a criterion")
    tokens, room = prompt + sum(answers) + len(answers) * sum(criteria), service.config.longest * service.config.slots
    if tokens > room:
        said = f"the answers with their criteria have {tokens} tokens, and there is room for {room}; ask of fewer at a time"
        raise Fault(400, said, "context_length_exceeded")
    return tokens


def _said(judge: RewardJudge, encoded: Encoded) -> Said:
    return judge.said([encoded])[0]


def _shown(service: Service, case: Case, said: Said, tokens: int) -> Scored:
    scores = score_verdicts(case.rubric.criteria, said.verdicts)
    answers = []
    for number, (probabilities, verdicts) in enumerate(zip(said.probability.tolist(), said.verdicts, strict=True)):
        criteria = [CriterionSaid(probability=p, verdict=verdict) for p, verdict in zip(probabilities, verdicts, strict=True)]
        s1 = float(scores.s1[number])
        answers.append(AnswerSaid(criteria=criteria, s1=None if math.isnan(s1) else s1, s2=float(scores.s2[number]), s3=float(scores.s3[number])))
    return Scored(model=service.name, answers=answers, usage=Usage(prompt_tokens=tokens, completion_tokens=0, total_tokens=tokens))
