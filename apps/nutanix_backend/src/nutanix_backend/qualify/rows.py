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
