"""The suites by their names."""

from promedical_jax.suites import chidrug, choice, healthbench, healthbench_meta, kqa, medec, medfact, medsafety, policy, preference, promedical
from promedical_jax.suites.recipe import Name
from promedical_jax.suites.suite import Suite

SUITES: dict[Name, Suite] = {
    "healthbench": healthbench.SUITE,
    "healthbench-hard": healthbench.HARD,
    "healthbench-consensus": healthbench.CONSENSUS_SUITE,
    "healthbench-meta": healthbench_meta.SUITE,
    "kqa": kqa.SUITE,
    "medec": medec.SUITE,
    "medfact": medfact.SUITE,
    "medqa": choice.MEDQA,
    "medmcqa": choice.MEDMCQA,
    "pubmedqa": choice.PUBMEDQA,
    "medsafetybench": medsafety.SUITE,
    "chidrug": chidrug.SUITE,
    "rewardbench2": preference.REWARDBENCH_2,
    "medical-rewardbench": preference.MEDICAL_REWARDBENCH,
    "ultramedical-preference": preference.ULTRAMEDICAL,
    "promedical-pointwise": promedical.POINTWISE,
    "promedical-pairwise": promedical.PAIRWISE,
    "promedical-policy": policy.POLICY,
}
