"""What a question is about: five categories by what is asked, 26 specialties by who would answer. The numbers are the paper's, the lists ours."""

from enum import StrEnum


class Category(StrEnum):
    """What an answer has to do."""

    DIAGNOSIS = "diagnosis"  # what is it, what tests tell
    TREATMENT = "treatment"  # what is to be done, and what then
    MEDICATION = "medication"  # doses, interactions, side effects
    PREVENTION = "prevention"  # staying well: vaccines, screening, habits
    KNOWLEDGE = "knowledge"  # how the body and its diseases work, what studies found


class Specialty(StrEnum):
    """Whose field it is; what fits several goes to the one whose physician a patient would be sent to."""

    ANAESTHESIOLOGY = "anaesthesiology"
    CARDIOLOGY = "cardiology"
    DENTISTRY = "dentistry"
    DERMATOLOGY = "dermatology"
    EMERGENCY_MEDICINE = "emergency medicine"
    ENDOCRINOLOGY = "endocrinology"
    GASTROENTEROLOGY = "gastroenterology"
    GENERAL_PRACTICE = "general practice"
    GENETICS = "genetics"
    GERIATRICS = "geriatrics"
    GYNAECOLOGY = "gynaecology and obstetrics"
    HAEMATOLOGY = "haematology"
    INFECTIOUS_DISEASES = "infectious diseases"
    NEPHROLOGY = "nephrology"
    NEUROLOGY = "neurology"
    ONCOLOGY = "oncology"
    OPHTHALMOLOGY = "ophthalmology"
    ORTHOPAEDICS = "orthopaedics"
    OTOLARYNGOLOGY = "otolaryngology"
    PAEDIATRICS = "paediatrics"
    PSYCHIATRY = "psychiatry"
    PUBLIC_HEALTH = "public health"
    PULMONOLOGY = "pulmonology"
    RHEUMATOLOGY = "rheumatology"
    SURGERY = "surgery"
    UROLOGY = "urology"
