"""What is right about a reply: exact-match maths and multiple choice."""

import re
from collections.abc import Sequence

from alphasteer.errors import EvaluationError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# A letter that stands alone; "A" and "I" are words too, so that what follows them must not be one.
_LETTER = r"([A-Z])(?![A-Za-z0-9'’])(?:(?<![AI])|(?=[^\S\n]*(?:[^\w\s]|\n|$)))"
_STATED = re.compile(rf"\b(?i:answer|option|choice)\b[^A-Za-z0-9]{{0,12}}(?i:is|would be)?[^A-Za-z0-9]{{0,6}}{_LETTER}")
_FIRST = re.compile(rf"^[^A-Za-z0-9]{{0,6}}{_LETTER}")
_GROUPED = re.compile(r"[-+$]*\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def right_number(reply: str, answer: str) -> bool:
    """Whether a reply comes to the answer, as math-verify parses and compares both.

    Args:
        reply: the whole reply; its last expression counts, a boxed one before others.
        answer: the right result, plain or LaTeX; of a worked solution that ends in ``#### 18``, what stands there.

    Raises:
        EvaluationError: if math-verify is not installed.
    """
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise EvaluationError("Checking maths needs math-verify; pip install 'alphasteer[eval]'.") from error
    gold = answer.rpartition("####")[2].strip()
    if _GROUPED.fullmatch(gold):  # 1,234; the commas of (3, 4) stay
        gold = gold.replace(",", "")
    return bool(verify(parse(f"${gold}$"), parse(reply)))


def right_choice(reply: str, answer: str, choices: Sequence[str]) -> bool:
    """Whether a reply picks the right one of several choices: by the letter that it states, or opens with.

    Args:
        answer: the right choice's letter, or its number from 0.

    Raises:
        EvaluationError: if the answer is none of the choices.
    """
    right = letter_of(answer, choices)
    if right is None:
        raise EvaluationError(f"The answer {answer!r} is none of the {len(choices)} choices; mend the suite's answers.")
    found = _FIRST.search(reply) or _STATED.search(reply)
    return found is not None and found[1] == right


def letter_of(answer: str, choices: Sequence[str]) -> str | None:
    """The letter of the right choice, which is stated by its letter or its number from 0; None if there is no such."""
    letters = LETTERS[: len(choices)]
    right = letters[int(answer)] if answer.isdigit() and int(answer) < len(letters) else answer
    return right if len(right) == 1 and right in letters else None


def listed(choices: Sequence[str]) -> str:
    """The choices as the prompt shows them, one a line: ``A. ...``."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
