"""The command `promedical`. Commands are named by import path, so that --help loads little more than cyclopts; `commands` says what they do."""

import os
import re
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, MissingArgumentError, RepeatArgumentError, UnknownCommandError, UnknownOptionError, UnusedCliTokensError

from promedical_jax import __version__
from promedical_jax.errors import STOPPED, InputError, Stopped

COMMANDS = "promedical_jax.commands"

app = App(
    name="promedical",
    help="Rubric-based medical alignment in JAX: rubrics, reward models and GRPO in which no skill buys back a safety violation.",
    version=f"promedical_jax {__version__}",
    suppress_keyboard_interrupt=False,
)
train = App(name="train", help="Train a stage; each key of its YAML recipe is also a flag.", sort_key=2)
doctor = App(name="doctor", help="Look a stage's recipe over before it is trained: texts, numbers, machine; a line a check.", sort_key=2.5)
data = App(name="data", help="Make files of cases.", sort_key=5)
review = App(name="review", help="Have physicians review answers or rubrics, double blind, with Label Studio.", sort_key=5.7)
corpus = App(name="corpus", help="From public questions to judged cases with rubrics, stage by stage.", sort_key=5.5)

app.command(f"{COMMANDS}:quickstart", name="quickstart", help="Run the whole path on the simulated clinic, on any machine, and write a report.", sort_key=1)
app.command(train)
app.command(f"{COMMANDS}:bench", name="bench", help="Judge a trained policy or reward model on cases; run: a model behind an endpoint, by a suite.", sort_key=3)
app.command(f"{COMMANDS}:score", name="score", help="Write a reward model's verdicts on the answers of cases back into the cases.", sort_key=3.5)
app.command(f"{COMMANDS}:serve", name="serve", help="Put a policy behind an OpenAI-compatible endpoint, and a reward model beside it.", sort_key=3.6)
app.command(f"{COMMANDS}:ledger", name="ledger", help="Look into a ledger: filter its rows, print them, write them elsewhere.", sort_key=3.7)
app.command(f"{COMMANDS}:follow", name="follow", help="Write a page that follows one case through a run of GRPO or PPO.", sort_key=3.8)
app.command(f"{COMMANDS}:lab", name="lab", help="Test the paper's claims on the simulated clinic, table by table, with seeds and intervals.", sort_key=3.9)
app.command(f"{COMMANDS}:plan", name="plan", help="Say what a stage would cost on chips that are not here: memory, time, traffic.", sort_key=4)
app.command(f"{COMMANDS}:export", name="export", help="Write a checkpoint as a model folder that transformers reads, also while the run goes on.", sort_key=6)
app.command(f"{COMMANDS}:import_model", name="import", help="Make a checkpoint of a model folder, or of a model on the hub.", sort_key=7)
app.command(doctor)
app.command(data)
app.command(corpus)
app.command(review)
train.command(f"{COMMANDS}:sft", name="sft", help="Supervised start: imitate the answers of the cases.", sort_key=1)
train.command(f"{COMMANDS}:rm", name="rm", help="Reward model: learn the verdict on each criterion.", sort_key=2)
train.command(f"{COMMANDS}:grpo", name="grpo", help="GRPO: improve the policy against the reward model.", sort_key=3)
train.command(f"{COMMANDS}:ppo", name="ppo", help="PPO: the same with a value head in the place of a group.", sort_key=5)
train.command(f"{COMMANDS}:dpo", name="dpo", help="DPO: prefer the answers that the raters prefer, without a reward model.", sort_key=4)
for place, stage in enumerate(("sft", "rm", "grpo", "dpo", "ppo")):
    doctor.command(f"{COMMANDS}:doctor_{stage}", name=stage, help=f"Look over a recipe of `promedical train {stage}`.", sort_key=place)
data.command(f"{COMMANDS}:import_cases", name="import", help="Read K-QA or HealthBench into cases.")
data.command(f"{COMMANDS}:clinic", name="clinic", help="Make cases of the simulated clinic, and a small untrained model for them.")

corpus.command(f"{COMMANDS}:corpus_run", name="run", help="Make every stage that is not there yet, and the cases.", sort_key=1)
corpus.command(f"{COMMANDS}:corpus_status", name="status", help="Say what each stage kept, and took out for which reason.", sort_key=2)
corpus.command(f"{COMMANDS}:corpus_cost", name="cost", help="Say how many questions the next stage would ask, and about what they cost.", sort_key=3)
corpus.command(f"{COMMANDS}:corpus_inspect", name="inspect", help="Say why a question is in the corpus or not, and who decided what.", sort_key=4)

review.command(f"{COMMANDS}:review_export", name="export", help="Send cases to the physicians, sealed: as projects, or as files.", sort_key=1)
review.command(f"{COMMANDS}:review_import", name="import", help="Read back what they said: verdicts and preferences, or corrected rubrics.", sort_key=2)
review.command(f"{COMMANDS}:review_agreement", name="agreement", help="Say how far the physicians agree beyond chance.", sort_key=3)
review.command(f"{COMMANDS}:review_adjudicate", name="adjudicate", help="Send what they differ on to one more physician.", sort_key=4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line (None: the process's own) and returns its exit code: 0, 2 for what the user can mend, 75 for a training that was told to stop
    by SIGTERM and goes on when it is started again, 130 for Ctrl-C."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it advises to install torch, which we do without
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except InputError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"{error.filename or 'the system'}: {error.strerror or error}; check the path, its permissions and the free space")
    except CycloptsError as error:
        return _refuse(_sentence(error))
    except KeyboardInterrupt:
        print("stopped; a training run goes on from its last checkpoint when it is started again in the same way", file=sys.stderr)
        return 130
    except Stopped as end:
        print(f"stopped: {end}", file=sys.stderr)
        return STOPPED
    return 0


def _refuse(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return 2


def _sentence(error: CycloptsError) -> str:
    """What cyclopts found, in the words that the recipes use."""
    from promedical_jax.recipe import suggestion

    command = " ".join(["promedical", *(error.command_chain or ())])
    error.verbose = False
    match error:
        case UnknownOptionError():
            flag = (error.token.keyword or error.token.value).partition("=")[0]
            known = [name.removeprefix("--") for argument in error.argument_collection for name in argument.names]
            hint = suggestion(flag.lstrip("-").replace("-", "_"), known, "--")
            return f"unknown flag '{flag}' of {command}; {hint}"
        case UnknownCommandError() if error.app is not None:
            name, known = (error.unused_tokens or [""])[0], [name for name in error.app if not name.startswith("-")]
            return f"unknown command '{name}'; {suggestion(name, known)} ({', '.join(known)})"
        case UnusedCliTokensError():
            return f"{command} has no use for {' '.join(map(repr, error.unused_tokens or ()))}; a value follows its flag, as in --key value"
        case RepeatArgumentError():
            return f"{error.token.keyword} is given twice; keep one"
        case MissingArgumentError() if error.argument is not None:
            allowed = error.argument.parameter.metavar
            what = "needs a value" if error.tokens_so_far or error.keyword or error.argument.tokens else "is missing"
            return f"{error.argument.name} {what}" + (f"; allowed: {allowed}" if allowed else f"; see {command} --help")
        case _:
            sentences = re.split(r"[.?] (?=[A-Z])", " ".join(str(error).split()).rstrip(".?"))
            return "; ".join(sentence[:1].lower() + sentence[1:] for sentence in sentences)


if __name__ == "__main__":
    sys.exit(main())
