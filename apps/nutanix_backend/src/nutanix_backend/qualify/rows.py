"""What `qualify` finds out: a row for each question."""

from __future__ import annotations

from enum import Enum

import attrs


class Answer(Enum):
    """What an answer means for the product."""

    YES = "yes"
    OTHERWISE = "otherwise"
    NO = "NO"
    OPEN = "open"


@attrs.frozen
class Row:
    """A question, the answer, what was seen, and what the product does about it.

    YES: the cluster does what the product assumes. OTHERWISE: it does not, and the product has
    another way. NO: something does not work. OPEN: the question was not answered.
    """

    question: str
    answer: Answer
    seen: str
    consequence: str


NOT_ASKED = tuple(
    Row(question, Answer.OPEN, seen, consequence)
    for question, seen, consequence in (
        (
            "How is a write without If-Match answered?",
            "not asked: every write of the product sends it",
            "nothing",
        ),
        (
            "How many requests a second does Prism take?",
            "not asked: it would disturb others",
            "an answer 429 is waited for, as long as Prism asks",
        ),
        (
            "Does the list of changes show what a guest discarded?",
            "not asked: a boot sector cannot discard",
            "scrub compares blocks that are not in the list with what was saved",
        ),
        (
            "Does the list of changes hold for a disk that was enlarged?",
            "not asked: the product changes no disk of a VM",
            "the new end is read by the list of what holds data",
        ),
        (
            "Can VMs run from disks of an NFS repository (external repositories)?",
            "not asked: the product does not use them",
            "nothing",
        ),
        (
            "Are changes tracked on storage arrays of other makers?",
            "not asked: the scratch VM is on the storage of the cluster",
            "the job log names such disks",
        ),
    )
)
"""Open questions about clusters that no run answers, and why."""
